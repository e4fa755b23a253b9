"""The walk back through the graph: what is added to what, what is freed when, what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from tensor import Tensor, apply, attention, cat, gradcheck, is_grad_enabled, no_grad
from tensor.ops.function import Function


def leaf(values: object, dtype: str = "float64") -> Tensor:
    return Tensor(values, dtype=dtype, requires_grad=True)


def grad(x: Tensor) -> list:
    assert x.grad is not None
    return x.grad.tolist()


# --- what is added up


def test_a_tensor_used_twice_gets_both_gradients() -> None:
    x = leaf([2.0, 3.0])
    (x * x + x).sum().backward()
    assert grad(x) == [5, 7]


def test_a_diamond_runs_each_operation_once() -> None:
    x = leaf(2.0)
    y = x * 3
    left, right = y * y, y + 1
    (left * right).backward()  # 9 x^2 (3 x + 1): derivative 81 x^2 + 18 x
    assert grad(x) == 81 * 4 + 18 * 2


def test_a_ladder_of_diamonds_takes_linear_time() -> None:
    """Walking every path instead of every node would take 2^200 steps."""
    x = leaf(1.0)
    y = x
    for _ in range(200):
        y = (y + y) * 0.5
    y.backward()
    assert grad(x) == 1


def test_gradients_accumulate_over_calls_until_cleared() -> None:
    x = leaf([1.0, 2.0])
    for times in (1, 2, 3):
        (x * 2).sum().backward()
        assert grad(x) == [2 * times, 2 * times]
    x.grad = None
    (x * 2).sum().backward()
    assert grad(x) == [2, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a - (-b),
        lambda a, b: a.reshape(6) + b.reshape(6),
        lambda a, b: a.permute(1, 0) + b.T,
        lambda a, b: a.expand(2, 3) + b,
        lambda a, b: a.unsqueeze(0) + b.unsqueeze(0),
        lambda a, b: cat([a, b]) + cat([b, a]),
        lambda a, b: cat([a.reshape(-1), b.reshape(-1)]),
        lambda a, b: a[:] + b[:, :],
        lambda a, b: a.clip(-99) + b.clip(high=99),
        lambda a, b: a.sum(()) + b.sum(()),
        lambda a, b: a.pad([(0, 0), (0, 0)]) + b.squeeze(),
        lambda a, b: (a + b).retain_grad(),
    ],
)
@pytest.mark.parametrize("last", [lambda y: y.sum(), lambda y: (y * y).sum()])
def test_each_gradient_is_an_array_of_its_own(
    function: Callable[..., Tensor], last: Callable[[Tensor], Tensor]
) -> None:
    """Scaling one gradient in place, as clipping does, must not reach another."""
    a, b = leaf(np.arange(6.0).reshape(2, 3)), leaf(np.ones((2, 3)))
    y = function(a, b).retain_grad()
    last(y).backward()
    assert a.grad is not None and b.grad is not None and y.grad is not None
    held = [a.grad, b.grad, y.grad]
    for mine in held:
        others = [(g, g.numpy()) for g in held if g is not mine]
        mine.backend.scale([mine.data], 7.0)
        for g, before in others:
            np.testing.assert_array_equal(g.numpy(), before)
    data = [a.numpy(), b.numpy()]
    a.backend.scale([a.grad.data], 0.0)
    np.testing.assert_array_equal(a.numpy(), data[0])
    np.testing.assert_array_equal(b.numpy(), data[1])


def test_the_gradient_passed_in_is_copied() -> None:
    given = np.array([1.0, 2.0])
    for y_of in (lambda x: x, lambda x: x.reshape(2), lambda x: x + 0):
        x = leaf([0.0, 0.0])
        y_of(x).backward(given)
        assert x.grad is not None
        x.backend.scale([x.grad.data], 9.0)
        assert given.tolist() == [1, 2]
        y_of(x).backward(Tensor(given))
        assert grad(x) == [10, 20] and given.tolist() == [1, 2]


def test_accumulating_does_not_write_into_an_earlier_gradient_of_another_tensor() -> None:
    a, b = leaf([1.0]), leaf([1.0])
    (a + b).backward()
    before = b.grad
    assert before is not None
    (a * 5).backward()
    assert grad(a) == [6] and before.tolist() == [1]


@pytest.mark.parametrize(
    "shape", [(), (1,), (3,), (1, 1), (2, 1), (1, 3), (2, 3), (1, 2, 3), (4, 1, 1)], ids=str
)
def test_broadcasting_is_undone(shape: tuple[int, ...]) -> None:
    """Each element's gradient is how often it was repeated; axes of size 1 stay."""
    x, y = leaf(np.ones(shape)), leaf(np.ones((4, 2, 3)))
    (x + y).sum().backward()
    assert x.grad is not None and y.grad is not None
    assert x.grad.shape == shape and y.grad.shape == (4, 2, 3)
    np.testing.assert_array_equal(x.grad.numpy(), np.full(shape, 24 / max(x.size, 1)))


