"""Elementwise primitives: one launch each of a kernel in kernels/elementwise.cu.

Operands without gaps take the float4 version, all others the strided one. Integers other than
int64, and booleans where they are numbers, are computed as int64.
"""

from __future__ import annotations

from collections.abc import Callable

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
    strides_in,
)
from tensor.cuda_moving import cast, copy, full
from tensor.dtypes import BFLOAT16

FILE = "elementwise.cu"
# In the order of the enums of the same names in elementwise.cu.
BINARY = ("add", "sub", "mul", "div", "pow", "maximum")
UNARY = ("neg", "exp", "log", "sqrt", "tanh", "erf", "relu", "sigmoid", "pow_scalar")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
# The version of a kernel that takes four elements at a time, by their type.
FOURS = {FLOAT: "float4", BFLOAT16: "bfloat16_vector"}


# --- two operands


def binary(op: str) -> Callable[[Launcher, Array, Array], Array]:
    """The primitive of one of BINARY."""

    def call(be: Launcher, x: Array, y: Array) -> Array:
        return _binary(be, op, x, y)

    return call


def _binary(be: Launcher, op: str, x: Array, y: Array) -> Array:
    if x.dtype == INT:
        return cast(be, _binary(be, op, cast(be, x, LONG), cast(be, y, LONG)), INT)
    if x.dtype == BOOL:
        return _boolean(be, op, x, y)
    return _launch_binary(be, op, x, y)


def _boolean(be: Launcher, op: str, x: Array, y: Array) -> Array:
    """As NumPy has it: True + True is True; only a power is a number."""
    if op == "sub":
        raise TypeError("booleans can't be subtracted; convert one with .astype('int64')")
    if op == "pow":
        return _launch_binary(be, op, cast(be, x, LONG), cast(be, y, LONG))
    return _launch_binary(be, "maximum" if op == "add" else op, x, y)


