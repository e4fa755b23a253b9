"""kernels/index.cu: each version, block size and order of threads against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.launch import load
from tensor.cuda_index import read_index
from tests.kernels.devices import ORDERS, SIZES, close, device, needs_device

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
BLOCKS = [1, 32, 100, 256, 1024]


@pytest.fixture
def _device():
    needs_device()


def kernel(name, checked=False):
    return load("index.cu", device(checked))[name]


def cases():
    """(shape, index): one of the sizes on one axis, or in the index, at a time."""
    rng = np.random.default_rng(0)
    for n in SIZES:
        yield (n, 8), rng.integers(0, n, 7)
        yield (3, n), (slice(None), rng.integers(-n, n, (2, 3)))
        yield (4, 12), rng.integers(0, 4, n)
    yield (3, 4, 5, 8), (slice(None, None, -1), rng.integers(0, 4, 6), [1, 1, 4, 0, 0, 1])
    yield (3, 4, 8), ([0, 2, 2], slice(1, 3), [1, 0, 7])
    yield (5, 6), rng.random((5, 6)) > 0.5


CASES = list(cases())


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_gather(shape, index, dtype, block, order, checked=False):
    x = (drawn(shape) * 9).astype(dtype)
    expected = x[index]
    there = device(checked).from_numpy(x)
    picked = read_index(index, shape, there.strides)
    y = device(checked).empty(picked.shape, dtype)
    table = device(checked).from_numpy(picked.table)
    suffix = "float" if dtype == np.float32 else "long"
    kernel(f"gather_{suffix}", checked)(
        there, table, y, table.size, *picked.before, *picked.after, grid=3, block=block,
        order=order,
    )  # fmt: skip
    np.testing.assert_array_equal(y.numpy(), expected)


def run_float4(n, block, order, checked=False):
    """Rows of 8 of the middle axis of (3, n, 8)."""
    x, places = drawn((3, n, 8)), np.random.default_rng(0).integers(0, n, 5)
    there, table = device(checked).from_numpy(x), device(checked).from_numpy(places * 8)
    y = device(checked).empty((3, 5, 8))
    kernel("gather_float4", checked)(there, table, y, 5, 3, 1, (3,), (n * 2,), 2, grid=2,
                                     block=block, order=order)
    np.testing.assert_array_equal(y.numpy(), x[:, places])


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_gather(block, order):
    for shape, index in CASES:
        run_gather(shape, index, np.float32, block, order)
        run_gather(shape, index, np.int64, block, order)
    for n in SIZES:
        run_float4(n, block, order)


def run_backward(version, shape, index, block, order, checked=False):
    expected = np.zeros(shape)
    dy = drawn(expected[index].shape, 1)
    np.add.at(expected, index, dy)
    dx = device(checked).from_numpy(np.zeros(shape, np.float32))
    picked = read_index(index, shape, dx.strides)
    table = picked.table
    lists = [table]
    if version == "sorted":
        order_of = np.argsort(table, kind="stable")
        in_order = table[order_of]
        starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1], True])
        lists += [order_of, starts]
    there = [device(checked).from_numpy(a) for a in lists]
    counts = (table.size,) if version == "atomic" else (table.size, starts.size - 1)
    kernel(f"gather_backward_{version}", checked)(
        device(checked).from_numpy(dy), *there, dx, *counts, *picked.before, *picked.after,
        grid=3, block=block, order=order,
    )  # fmt: skip
    close(dx, expected, 1e-5)
    return dx.numpy()


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("version", ["atomic", "sorted"])
def test_gather_backward(version, block, order):
    for shape, index in CASES:
        run_backward(version, shape, index, block, order)


def test_sorted_sums_have_the_same_bits_in_every_order():
    shape, index = (4, 12), np.random.default_rng(0).integers(0, 4, 1000)
    first = run_backward("sorted", shape, index, 256, ORDERS[0])
    for order in ORDERS:
        np.testing.assert_array_equal(run_backward("sorted", shape, index, 32, order), first)


def test_checked():
    for shape, index in CASES[3:6] + CASES[-3:]:
        run_gather(shape, index, np.float32, 64, ORDERS[-1], checked=True)
        run_gather(shape, index, np.int64, 64, ORDERS[-1], checked=True)
        for version in ("atomic", "sorted"):
            run_backward(version, shape, index, 64, ORDERS[-1], checked=True)
    run_float4(33, 64, ORDERS[-1], checked=True)
