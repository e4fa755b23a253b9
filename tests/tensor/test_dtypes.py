"""Half precision on the host: every rounding beside a slow one, and what the CPU refuses."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.array import BFLOAT16 as KERNELS_BFLOAT16
from tensor import Tensor, nn
from tensor.dtypes import (
    BFLOAT16,
    FLOAT16,
    converted,
    is_float,
    lowest,
    name_of,
    named,
    widened,
)

BITS = np.arange(2**16, dtype=np.uint16)


def test_bfloat16_is_that_of_kernels():
    assert BFLOAT16 == KERNELS_BFLOAT16 and BFLOAT16.itemsize == 2


def test_names():
    for name in ("bfloat16", "float16", "float32", "float64", "int64", "bool"):
        assert name_of(named(name)) == name
        assert is_float(named(name)) == ("float" in name)
    assert named(BFLOAT16) == BFLOAT16 and named(np.float32) == np.float32
    with pytest.raises(TypeError):
        named("bfloat15")


def value_of(bits: int) -> float:
    """What the bits of a bfloat16 mean: sign, eight bits of exponent, seven of fraction."""
    sign, exponent, fraction = bits >> 15, bits >> 7 & 0xFF, bits & 0x7F
    if exponent == 0xFF:
        return float("nan") if fraction else (-1) ** sign * float("inf")
    whole = fraction + (128 if exponent else 0)
    return (-1) ** sign * whole * 2.0 ** (max(exponent, 1) - 134)


def test_every_bfloat16_is_widened_exactly_and_comes_back():
    exact = np.array([value_of(int(bits)) for bits in BITS])
    wide = widened(BITS.view(BFLOAT16))
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide, exact)
    is_number = ~np.isnan(exact)
    back = converted(wide, BFLOAT16).view(np.uint16)
    np.testing.assert_array_equal(back[is_number], BITS[is_number])
    assert np.isnan(widened(converted(wide, BFLOAT16))[~is_number]).all()


def test_rounding_to_bfloat16_is_to_the_nearest_and_ties_to_even():
    """All numbers a sixteenth apart between two neighbours, of each exponent."""
    low = BITS[: 0x7F80 : 37].astype(np.uint32)
    for part in range(17):
        between = (((low << 16) + (part << 12)).astype(np.uint32)).view(np.float32)
        up = (part > 8) | ((part == 8) & (low % 2 == 1))
        expected = low + up
        for sign in (0, 0x8000):
            x = -between if sign else between
            np.testing.assert_array_equal(converted(x, BFLOAT16).view(np.uint16), expected + sign)


def test_extremes():
    numbers = np.array([np.inf, -np.inf, np.nan, -np.nan, 3.4e38, -3.4e38, 3.39e38, 0.0, -0.0])
    got = widened(converted(numbers, BFLOAT16))
    expected = [np.inf, -np.inf, np.nan, np.nan, np.inf, -np.inf, 3.3895314e38, 0.0, -0.0]
    np.testing.assert_array_equal(got, np.float32(expected))
    np.testing.assert_array_equal(np.signbit(got[-2:]), [False, True])
    assert widened(converted(np.array(1e300), BFLOAT16)) == np.inf
    for dtype in (FLOAT16, BFLOAT16, np.dtype("float32")):
        smallest = np.array(lowest(dtype))
        assert np.isfinite(widened(converted(smallest, dtype)))
        assert np.isneginf(widened(converted(smallest * (1 + 2**-7), dtype)))


def test_shapes_layouts_and_other_types():
    x = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
    for dtype in (FLOAT16, BFLOAT16):
        half = converted(x, dtype)
        assert half.shape == x.shape and half.dtype == dtype
        np.testing.assert_array_equal(widened(half), x)
        assert converted(half, dtype) is half
        np.testing.assert_array_equal(widened(converted(half, BFLOAT16)), x)
        np.testing.assert_array_equal(converted(half, np.dtype("int64")), x)
        np.testing.assert_array_equal(widened(half[::2, :, 1]), x[::2, :, 1])
    assert widened(converted(np.array([True, False]), BFLOAT16)).tolist() == [1, 0]
    assert converted(np.zeros((0, 3)), BFLOAT16).shape == (0, 3)
    assert converted(np.array(3), BFLOAT16).shape == ()


def test_refused_on_the_cpu():
    for dtype in ("float16", "bfloat16"):
        why = f"dtype {dtype} is not supported on the CPU: NumPy has no bfloat16"
        with pytest.raises(TypeError, match=why):
            Tensor([1.0], dtype)
        with pytest.raises(TypeError, match=why):
            Tensor([1.0]).astype(dtype)
        with pytest.raises(TypeError, match=why):
            Tensor([1.0]).to("cpu", dtype)
        with pytest.raises(TypeError, match=why):
            nn.LayerNorm(3).astype(dtype)
        with pytest.raises(TypeError, match=why):
            Tensor(np.zeros(3, named(dtype)))
