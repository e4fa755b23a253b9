"""Reductions: kernels/reduce.cu, in one launch, or two where there are few results."""

from __future__ import annotations

import math
from typing import Any

from tensor.backend import Array, Axes, Shape
from tensor.cuda_layout import BOOL, FLOAT, INT, LONG, SUFFIX, Launcher, join_axes
from tensor.cuda_moving import cast, full
from tensor.dtypes import BFLOAT16

FILE = "reduce.cu"
LANES = 32
# Where there are fewer results than this, each is cut into chunks of at least CHUNK elements, until
# there are about so many pieces of work: a large GPU has 132 multiprocessors.
ENOUGH = 256
CHUNK = 512


def sum(be: Launcher, x: Array, axes: Axes, keepdims: bool) -> Array:  # noqa: A001
    """Sums over axes; those of integers and booleans are int64."""
    if x.dtype in (BOOL, INT):
        x = cast(be, x, LONG)  # NumPy, too, adds them up as int64
    if x.dtype == BFLOAT16:  # the kernels' sums are float32
        return cast(be, _reduce(be, "sum", x, axes, keepdims), BFLOAT16)
    return _reduce(be, "sum", x, axes, keepdims)


def max(be: Launcher, x: Array, axes: Axes, keepdims: bool) -> Array:  # noqa: A001
    """The largest elements over axes, of which none is empty."""
    if x.dtype in (BOOL, INT):
        return cast(be, _reduce(be, "max", cast(be, x, LONG), axes, keepdims), x.dtype)
    return _reduce(be, "max", x, axes, keepdims)


def _reduce(be: Launcher, how: str, x: Array, axes: Axes, keepdims: bool) -> Array:
    shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    with_ones = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    if x.size == 0:  # sums of nothing, or nothing at all: largest() has refused what has no maximum
        return full(be, with_ones if keepdims else shape, 0, x.dtype)
    kept, (kept_strides,) = join_axes(shape, _picked(x.strides, axes, False))
    count, (count_strides,) = join_axes(
        _picked(x.shape, axes, True), _picked(x.strides, axes, True)
    )
    out = _launch(be, how, x, kept, kept_strides, count, count_strides)
    return out.reshape(with_ones if keepdims else shape)


def _picked(values: Shape, axes: Axes, inside: bool) -> Shape:
    """The entries of the axes that are reduced, or of the others."""
    return tuple(v for i, v in enumerate(values) if (i in axes) == inside)


def _launch(
    be: Launcher, how: str, x: Array, kept: Shape, kept_strides: Shape, count: Shape,
    count_strides: Shape,
) -> Array:  # fmt: skip
    """The results, (prod(kept),)."""
    results, elements = math.prod(kept), math.prod(count)
    columns = _lie_in_columns(x, kept_strides, count_strides)
    blocks = -(-results // LANES) if columns else results
    chunks = min(-(-elements // CHUNK), -(-ENOUGH // blocks))
    out = be.empty((chunks, results), FLOAT if x.dtype == BFLOAT16 else x.dtype)
    described: tuple[Any, ...] = (elements, len(count), count, count_strides)
    if columns:
        be.kernel(FILE, f"{how}_columns_{SUFFIX[x.dtype]}")(
            x.strided, out, results, *described,
            grid=(be.blocks(blocks, each=1), chunks), block=(LANES, be.threads // LANES),
        )  # fmt: skip
    else:
        warps = be.threads // LANES
        be.kernel(FILE, f"{how}_warp_{SUFFIX[x.dtype]}")(
            x.strided, out, results, len(kept), kept, kept_strides, *described,
            grid=(be.blocks(results, each=warps), chunks), block=be.threads,
        )  # fmt: skip
    if chunks == 1:
        return out
    return _launch(be, how, out, (results,), (1,), (chunks,), (results,))


def _lie_in_columns(x: Array, kept_strides: Shape, count_strides: Shape) -> bool:
    """Are neighbouring results made of neighbouring elements, and not each of a row?"""
    return x.dtype in (FLOAT, BFLOAT16) and kept_strides == (1,) and count_strides[-1] != 1


def argmax(be: Launcher, x: Array, axis: int) -> Array:
    """Where the first largest element along an axis stands, int64."""
    if x.dtype in (BOOL, INT):
        x = cast(be, x, LONG)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    out = be.empty(shape, LONG)
    if out.size:
        kept, (strides,) = join_axes(shape, (*x.strides[:axis], *x.strides[axis + 1 :]))
        be.kernel(FILE, f"argmax_warp_{SUFFIX[x.dtype]}")(
            x.strided, out, out.size, len(kept), kept, strides, x.shape[axis], x.strides[axis],
            grid=be.blocks(out.size, each=be.threads // LANES), block=be.threads,
        )  # fmt: skip
    return out