def test_broadcasting_to_nothing_gives_zeros() -> None:
    x = leaf([[1.0]])
    (x + Tensor(np.zeros((0, 3)))).sum().backward()
    assert grad(x) == [[0]]


def test_gradients_are_plain_tensors_of_the_same_dtype() -> None:
    for dtype in ("float32", "float64"):
        x = leaf([1.0, 2.0], dtype)
        (x * x).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype and not x.grad.requires_grad and x.grad.creator is None


# --- outputs that nobody uses


def test_unused_parts_of_a_split_get_zeros() -> None:
    x = leaf(np.arange(6.0))
    first, _, last = x.split(2)
    (last * 3).sum().backward()
    assert grad(x) == [0, 0, 0, 0, 3, 3]
    with pytest.raises(RuntimeError, match="a part of it"):
        first.sum().backward()  # the walk went through the Split, and freed it


def test_one_part_used_twice_and_parts_that_meet_again() -> None:
    x = leaf(np.arange(4.0))
    a, b = x.split(2)
    (a * b + a).sum().backward()
    assert grad(x) == [3, 4, 0, 1]


@pytest.mark.parametrize("used", ["output", "weights", "both"])
def test_attention_with_an_output_that_is_not_used(used: str) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (leaf(rng.standard_normal((1, 2, 3, 4))) for _ in range(3))

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, weights = attention(q, k, v, causal=True, want_weights=True)
        assert weights is not None
        parts = {"output": [out], "weights": [weights], "both": [out, weights]}[used]
        return cat([part.reshape(-1) for part in parts])

    gradcheck(function, q, k, v)
    function(q, k, v).sum().backward()
    if used == "weights":
        assert v.grad is None or not v.grad.numpy().any()


# --- calling backward again


def test_a_second_backward_is_refused_and_changes_nothing() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="already walked.*retain_graph=True"):
        y.backward()
    assert grad(x) == [2, 4]


def test_a_graph_that_shares_a_freed_part_is_refused_and_changes_nothing() -> None:
    x, z = leaf([1.0, 2.0]), leaf([1.0, 1.0])
    shared = x * x
    other = (shared * z).sum()
    shared.sum().backward()
    with pytest.raises(RuntimeError, match="a part of it"):
        other.backward()
    assert grad(x) == [2, 4] and z.grad is None


def test_retain_graph_allows_another_walk() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).exp().sum()
    y.backward(retain_graph=True)
    once = np.array(grad(x))
    y.backward(retain_graph=True)
    np.testing.assert_array_equal(grad(x), 2 * once)
    y.backward()
    np.testing.assert_array_equal(grad(x), 3 * once)
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward()


def test_two_results_of_one_graph() -> None:
    x = leaf([1.0, 2.0])
    y = x * 3
    y[0].backward(retain_graph=True)
    assert grad(x) == [3, 0]
    y[1].backward()
    assert grad(x) == [3, 3]


# --- where backward starts


def test_backward_with_a_gradient() -> None:
    x = leaf([[1.0, 2.0]])
    (x * x).backward([[10, 100]])
    assert grad(x) == [[20, 400]]
    y = leaf(3.0)
    y.backward()
    y.backward(2.5)
    assert grad(y) == 3.5
    single = leaf([[2.0]])
    (single * 2).backward()  # one element, whatever the shape
    assert grad(single) == [[2]]


def test_backward_refuses_what_it_cannot_start_from() -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"shape \(2,\) needs a gradient of that shape"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\), the tensor \(2,\)"):
        (x * 2).backward([1.0])
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        (x * 2).backward(np.ones((2, 1)))
    with pytest.raises(TypeError, match="numbers"):
        (x * 2).backward(["a", "b"])
    with pytest.raises(RuntimeError, match="nothing here requires a gradient"):
        Tensor([1.0]).backward()
    with pytest.raises(RuntimeError, match="nothing here requires a gradient"):
        (x > 1).backward()
    assert x.grad is None


