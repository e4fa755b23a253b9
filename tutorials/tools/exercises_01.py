"""The exercises of lesson 1: the derivatives of multiply, add, matmul and softmax."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from tensor import Tensor
from tutorials.tools.exercise import Exercise, Inputs, Results, Slip

Shape = tuple[int, ...]


def _two_inputs(forward: Any, pairs: list[tuple[Shape, Shape]]) -> Iterator[Inputs]:
    """a, b of the shapes in each pair, and dy: small whole numbers first, random ones after."""
    rng = np.random.default_rng(0)
    for number, (left, right) in enumerate(pairs):
        a, b = rng.standard_normal(left), rng.standard_normal(right)
        if number == 0:
            a = np.arange(1.0, 1 + a.size).reshape(left)
            b = 10.0 * np.arange(1.0, 1 + b.size).reshape(right)
        dy = rng.standard_normal(forward({"a": a, "b": b}).shape)
        if number == 0:
            dy = np.arange(1.0, 1 + dy.size).reshape(dy.shape) ** 2
        yield {"a": a, "b": b, "dy": dy}


def _by_library(operation: Any, inputs: Inputs) -> Results:
    """y, da and db as the library computes them."""
    a, b = (Tensor(inputs[name], requires_grad=True) for name in "ab")
    y = operation(a, b)
    y.backward(inputs["dy"])
    assert a.grad is not None and b.grad is not None
    return {"y": y.numpy(), "da": a.grad.numpy(), "db": b.grad.numpy()}


# --- 01.1


def _product(inputs: Inputs) -> np.ndarray:
    return inputs["a"] * inputs["b"]


def _multiply_slips(inputs: Inputs) -> Iterator[Slip]:
    a, b, dy = inputs["a"], inputs["b"], inputs["dy"]
    yield "y", a + b, "this is the sum of a and b, not their product"
    for name, own, other, own_name, other_name in (("da", a, b, "a", "b"), ("db", b, a, "b", "a")):
        yield name, dy * own, (
            f"da and db are swapped: when {own_name} grows, y grows {other_name} times as much"
        )
        yield name, other, (
            "dy is missing. You have the slope of y; the chain rule multiplies it by dy, the slope "
            "of the loss"
        )
        yield name, own, f"swapped, and dy is missing: the slope of y with {own_name} is not {name}"
        yield name, dy, "this is the derivative of an addition: dy alone, passed on"
        yield name, dy * a * b, f"{own_name} is a factor too many: y = a * b has the slope b in a"


MULTIPLY = Exercise(
    title="the backward pass of multiply",
    signature="my_multiply(a, b, dy) -> y, da, db",
    cases=lambda: _two_inputs(_product, [((2,), (2,)), ((), ()), ((3, 4), (3, 4)), ((0,), (0,))]),
    library=lambda inputs: _by_library(lambda a, b: a * b, inputs),
    slips=_multiply_slips,
    forward=_product,
    gradients={"da": "a", "db": "b"},
)


# --- 01.2


def _sum(inputs: Inputs) -> np.ndarray:
    return inputs["a"] + inputs["b"]


def repeated_axes(large: Shape, small: Shape) -> Shape:
    """The axes of `large` along which broadcasting repeated an array of shape `small`."""
    extra = len(large) - len(small)
    return tuple(i for i, n in enumerate(large) if i < extra or small[i - extra] == 1 != n)


def _add_slips(inputs: Inputs) -> Iterator[Slip]:
    dy = inputs["dy"]
    yield "y", inputs["a"] * inputs["b"], "this is the product of a and b, not their sum"
    for name, source in (("da", "a"), ("db", "b")):
        shape = inputs[source].shape
        right = repeated_axes(dy.shape, shape)
        for value in (inputs["a"], inputs["b"]):
            if value.shape == shape:
                yield name, value, f"this is an input itself; {name} is made of dy"
        if not right:
            yield name, dy.sum(), f"{source} was not repeated, so there is nothing to add up"
            continue
        yield name, dy, (
            f"a sum is missing. {source} has shape {shape}, dy {dy.shape}: broadcasting used each "
            f"number of {source} several times, and what comes back along {_axes(right)} adds up"
        )
        for count in range(1, dy.ndim + 1):
            for axes in combinations(range(dy.ndim), count):
                for keepdims in (False, True):
                    if axes != right:
                        yield name, dy.sum(axes, keepdims=keepdims), (
                            f"the wrong axis. You added up over {_axes(axes)}, but broadcasting "
                            f"repeated {source} along {_axes(right)}"
                        )
        yield name, dy.mean(right).reshape(shape), (
            f"a mean where a sum is needed: each use of {source} moves the loss by its own "
            "amount, and the amounts add up"
        )
        yield name, dy.max(right).reshape(shape), "the largest is not enough: every use counts"


def _axes(axes: Shape) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"


BROADCAST_ADD = Exercise(
    title="the backward pass of an addition that broadcasts",
    signature="my_add(a, b, dy) -> y, da, db",
    cases=lambda: _two_inputs(_sum, [
        ((2, 3), (3,)), ((2, 3), (2, 1)), ((3, 3), (3,)), ((3, 3), (3, 1)), ((2, 1), (1, 3)),
        ((3,), (2, 3)), ((), (2, 2)), ((4, 2, 3), (2, 1)), ((1, 1), (1,)),
    ]),
    library=lambda inputs: _by_library(lambda a, b: a + b, inputs),
    slips=_add_slips,
    forward=_sum,
    gradients={"da": "a", "db": "b"},
)  # fmt: skip


# --- 01.3


def _matrix_product(inputs: Inputs) -> np.ndarray:
    return inputs["a"] @ inputs["b"]


def _matmul_slips(inputs: Inputs) -> Iterator[Slip]:
    a, b, dy = inputs["a"], inputs["b"], inputs["dy"]
    if a.shape == b.shape:
        yield "y", a * b, "a * b multiplies number by number; rows times columns is a @ b"
    da, db = dy @ b.T, a.T @ dy
    yield "da", db, "da and db are swapped"
    yield "db", da, "da and db are swapped"
    yield "da", da.T, "the result is transposed: rows and columns are swapped"
    yield "db", db.T, "the result is transposed: rows and columns are swapped"
    yield "da", b.T, "dy is missing: the chain rule multiplies by the slope of the loss"
    yield "db", a.T, "dy is missing: the chain rule multiplies by the slope of the loss"
    orders = (
        ("da", dy, b, "b must be transposed: dy @ b.T has the shape of a whatever the sizes"),
        ("da", b, dy, "the order is wrong, and b must be transposed"),
        ("da", b.T, dy, "the order is wrong: dy comes first"),
        ("db", a, dy, "a must be transposed: a.T @ dy has the shape of b whatever the sizes"),
        ("db", dy, a, "the order is wrong, and a must be transposed"),
        ("db", dy, a.T, "the order is wrong: a comes first"),
    )
    for name, left, right, words in orders:
        if left.shape[1] == right.shape[0]:
            yield name, left @ right, words
        if left.shape == right.shape:
            yield name, left * right, "* multiplies number by number; rows times columns is @"
            yield name, left * right.T, "* multiplies number by number; rows times columns is @"


MATMUL = Exercise(
    title="the backward pass of matmul",
    signature="my_matmul(a, b, dy) -> y, da, db",
    cases=lambda: _two_inputs(_matrix_product, [
        ((2, 2), (2, 2)), ((1, 2), (2, 1)), ((2, 3), (3, 4)), ((5, 1), (1, 3)), ((3, 3), (3, 3)),
    ]),
    library=lambda inputs: _by_library(lambda a, b: a @ b, inputs),
    slips=_matmul_slips,
    forward=_matrix_product,
    gradients={"da": "a", "db": "b"},
)  # fmt: skip


# --- 01.4


def _softmax(inputs: Inputs) -> np.ndarray:
    x = inputs["x"]
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _softmax_cases() -> Iterator[Inputs]:
    rng = np.random.default_rng(0)
    yield {"x": np.log([1.0, 3.0]), "dy": np.array([1.0, 0.0])}
    yield {"x": np.log([1.0, 3.0, 4.0]), "dy": np.array([1.0, 2.0, 4.0])}
    for shape in ((2, 3), (3, 3), (2, 3, 4)):
        yield {"x": rng.standard_normal(shape), "dy": rng.standard_normal(shape)}
    yield {"x": np.array([[1000.0, 1000 + np.log(3)]]), "dy": np.array([[1.0, 0.0]])}


def _softmax_by_library(inputs: Inputs) -> Results:
    x = Tensor(inputs["x"], requires_grad=True)
    y = x.softmax()
    y.backward(inputs["dy"])
    assert x.grad is not None
    return {"y": y.numpy(), "dx": x.grad.numpy()}


def _softmax_slips(inputs: Inputs) -> Iterator[Slip]:
    x, dy = inputs["x"], inputs["dy"]
    e = np.exp(x)
    if not np.isfinite(e).all():
        yield "y", e / e.sum(-1, keepdims=True), (
            "exp(1000) is too large for a float, and infinity / infinity is NaN. Softmax does not "
            "change when every score falls by the same amount: subtract the row's largest first"
        )
    y = _softmax(inputs)
    yield "y", e, "these are the exponentials alone: divide them by their sum"
    yield "y", e / e.sum(), (
        "the wrong axis: each row sums to 1 on its own. Sum over the last axis, axis=-1, with "
        "keepdims=True"
    )
    yield "y", e / e.sum(0, keepdims=True), "the wrong axis: the rows sum to 1, so sum over axis -1"
    yield "y", y - y.max(-1, keepdims=True), "subtract the largest from the scores, not from y"
    total = (dy * y).sum(-1, keepdims=True)
    yield "dx", y * dy, (
        "the other scores are missing: raising one score takes share from all others, so "
        "sum(dy * y) must be taken off dy"
    )
    yield "dx", y * (1 - y) * dy, (
        "this is each output's slope with its own score alone. Every score moves every output: "
        "the sum over the others is missing"
    )
    yield "dx", dy - total, "the factor y is missing in front of the bracket"
    yield "dx", y * (total - dy), "the wrong sign: it is dy minus the sum"
    yield "dx", y * (dy + total), "the wrong sign of the sum: it is taken off dy"
    yield "dx", y * (dy - dy.sum(-1, keepdims=True)), (
        "the sum is of dy * y: each output counts by its share y"
    )
    yield "dx", y * (dy - dy.mean(-1, keepdims=True)), (
        "the mean that is taken off dy is weighted by y: sum(dy * y)"
    )
    yield "dx", y * (dy - (dy * y).sum()), (
        "the wrong axis: the sum runs over the whole array, and it should run over each row, "
        "axis=-1 with keepdims=True"
    )
    yield "dx", y * (dy - (dy * y).sum(0, keepdims=True)), (
        "the wrong axis: the sum runs over axis 0, and it should run over the last, axis=-1"
    )


SOFTMAX = Exercise(
    title="softmax, forward and backward",
    signature="my_softmax(x, dy) -> y, dx",
    cases=_softmax_cases,
    library=_softmax_by_library,
    slips=_softmax_slips,
    forward=_softmax,
    gradients={"dx": "x"},
)

EXERCISES = {
    "01.1": MULTIPLY, "01.2": BROADCAST_ADD, "01.3": MATMUL, "01.4": SOFTMAX,
}  # fmt: skip
