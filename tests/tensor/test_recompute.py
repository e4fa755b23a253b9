"""recompute: the bits of the plain graph, less of its memory."""

import tracemalloc

import numpy as np
import pytest

from tensor import Tensor, enable_grad, functional, gradcheck, is_grad_enabled, no_grad, recompute
from tensor.nn import Conv1D, Parameter
from tensor.random import default_generator, manual_seed


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_gradients_of_inputs_and_parameters_are_those_of_the_plain_graph():
    layer = Conv1D(5, 5)
    x, y = Tensor(numbers(3, 5), requires_grad=True), Tensor(numbers(3, 5), requires_grad=True)

    def function(x, y):
        return (layer(x) * y).tanh() + x

    results = []
    for run in (function, lambda x, y: recompute(function, x, y, parameters=layer.parameters())):
        for leaf in (x, y, *layer.parameters()):
            leaf.grad = None
        out = run(x, y)
        out.backward(numbers(3, 5, seed=1))
        results.append([out.numpy(), *(t.grad.numpy() for t in (x, y, *layer.parameters()))])
    for plain, recomputed in zip(*results):
        np.testing.assert_array_equal(plain, recomputed)


def test_finite_differences_agree():
    x = Tensor(np.linspace(-1, 1, 6).reshape(2, 3), requires_grad=True)
    assert gradcheck(lambda x: recompute(lambda x: (x * x).exp(), x), x) < 1e-6


def test_dropout_is_drawn_again_and_later_draws_are_not_moved():
    x = Tensor(np.ones((50, 50), np.float32), requires_grad=True)
    manual_seed(3)
    y = recompute(lambda x: functional.dropout(x, 0.5), x)
    state = default_generator().get_state()
    y.sum().backward()
    assert default_generator().get_state() == state
    np.testing.assert_array_equal(y.numpy(), x.grad.numpy())  # each is 0 or 2, in the same places
    assert set(np.unique(y.numpy())) == {0.0, 2.0}


def test_parameters_get_gradients_where_the_input_needs_none():
    weight = Parameter(numbers(4, 4))
    recompute(lambda x: x @ weight, Tensor(numbers(2, 4)), parameters=[weight]).sum().backward()
    np.testing.assert_allclose(weight.grad.numpy(), numbers(2, 4).sum(0)[:, None].repeat(4, 1),
                               rtol=1e-6)


def test_none_among_the_inputs_comes_through():
    x = Tensor(numbers(2), requires_grad=True)
    recompute(lambda nothing, x: x if nothing is None else nothing, None, x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1])


def test_nothing_is_recorded_without_gradients():
    with no_grad():
        y = recompute(lambda x: x * 2, Tensor([1.0], requires_grad=True))
        assert not y.requires_grad and y.creator is None
        with enable_grad():
            assert is_grad_enabled()
        assert not is_grad_enabled()


def test_a_second_backward_is_refused_or_repeated_as_without():
    x = Tensor([2.0], requires_grad=True)
    y = recompute(lambda x: x * x, x)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8.0]
    with pytest.raises(RuntimeError, match="already walked"):
        y.backward()


def test_a_deep_stack_keeps_one_array_a_block():
    def block(x):
        for _ in range(10):
            x = x.tanh()  # keeps its result for backward
        return x

    def peak(run):
        x = Tensor(numbers(100_000), requires_grad=True)
        tracemalloc.start()
        y = x
        for _ in range(10):
            y = run(y)
        y.sum().backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / x.data.nbytes

    assert peak(block) > 100  # 10 blocks of 10 arrays
    assert peak(lambda x: recompute(block, x)) < 30  # 10 inputs, and one block's 10 with gradients