# --- what is recorded


def test_nothing_is_recorded_without_an_input_that_requires_gradients() -> None:
    y = Tensor([1.0]) * Tensor([2.0])
    assert not y.requires_grad and y.creator is None


def test_no_grad_records_nothing_nests_and_ends_with_an_exception() -> None:
    x = leaf([1.0])
    with no_grad():
        assert not is_grad_enabled()
        with no_grad():
            pass
        assert not is_grad_enabled()
        y = x * 2
        assert not y.requires_grad and y.creator is None
    assert is_grad_enabled() and (x * 2).requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_grad_enabled()


def test_no_grad_is_a_decorator_that_can_be_called_again() -> None:
    @no_grad()
    def double(x: Tensor) -> Tensor:
        assert not is_grad_enabled()
        return x * 2

    for _ in range(2):
        assert not double(leaf([1.0])).requires_grad
        assert is_grad_enabled()


def test_no_grad_holds_for_its_own_thread_only() -> None:
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def worker() -> None:
        with no_grad():
            seen.append(is_grad_enabled())
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=worker)
    thread.start()
    assert inside.wait(10)
    here = is_grad_enabled()
    leave.set()
    thread.join()
    assert seen == [False] and here


def test_backward_works_inside_no_grad() -> None:
    x = leaf([3.0])
    y = x * x
    with no_grad():
        y.backward()
    assert grad(x) == [6]


def test_detach_is_a_constant_with_the_same_memory() -> None:
    x = leaf([1.0, 2.0])
    y = x * 2
    constant = y.detach()
    assert not constant.requires_grad and constant.tolist() == [2, 4]
    assert np.shares_memory(constant.data, y.data)
    (y * constant).sum().backward()
    assert grad(x) == [4, 8]


def test_retain_grad_keeps_the_gradient_of_a_tensor_on_the_way() -> None:
    x = leaf([1.0, 2.0])
    y = (x * 3).retain_grad()
    assert y.retain_grad() is y  # asking twice does not count twice
    z = (y * y).retain_grad()
    z.sum().backward()
    assert y.grad is not None and z.grad is not None
    assert y.grad.tolist() == [6, 12] and z.grad.tolist() == [1, 1] and grad(x) == [18, 36]
    a, b = (x * 2).split(1)
    b.retain_grad()
    (a + b * 5).sum().backward()
    assert a.grad is None and b.grad is not None and b.grad.tolist() == [5]
    with pytest.raises(RuntimeError, match="ask before"):
        y.retain_grad()
    with pytest.raises(RuntimeError, match="requires no gradient"):
        Tensor([1.0]).retain_grad()
    assert x.retain_grad() is x


def test_only_floats_require_gradients_and_precisions_do_not_mix() -> None:
    for values in ([1, 2], [True]):
        with pytest.raises(TypeError, match="only float tensors can require gradients"):
            Tensor(values, requires_grad=True)
    single, double = leaf([1.0], "float32"), leaf([1.0])
    for operation in (
        lambda a, b: a + b,
        lambda a, b: a @ b,
        lambda a, b: a > b,
        lambda a, b: a.maximum(b),
        lambda a, b: cat([a, b]),
    ):
        with pytest.raises(TypeError, match="float32 and float64 differ"):
            operation(single, double)
        with pytest.raises(TypeError, match="float64 and float32 differ"):
            operation(double, single)


def test_inputs_that_need_no_gradient_are_skipped() -> None:
    asked: list[tuple[bool, ...]] = []

    class Product(Function):
        def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            self.a, self.b = a, b
            return a * b

        def backward(self, dy: np.ndarray) -> tuple:
            asked.append(self.needs_grad)
            return (
                dy * self.b if self.needs_grad[0] else None,
                dy * self.a if self.needs_grad[1] else None,
            )

    x, constant = leaf([2.0]), Tensor([3.0], "float64")
    apply(Product, x, constant).backward()
    apply(Product, constant * 1, x).backward()
    assert asked == [(True, False), (False, True)]
    assert grad(x) == [6] and constant.grad is None
