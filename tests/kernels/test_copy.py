"""kernels/copy.cu: each version, block size and order of threads against NumPy, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.launch import load
from tensor.cuda_layout import SUFFIX, join_axes
from tests.kernels.devices import ORDERS, SIZES, device, needs_device

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
BLOCKS = [1, 32, 100, 256, 1024]
TYPES = [np.float32, np.int64, np.int32, np.bool_]


@pytest.fixture
def _device():
    needs_device()


def kernel(name, checked=False):
    return load("copy.cu", device(checked))[name]


def drawn(shape, dtype):
    rng = np.random.default_rng(0)
    numbers = rng.integers(-9, 9, shape)
    return numbers.astype(dtype) if dtype != np.float32 else (numbers / 4).astype(dtype)


def run_fill(n, dtype, block, order, version, checked=False):
    y = device(checked).empty(n, dtype)
    value = 1 if dtype == np.bool_ else 3
    kernel(version, checked)(y, value, n, grid=2, block=block, order=order)
    np.testing.assert_array_equal(y.numpy(), np.full(n, value, dtype))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_fill(block, order):
    for n in [*SIZES, 3, 5]:
        run_fill(n, np.float32, block, order, "fill_float4")
        for dtype in TYPES:
            run_fill(n, dtype, block, order, f"fill_{SUFFIX[np.dtype(dtype)]}")


def run_copy(shape, axes, index, dtype, block, order, checked=False):
    """A transposed slice of x into a slice of y."""
    x = drawn(shape, dtype)
    source = device(checked).from_numpy(x).permute(axes)[index]
    expected = x.transpose(axes)[index]
    room = np.zeros([2 * n for n in expected.shape], dtype)
    y = device(checked).from_numpy(room)
    place = tuple(slice(0, 2 * n, 2) for n in expected.shape)
    into = y[place]
    sizes, (xs, to) = join_axes(into.shape, source.strides, into.strides)
    kernel(f"copy_strided_{SUFFIX[np.dtype(dtype)]}", checked)(
        source.strided, into.strided, into.size, len(sizes), sizes, xs, to, grid=2, block=block,
        order=order,
    )  # fmt: skip
    room[place] = expected
    np.testing.assert_array_equal(y.numpy(), room)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_copy_strided(block, order):
    for n, dtype in zip(SIZES, TYPES, strict=True):
        run_copy((n,), (0,), slice(None, None, -1), dtype, block, order)
        run_copy((3, n), (1, 0), slice(0, None, 3), dtype, block, order)
    run_copy((2, 3, 5, 4), (2, 0, 3, 1), (..., slice(1, None), None, slice(None, None, -1)),
             np.float32, block, order)  # fmt: skip


def run_float4(shape, axes, block, order, checked=False):
    """The last axis stays where it is."""
    x = drawn(shape, np.float32)
    source = device(checked).from_numpy(x).permute(axes)
    y = device(checked).empty(source.shape)
    by_fours = (*source.shape[:-1], source.shape[-1] // 4)
    steps = [(*(s // 4 for s in strides[:-1]), 1) for strides in (source.strides, y.strides)]
    kernel("copy_strided_float4", checked)(
        source.strided, y, y.size // 4, len(axes), by_fours, *steps, grid=2, block=block,
        order=order,
    )  # fmt: skip
    np.testing.assert_array_equal(y.numpy(), x.transpose(axes))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_copy_float4(block, order):
    for n in SIZES:
        run_float4((3, n, 8), (1, 0, 2), block, order)
    run_float4((2, 3, 5, 4), (2, 0, 1, 3), block, order)


def run_tiles(batch, rows, cols, block, order, checked=False):
    """x is (batch, cols, rows) in memory, with a gap after each column; y has one after each row.
    """
    room = drawn((batch, cols, rows + 3), np.float32)
    x = device(checked).from_numpy(room)
    y = device(checked).from_numpy(np.zeros((batch, rows, cols + 1), np.float32))
    kernel("copy_tiles_float", checked)(
        x, y, batch, rows, cols, cols * (rows + 3), rows + 3, rows * (cols + 1), cols + 1,
        grid=3, block=block, order=order,
    )  # fmt: skip
    got = y.numpy()
    np.testing.assert_array_equal(got[..., :-1], room[..., :rows].swapaxes(1, 2))
    assert (got[..., -1] == 0).all()


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", [(32, 8), (32, 1), (32, 32)], ids=str)
def test_copy_tiles(block, order):
    for n in SIZES:
        run_tiles(1, n, 33, block, order)
        run_tiles(2, 5, n, block, order)


def run_cast(shape, source, to, block, order, checked=False):
    x = drawn(shape, source)
    there = device(checked).from_numpy(x.T).permute(tuple(reversed(range(x.ndim))))
    y = device(checked).empty(shape, to)
    sizes, (xs,) = join_axes(there.shape, there.strides)
    name = f"cast_{SUFFIX[np.dtype(source)]}_{SUFFIX[np.dtype(to)]}"
    kernel(name, checked)(there.strided, y, y.size, len(sizes), sizes, xs, grid=2, block=block,
                          order=order)
    np.testing.assert_array_equal(y.numpy(), x.astype(to))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_casts(block, order):
    for source in TYPES:
        for to in TYPES:
            if source != to:
                run_cast((3, 33), source, to, block, order)
    for n in SIZES:
        run_cast((n,), np.int64, np.float32, block, order)


def run_place(shape, index, dtype, block, order, checked=False):
    """x set into a field of ones at the places that the slices name."""
    places = [range(n)[i] for n, i in zip(shape, index, strict=True)]
    counts = tuple(map(len, places))
    x = drawn(counts[::-1], dtype)
    there = device(checked).from_numpy(x).permute(tuple(reversed(range(x.ndim))))
    y = device(checked).empty(shape, dtype)
    kernel(f"place_{SUFFIX[np.dtype(dtype)]}", checked)(
        there.strided, y, 1, y.size, len(shape), shape, tuple(p.start for p in places),
        tuple(p.step for p in places), counts, there.strides, grid=2, block=block, order=order,
    )  # fmt: skip
    expected = np.ones(shape, dtype)
    expected[index] = x.T
    np.testing.assert_array_equal(y.numpy(), expected)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_place(block, order):
    every, back = slice(None), slice(None, None, -2)
    for n in SIZES:
        run_place((n, 5), (every, slice(1, 3)), np.float32, block, order)
        run_place((2, n), (slice(1, None), back), np.int64, block, order)
    run_place((3, 4, 5), (back, slice(3, 0, -1), slice(1, 5, 2)), np.float32, block, order)


def test_checked():
    run_fill(33, np.float32, 64, ORDERS[-1], "fill_float4", checked=True)
    for dtype in TYPES:
        run_fill(33, dtype, 64, ORDERS[-1], f"fill_{SUFFIX[np.dtype(dtype)]}", checked=True)
        run_copy((3, 33), (1, 0), slice(0, None, 3), dtype, 64, ORDERS[-1], checked=True)
        for to in TYPES:
            if to != dtype:
                run_cast((3, 33), dtype, to, 64, ORDERS[-1], checked=True)
    run_float4((3, 33, 8), (1, 0, 2), 64, ORDERS[-1], checked=True)
    run_tiles(2, 33, 65, (32, 8), ORDERS[-1], checked=True)
    for dtype in (np.float32, np.int64):
        index = (slice(1, None), slice(None, None, -2))
        run_place((3, 33), index, dtype, 64, ORDERS[-1], checked=True)
