"""The bodies of Tensor's shape methods that take more than a line, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensor.apply import apply, operands
from tensor.convert import Axis, read_index, read_sizes
from tensor.ops import shape
from tensor.ops.function import broadcast_shapes, normalize_axes, normalize_axis

if TYPE_CHECKING:
    from tensor.tensor import Tensor


def reshape(x: Tensor, sizes: tuple[Any, ...]) -> Tensor:
    """ValueError unless the sizes, of which one may be -1, give as many elements."""
    wanted = read_sizes(sizes)
    free = wanted.count(-1)
    known = math.prod(n for n in wanted if n != -1)
    if free == 1 and known and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    elif free or known != x.size or any(n < 0 for n in wanted):
        raise ValueError(f"reshape: {x.shape} has {x.size} elements, which do not fit {wanted}")
    return x if wanted == x.shape else apply(shape.Reshape, x, shape=wanted)


def permute(x: Tensor, axes: tuple[Any, ...]) -> Tensor:
    """ValueError unless each axis is named once."""
    given = read_sizes(axes)
    order = tuple(a % x.ndim if -x.ndim <= a < x.ndim else a for a in given)
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"permute: {given} does not name each of {x.ndim} axes once")
    return apply(shape.Permute, x, axes=order)


def transpose(x: Tensor, a: int, b: int) -> Tensor:
    """A permutation that exchanges two axes."""
    order = list(range(x.ndim))
    a = normalize_axis("transpose", a, x.ndim)
    b = normalize_axis("transpose", b, x.ndim)
    order[a], order[b] = b, a
    return x.permute(*order)


def expand(x: Tensor, sizes: tuple[Any, ...]) -> Tensor:
    """ValueError unless x broadcasts to the sizes."""
    wanted = read_sizes(sizes)
    if min(wanted, default=0) < 0 or broadcast_shapes("expand", x.shape, wanted) != wanted:
        raise ValueError(f"expand: {x.shape} can't become {wanted}: only axes of size 1 grow")
    return apply(shape.Expand, x, shape=wanted)


def squeeze(x: Tensor, axis: Axis) -> Tensor:
    """ValueError for an axis that is not of size 1."""
    if axis is None:
        drop: tuple[int, ...] = tuple(i for i, n in enumerate(x.shape) if n == 1)
    else:
        drop = normalize_axes("squeeze", axis, x.ndim)
    if any(x.shape[a] != 1 for a in drop):
        raise ValueError(f"squeeze: axes {drop} of shape {x.shape} are not all of size 1")
    return x.reshape(tuple(n for i, n in enumerate(x.shape) if i not in drop))


def split(x: Tensor, size: int | Sequence[int], axis: int) -> tuple[Tensor, ...]:
    """ValueError for a size that is not positive, or sizes that do not add up."""
    a = normalize_axis("split", axis, x.ndim)
    n = x.shape[a]
    if isinstance(size, (int, np.integer)):
        if size < 1:
            raise ValueError(f"split: the size {size} is not positive")
        sizes = [min(size, n - i) for i in range(0, n, size)] or [0]
    else:
        sizes = list(read_sizes((size,)))
        if sum(sizes) != n or min(sizes, default=-1) < 0:
            raise ValueError(
                f"split: sizes {sizes} do not add up to {n}, the size of axis {a} of {x.shape}"
            )
    return apply(shape.Split, x, sizes=sizes, axis=a)


def pad(x: Tensor, widths: Sequence[tuple[int, int]], value: float) -> Tensor:
    """ValueError unless there is one (before, after) for each axis."""
    border = np.asarray(widths)
    if border.shape != (x.ndim, 2) or border.dtype.kind not in "iu" or (border < 0).any():
        raise ValueError(
            f"pad: {widths} is not one (before, after) >= 0 for each axis of {x.shape}"
        )
    x, _ = operands("pad", x, value)  # integers become floats where the value is one
    return apply(shape.Pad, x, widths=[(int(a), int(b)) for a, b in border], value=value)


def index(x: Tensor, given: Any) -> Tensor:
    """A view where there are no arrays in the index, otherwise a copy."""
    parts = tuple(read_index(p) for p in (given if isinstance(given, tuple) else (given,)))
    is_basic = not any(isinstance(p, (np.ndarray, bool)) for p in parts)
    return apply(shape.Slice if is_basic else shape.Gather, x, index=parts)
