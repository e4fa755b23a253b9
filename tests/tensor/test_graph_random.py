"""Random expressions, with whatever sharing comes about, against differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tensor import Tensor, cat, gradcheck


def leaf(values: object, dtype: str = "float64") -> Tensor:
    return Tensor(values, dtype=dtype, requires_grad=True)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda a: a.tanh(),
    "sigmoid": lambda a: a.sigmoid(),
    "gelu": lambda a: a.gelu("tanh"),
    "exp": lambda a: (a * 0.3).tanh().exp(),
    "square": lambda a: a.tanh() ** 2,
    "sum": lambda a: a.sum(-1, keepdims=True) * 0.3 if a.ndim else a,
    "mean": lambda a: a.mean(0) if a.ndim else a,
    "turn": lambda a: a.permute(*reversed(range(a.ndim))),
    "flat": lambda a: a.reshape(-1)[:9],
    "rows": lambda a: a[[0, 0, -1]] if a.ndim and a.shape[0] else a,
    "back": lambda a: a[::-1] if a.ndim else a,
    "part": lambda a: a.split(1, -1)[0] if a.ndim else a,
    "softmax": lambda a: a.softmax() if a.ndim else a,
    "logsumexp": lambda a: a.logsumexp(-1) if a.ndim else a,
    "double": lambda a: cat([a, a * 0.5], -1)[..., :4] if a.ndim else a,
    "grow": lambda a: a.unsqueeze(0).expand(2, *a.shape)[1],
    "constant": lambda a: a.detach() * 0.1 + a * 0.9,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a.tanh() * b,
    "divide": lambda a, b: a / (b * b + 1),
    "outer": lambda a, b: (a.reshape(-1, 1)[:3] @ b.reshape(1, -1)[:, :3]).tanh(),
}


def evaluate(steps: list[tuple[str, int, int]], leaves: tuple[Tensor, ...]) -> Tensor:
    """Run a program: each step takes one or two earlier values and adds one."""
    values = list(leaves)
    for name, i, j in steps:
        a, b = values[i % len(values)], values[j % len(values)]
        if name in UNARY:
            values.append(UNARY[name](a))
            continue
        try:
            np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            b = b.mean()
        values.append(BINARY[name](a, b))
    return cat([value.reshape(-1) for value in values[-3:]])


STEP = st.tuples(st.sampled_from(sorted([*UNARY, *BINARY])), st.integers(0, 99), st.integers(0, 99))


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=12), st.integers(0, 3))
def test_random_expressions_have_the_gradient_of_differences(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    leaves = [leaf(rng.standard_normal(shape)) for shape in [(2, 3), (3,), (2, 1), ()]]
    steps = [("add", 0, 1), ("multiply", 2, 3), *steps]  # every leaf takes part
    # "constant" hides a part of the slope from backward on purpose, but not from differences.
    steps = [("tanh" if name == "constant" else name, i, j) for name, i, j in steps]
    gradcheck(lambda *xs: evaluate(steps, xs), *leaves, directions=1)


@settings(max_examples=50, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=12))
def test_walking_twice_doubles_every_gradient(steps: list[tuple[str, int, int]]) -> None:
    rng = np.random.default_rng(0)
    leaves = [leaf(rng.standard_normal(shape)) for shape in [(2, 3), (3,), (2, 1), ()]]
    y = evaluate([("add", 0, 1), ("multiply", 2, 3), *steps], tuple(leaves)).sum()
    if not y.requires_grad:
        return
    y.backward(retain_graph=True)
    once = [None if x.grad is None else x.grad.numpy() for x in leaves]
    y.backward()
    for x, g in zip(leaves, once, strict=True):
        assert (x.grad is None) == (g is None)
        if x.grad is not None and g is not None:
            np.testing.assert_allclose(x.grad.numpy(), 2 * g, rtol=1e-12, atol=1e-12)
