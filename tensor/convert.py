"""From what a caller passes (numbers, lists, NumPy arrays, tensors) to what the backends take."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from tensor.dtypes import FLOAT32, HALVES, converted, is_float, name_of, named

Axis = int | tuple[int, ...] | None  # of a reduction; None is all axes
NUMBERS = (bool, int, float, np.generic)


def checked_dtype(dtype: np.dtype, device: str = "cpu") -> np.dtype:
    """The dtype if tensors on the device may have it, else TypeError."""
    if dtype.kind in "iub" or dtype in (FLOAT32, np.dtype("float64")):
        return dtype
    if dtype in HALVES:
        if device != "cpu":
            return dtype
        raise TypeError(
            f"dtype {name_of(dtype)} is not supported on the CPU: NumPy has no bfloat16, and "
            "computes float16 a number at a time; convert to float32, or keep it on the device "
            "'cuda' or 'emulator'"
        )
    if dtype.kind in "OSU":
        raise TypeError(f"a tensor holds numbers; NumPy reads these values as dtype {dtype}")
    raise TypeError(
        f"dtype {dtype} is not supported; convert to float32, float64, an integer type or bool"
    )


def to_array(values: Any, dtype: Any = None, device: str = "cpu") -> np.ndarray:
    """Anything array-like as a NumPy array of a dtype that tensors on the device may have.

    Python's floats become float32; a NumPy array keeps its precision. TypeError for what is not
    numbers, ValueError for lists of unequal lengths.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            "no tensor can be made of these values: the lists in a list need equal lengths, and "
            f"tensors are joined by stack ({error})"
        ) from None
    if dtype is not None and (array.dtype.kind in "iub" or is_float(array.dtype)):
        result = converted(array, checked_dtype(named(dtype), device))
        if array.dtype.kind in "iu" and result.dtype.kind in "iu" and (result != array).any():
            raise ValueError(f"{array[result != array].flat[0]} does not fit {result.dtype}")
        return result
    if (
        array.dtype == np.float64
        and isinstance(values, (float, list, tuple))
        and not isinstance(values, np.generic)
    ):
        array = array.astype(FLOAT32)
    checked_dtype(array.dtype, device)
    return array


def read_sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """The sizes in f(2, 3) and f((2, 3)) alike."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    try:
        return tuple(operator.index(n) for n in sizes)
    except TypeError:
        raise TypeError(f"sizes must be integers, not {sizes}") from None


def read_index(part: Any) -> Any:
    """One part of an index as NumPy takes it: a tensor, a list or an array becomes an integer or
    boolean array of our own, since the backward pass will need it again.

    IndexError for an array of another dtype.
    """
    if part is None or part is Ellipsis or isinstance(part, (slice, int, np.integer)):
        return part
    array = np.array(part)
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int64)  # an empty list
    if array.dtype.kind not in "iub":
        raise IndexError(
            f"an index of dtype {array.dtype}: only integers and booleans can be indices"
        )
    return array
