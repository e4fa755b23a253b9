"""kernels/copy.cu for elements of two bytes: moves and casts, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.array import BFLOAT16
from kernels.launch import load
from tensor.cuda_layout import join_axes
from tensor.dtypes import converted, widened
from tests.kernels.devices import ORDERS, SIZES, device, needs_device

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
BLOCKS = [32, 100, 1024]
HALVES = {"half": np.dtype(np.float16), "bfloat16": BFLOAT16}
RUNS = [(order, False) for order in ORDERS] + [(ORDERS[-1], True)]


@pytest.fixture
def _device():
    needs_device()


def drawn(shape) -> np.ndarray:
    """Numbers of all sizes, float32: normal ones, denormal ones, and beyond float16."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 7, shape)).astype(np.float32)


@pytest.mark.parametrize(("order", "checked"), RUNS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_casts(block, order, checked):
    kernels, there = load("copy.cu", device(checked)), device(checked)
    for name, dtype in HALVES.items():
        for n in SIZES:
            x = drawn(n)
            narrow, y = there.empty(n, dtype), there.empty(n)
            kernels[f"cast_float_{name}_vector"](
                there.from_numpy(x), narrow, n, grid=2, block=block, order=order
            )
            np.testing.assert_array_equal(widened(narrow.numpy()), widened(converted(x, dtype)))
            kernels[f"cast_{name}_float_vector"](narrow, y, n, grid=2, block=block, order=order)
            np.testing.assert_array_equal(y.numpy(), widened(converted(x, dtype)))


@pytest.mark.parametrize(("order", "checked"), RUNS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_casts_of_strided_arrays(block, order, checked):
    kernels, there = load("copy.cu", device(checked)), device(checked)
    for name, dtype in HALVES.items():
        wide = drawn((33, 5))
        half = converted(wide, dtype)
        for x, to, kernel in ((wide, dtype, f"cast_float_{name}"),
                              (half, np.dtype(np.float32), f"cast_{name}_float")):
            view, y = there.from_numpy(x).permute((1, 0))[::2], there.empty((3, 33), to)
            kernels[kernel](view.strided, y, y.size, 2, view.shape, view.strides, grid=2,
                            block=block, order=order)
            expected = widened(converted(x, to)).T[::2]
            np.testing.assert_array_equal(widened(y.numpy()), expected)


@pytest.mark.parametrize(("order", "checked"), RUNS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_fills_and_strided_copies_move_any_bits(block, order, checked):
    kernels, there = load("copy.cu", device(checked)), device(checked)
    bits = np.random.default_rng(0).integers(0, 2**16, (65, 3), np.uint16)
    for dtype in HALVES.values():
        y = there.empty(33, dtype)
        kernels["fill_short"](y, 0xFFC1, 33, grid=2, block=block, order=order)
        assert (y.numpy().view(np.uint16) == 0xFFC1).all()
        view = there.from_numpy(bits.view(dtype)).permute((1, 0))[:, ::2]
        into = there.empty((3, 33), dtype)
        sizes, (xs, to) = join_axes(view.shape, view.strides, into.strides)
        kernels["copy_strided_short"](view.strided, into, into.size, len(sizes), sizes, xs, to,
                                      grid=2, block=block, order=order)
        np.testing.assert_array_equal(into.numpy().view(np.uint16), bits.T[:, ::2])


def test_a_pointer_of_another_half_is_refused():
    there = device()
    x, y = there.empty(4), there.empty(4, np.float16)
    kernel = load("copy.cu", there)["cast_float_bfloat16_vector"]
    with pytest.raises(TypeError, match="'y' is __nv_bfloat16. y and wants bfloat16 or uint16"):
        kernel(x, y, 4, grid=1, block=32)
