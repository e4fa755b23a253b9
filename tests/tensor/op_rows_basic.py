"""Rows of the table of operations: elementwise functions, reductions, shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensor import cat, stack, where
from tests.tensor import slow_ops
from tests.tensor.op_row import Op, Shapes

BINARY: list[Shapes] = [
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((3,), (2, 3)),
    ((4, 1, 3), (2, 1)),
    ((1,), (5, 1)),
    ((), (3,)),
    ((2, 2), ()),
    ((), ()),
    ((3, 1), (3, 1)),
    ((0, 3), (1, 3)),
    ((2, 1), (0,)),
    ((1, 7, 1, 5), (3, 1, 2, 1)),
]
UNARY: list[Shapes] = [((),), ((1,),), ((5,),), ((2, 3),), ((3, 1, 4),), ((0,),), ((2, 0, 3),)]
MANY = ((70_001,),)  # more elements than one block of the fused operations takes

ARITHMETIC = [
    Op("add", lambda a, b: a + b, BINARY, plain=lambda a, b: a + b),
    Op("subtract", lambda a, b: a - b, BINARY, plain=lambda a, b: a - b),
    Op("multiply", lambda a, b: a * b, BINARY, plain=lambda a, b: a * b),
    Op(
        "divide", lambda a, b: a / b, BINARY, plain=lambda a, b: a / b, domain=("any", "nonzero")
    ),
    Op("power", lambda a, b: a**b, BINARY, plain=np.power, domain=("positive", "any")),
    Op("maximum", lambda a, b: a.maximum(b), BINARY, plain=np.maximum),
    Op("minimum", lambda a, b: a.minimum(b), BINARY, plain=np.minimum),
    Op("negative", lambda x: -x, UNARY, plain=lambda x: -x),
    Op("add_number", lambda x: x + 2, UNARY, plain=lambda x: x + 2),
    Op("radd_number", lambda x: 2.5 + x, UNARY, plain=lambda x: 2.5 + x),
    Op("subtract_number", lambda x: x - 2, UNARY, plain=lambda x: x - 2),
    Op("rsubtract_number", lambda x: 2.5 - x, UNARY, plain=lambda x: 2.5 - x),
    Op("multiply_number", lambda x: x * 3, UNARY, plain=lambda x: x * 3),
    Op("rmultiply_number", lambda x: -0.5 * x, UNARY, plain=lambda x: -0.5 * x),
    Op("divide_number", lambda x: x / 3, UNARY, plain=lambda x: x / 3),
    Op("rdivide_number", lambda x: 2 / x, UNARY, plain=lambda x: 2 / x, domain="nonzero"),
    Op("rpower_number", lambda x: 2**x, UNARY, plain=lambda x: 2.0**x),
    *(
        Op(f"power_{n}", lambda x, n=n: x**n, UNARY, plain=lambda x, n=n: x**n, domain=domain)
        for n, domain in [
            (0, "any"), (1, "any"), (2, "any"), (3, "any"), (4, "any"), (5, "any"),
            (-1, "nonzero"), (-2, "nonzero"), (0.5, "positive"), (-1.5, "positive"),
        ]
    ),
    Op("used_twice", lambda x: x * x + x, UNARY, plain=lambda x: x * x + x),
]  # fmt: skip

COMPARISONS = [
    Op(f"compare_{name}", function, BINARY, plain=function, gradient=False)
    for name, function in [
        ("eq", lambda a, b: a == b),
        ("ne", lambda a, b: a != b),
        ("lt", lambda a, b: a < b),
        ("le", lambda a, b: a <= b),
        ("gt", lambda a, b: a > b),
        ("ge", lambda a, b: a >= b),
        ("and", lambda a, b: (a > 0) & (b > 0)),
        ("or", lambda a, b: (a > 0) | (b > 0)),
        ("not", lambda a, b: ~(a > b)),
        ("with_number", lambda a, b: (a > 0) & (0 < b)),
    ]
]

FUNCTIONS = [
    Op("exp", lambda x: x.exp(), UNARY, plain=np.exp),
    Op("log", lambda x: x.log(), UNARY, plain=np.log, domain="positive"),
    Op("sqrt", lambda x: x.sqrt(), UNARY, plain=np.sqrt, domain="positive"),
    Op("tanh", lambda x: x.tanh(), UNARY, plain=np.tanh),
    Op("erf", lambda x: x.erf(), [*UNARY, ((1001,),)], plain=slow_ops.erf, domain="wide"),
    Op("relu", lambda x: x.relu(), UNARY, plain=lambda x: np.where(x > 0, x, 0)),
    Op(
        "sigmoid", lambda x: x.sigmoid(), UNARY,
        plain=lambda x: 1 / (1 + np.exp(-x)), domain="wide",
    ),
    Op(
        "silu", lambda x: x.silu(), UNARY,
        lambda torch, x: torch.nn.functional.silu(x),
        plain=lambda x: x / (1 + np.exp(-x)), domain="wide",
    ),
    Op(
        "gelu", lambda x: x.gelu(), [*UNARY, MANY],
        lambda torch, x: torch.nn.functional.gelu(x),
        plain=lambda x: slow_ops.gelu(x, False), domain="wide",
    ),
    Op(
        "gelu_tanh", lambda x: x.gelu("tanh"), [*UNARY, MANY],
        lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
        plain=lambda x: slow_ops.gelu(x, True), domain="wide",
    ),
    Op("abs", lambda x: x.abs(), UNARY, plain=np.abs),
    Op("clip", lambda x: x.clip(-0.5, 0.7), UNARY, plain=lambda x: np.clip(x, -0.5, 0.7)),
    Op(
        "clip_below", lambda x: x.clip(low=-0.5), UNARY,
        lambda torch, x: x.clip(min=-0.5), plain=lambda x: np.maximum(x, -0.5),
    ),
    Op(
        "clip_above", lambda x: x.clip(high=0.5), UNARY,
        lambda torch, x: x.clip(max=0.5), plain=lambda x: np.minimum(x, 0.5),
    ),
]  # fmt: skip


def checkers(shape: tuple[int, ...]) -> np.ndarray:
    """Booleans, true and false in turn."""
    return np.indices(shape).sum(axis=0) % 2 == 0


CHOICES = [
    Op(
        f"where_{'x'.join(map(str, mask.shape))}",
        lambda a, b, mask=mask: where(mask, a, b), BINARY[:6],
        lambda torch, a, b, mask=mask: torch.where(torch.tensor(mask), a, b),
        plain=lambda a, b, mask=mask: np.where(mask, a, b),
    )
    for mask in [checkers((3,)), checkers((4, 1, 1))]
] + [
    Op(
        "where_number", lambda a: where(checkers((2, 3)), a, 1.5), [((2, 3),), ((3,),), ((),)],
        lambda torch, a: torch.where(torch.tensor(checkers((2, 3))), a, 1.5),
        plain=lambda a: np.where(checkers((2, 3)), a, 1.5),
    ),
    Op(
        "masked_fill", lambda a: a.masked_fill(checkers((2, 3)), -2.0),
        [((2, 3),), ((4, 2, 3),), ((1, 3),), ((3,),)],
        lambda torch, a: a.masked_fill(torch.tensor(checkers((2, 3))), -2.0),
        plain=lambda a: np.where(checkers((2, 3)), -2.0, a),
    ),
]  # fmt: skip

# (axis, keepdims, shape)
REDUCTIONS_OVER = [
    (None, False, (2, 3, 4)), (None, True, (2, 3, 4)), (0, False, (2, 3, 4)),
    (1, True, (2, 3, 4)), (-1, False, (2, 3, 4)), ((0, 2), False, (2, 3, 4)),
    ((0, 2), True, (2, 3, 4)), ((-1, 0), False, (2, 3, 4)), ((1,), False, (2, 3)),
    (None, False, ()), (None, False, (1,)), (0, False, (5,)), (0, True, (2, 1)),
    (0, False, (3, 0)), (0, False, (3, 0, 2)), (-1, False, (150, 7)),
]  # fmt: skip
EMPTY_REDUCTIONS = [(0, False, (0, 3)), (None, True, (2, 0))]


def _dims(axis: Any, x: Any) -> tuple[int, ...]:
    """torch's dim, which wants every axis named."""
    if axis is None:
        return tuple(range(x.ndim))
    return axis if isinstance(axis, tuple) else (axis,)


