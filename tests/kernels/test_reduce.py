"""kernels/reduce.cu: each version, block size and order of threads against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kernels.launch import load
from tensor.cuda_layout import SUFFIX, join_axes
from tests.kernels.devices import ORDERS, SIZES, device, needs_device

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
BLOCKS = [32, 64, 256, 1024]
NUMPY = {"sum": np.sum, "max": np.max}
# (shape, reduced axes)
CASES = [((n, 5), (0,)) for n in SIZES] + [((3, n), (1,)) for n in SIZES] + [
    ((n,), (0,)) for n in SIZES] + [((3, 4, 33), (0, 2)), ((2, 5, 3, 4), (1, 3)), ((65, 33), (0,)),
                                    ((1, 1), (0, 1))]  # fmt: skip


@pytest.fixture
def _device():
    needs_device()


def kernel(name, checked=False):
    return load("reduce.cu", device(checked))[name]


def split(x, axes):
    """(kept sizes and strides, reduced sizes and strides) of an array on the device."""
    both = []
    for inside in (False, True):
        picked = [i for i in range(x.ndim) if (i in axes) == inside]
        sizes, (strides,) = join_axes(
            tuple(x.shape[i] for i in picked), tuple(x.strides[i] for i in picked)
        )
        both += [sizes, strides]
    return both


def drawn(shape, dtype=np.float32):
    rng = np.random.default_rng(0)
    if dtype == np.int64:
        return rng.integers(-9, 9, shape)
    return rng.standard_normal(shape, dtype=np.float32)


def check(how, x, axes, got):
    """Sums within the bound of a sum in any order (Higham 2002, section 4.2); largest exactly."""
    wide = x.astype(np.float64)
    expected = NUMPY[how](wide, axis=axes)
    allowed = 0.0
    if how == "sum" and x.dtype == np.float32:
        terms = math.prod(x.shape[a] for a in axes)
        allowed = terms * 2.0**-24 * np.abs(wide).sum(axis=axes)
    assert got.shape == expected.shape
    assert (np.abs(got - expected) <= allowed).all()


def run(how, version, x, axes, block, order, chunks=1, checked=False):
    there = device(checked).from_numpy(x)
    kept, kept_strides, count, count_strides = split(there, axes)
    results, elements = math.prod(kept), math.prod(count)
    described = (elements, len(count), count, count_strides)
    y = device(checked).empty((chunks, results), x.dtype)
    of_kept = (results, len(kept), kept, kept_strides)
    if version == "columns":
        of_kept, block = (results,), (32, block // 32)
    kernel(f"{how}_{version}_{SUFFIX[x.dtype]}", checked)(
        there, y, *of_kept, *described, grid=(2, chunks), block=block, order=order
    )
    shape = [n for i, n in enumerate(x.shape) if i not in axes]
    check(how, x, axes, NUMPY[how](y.numpy(), axis=0).reshape(shape))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("how", NUMPY)
def test_naive_and_warp(how, block, order):
    for shape, axes in CASES:
        x = drawn(shape)
        run(how, "naive", x, axes, block, order)
        run(how, "warp", x, axes, block, order)
        run(how, "warp", x, axes, block, order, chunks=3)
        run(how, "warp", drawn(shape, np.int64), axes, block, order, chunks=2)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("how", NUMPY)
def test_columns(how, block, order):
    for n in SIZES:
        for chunks in (1, 3):
            run(how, "columns", drawn((n, 33)), (0,), block, order, chunks)
            run(how, "columns", drawn((5, n)), (0,), block, order, chunks)
    run(how, "columns", drawn((3, 4, 65)), (0, 1), block, order)


def run_argmax(version, x, axis, block, order, checked=False):
    there = device(checked).from_numpy(x)
    kept, kept_strides, _, _ = split(there, (axis,))
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    y = device(checked).empty(shape, np.int64)
    kernel(f"argmax_{version}_{SUFFIX[x.dtype]}", checked)(
        there, y, y.size, len(kept), kept, kept_strides, x.shape[axis], there.strides[axis],
        grid=2, block=block, order=order,
    )  # fmt: skip
    np.testing.assert_array_equal(y.numpy(), x.argmax(axis))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_argmax(block, order):
    for n in SIZES:
        for shape, axis in (((3, n), 1), ((n, 3), 0), ((2, n, 2), 1)):
            few = np.round(drawn(shape))  # with many equal ones
            for x in (drawn(shape), few):
                run_argmax("naive", x, axis, block, order)
                run_argmax("warp", x, axis, block, order)
            run_argmax("warp", few.astype(np.int64), axis, block, order)


def test_nan_is_the_largest_and_the_first_of_it_counts():
    x = drawn((4, 65))
    x[0, 3] = x[0, 40] = x[2, 64] = np.nan
    x[1, 5], x[3, 7] = np.inf, -np.inf
    for version in ("naive", "warp"):
        run_argmax(version, x, 1, 64, None)
        run_argmax(version, np.full((2, 65), -np.inf, np.float32), 1, 64, None)
        there, y = device().from_numpy(x), device().empty(4)
        kernel(f"max_{version}_float")(there, y, 4, 1, (4,), (65,), 65, 1, (65,), (1,), grid=1,
                                       block=64)
        np.testing.assert_array_equal(y.numpy(), x.max(axis=1))
    y = device().empty(65)
    kernel("max_columns_float")(there, y, 65, 4, 1, (4,), (65,), grid=1, block=(32, 2))
    np.testing.assert_array_equal(y.numpy(), x.max(axis=0))


def test_checked():
    for how in NUMPY:
        for shape, axes in (((3, 33), (1,)), ((2, 5, 3, 4), (1, 3))):
            run(how, "naive", drawn(shape), axes, 64, ORDERS[-1], checked=True)
            run(how, "warp", drawn(shape), axes, 64, ORDERS[-1], 2, checked=True)
            run(how, "warp", drawn(shape, np.int64), axes, 64, ORDERS[-1], 2, checked=True)
        run(how, "columns", drawn((33, 65)), (0,), 128, ORDERS[-1], 2, checked=True)
    for version in ("naive", "warp"):
        run_argmax(version, drawn((3, 33)), 1, 64, ORDERS[-1], checked=True)
    run_argmax("warp", drawn((3, 33), np.int64), 1, 64, ORDERS[-1], checked=True)
