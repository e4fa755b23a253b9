"""Optimizers beside their formulas, saved states, clipping, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tensor import Tensor, nn, optim
from tensor.optim import SGD, AdamW, Optimizer, clip_grad_norm

SHAPES = [(4, 3), (3,), (), (0, 2)]


def parameters(dtype: str = "float64", seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [Tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in SHAPES]


def give_gradients(params: list[Tensor], step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(100 + step)
    gradients = [rng.standard_normal(p.shape).astype(p.dtype) for p in params]
    for p, g in zip(params, gradients, strict=True):
        p.grad = Tensor(g)
    return gradients


def values(params: list[Tensor]) -> list[np.ndarray]:
    return [p.numpy() for p in params]


def assert_same(a: list[np.ndarray], b: list[np.ndarray], rtol: float = 0.0) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


# --- the formulas


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-14), ("float32", 2e-6)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_is_its_formula(dtype: str, rtol: float, momentum: float, decay: float) -> None:
    params = parameters(dtype)
    optimizer = SGD(params, lr=0.1, momentum=momentum, weight_decay=decay)
    p = [x.astype(np.float64) for x in values(params)]
    v = [np.zeros_like(x) for x in p]
    for step in range(10):
        gradients = give_gradients(params, step)
        optimizer.step()
        for i, g in enumerate(gradients):
            v[i] = momentum * v[i] + (g + decay * p[i])
            p[i] = p[i] - 0.1 * v[i]
        assert_same(values(params), p, rtol)
    assert all(x.dtype == dtype for x in params)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-13), ("float32", 5e-6)])
def test_adamw_is_its_formula(dtype: str, rtol: float) -> None:
    """Loshchilov and Hutter 2019, algorithm 2: decay beside the gradient, not in it."""
    lr, (b1, b2), eps, decay = 0.01, (0.85, 0.99), 1e-6, 0.2
    params = parameters(dtype)
    optimizer = AdamW(params, lr, (b1, b2), eps, decay)
    p = [x.astype(np.float64) for x in values(params)]
    m, v = [np.zeros_like(x) for x in p], [np.zeros_like(x) for x in p]
    for t in range(1, 16):
        gradients = give_gradients(params, t)
        optimizer.step()
        for i, g in enumerate(gradients):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * np.square(g)
            m_hat, v_hat = m[i] / (1 - b1**t), v[i] / (1 - b2**t)
            p[i] = p[i] - lr * decay * p[i] - lr * m_hat / (np.sqrt(v_hat) + eps)
        assert_same(values(params), p, rtol)


def test_adamw_on_more_elements_than_one_block() -> None:
    x = np.linspace(-1, 1, 100_003)
    p = Tensor(x, requires_grad=True)
    optimizer = AdamW([p], lr=0.1, weight_decay=0.0)
    p.grad = Tensor(np.sin(x) + 2)
    optimizer.step()  # the first step is lr * sign(g), but for eps
    np.testing.assert_allclose(p.numpy(), x - 0.1, rtol=0, atol=1e-8)


@pytest.mark.parametrize("make", [lambda p: SGD([p], lr=0.1, momentum=0.9), lambda p: AdamW([p])])
def test_a_parameter_whose_memory_is_strided_is_updated_too(
    make: Callable[[Tensor], Optimizer],
) -> None:
    p = Tensor(np.ones((3, 2))).T.detach()
    p.requires_grad = True
    optimizer = make(p)
    q = Tensor(np.ones((2, 3)), requires_grad=True)
    other = make(q)
    for _ in range(3):
        p.grad, q.grad = Tensor(np.arange(6.0).reshape(2, 3)), Tensor(np.arange(6.0).reshape(2, 3))
        optimizer.step()
        other.step()
    np.testing.assert_array_equal(p.numpy(), q.numpy())
    assert (p.numpy()[0, 1:] != 1).all()


def test_a_step_changes_values_in_place_and_nothing_else() -> None:
    for make in (lambda ps: SGD(ps, momentum=0.9, weight_decay=0.1), AdamW):
        params = parameters()
        optimizer = make(params)
        data = [p.data for p in params]
        gradients = give_gradients(params, 0)
        params[1].grad = None
        before = params[1].numpy()
        optimizer.step()
        assert all(p.data is d for p, d in zip(params, data, strict=True))
        np.testing.assert_array_equal(params[1].numpy(), before)  # no gradient: not even decay
        for p, g in zip(params, gradients, strict=True):
            if p.grad is not None:
                np.testing.assert_array_equal(p.grad.numpy(), g)
        optimizer.zero_grad()
        assert all(p.grad is None for p in params)


# --- groups


def test_groups_have_their_own_options() -> None:
    params = parameters()
    optimizer = SGD(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "weight_decay": 0.1}], lr=0.1
    )
    before = values(params)
    gradients = give_gradients(params, 0)
    optimizer.step()
    assert_same(values(params)[:1], [before[0] - 0.1 * gradients[0]], 1e-15)
    assert_same(
        values(params)[1:],
        [p - 0.5 * (g + 0.1 * p) for p, g in zip(before[1:], gradients[1:], strict=True)],
        1e-15,
    )
    optimizer.set_lr(0.0)
    assert [group["lr"] for group in optimizer.groups] == [0, 0]
    before = values(params)
    optimizer.step()
    assert_same(values(params), before)
    optimizer.groups[0]["lr"] = 1.0
    optimizer.step()
    assert (params[0].numpy() != before[0]).all()


def test_momentum_of_a_group_counts_even_if_the_default_is_zero() -> None:
    params = parameters()
    optimizer = SGD([{"params": params[:1], "momentum": 0.9}, {"params": params[1:]}], lr=1.0)
    before = values(params)
    for _ in range(2):
        for p in params:
            p.grad = Tensor(np.ones(p.shape))
        optimizer.step()
    assert_same(values(params)[:1], [before[0] - (1 + 1.9)], 1e-12)
    assert_same(values(params)[1:], [p - 2 for p in before[1:]], 1e-12)


def test_decay_groups_split_matrices_from_vectors() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.embedding, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
            self.linear = nn.Linear(4, 5)
            self.linear.weight = self.embedding.weight

    model = Model()
    decayed, rest = optim.decay_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert [p.shape for p in decayed["params"]] == [(5, 4)]
    assert sorted(p.shape for p in rest["params"]) == [(4,), (4,), (5,)]
    assert [group["weight_decay"] for group in AdamW([decayed, rest]).groups] == [0.1, 0.0]


# --- saved states

MAKERS = [
    lambda ps: SGD(ps, lr=0.1),
    lambda ps: SGD(ps, lr=0.1, momentum=0.9),
    lambda ps: AdamW(ps, lr=0.1),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_state_goes_on_to_the_bit(make: Callable[..., Optimizer], dtype: str) -> None:
    params = parameters(dtype)
    optimizer = make(params)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    state, saved = optimizer.state_dict(), values(params)
    for step in range(3, 6):
        give_gradients(params, step)
        optimizer.step()
    other = parameters(dtype, seed=1)
    for p, value in zip(other, saved, strict=True):
        p.copy_(value)
    resumed = make(other)
    resumed.load_state_dict(state)
    for step in range(3, 6):
        give_gradients(other, step)
        resumed.step()
    for a, b in zip(values(params), values(other), strict=True):
        np.testing.assert_array_equal(a, b)
    mine, others = optimizer.state_dict(), resumed.state_dict()
    assert mine.keys() == others.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, others[name])


def test_the_state_is_flat_named_and_a_copy() -> None:
    optimizer = AdamW(parameters())
    state = optimizer.state_dict()
    assert list(state) == ["step", *(f"m.{i}" for i in range(4)), *(f"v.{i}" for i in range(4))]
    assert state["step"].dtype == np.int64 and state["step"].shape == ()
    assert [state[f"m.{i}"].shape for i in range(4)] == SHAPES
    state["m.0"][:] = 9
    assert not optimizer.state_dict()["m.0"].any()
    loaded = {n: v + 1 for n, v in optimizer.state_dict().items()}
    optimizer.load_state_dict(loaded)
    loaded["m.0"][:] = 9
    assert (optimizer.state_dict()["m.0"] == 1).all() and optimizer.steps == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("v.3"), "v.3 (needed (0, 2), got None)"),
        (lambda s: s.pop("step"), "step"),
        (lambda s: s.update({"m.4": np.zeros(1)}), "m.4 (needed None, got (1,))"),
        (lambda s: s.update({"m.0": np.zeros((3, 4))}), "m.0 (needed (4, 3), got (3, 4))"),
        (lambda s: s.update({"v.1": np.array(["a", "b", "c"])}), "must be numbers: v.1 (<U1)"),
        (lambda s: s.update({"step": np.array("x")}), "step (<U1)"),
        (lambda s: s.update({"step": np.array(-1)}), "step = -1"),
        (lambda s: s.update({"step": np.array(1.5)}), "step = 1.5"),
        (lambda s: s.update({"step": np.array([3])}), "step (needed (), got (1,))"),
    ],
)
def test_an_unfit_state_is_refused_and_changes_nothing(
    change: Callable[[dict[str, Any]], Any], text: str
) -> None:
    params = parameters()
    optimizer = AdamW(params)
    give_gradients(params, 0)
    optimizer.step()
    before = optimizer.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(state)
    assert text in str(caught.value)
    for name, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_state_of_another_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="velocity.0"):
        SGD(parameters(), momentum=0.9).load_state_dict(AdamW(parameters()).state_dict())


# --- unfit arguments


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda p: SGD([], lr=0.1), ValueError, "at least one parameter"),
        (lambda p: SGD(p[0]), TypeError, r"\[w\] for a single one"),
        (lambda p: SGD([p[0], p[0]]), ValueError, r"shape \(4, 3\) was given .* twice"),
        (lambda p: AdamW([{"params": p}, {"params": p[:1]}]), ValueError, "twice"),
        (lambda p: SGD([p[0] * 2]), TypeError, "leaf tensors"),
        (lambda p: SGD([Tensor([1.0])]), TypeError, "require gradients"),
        (lambda p: SGD([np.ones(2)]), TypeError, "leaf tensors"),
        (lambda p: SGD([("w", p[0])]), TypeError, "leaf tensors"),
        (lambda p: SGD(p, lr=-1), ValueError, "lr = -1"),
        (lambda p: SGD(p, lr=math.nan), ValueError, "lr = nan"),
        (lambda p: SGD(p, lr="fast"), TypeError, "lr must be a number, not 'fast'"),
        (lambda p: SGD(p, momentum=-0.5), ValueError, "momentum = -0.5"),
        (lambda p: AdamW(p, weight_decay=math.inf), ValueError, "weight_decay = inf"),
        (lambda p: AdamW([{"params": p, "lr": -1.0}]), ValueError, "lr = -1.0"),
        (lambda p: AdamW([{"params": p, "beta": 1}]), TypeError, "'beta'.*weight_decay"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda p: AdamW(p, betas=(0.9,)), ValueError, "two numbers"),
        (lambda p: AdamW(p, eps=-1e-8), ValueError, "eps = -1e-08"),
    ],
)
def test_unfit_arguments_are_named(make: Callable[..., Any], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        make(parameters())


# --- clipping


def test_clipping_scales_all_gradients_by_one_factor() -> None:
    params = parameters()[:3]
    gradients = give_gradients(params, 0)
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    assert clip_grad_norm(params, 1e9) == pytest.approx(norm, rel=1e-12)
    assert_same([p.grad.numpy() for p in params if p.grad is not None], gradients)
    assert clip_grad_norm(iter(params), 0.5) == pytest.approx(norm, rel=1e-12)
    for p, g in zip(params, gradients, strict=True):
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), g * (0.5 / (norm + 1e-6)), rtol=1e-12)
    assert clip_grad_norm(params, 1.0) == pytest.approx(0.5, rel=1e-5)
    assert clip_grad_norm(params[0], 1.0) < 0.5  # a single tensor
    assert clip_grad_norm(params, 0.0) > 0 and clip_grad_norm(params, 1.0) == 0


def test_clipping_without_gradients_or_with_endless_ones() -> None:
    params = parameters()
    assert clip_grad_norm(params, 1.0) == 0
    for bad in (math.inf, math.nan):
        gradients = give_gradients(params, 0)
        gradients[0][0, 0] = bad
        params[0].grad = Tensor(gradients[0])
        assert not math.isfinite(clip_grad_norm(params, 1.0))
        assert params[1].grad is not None
        np.testing.assert_array_equal(params[1].grad.numpy(), gradients[1])
    for max_norm in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm"):
            clip_grad_norm(params, max_norm)


def test_the_norm_of_a_large_float32_gradient_keeps_its_digits() -> None:
    p = Tensor(np.zeros(1_000_003, np.float32), requires_grad=True)
    p.grad = Tensor(np.full(1_000_003, 0.1, np.float32))
    assert clip_grad_norm([p], 1e9) == pytest.approx(0.1 * math.sqrt(1_000_003), rel=1e-6)


# --- schedules


def test_warm_up_is_a_line_that_reaches_lr_at_its_last_step() -> None:
    for schedule in (optim.warmup_constant, optim.warmup_linear, optim.warmup_cosine):
        rates = [schedule(step, 0.4, 4, 20, 0.1) for step in range(4)]
        np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])
        assert schedule(4, 0.4, 4, 20, 0.1) == pytest.approx(0.4)


def test_schedules_by_their_formulas() -> None:
    for step in range(4, 21):
        t = (step - 4) / 16
        assert optim.warmup_constant(step, 0.4, 4, 20, 0.1) == 0.4
        assert optim.warmup_linear(step, 0.4, 4, 20, 0.1) == pytest.approx(0.4 - 0.3 * t)
        cosine = 0.1 + 0.3 * (1 + math.cos(math.pi * t)) / 2
        assert optim.warmup_cosine(step, 0.4, 4, 20, 0.1) == pytest.approx(cosine)
    assert optim.warmup_linear(12, 0.4, 4, 20) == pytest.approx(0.2)


def test_schedules_stay_at_their_end() -> None:
    for schedule in (optim.warmup_linear, optim.warmup_cosine):
        for step in (20, 21, 10_000):
            assert schedule(step, 0.4, 4, 20, 0.1) == pytest.approx(0.1)
        assert schedule(0, 0.4, 0, 20, 0.1) == pytest.approx(0.4)  # no warm-up
        assert schedule(3, 0.4, 0, 0, 0.1) == pytest.approx(0.1)
        assert schedule(5, 0.4, 5, 5, 0.1) in (pytest.approx(0.4), pytest.approx(0.1))
