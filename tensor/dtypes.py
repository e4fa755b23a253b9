"""Element types by name, half precision among them, and how the host converts to and from it.

float16 and bfloat16 are there to store: the devices "cuda" and "emulator" keep arrays in them and
compute in float32. The CPU has neither: NumPy has no bfloat16, and computes float16 a number at a
time. On the host a bfloat16 is its bits, the upper half of a float32's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOAT32 = np.dtype("float32")
FLOAT16 = np.dtype("float16")
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])  # equal to that of kernels.array
HALVES = (FLOAT16, BFLOAT16)

_BLOCK = 1 << 18  # elements that are rounded at a time


def named(dtype: Any) -> np.dtype:
    """The dtype of a name, "bfloat16" too, or of whatever else NumPy takes for one. TypeError."""
    return BFLOAT16 if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype)


def name_of(dtype: np.dtype) -> str:
    """The name of a dtype: "float32", "bfloat16"."""
    return "bfloat16" if dtype == BFLOAT16 else str(dtype)


def is_float(dtype: np.dtype) -> bool:
    """Whether it is a floating point type, of any precision."""
    return dtype.kind == "f" or dtype == BFLOAT16


def lowest(dtype: np.dtype) -> float:
    """The lowest finite number of a float dtype. (float32's, rounded to bfloat16, is -inf.)"""
    return -float.fromhex("0x1.fep127") if dtype == BFLOAT16 else float(np.finfo(dtype).min)


def widened(x: np.ndarray) -> np.ndarray:
    """Half precision as float32, every value exactly; other arrays as they are."""
    if x.dtype == BFLOAT16:
        bits = x.view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(FLOAT32)
    if x.dtype == FLOAT16:
        with np.errstate(invalid="ignore"):  # some processors flag NaNs
            return x.astype(FLOAT32)
    return x


def converted(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """An array in another dtype, itself where it has that; floats are rounded to nearest even."""
    if x.dtype == dtype:
        return x
    wide = widened(x)
    if dtype != BFLOAT16:
        with np.errstate(over="ignore", invalid="ignore"):
            return wide.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        flat = np.asarray(wide, FLOAT32, order="C").reshape(-1)
    out = np.empty(flat.size, np.uint16)
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        out[block] = _rounded(flat[block])
    return out.view(BFLOAT16).reshape(x.shape)


def _rounded(x: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers in bfloat16. Half a unit of the last place, less one where the
    last place is even, carries on exactly where nearest-even rounds up; from the largest numbers
    on into infinity. NaN would be carried on, too.
    """
    bits = x.view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded)