def _reduction(
    name: str,
    ours: Callable[..., Any],
    twin: Callable[..., Any],
    plain: Callable[..., Any],
    over: Sequence[Any],
) -> list[Op]:
    """A row for each choice of axes. Functions take (x, axis, keepdims), the twin also torch."""
    return [
        Op(
            f"{name}_{axis}{'_keepdims' if keepdims else ''}",
            lambda x, a=axis, k=keepdims: ours(x, a, k), [(shape,)],
            lambda torch, x, a=axis, k=keepdims: twin(torch, x, _dims(a, x), k),
            plain=lambda x, a=axis, k=keepdims: plain(x, a, k),
        )
        for axis, keepdims, shape in over
    ]  # fmt: skip


SPREAD = [row for row in REDUCTIONS_OVER if row[2] not in [(), (1,)] and 0 not in row[2]]
REDUCTIONS = [
    *_reduction(
        "sum", lambda x, a, k: x.sum(a, k),
        lambda torch, x, d, k: x.sum(d, k) if d else x.sum(),
        lambda x, a, k: x.sum(axis=a, keepdims=k), [*REDUCTIONS_OVER, *EMPTY_REDUCTIONS],
    ),
    *_reduction(
        "mean", lambda x, a, k: x.mean(a, k),
        lambda torch, x, d, k: x.mean(d, k) if d else x.mean(),
        lambda x, a, k: x.mean(axis=a, keepdims=k), REDUCTIONS_OVER,
    ),
    *_reduction(
        "var", lambda x, a, k: x.var(a, k), lambda torch, x, d, k: x.var(d, keepdim=k),
        lambda x, a, k: x.var(axis=a, keepdims=k, ddof=1), SPREAD,
    ),
    *_reduction(
        "var_biased", lambda x, a, k: x.var(a, k, correction=0),
        lambda torch, x, d, k: x.var(d, correction=0, keepdim=k),
        lambda x, a, k: x.var(axis=a, keepdims=k), SPREAD,
    ),
    *_reduction(
        "max", lambda x, a, k: x.max(a, k), lambda torch, x, d, k: x.amax(d, k),
        lambda x, a, k: x.max(axis=a, keepdims=k), REDUCTIONS_OVER,
    ),
    *_reduction(
        "min", lambda x, a, k: x.min(a, k), lambda torch, x, d, k: x.amin(d, k),
        lambda x, a, k: x.min(axis=a, keepdims=k), REDUCTIONS_OVER,
    ),
    *_reduction(
        "logsumexp", lambda x, a, k: x.logsumexp(a, k),
        lambda torch, x, d, k: x.logsumexp(d, k) if d else x.reshape(1).logsumexp(0),
        lambda x, a, k: np.log(np.exp(x).sum(axis=a, keepdims=k)), REDUCTIONS_OVER,
    ),
    *(
        Op(
            f"argmax_{axis}", lambda x, a=axis: x.argmax(a), [(shape,)],
            lambda torch, x, a=axis: x.argmax(a), plain=lambda x, a=axis: x.argmax(axis=a),
            gradient=False,
        )
        for axis, shape in [(None, (2, 3)), (0, (4, 3)), (-1, (2, 3, 5)), (1, (0, 3)), (None, ())]
    ),
    *(
        Op(
            f"{name}_{axis}", lambda x, f=name, a=axis: getattr(x, f)(a), [(s,) for s in shapes],
            plain=lambda x, f=name, a=axis: getattr(slow_ops, f)(x, a),
            domain=domain,
        )
        for name in ("softmax", "log_softmax")
        for axis, shapes, domain in [
            (-1, [(2, 3), (1,), (5, 1), (0, 3), (2, 3, 4), (300, 200)], "any"),
            (0, [(2, 3), (5,), (3, 0)], "any"),
            (-2, [(2, 3, 4)], "any"),
            (1, [(2, 3, 4), (4, 6)], "extreme"),
        ]
    ),
]  # fmt: skip

