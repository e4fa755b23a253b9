"""Layers, optimizers, clipping and schedules beside torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tensor import Tensor, nn, optim
from tests.tensor.reference import reference_only, to_torch

pytestmark = reference_only

STEPS = 20
SHAPES = [(4, 3), (3,), (1, 5), ()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_equal_torchs(dtype: str) -> None:
    import torch

    ours = [nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3, bias=False)]
    theirs = [torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 3, bias=False)]
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(dtype)
    a, b = Tensor(x, requires_grad=True), to_torch(x)
    y, z = a, b
    for one, two in zip(ours, theirs, strict=True):
        one.astype(dtype)
        two.to(getattr(torch, dtype))
        one.load_state_dict({n: p.detach().numpy() for n, p in two.state_dict().items()})
        y, z = one(y), two(z)
    y.exp().sum().backward()
    z.exp().sum().backward()
    tight = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=tight, atol=tight)
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=tight, atol=tight)
    for one, two in zip(ours, theirs, strict=True):
        named = dict(two.named_parameters())
        for name, parameter in one.named_parameters():
            assert parameter.grad is not None
            np.testing.assert_allclose(
                parameter.grad.numpy(), named[name].grad.numpy(), rtol=10 * tight, atol=10 * tight
            )


def run_both(
    make_ours: Callable[[list[Tensor]], optim.Optimizer],
    make_theirs: Callable[[list[Any]], Any],
    dtype: str,
    missing: Callable[[int, int], bool] = lambda step, number: False,
    clip: float | None = None,
) -> None:
    """20 steps on the same gradients; parameters must stay together at every step."""
    import torch

    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    ours = [Tensor(x, requires_grad=True) for x in values]
    theirs = [to_torch(x) for x in values]
    a, b = make_ours(ours), make_theirs(theirs)
    tight = 1e-12 if dtype == "float64" else 2e-6
    for step in range(STEPS):
        a.zero_grad()
        b.zero_grad()
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            if not missing(step, i):
                g = (rng.standard_normal(p.shape) * 10.0 ** rng.integers(-4, 2)).astype(dtype)
                p.grad, q.grad = Tensor(g), torch.tensor(g)
        if clip is not None:
            mine = optim.clip_grad_norm(ours, clip)
            other = torch.nn.utils.clip_grad_norm_(theirs, clip).item()
            np.testing.assert_allclose(mine, other, rtol=1e-6)
        a.step()
        b.step()
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=tight, atol=tight)


def groups(params: list[Any]) -> list[dict[str, Any]]:
    return [{"params": params[:2]}, {"params": params[2:], "lr": 0.02, "weight_decay": 0.3}]


both = pytest.mark.parametrize("dtype", ["float32", "float64"])


@both
@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.05, "momentum": 0.9},
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.05, "weight_decay": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("split", [list, groups])
def test_sgd(options: dict[str, Any], split: Callable[..., Any], dtype: str) -> None:
    import torch

    run_both(
        lambda ps: optim.SGD(split(ps), **options),
        lambda ps: torch.optim.SGD(split(ps), **options),
        dtype,
    )


@both
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.1},
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4},
        {"lr": 0.1, "weight_decay": 0.5},
        {"lr": 0.1, "weight_decay": 0.0, "betas": (0.0, 0.0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("split", [list, groups])
def test_adamw(options: dict[str, Any], split: Callable[..., Any], dtype: str) -> None:
    import torch

    run_both(
        lambda ps: optim.AdamW(split(ps), **options),
        lambda ps: torch.optim.AdamW(split(ps), **options),
        dtype,
    )


@both
def test_a_parameter_without_gradient_is_left_alone(dtype: str) -> None:
    import torch

    def missing(step: int, number: int) -> bool:
        return number == 1 and step >= 5  # it had its own gradients from the first step on

    for options in ({"lr": 0.1}, {"lr": 0.1, "weight_decay": 0.1}):
        run_both(
            lambda ps, o=options: optim.AdamW(ps, **o),
            lambda ps, o=options: torch.optim.AdamW(ps, **o),
            dtype,
            missing,
        )
        run_both(
            lambda ps, o=options: optim.SGD(ps, momentum=0.9, **o),
            lambda ps, o=options: torch.optim.SGD(ps, momentum=0.9, **o),
            dtype,
            missing,
        )


@both
@pytest.mark.parametrize("clip", [0.1, 1.0, 1e9])
def test_clipping(clip: float, dtype: str) -> None:
    import torch

    run_both(
        lambda ps: optim.SGD(ps, lr=0.1), lambda ps: torch.optim.SGD(ps, lr=0.1), dtype, clip=clip
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.warmup_constant, "get_constant_schedule_with_warmup"),
        (optim.warmup_linear, "get_linear_schedule_with_warmup"),
        (optim.warmup_cosine, "get_cosine_schedule_with_warmup"),
    ],
)
def test_schedules_are_those_of_transformers_a_step_further(
    ours: Callable[..., float], theirs: str
) -> None:
    """transformers warms up from 0, a step that changes nothing; ours starts at lr / warmup."""
    optimization = pytest.importorskip("transformers.optimization")
    import torch

    warmup, last = 5, 30
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    options = {"num_training_steps": last} if "constant" not in theirs else {}
    schedule = getattr(optimization, theirs)(optimizer, num_warmup_steps=warmup, **options)
    reference = []
    for _ in range(last + 1):
        reference.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    mine = [ours(step, 0.3, warmup, last) for step in range(last + 1)]
    np.testing.assert_allclose(mine[:warmup], reference[1 : warmup + 1], rtol=1e-12)
    np.testing.assert_allclose(mine[warmup:], reference[warmup:], rtol=1e-12, atol=1e-17)
