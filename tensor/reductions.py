"""The bodies of Tensor's reductions that take more than a line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tensor.apply import apply, floating
from tensor.convert import Axis
from tensor.dtypes import FLOAT32, HALVES, is_float
from tensor.ops import reduce
from tensor.ops.function import Function, normalize_axes, normalize_axis

if TYPE_CHECKING:
    from tensor.tensor import Tensor


def mean(x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """The sum over n elements times 1 / n; NaN for n = 0."""
    if x.dtype in HALVES:  # whose sum may be beyond the largest half
        return mean(x.astype(FLOAT32), axis, keepdims).astype(x.dtype)
    x = floating(x)
    axes = normalize_axes("mean", axis, x.ndim)
    count = math.prod(x.shape[a] for a in axes)
    return x.sum(axes, keepdims) * (1 / count if count else math.nan)


def var(x: Tensor, axis: Axis, keepdims: bool, correction: int) -> Tensor:
    """The sum of squared distances from the mean over n - correction; NaN if that is 0 or less."""
    if x.dtype in HALVES:
        return var(x.astype(FLOAT32), axis, keepdims, correction).astype(x.dtype)
    x = floating(x)
    axes = normalize_axes("var", axis, x.ndim)
    freedom = math.prod(x.shape[a] for a in axes) - correction
    distance = x - x.mean(axes, keepdims=True)
    total = (distance * distance).sum(axes, keepdims)
    return total * (1 / freedom if freedom > 0 else math.nan)


def largest(x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """ValueError where there is no element to choose from."""
    axes = normalize_axes("max", axis, x.ndim)
    if any(x.shape[a] == 0 for a in axes):
        raise ValueError(
            f"max over axes {axes} of shape {x.shape}: there is no element to choose from"
        )
    return apply(reduce.Max, x, axes=axes, keepdims=keepdims)


def argmax(x: Tensor, axis: int | None) -> np.ndarray:
    """ValueError where there is no element to choose from."""
    x = x.reshape(-1) if axis is None else x
    a = normalize_axis("argmax", 0 if axis is None else axis, x.ndim)
    if x.shape[a] == 0:
        raise ValueError(
            f"argmax over axis {a} of shape {x.shape}: there is no element to choose from"
        )
    return x.backend.to_numpy(x.backend.argmax(x.data, a))


def logsumexp(x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """max + log(sum(exp(x - max))): nothing overflows. The maximum counts as a constant."""
    if x.dtype in HALVES:
        return logsumexp(x.astype(FLOAT32), axis, keepdims).astype(x.dtype)
    x = floating(x)
    axes = normalize_axes("logsumexp", axis, x.ndim)
    top = x.detach().max(axes, keepdims=True)
    top = top.masked_fill(top.abs() == math.inf, 0.0)  # inf - inf would be NaN
    result = (x - top).exp().sum(axes, keepdims=True).log() + top
    return result if keepdims else result.squeeze(axes)


def along_last(function: type[Function], name: str, x: Tensor, axis: int) -> Tensor:
    """Apply an operation on the last axis to another axis."""
    a = normalize_axis(name, axis, x.ndim)
    if a == x.ndim - 1:
        return apply(function, floating(x))
    return apply(function, floating(x).transpose(a, -1)).transpose(a, -1)


def mirror(x: Tensor) -> Tensor:
    """The values in reversed order, so that a minimum is a maximum between two mirrors: -x.

    The lowest integer has no negative, and an unsigned one none at all: integers are mirrored by
    their distance from -1 or from the highest.
    """
    if is_float(x.dtype):
        return -x
    if x.dtype.kind == "b":
        return ~x
    return (-1 if x.dtype.kind == "i" else int(np.iinfo(x.dtype).max)) - x