def _launch_binary(be: Launcher, op: str, x: Array, y: Array) -> Array:
    shape = np.broadcast_shapes(x.shape, y.shape)
    out = be.empty(shape, x.dtype)
    if out.size == 0:
        return out
    sizes, (xs, ys) = join_axes(shape, strides_in(x, shape), strides_in(y, shape))
    number = BINARY.index(op)
    if _goes_by_fours(x.dtype, xs, ys) and is_aligned(x, y):
        be.kernel(FILE, f"binary_{FOURS[x.dtype]}")(
            number, x.strided, y.strided, out, out.size, xs[0], ys[0],
            grid=be.blocks(out.size // 4), block=be.threads,
        )  # fmt: skip
    else:
        be.kernel(FILE, f"binary_strided_{SUFFIX[x.dtype]}")(
            number, x.strided, y.strided, out, out.size, len(sizes), sizes, xs, ys,
            grid=be.blocks(out.size), block=be.threads,
        )  # fmt: skip
    return out


def _goes_by_fours(dtype: np.dtype, *strides: Shape) -> bool:
    """Are all of them floats without gaps, or a single repeated number?"""
    return dtype in FOURS and all(len(s) == 1 and s[0] in (0, 1) for s in strides)


def compare(be: Launcher, x: Array, y: Array, how: str) -> Array:
    """Booleans: where x == y, x < y … holds, `how` being one of COMPARISONS."""
    if x.dtype in (BOOL, INT):
        x, y = cast(be, x, LONG), cast(be, y, LONG)
    shape = np.broadcast_shapes(x.shape, y.shape)
    out = be.empty(shape, BOOL)
    if out.size:
        sizes, (xs, ys) = join_axes(shape, strides_in(x, shape), strides_in(y, shape))
        be.kernel(FILE, f"compare_strided_{SUFFIX[x.dtype]}")(
            COMPARISONS.index(how), x.strided, y.strided, out, out.size, len(sizes), sizes, xs, ys,
            grid=be.blocks(out.size), block=be.threads,
        )  # fmt: skip
    return out


def where(be: Launcher, condition: Array, x: Array, y: Array) -> Array:
    """x where the condition holds, else y."""
    if x.dtype in (BOOL, INT):
        chosen = where(be, condition, cast(be, x, LONG), cast(be, y, LONG))
        return cast(be, chosen, x.dtype)
    shape = np.broadcast_shapes(condition.shape, x.shape, y.shape)
    out = be.empty(shape, x.dtype)
    if out.size:
        sizes, (cs, xs, ys) = join_axes(shape, *(strides_in(a, shape) for a in (condition, x, y)))
        be.kernel(FILE, f"where_strided_{SUFFIX[x.dtype]}")(
            condition.strided, x.strided, y.strided, out, out.size, len(sizes), sizes, cs, xs, ys,
            grid=be.blocks(out.size), block=be.threads,
        )  # fmt: skip
    return out


# --- one operand


def unary(op: str) -> Callable[[Launcher, Array], Array]:
    """The primitive of one of UNARY that needs no number besides."""

    def call(be: Launcher, x: Array) -> Array:
        return _unary(be, op, x)

    return call


def neg(be: Launcher, x: Array) -> Array:
    """-x."""
    if x.dtype == BOOL:
        raise TypeError("a boolean has no negative; for its opposite write ~x")
    if x.dtype == INT:
        return cast(be, neg(be, cast(be, x, LONG)), INT)
    if x.dtype == LONG:
        return _strided(be, "neg_strided_long", x)
    return _unary(be, "neg", x)


def logical_not(be: Launcher, x: Array) -> Array:
    """~x, of booleans."""
    return _strided(be, "not_strided_bool", x)


def pow_scalar(be: Launcher, x: Array, exponent: float) -> Array:
    """x ** exponent, a whole one for integers."""
    if x.dtype == FLOAT:
        return _unary(be, "pow_scalar", x, exponent)
    return _binary(be, "pow", x, full(be, (), int(exponent), x.dtype))


def clip(be: Launcher, x: Array, low: float | None, high: float | None) -> Array:
    """min(max(x, low), high); None leaves a side open."""
    if x.dtype in (BOOL, INT):
        return cast(be, clip(be, cast(be, x, LONG), low, high), x.dtype)
    limits = np.iinfo(np.int64)
    ends: tuple[float, float] = (limits.min, limits.max)
    if x.dtype == FLOAT:
        ends = (-np.inf, np.inf)
    within = (ends[0] if low is None else low, ends[1] if high is None else high)
    return _strided(be, f"clip_strided_{SUFFIX[x.dtype]}", x, *within)


def _unary(be: Launcher, op: str, x: Array, number: float = 0.0) -> Array:
    out = be.empty(x.shape, x.dtype)
    if out.size == 0:
        return out
    sizes, (xs,) = join_axes(x.shape, x.strides)
    code = UNARY.index(op)
    if xs == (1,) and is_aligned(x):
        be.kernel(FILE, "unary_float4")(
            code, x.strided, out, number, out.size,
            grid=be.blocks(out.size // 4), block=be.threads,
        )  # fmt: skip
    else:
        be.kernel(FILE, "unary_strided_float")(
            code, x.strided, out, number, out.size, len(sizes), sizes, xs,
            grid=be.blocks(out.size), block=be.threads,
        )  # fmt: skip
    return out


def _strided(be: Launcher, kernel: str, x: Array, *numbers: float) -> Array:
    """A kernel of one operand that has the strided version only."""
    out = be.empty(x.shape, x.dtype)
    if out.size:
        sizes, (xs,) = join_axes(x.shape, x.strides)
        be.kernel(FILE, kernel)(
            x.strided, out, *numbers, out.size, len(sizes), sizes, xs,
            grid=be.blocks(out.size), block=be.threads,
        )  # fmt: skip
    return out


# --- in place


def accumulate(be: Launcher, into: Array, x: Array) -> None:
    """into += x, broadcast to its shape."""
    if into.size == 0:
        return
    if x.storage is into.storage:
        x = copy(be, x)  # threads would read what others have added to
    sizes, (to, xs) = join_axes(into.shape, into.strides, strides_in(x, into.shape))
    if to == (1,) and xs[0] in (0, 1) and is_aligned(into, x):
        be.kernel(FILE, f"accumulate_{FOURS[into.dtype]}")(
            into.strided, x.strided, into.size, xs[0],
            grid=be.blocks(into.size // 4), block=be.threads,
        )  # fmt: skip
    else:
        strided = "strided" if into.dtype == FLOAT else f"strided_{SUFFIX[into.dtype]}"
        be.kernel(FILE, f"accumulate_{strided}")(
            into.strided, x.strided, into.size, len(sizes), sizes, to, xs,
            grid=be.blocks(into.size), block=be.threads,
        )  # fmt: skip
