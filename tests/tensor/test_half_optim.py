"""Optimizers of parameters in half precision, beside their formulas on float32 masters."""

from __future__ import annotations

import numpy as np
import pytest

from tensor import Tensor
from tensor.dtypes import BFLOAT16, HALVES, name_of
from tensor.optim import SGD, AdamW, clip_grad_norm
from tests.kernels.devices import NAME, needs_device
from tests.tensor.halves import rounded

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
SHAPES = [(5, 3), (70,), (), (0, 2), (4097,)]


@pytest.fixture
def _device():
    needs_device()


def parameters(dtype: str, seed: int = 0) -> list[Tensor]:
    """Halves, and among them one of float32."""
    rng = np.random.default_rng(seed)
    types = [dtype, "float32", *[dtype] * 3]
    return [
        Tensor(rng.standard_normal(s), d, requires_grad=True, device=NAME)
        for s, d in zip(SHAPES, types, strict=True)
    ]


def give_gradients(params: list[Tensor], step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(100 + step)
    for p in params:
        p.grad = Tensor(rng.standard_normal(p.shape), p.dtype, device=NAME)
    return [p.grad.numpy().astype(np.float64) for p in params]


def assert_rounded(params: list[Tensor], exact: list[np.ndarray]) -> None:
    """Each parameter is what the formula's number rounds to, or by chance the one beside it."""
    for p, e in zip(params, exact, strict=True):
        last_places = {"float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}[name_of(p.dtype)]
        np.testing.assert_allclose(p.numpy(), e, rtol=last_places, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
def test_sgd(dtype, momentum):
    params = parameters(name_of(dtype))
    optimizer = SGD(params, lr=0.1, momentum=momentum, weight_decay=0.1)
    exact = [p.numpy().astype(np.float64) for p in params]
    v = [np.zeros_like(p) for p in exact]
    for step in range(5):
        gradients = give_gradients(params, step)
        optimizer.step()
        for i, g in enumerate(gradients):
            v[i] = momentum * v[i] + g + 0.1 * exact[i]
            exact[i] = exact[i] - 0.1 * v[i]
    assert_rounded(params, exact)
    for master, e in zip(optimizer.masters, exact, strict=True):
        assert master is None or master.dtype == np.float32
        np.testing.assert_allclose(e if master is None else master.numpy(), e, atol=1e-5)


@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
def test_adamw(dtype):
    params = parameters(name_of(dtype))
    optimizer = AdamW(params, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    exact = [p.numpy().astype(np.float64) for p in params]
    m, v = ([np.zeros_like(p) for p in exact] for _ in range(2))
    for step in range(1, 6):
        gradients = give_gradients(params, step)
        optimizer.step()
        for i, g in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.95 * v[i] + 0.05 * g * g
            update = m[i] / (1 - 0.9**step) / (np.sqrt(v[i] / (1 - 0.95**step)) + 1e-8)
            exact[i] = exact[i] * (1 - 0.01 * 0.1) - 0.01 * update
    assert_rounded(params, exact)
    assert all(t.dtype == np.float32 for t in optimizer.state_tensors().values())


def test_steps_too_small_for_bfloat16_add_up_in_the_master():
    p = Tensor(np.ones(3), "bfloat16", requires_grad=True, device=NAME)
    optimizer = SGD([p], lr=2.0**-12)
    for _ in range(64):
        p.grad = Tensor(np.ones(3), "bfloat16", device=NAME)
        optimizer.step()
        assert p.numpy().max() - optimizer.masters[0].numpy().max() <= 2.0**-9
    np.testing.assert_array_equal(p.numpy(), 1 - 64 * 2.0**-12)


def test_a_state_that_is_loaded_goes_on_with_the_same_bits():
    def run(optimizer, params, steps):
        for step in steps:
            give_gradients(params, step)
            optimizer.step()
        return [p.numpy() for p in params]

    params = parameters("bfloat16")
    optimizer = AdamW(params, lr=1e-3)
    run(optimizer, params, range(3))
    state, weights = optimizer.state_dict(), [p.numpy() for p in params]
    assert {"master.0", "master.4", "m.1"} <= set(state) and "master.1" not in state
    straight = run(optimizer, params, range(3, 6))
    again = parameters("bfloat16", seed=1)
    for p, w in zip(again, weights, strict=True):
        p.copy_(w)
    resumed = AdamW(again, lr=1e-3)
    resumed.load_state_dict(state)
    for a, b in zip(run(resumed, again, range(3, 6)), straight, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="master.0"):
        AdamW(parameters("float32")).load_state_dict(state)


def test_masters_begin_as_the_parameters_are_at_the_first_step():
    p = Tensor(np.zeros(3), "bfloat16", requires_grad=True, device=NAME)
    optimizer = SGD([p], lr=1.0)
    p.copy_(np.full(3, 5.0))
    p.grad = Tensor(np.ones(3), "bfloat16", device=NAME)
    optimizer.step()
    np.testing.assert_array_equal(p.numpy(), np.full(3, 4.0))


def test_another_dtype_than_at_the_start_is_refused():
    for before, after in (("float32", "bfloat16"), ("bfloat16", "float32")):
        p = Tensor(np.zeros(3), before, requires_grad=True, device=NAME)
        optimizer = SGD([p])
        p.data = p.detach().astype(after).data
        with pytest.raises(ValueError, match=f"parameter 0 is {after} now: make the optimizer"):
            optimizer.step()


def test_clipping():
    params = parameters("bfloat16")
    gradients = give_gradients(params, 0)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradients))
    assert clip_grad_norm(params, 1.0) == pytest.approx(norm, rel=1e-6)
    for p, g in zip(params, gradients, strict=True):
        expected = (g * np.float64(1 / (norm + 1e-6))).astype(np.float32)
        if p.dtype == BFLOAT16:
            expected = rounded(expected, "bfloat16")
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=2**-8)
