"""Primitives that put elements elsewhere: fills, copies, casts, concatenation, borders.

One launch each of a kernel in kernels/copy.cu; concatenation one for each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels import grids
from kernels.recording import Changing
from tensor.backend import Array, Shape
from tensor.cuda_layout import (
    BOOL,
    FLOAT,
    INT,
    LONG,
    SUFFIX,
    Launcher,
    as_pairs,
    check_axes,
    is_aligned,
    join_axes,
    strides_in,
)
from tensor.dtypes import HALVES, converted

FILE = "copy.cu"


def full(be: Launcher, shape: Shape, value: float, dtype: np.dtype) -> Array:
    """A new array of one value."""
    out = be.empty(shape, dtype)
    if out.size == 0:
        return out
    if out.dtype in HALVES:
        bits = int(converted(np.asarray(value, np.float32), out.dtype).view(np.uint16))
        be.kernel(FILE, "fill_short")(
            out, bits, out.size, grid=be.blocks(out.size), block=be.threads
        )
        return out
    by_fours = out.dtype == FLOAT and out.size >= 4
    name = "fill_float4" if by_fours else f"fill_{SUFFIX[out.dtype]}"
    number = float(value) if out.dtype == FLOAT else int(value)
    if out.dtype == BOOL:
        number = int(bool(value))
    work = out.size // 4 if by_fours else out.size
    be.kernel(FILE, name)(out, number, out.size, grid=be.blocks(work), block=be.threads)
    return out


def cast(be: Launcher, x: Array, dtype: np.dtype) -> Array:
    """A copy of another dtype, without gaps. Between halves and others than float32 it goes by way
    of that.
    """
    dtype = np.dtype(dtype)
    if x.dtype != dtype and FLOAT not in (x.dtype, dtype) and {x.dtype, dtype} & {*HALVES}:
        return cast(be, cast(be, x, FLOAT), dtype)
    out = be.empty(x.shape, dtype)
    if x.dtype == dtype:
        assign(be, out, x)
    elif out.size and {x.dtype, dtype} & {*HALVES} and x.is_contiguous and is_aligned(x):
        be.kernel(FILE, f"cast_{SUFFIX[x.dtype]}_{SUFFIX[dtype]}_vector")(
            x, out, out.size, grid=be.blocks(-(-out.size // 4)), block=be.threads
        )
    elif out.size:
        sizes, (xs,) = join_axes(x.shape, x.strides)
        be.kernel(FILE, f"cast_{SUFFIX[x.dtype]}_{SUFFIX[dtype]}")(
            x.strided, out, out.size, len(sizes), sizes, xs,
            grid=be.blocks(out.size), block=be.threads,
        )  # fmt: skip
    return out


def copy(be: Launcher, x: Array) -> Array:
    """A copy without gaps."""
    out = be.empty(x.shape, x.dtype)
    assign(be, out, x)
    return out


def assign(be: Launcher, into: Array, x: Array) -> None:
    """into[...] = x, which is broadcast and converted where it must be."""
    if into.size == 0:
        return
    if x.dtype != into.dtype:
        x = cast(be, x, into.dtype)
    elif x.storage is into.storage:
        x = copy(be, x)  # threads would read what others have overwritten
    sizes, (to, xs) = join_axes(into.shape, into.strides, strides_in(x, into.shape))
    if to == xs == (1,):
        be.device.copy(into, x)
    elif into.dtype in HALVES:
        _assign_halves(be, into, x, sizes, to, xs)
    elif _goes_by_fours(into, x, sizes, to, xs):
        be.kernel(FILE, "copy_strided_float4")(
            x.strided, into.strided, into.size // 4, len(sizes), (*sizes[:-1], sizes[-1] // 4),
            _in_fours(xs), _in_fours(to), grid=be.blocks(into.size // 4), block=be.threads,
        )  # fmt: skip
    elif into.dtype == FLOAT and _is_transposed(sizes, to, xs):
        _copy_tiles(be, into, x, sizes, to, xs)
    else:
        be.kernel(FILE, f"copy_strided_{SUFFIX[into.dtype]}")(
            x.strided, into.strided, into.size, len(sizes), sizes, xs, to,
            grid=be.blocks(into.size), block=be.threads,
        )  # fmt: skip


def _assign_halves(
    be: Launcher, into: Array, x: Array, sizes: Shape, to: Shape, xs: Shape
) -> None:
    """As floats, two elements in one, where the last axis of both allows it."""
    pairs = as_pairs(into), as_pairs(x.expand(into.shape))
    if None not in pairs:
        assign(be, *pairs)
        return
    be.kernel(FILE, "copy_strided_short")(
        x.strided, into.strided, into.size, len(sizes), sizes, xs, to,
        grid=be.blocks(into.size), block=be.threads,
    )  # fmt: skip


def cache_append(
    be: Launcher, k_room: Array, v_room: Array, k: Array, v: Array, length: int
) -> None:
    """k, v (B, H, T, D) to the positions from length on of k_room, v_room (B, H, room, D)."""
    if k.size == 0:
        return
    name = "cache_append_short" if k.dtype in HALVES else "cache_append_float"
    be.kernel("cache.cu", name)(
        k.strided, v.strided, k_room, v_room, k.size, k.shape, k.strides, v.strides,
        k_room.shape[2], Changing(length, "length"), grid=be.blocks(k.size), block=be.threads,
    )  # fmt: skip


def _goes_by_fours(into: Array, x: Array, sizes: Shape, to: Shape, xs: Shape) -> bool:
    """Does the last axis of both consist of whole groups of four floats?"""
    return (
        into.dtype == FLOAT
        and to[-1] == xs[-1] == 1
        and all(n % 4 == 0 for n in (sizes[-1], *to[:-1], *xs[:-1]))
        and is_aligned(into, x)
    )


def _in_fours(strides: Shape) -> Shape:
    return (*(s // 4 for s in strides[:-1]), 1)


def _is_transposed(sizes: Shape, to: Shape, xs: Shape) -> bool:
    """Is it a matrix, or several, whose rows lie along the columns of the other?"""
    return len(sizes) in (2, 3) and to[-1] == 1 and xs[-2] == 1 and min(sizes[-2:]) >= 8


def _copy_tiles(
    be: Launcher, into: Array, x: Array, sizes: Shape, to: Shape, xs: Shape
) -> None:
    batch, to_batch, x_batch = (sizes[0], to[0], xs[0]) if len(sizes) == 3 else (1, 0, 0)
    rows, cols = sizes[-2:]
    tiles = grids.copy_tiles(batch, rows, cols)
    be.kernel(FILE, "copy_tiles_float")(
        x.strided, into.strided, batch, rows, cols, x_batch, xs[-1], to_batch, to[-2],
        grid=be.blocks(tiles, each=1), block=(grids.TILE, 8),
    )  # fmt: skip


# --- joined, padded, and the gradient of a slice


def concatenate(be: Launcher, xs: Sequence[Array], axis: int) -> Array:
    """The arrays one after the other along an axis."""
    total = sum(x.shape[axis] for x in xs)
    out = be.empty((*xs[0].shape[:axis], total, *xs[0].shape[axis + 1 :]), xs[0].dtype)
    start = 0
    for x in xs:
        place = (slice(None),) * axis + (slice(start, start + x.shape[axis]),)
        assign(be, out[place], x)
        start += x.shape[axis]
    return out


def pad(be: Launcher, x: Array, widths: Sequence[tuple[int, int]], value: float) -> Array:
    """x with a border of one value, (before, after) for each axis."""
    shape = tuple(before + n + after for (before, after), n in zip(widths, x.shape, strict=True))
    starts = tuple(before for before, _ in widths)
    return _place(be, x, shape, starts, (1,) * x.ndim, value)


def slice_backward(be: Launcher, dy: Array, index: Any, shape: Shape) -> Array:
    """dy at the places that index names in zeros of the shape."""
    places = [range(n)[part] for part, n in zip(_slices(index, shape), shape, strict=True)]
    counts = tuple(len(p) for p in places)
    view = dy.reshape(counts)  # axes that an integer took away come back, new ones go
    dy = copy(be, dy).reshape(counts) if view is None else view
    starts, steps = tuple(p.start for p in places), tuple(p.step for p in places)
    return _place(be, dy, shape, starts, steps, 0)


def _slices(index: Any, shape: Shape) -> list[slice]:
    """A basic index as one slice for each axis of the shape."""
    parts = [p for p in (index if isinstance(index, tuple) else (index,)) if p is not None]
    dots = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    missing = len(shape) - sum(p is not Ellipsis for p in parts)
    parts[dots : dots + 1] = [slice(None)] * missing
    return [
        p if isinstance(p, slice) else slice(int(p) % n, int(p) % n + 1)
        for p, n in zip(parts, shape, strict=True)
    ]


def _place(
    be: Launcher, x: Array, shape: Shape, starts: Shape, steps: Shape, value: float
) -> Array:
    """x in an array of one value: element k along an axis goes to start + k * step."""
    if x.dtype in (BOOL, INT):
        return cast(be, _place(be, cast(be, x, LONG), shape, starts, steps, value), x.dtype)
    out = be.empty(shape, x.dtype)
    if out.size == 0:
        return out
    if x.size == 0:
        return full(be, shape, value, x.dtype)
    axes = _joined_places(shape, starts, steps, x.shape, x.strides)
    sizes, starts, steps, counts, strides = zip(*axes, strict=True)
    number = float(value) if x.dtype == FLOAT else int(value)
    be.kernel(FILE, f"place_{SUFFIX[x.dtype]}")(
        x.strided, out, number, out.size, len(sizes), sizes, starts, steps, counts, strides,
        grid=be.blocks(out.size), block=be.threads,
    )  # fmt: skip
    return out


def _joined_places(*axes_of: Shape) -> list[tuple[int, ...]]:
    """(size, start, step, count, stride) an axis; an axis that x fills whole is joined to the one
    before it.
    """
    joined: list[tuple[int, ...]] = []
    for size, start, step, count, stride in zip(*axes_of, strict=True):
        is_whole = step == 1 and count == size
        if joined and is_whole:
            outer, outer_start, outer_step, outer_count, outer_stride = joined[-1]
            if outer_step == 1 and outer_stride == size * stride:
                joined[-1] = (outer * size, outer_start * size, 1, outer_count * size, stride)
                continue
        joined.append((size, start, step, count, stride))
    check_axes(len(joined), axes_of[0])
    return joined or [(1, 0, 1, 1, 0)]
