"""Every row of the table of operations: values, gradients, dtypes, memory layouts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tensor import Tensor, cat, gradcheck
from tests.tensor.op_row import Case, Op, as_tuple
from tests.tensor.op_table import CASES

DIFFERENTIABLE = [case for case in CASES if case.op.gradient]
WITH_PLAIN = [case for case in CASES if case.op.plain is not None]


def arrays(result: object) -> list[np.ndarray]:
    """The outputs of one call as NumPy arrays."""
    return [x.numpy() if isinstance(x, Tensor) else np.asarray(x) for x in as_tuple(result)]


def one(result: object) -> Tensor:
    """All outputs as a single flat tensor, so that one backward goes through all of them."""
    outputs = as_tuple(result)
    return outputs[0] if len(outputs) == 1 else cat([x.reshape(-1) for x in outputs])


def tensors(values: list[np.ndarray]) -> list[Tensor]:
    return [Tensor(x, requires_grad=True) for x in values]


def gradients(case: Case, inputs: list[Tensor], seed: int = 0) -> list[np.ndarray]:
    """The inputs' gradients for a random gradient of the output."""
    output = one(case.op.ours(*inputs))
    output.backward(np.random.default_rng(seed).standard_normal(output.shape))
    return [np.zeros(x.shape, x.dtype) if x.grad is None else x.grad.numpy() for x in inputs]


def test_the_table_has_no_row_twice_and_every_call_draws_what_it_says() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert [x.shape for x in case.draw()] == list(case.shapes)


@pytest.mark.parametrize("case", WITH_PLAIN, ids=str)
def test_values_are_those_of_numpy(case: Case) -> None:
    values = case.draw()
    expected = [np.asarray(x) for x in as_tuple(case.op.plain(*values))]
    got = arrays(case.op.ours(*tensors(values)))
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * max(1.0, _rms(theirs)))


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradients_are_those_of_differences(case: Case) -> None:
    gradcheck(lambda *xs: one(case.op.ours(*xs)), *tensors(case.draw()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_stays_float32_and_inputs_stay_as_they_are(case: Case) -> None:
    values = case.draw(np.float32)
    inputs = tensors(values)
    got = arrays(case.op.ours(*inputs))
    exact = arrays(case.op.ours(*tensors([x.astype(np.float64) for x in values])))
    for ours, double in zip(got, exact, strict=True):
        assert ours.shape == double.shape
        assert ours.dtype == {np.dtype("float64"): np.float32}.get(double.dtype, double.dtype)
        np.testing.assert_allclose(ours, double, rtol=1e-5, atol=1e-5 * max(1.0, _rms(double)))
    if case.op.gradient:
        for x, gradient in zip(inputs, gradients(case, inputs), strict=True):
            assert gradient.dtype == np.float32
            assert gradient.shape == x.shape
    for x, value in zip(inputs, values, strict=True):
        np.testing.assert_array_equal(x.numpy(), value)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_strided_inputs_give_the_same(case: Case) -> None:
    """Inputs that are views with reversed strides, as permute and slices make them."""
    values = case.draw()
    views = []
    for x in values:
        doubled = np.repeat(x.T, 2, axis=0) if x.ndim else x  # every second row will be taken
        view = Tensor(doubled)[::2] if x.ndim else Tensor(doubled)
        view = view.permute(*reversed(range(x.ndim))).detach()
        view.requires_grad = True
        np.testing.assert_array_equal(view.numpy(), x)
        views.append(view)
    plain = tensors(values)
    _assert_close(arrays(case.op.ours(*views)), arrays(case.op.ours(*plain)))
    _assert_close(gradients(case, views), gradients(case, plain))


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_strided_and_repeated_gradients_give_the_same(case: Case) -> None:
    """The gradient that arrives may be a transposed view, or one number repeated (from a sum)."""
    values = case.draw()
    for arrive in (
        lambda y: y.permute(*reversed(range(y.ndim))).exp(),
        lambda y: y.sum(),
        lambda y: y.unsqueeze(-1).expand(*y.shape, 2) * Tensor([1.0, -3.0], y.dtype),
    ):
        inputs, copied = tensors(values), tensors(values)
        arrive(one(case.op.ours(*inputs))).sum().backward()
        y = one(case.op.ours(*copied))
        leaf = Tensor(y.numpy(), requires_grad=True)
        arrive(leaf).sum().backward()
        assert leaf.grad is not None
        y.backward(np.array(leaf.grad.numpy(), order="C"))
        for a, b in zip(inputs, copied, strict=True):
            assert (a.grad is None) == (b.grad is None)
            if a.grad is not None and b.grad is not None:
                _assert_close([a.grad.numpy()], [b.grad.numpy()])


@pytest.mark.parametrize("case", [c for c in DIFFERENTIABLE if len(c.shapes) > 1], ids=str)
def test_an_input_that_needs_no_gradient_changes_nothing_for_the_others(case: Case) -> None:
    values = case.draw()
    every = gradients(case, tensors(values))
    for wanted in range(len(values)):
        inputs = [Tensor(x, requires_grad=i == wanted) for i, x in enumerate(values)]
        only = gradients(case, inputs)
        _assert_close([only[wanted]], [every[wanted]])
        assert all(x.grad is None for i, x in enumerate(inputs) if i != wanted)


def _rms(x: np.ndarray) -> float:
    return math.sqrt(np.mean(np.square(x, dtype=np.float64))) if x.size else 0.0


def _assert_close(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(got, expected, strict=True):
        scale = float(np.abs(b).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * max(1.0, scale))


def test_the_absolute_value_of_either_zero_is_positive() -> None:
    y = Tensor([0.0, -0.0]).abs()
    np.testing.assert_array_equal((1 / y).numpy(), [np.inf, np.inf])


def test_a_planted_error_in_an_operation_is_seen() -> None:
    """The check itself: a row whose twin is wrong fails, by value and by gradient."""
    right = Op("right", lambda x: x * x, [((3,),)], plain=lambda x: x**2 + 1e-9)
    with pytest.raises(AssertionError):
        test_values_are_those_of_numpy(Case(right, ((3,),)))
    wrong = Op("wrong", lambda x: x * x.detach(), [((3,),)])
    with pytest.raises(AssertionError, match="gradcheck"):
        test_gradients_are_those_of_differences(Case(wrong, ((3,),)))
