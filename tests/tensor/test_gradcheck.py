"""gradcheck itself: it passes right derivatives, and sees each way to get one wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tensor import Tensor, apply, gradcheck
from tensor.ops.function import Function


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def planted(
    forward: Callable[..., np.ndarray], backward: Callable[..., object]
) -> Callable[..., Tensor]:
    """An operation from two functions; backward gets the output's gradient and the inputs."""

    class Planted(Function):
        def forward(self, *xs: np.ndarray) -> np.ndarray:
            self.xs = xs
            return np.asarray(forward(*xs))

        def backward(self, dy: np.ndarray) -> object:
            return backward(dy, *self.xs)

    return lambda *xs: apply(Planted, *xs)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b


RIGHT = {
    "square": (np.square, lambda dy, x: dy * 2 * x, [(3, 4)]),
    "product": (product, lambda dy, a, b: (dy @ b.T, a.T @ dy), [(3, 3), (3, 3)]),
    "broadcast": (np.add, lambda dy, a, b: (dy, dy), [(3, 4), (4,)]),
    "sum": (np.sum, lambda dy, x: np.broadcast_to(dy, x.shape), [(3, 4)]),
    "constant": (np.sign, lambda dy, x: np.zeros_like(x), [(5,)]),
    "softmax": (
        lambda x: np.exp(x) / np.exp(x).sum(),
        lambda dy, x: (y := np.exp(x) / np.exp(x).sum()) * (dy - (dy * y).sum()),
        [(6,)],
    ),
}
WRONG = {
    "sign": (np.square, lambda dy, x: -dy * 2 * x, [(3, 4)]),
    "factor": (np.square, lambda dy, x: dy * x, [(3, 4)]),
    "a little": (np.square, lambda dy, x: dy * 2.0001 * x, [(3, 4)]),
    "no chain rule": (np.square, lambda dy, x: 2 * x, [(3, 4)]),
    "zero": (np.square, lambda dy, x: np.zeros_like(x), [(3, 4)]),
    "missing": (np.square, lambda dy, x: None, [(3, 4)]),
    "transposed": (product, lambda dy, a, b: (dy @ b, a.T @ dy), [(3, 3), (3, 3)]),
    "swapped": (product, lambda dy, a, b: (a.T @ dy, dy @ b.T), [(3, 3), (3, 3)]),
    "second input only": (product, lambda dy, a, b: (dy @ b.T, a @ dy), [(3, 3), (3, 3)]),
    "no sum over rows": (np.add, lambda dy, a, b: (dy, dy[0]), [(3, 4), (4,)]),
    "mean for sum": (np.add, lambda dy, a, b: (dy, dy.mean(0)), [(3, 4), (4,)]),
    "one element": (np.square, lambda dy, x: dy * 2 * x * (np.arange(50) != 7), [(50,)]),
    "shifted": (np.square, lambda dy, x: np.roll(dy * 2 * x, 1), [(50,)]),
    "softmax without its sum": (
        lambda x: np.exp(x) / np.exp(x).sum(),
        lambda dy, x: (y := np.exp(x) / np.exp(x).sum()) * (1 - y) * dy,
        [(6,)],
    ),
    "not a number": (np.square, lambda dy, x: dy * np.nan, [(3,)]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_derivatives_pass(name: str) -> None:
    forward, backward, shapes = RIGHT[name]
    inputs = [leaf(*shape, seed=i) for i, shape in enumerate(shapes)]
    assert gradcheck(planted(forward, backward), *inputs) < 1e-8


@pytest.mark.parametrize("name", WRONG)
def test_wrong_derivatives_are_found(name: str) -> None:
    forward, backward, shapes = WRONG[name]
    inputs = [leaf(*shape, seed=i) for i, shape in enumerate(shapes)]
    with pytest.raises(AssertionError, match="backward gives the slope .* differences"):
        gradcheck(planted(forward, backward), *inputs)


def test_only_inputs_that_require_a_gradient_are_checked() -> None:
    wrong_for_b = planted(product, lambda dy, a, b: (dy @ b.T, -(a.T @ dy)))
    a, b = leaf(3, 3), leaf(3, 3, seed=1)
    gradcheck(wrong_for_b, a, b.detach())
    with pytest.raises(AssertionError):
        gradcheck(wrong_for_b, a.detach(), b)
    integers = Tensor([2, 0])
    gradcheck(lambda x, i: x[i], leaf(3), integers)


def test_inputs_and_their_gradients_end_as_they_were() -> None:
    x, y = leaf(4), leaf(4, seed=1)
    (x * x).sum().backward()
    values, before = x.numpy(), x.grad
    gradcheck(lambda a, b: a * b, x, y)
    np.testing.assert_array_equal(x.numpy(), values)
    assert x.grad is before and y.grad is None

    def fails_without_a_graph(x: Tensor) -> Tensor:
        if not (x * 1).requires_grad:
            raise KeyError("inside a difference")
        return x * 1

    with pytest.raises(KeyError):
        gradcheck(fails_without_a_graph, x)
    np.testing.assert_array_equal(x.numpy(), values)
    assert x.grad is before


def test_unfit_inputs_are_refused() -> None:
    with pytest.raises(TypeError, match="float32; differences need float64"):
        gradcheck(lambda x: x, Tensor([1.0], requires_grad=True))
    with pytest.raises(ValueError, match="none of the inputs requires a gradient"):
        gradcheck(lambda x: x, Tensor([1.0], dtype="float64"))
    with pytest.raises(RuntimeError, match="nothing here requires a gradient"):
        gradcheck(lambda x: x.detach(), leaf(2))


def test_the_same_seed_gives_the_same_directions() -> None:
    errors = [gradcheck(lambda x: x.exp(), leaf(5), seed=seed) for seed in (1, 1, 2)]
    assert errors[0] == errors[1] != errors[2]


def test_inputs_without_elements_pass() -> None:
    assert gradcheck(lambda x: x * x, leaf(0, 3)) == 0
