"""x[index] with arrays in the index, and its gradient: kernels/index.cu.

The index is the host's: integers and booleans in NumPy's arrays. From it a table of offsets into x
is made here, which goes to the device: the one transfer of these two primitives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tensor.backend import Array, Shape
from tensor.cuda_layout import (
    BOOL,
    FLOAT,
    INT,
    LONG,
    SUFFIX,
    Launcher,
    is_aligned,
    join_axes,
)
from tensor.cuda_moving import cast, full

FILE = "index.cu"


class Axes(NamedTuple):
    """Some axes of the result: how many elements they hold, and where these lie in x."""

    size: int
    ndim: int
    shape: Shape
    strides: Shape


class Picked(NamedTuple):
    """What an index picks: element (b, k, a) of the result, (before, table, after), is
    x[offset of b + table[k] + offset of a].
    """

    shape: Shape  # of the result, where the table has the shape of the index arrays
    table: np.ndarray  # int64, flat
    before: Axes
    after: Axes


def read_index(index: Any, shape: Shape, strides: Shape) -> Picked:
    """An index of an array of this shape, as NumPy understands it.

    IndexError for places outside an axis, a boolean array of another shape, or too many indices.
    """
    sliced: list[tuple[int, int]] = []  # (size, stride) of the axes that slices give the result
    places: list[np.ndarray] = []  # of each integer array: offsets into x
    runs: list[int] = []  # after how many sliced axes each run of neighbouring arrays begins
    start = axis = 0
    last: Any = None
    for part in _parts(index, len(shape)):
        is_array = isinstance(part, np.ndarray)
        if is_array and not isinstance(last, np.ndarray):
            runs.append(len(sliced))
        last = part
        if part is None:
            sliced.append((1, 0))
        elif isinstance(part, slice):
            first, stop, step = part.indices(shape[axis])
            count = len(range(first, stop, step))
            sliced.append((count, step * strides[axis]))
            start += first * strides[axis] if count else 0
            axis += 1
        elif is_array:
            for array in _integers(part, shape, axis):
                places.append(array * strides[axis])
                axis += 1
            if part.dtype == bool and part.ndim == 0:  # a new axis: picked once, or not at all
                places.append(np.zeros(int(part), np.int64))
    # The arrays' axes stand where the arrays do; in front where something stands between them.
    front = runs[0] if len(runs) == 1 else 0
    table = _broadcast_sum(places) + start
    first_axes, last_axes = sliced[:front], sliced[front:]
    whole = (*(n for n, _ in first_axes), *table.shape, *(n for n, _ in last_axes))
    return Picked(whole, table.reshape(-1), _axes(first_axes), _axes(last_axes))


def _parts(index: Any, ndim: int) -> list[Any]:
    """None, slices, and arrays of integers or booleans that name every axis between them; an
    Ellipsis that stands for no axis stays, since it keeps its neighbours apart.
    """
    parts = [
        p if p is None or p is Ellipsis or isinstance(p, slice) else np.asarray(p)
        for p in (index if isinstance(index, tuple) else (index,))
    ]
    used = sum(_axes_named(p) for p in parts)
    if used > ndim:
        raise IndexError(f"an index of {used} axes for an array of {ndim}")
    dots = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    if ndim > used:
        parts[dots : dots + 1] = [slice(None)] * (ndim - used)
    return parts


def _axes_named(part: Any) -> int:
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype == bool else 1


def _integers(part: np.ndarray, shape: Shape, axis: int) -> list[np.ndarray]:
    """The places that an array names on its axis, counted from the front; of a boolean array where
    it is true, one array for each of its axes.
    """
    if part.dtype == bool:
        if part.shape != shape[axis : axis + part.ndim]:
            raise IndexError(
                f"a boolean index of shape {part.shape} at axis {axis} of an array of shape {shape}"
            )
        return list(np.nonzero(part)) if part.ndim else []
    size = shape[axis]
    places = part.astype(np.int64)
    wrong = places[(places < -size) | (places >= size)]
    if wrong.size:
        raise IndexError(f"index {wrong[0]} is outside axis {axis}, of size {size}")
    return [np.where(places < 0, places + size, places)]


def _broadcast_sum(places: list[np.ndarray]) -> np.ndarray:
    """The sum of the arrays, broadcast together. IndexError where they don't."""
    try:
        shape = np.broadcast_shapes(*(p.shape for p in places))
    except ValueError:
        shapes = ", ".join(str(p.shape) for p in places)
        raise IndexError(f"index arrays of shapes {shapes} do not broadcast") from None
    total = np.zeros(shape, np.int64)
    for p in places:
        total += p
    return total


def _axes(sliced: list[tuple[int, int]]) -> Axes:
    sizes, strides = tuple(n for n, _ in sliced), tuple(s for _, s in sliced)
    joined, (steps,) = join_axes(sizes, strides)
    return Axes(math.prod(sizes), len(joined), joined, steps)


def gather(be: Launcher, x: Array, index: Any) -> Array:
    """x[index], a copy."""
    if x.dtype in (BOOL, INT):
        return cast(be, gather(be, cast(be, x, LONG), index), x.dtype)
    shape, table, before, after = read_index(index, x.shape, x.strides)
    out = be.empty(shape, x.dtype)
    if out.size == 0:
        return out
    on_device = be.device.from_numpy(table)
    if x.dtype == FLOAT and after.strides == (1,) and _in_fours(x, table, before, after):
        be.kernel(FILE, "gather_float4")(
            x.strided, on_device, out, table.size, before.size, before.ndim, before.shape,
            tuple(s // 4 for s in before.strides), after.size // 4,
            grid=be.blocks(out.size // 4), block=be.threads,
        )  # fmt: skip
    else:
        be.kernel(FILE, f"gather_{SUFFIX[x.dtype]}")(
            x.strided, on_device, out, table.size, *before, *after,
            grid=be.blocks(out.size), block=be.threads,
        )  # fmt: skip
    return out


def _in_fours(x: Array, table: np.ndarray, before: Axes, after: Axes) -> bool:
    """Does every run of neighbours consist of whole groups of four?"""
    counts = (after.size, *before.strides)
    return is_aligned(x) and all(n % 4 == 0 for n in counts) and not (table % 4).any()


def gather_backward(be: Launcher, dy: Array, index: Any, shape: Shape) -> Array:
    """dy added up at the places that the index picked, in zeros of the shape."""
    dx = full(be, shape, 0, dy.dtype)
    if dy.size == 0:
        return dx
    _, table, before, after = read_index(index, shape, dx.strides)
    order = np.argsort(table, kind="stable")
    in_order = table[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1], True])
    together = be.device.from_numpy(np.concatenate([table, order, starts]))  # one transfer
    n = table.size
    be.kernel(FILE, "gather_backward_sorted")(
        be.contiguous(dy), together[:n], together[n : 2 * n], together[2 * n :], dx, n,
        starts.size - 1, *before, *after,
        grid=be.blocks(before.size * (starts.size - 1) * after.size), block=be.threads,
    )  # fmt: skip
    return dx