SHAPES = [
    Op(f"reshape_{to}", lambda x, to=to: x.reshape(to), [(s,) for s in shapes],
       plain=lambda x, to=to: x.reshape(to))
    for to, shapes in [
        ((6,), [(2, 3), (6, 1)]), ((3, -1), [(2, 3), (6,), (3, 0)]), ((-1,), [(2, 2), (), (0, 3)]),
        ((1, 1, 1), [(), (1,)]), ((2, 0, 5), [(0,)]),
    ]
] + [
    Op("transpose", lambda x: x.transpose(0, -1), [((2, 3),), ((2, 3, 4),), ((0, 2),), ((3,),)],
       plain=lambda x: x.swapaxes(0, -1)),
    Op("T", lambda x: x.T, [((2, 3),), ((1, 4),), ((0, 4),)], plain=lambda x: x.T),
    Op("permute", lambda x: x.permute(2, 0, 1), [((2, 3, 4),), ((2, 0, 1),)],
       plain=lambda x: x.transpose(2, 0, 1)),
    Op("permute_negative", lambda x: x.permute((-1, 0, 1)), [((2, 3, 4),)],
       plain=lambda x: x.transpose(2, 0, 1)),
    Op("expand", lambda x: x.expand(2, 3, 4),
       [((3, 1),), ((1, 3, 1),), ((),), ((4,),), ((2, 3, 4),)],
       plain=lambda x: np.broadcast_to(x, (2, 3, 4))),
    Op("expand_to_empty", lambda x: x.expand(0, 3), [((1, 3),), ((3,),), ((0, 1),)],
       plain=lambda x: np.broadcast_to(x, (0, 3))),
    Op("squeeze", lambda x: x.squeeze(), [((1, 3, 1),), ((2, 3),), ((1,),), ((1, 0),)],
       plain=np.squeeze),
    Op("squeeze_axis", lambda x: x.squeeze(-2), [((2, 1, 3),), ((1, 1),)],
       plain=lambda x: x.squeeze(-2)),
    Op("squeeze_axes", lambda x: x.squeeze((0, -1)), [((1, 3, 1),)], plain=np.squeeze),
    Op("unsqueeze", lambda x: x.unsqueeze(-1), [((2, 3),), ((),), ((0,),)],
       plain=lambda x: x[..., None]),
    Op("unsqueeze_first", lambda x: x.unsqueeze(0), [((2, 3),)], plain=lambda x: x[None]),
    Op("split", lambda x: x.split(2), [((5, 2),), ((4,),), ((1, 3),), ((0, 2),)],
       plain=lambda x: tuple(np.split(x, range(2, len(x), 2)))),
    Op("split_sizes", lambda x: x.split([1, 0, 3], axis=-1), [((2, 4),), ((4,),)],
       lambda torch, x: x.split([1, 0, 3], dim=-1),
       plain=lambda x: tuple(np.split(x, [1, 1], axis=-1))),
    Op("cat", lambda *xs: cat(xs), [((2, 3), (1, 3), (0, 3)), ((4,),), ((2,), (2,))],
       lambda torch, *xs: torch.cat(xs), plain=lambda *xs: np.concatenate(xs)),
    Op("cat_last", lambda *xs: cat(xs, -1), [((2, 3), (2, 1)), ((1, 0), (1, 2))],
       lambda torch, *xs: torch.cat(xs, -1), plain=lambda *xs: np.concatenate(xs, -1)),
    Op("cat_with_itself", lambda x: cat([x, x * 2, x]), [((2, 3),)],
       lambda torch, x: torch.cat([x, x * 2, x]), plain=lambda x: np.concatenate([x, x * 2, x])),
    Op("stack", lambda *xs: stack(xs), [((2, 3), (2, 3)), ((), (), ()), ((0, 2), (0, 2))],
       lambda torch, *xs: torch.stack(xs), plain=lambda *xs: np.stack(xs)),
    Op("stack_last", lambda *xs: stack(xs, -1), [((2, 3), (2, 3)), ((4,),)],
       lambda torch, *xs: torch.stack(xs, -1), plain=lambda *xs: np.stack(xs, -1)),
    Op("pad", lambda x: x.pad([(1, 0), (2, 3)]), [((2, 3),), ((0, 3),), ((1, 1),)],
       lambda torch, x: torch.nn.functional.pad(x, (2, 3, 1, 0)),
       plain=lambda x: np.pad(x, [(1, 0), (2, 3)])),
    Op("pad_value", lambda x: x.pad([(0, 1)], -1.5), [((3,),), ((0,),)],
       lambda torch, x: torch.nn.functional.pad(x, (0, 1), value=-1.5),
       plain=lambda x: np.append(x, -1.5)),
]  # fmt: skip
