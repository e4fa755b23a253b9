"""Optimizers, clipping, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tensor.backend import Array
from tensor.dtypes import FLOAT32, HALVES, name_of
from tensor.nn import Module
from tensor.profiling import span
from tensor.tensor import Tensor

# "params": a list of tensors, and the options that hold for them ("lr", "weight_decay")
Group = dict[str, Any]


def read_groups(params: Iterable[Any], defaults: Group) -> list[Group]:
    """Parameters, or groups of them with their own options, as groups with every option."""
    if isinstance(params, Module):
        raise TypeError("an optimizer takes parameters: pass model.parameters()")
    if isinstance(params, Tensor):
        raise TypeError("an optimizer takes a list of parameters: [w] for a single one")
    given = list(params)
    if not given:
        raise ValueError("an optimizer needs at least one parameter")
    groups = given if isinstance(given[0], Mapping) else [{"params": given}]
    result = []
    for group in groups:
        unknown = set(group) - set(defaults) - {"params"}
        if unknown:
            raise TypeError(
                f"unknown options {sorted(unknown)} in a parameter group; known: {sorted(defaults)}"
            )
        params = group["params"]
        if isinstance(params, Tensor):
            raise TypeError("a group's params is a list of parameters: [w] for a single one")
        result.append({**defaults, **group, "params": list(params)})
    seen: set[int] = set()
    everything = [p for group in result for p in group["params"]]
    for p in everything:
        if not isinstance(p, Tensor):
            raise TypeError(
                f"an optimizer takes leaf tensors that require gradients, not {type(p).__name__}"
            )
        if id(p) in seen:
            raise ValueError(f"a parameter of shape {p.shape} was given to the optimizer twice")
        seen.add(id(p))
        if not p.requires_grad or p.creator is not None:
            raise TypeError(f"an optimizer takes leaf tensors that require gradients, not {p!r}")
        if p.backend is not everything[0].backend:
            raise ValueError(
                f"an optimizer's parameters are on one device, not on {everything[0].backend.name} "
                f"and {p.backend.name}"
            )
    return result


def _check_option(name: str, value: Any) -> None:
    if not isinstance(value, (int, float, np.number)):
        raise TypeError(f"an optimizer's {name} must be a number, not {value!r}")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"an optimizer's {name} = {value} must be finite and not negative")


class Optimizer:
    """What SGD and AdamW share: groups of parameters, and the way their state is saved.

    A parameter in half precision has a master: its value in float32, which takes the steps, and
    which the parameter is the rounded copy of (Micikevicius et al. 2018, "Mixed Precision
    Training", section 3.1). Masters start as the parameters are at the first step; whoever
    overwrites a parameter later makes a new optimizer. Averages are float32, too.
    """

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self.groups = read_groups(params, defaults)
        for group in self.groups:
            for name in defaults:
                _check_option(name, group[name])
        self.steps = 0
        self.masters = [
            p.detach().astype(FLOAT32) if p.dtype in HALVES else None for p in self.params
        ]

    @property
    def params(self) -> list[Tensor]:
        """All parameters, group after group."""
        return [p for group in self.groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def set_lr(self, lr: float) -> None:
        """Use one learning rate in all groups from now on."""
        for group in self.groups:
            group["lr"] = lr

    def buffers(self) -> dict[str, list[Tensor]]:
        """The running averages, by name: a tensor for each parameter, in order; or none."""
        raise NotImplementedError(f"{type(self).__name__} defines no buffers")

    def state_tensors(self) -> dict[str, Tensor]:
        """What a step changes besides the parameters, by its name in `state_dict`: "m.0", "m.1", …
        for a buffer m, and "master.0" of a parameter that has one.
        """
        named = {f"{name}.{i}": t for name, ts in self.buffers().items() for i, t in enumerate(ts)}
        named.update({f"master.{i}": t for i, t in enumerate(self.masters) if t is not None})
        return named

    def step(self) -> None:
        """Update every parameter that has a gradient, in place.

        ValueError, and no change, if the model was resized, pruned, moved or converted since.
        """
        self._check_shapes()
        if self.steps == 0:
            self._start_masters()
        self.steps += 1
        buffers = [tensors for tensors in self.buffers().values() if tensors]
        number = 0
        for group in self.groups:
            rows: dict[np.dtype, list[list[Array]]] = {}  # by the parameters' dtype
            for p in group["params"]:
                if p.grad is not None:
                    row = [p.data, p.grad.data, *(ts[number].data for ts in buffers)]
                    master = self.masters[number]
                    row += [] if master is None else [master.data]
                    rows.setdefault(p.dtype, []).append(row)
                number += 1
            for dtype, some in rows.items():
                with span(f"{type(self).__name__}.step", [a for row in some for a in row]):
                    arrays = list(zip(*some, strict=True))
                    masters = arrays.pop() if dtype in HALVES else None
                    self._update(group, arrays, masters)

    def _start_masters(self) -> None:
        for p, master in zip(self.params, self.masters):
            if master is not None:
                p.backend.assign(master.data, p.data)

    def _check_shapes(self) -> None:
        params = self.params
        for number, (p, master) in enumerate(zip(params, self.masters)):
            if (p.dtype in HALVES) != (master is not None):
                raise ValueError(
                    f"{type(self).__name__}: parameter {number} is {name_of(p.dtype)} now: make "
                    "the optimizer after the model has its dtype"
                )
        kept: list[tuple[str, Sequence[Tensor | None]]] = [*self.buffers().items()]
        for name, tensors in [*kept, ("master", self.masters)]:
            for number, (p, buffer) in enumerate(zip(params, tensors)):
                if buffer is None:
                    continue
                if p.shape != buffer.shape:
                    raise ValueError(
                        f"{type(self).__name__}: parameter {number} is {p.shape}, but its {name} "
                        f"is {buffer.shape}: the model was resized or pruned since; make a new "
                        "optimizer"
                    )
                if p.backend is not buffer.backend:
                    raise ValueError(
                        f"{type(self).__name__}: parameter {number} is on {p.backend.name}, but "
                        f"its {name} on {buffer.backend.name}: make the optimizer after .to(device)"
                    )

    def _update(
        self, group: Group, arrays: list[tuple[Array, ...]], masters: tuple[Array, ...] | None
    ) -> None:
        """The step of a group's parameters of one dtype; arrays: these, their gradients, then each
        buffer's, in order; and their masters, where they are halves.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state as flat arrays: "step", and those of `state_tensors`; copies."""
        state = {"step": np.asarray(self.steps, np.int64)}
        state.update({name: t.numpy() for name, t in self.state_tensors().items()})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. ValueError, and no change, if it doesn't fit the parameters."""
        own = self.state_tensors()
        expected = {"step": (), **{name: t.shape for name, t in own.items()}}
        found = {name: np.shape(v) for name, v in state.items()}
        if found != expected:
            wrong = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
            listed = ", ".join(
                f"{n} (needed {expected.get(n)}, got {found.get(n)})" for n in wrong[:5]
            )
            raise ValueError(f"the optimizer's state does not fit its parameters: {listed}")
        arrays = {name: np.asarray(v) for name, v in state.items()}
        unfit = [f"{n} ({a.dtype})" for n, a in arrays.items() if a.dtype.kind not in "iuf"]
        if unfit:
            raise ValueError(f"the optimizer's state must be numbers: {', '.join(unfit[:5])}")
        step = int(arrays["step"])
        if step < 0 or step != arrays["step"]:
            raise ValueError(f"the optimizer's state has step = {arrays['step']}, not a count")
        for name, tensor in own.items():
            tensor.copy_(arrays[name])
        self.steps = step


class SGD(Optimizer):
    """Gradient descent: v = momentum * v + (g + weight_decay * p); p -= lr * v. As torch's."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        uses_momentum = any(group["momentum"] for group in self.groups)
        self.velocity = [_zeros_like(p) for p in self.params] if uses_momentum else []

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"velocity": self.velocity}

    def _update(
        self, group: Group, arrays: list[tuple[Array, ...]], masters: tuple[Array, ...] | None
    ) -> None:
        parameters, gradients, *velocities = arrays
        group["params"][0].backend.sgd_step(
            parameters,
            gradients,
            velocities[0] if velocities else None,
            group["lr"],
            group["momentum"],
            group["weight_decay"],
            masters,
        )


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2); arguments and
    defaults as torch's.

    It decays whatever it is given; `decay_groups` makes the usual two groups.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        for beta in betas:
            _check_option("betas", beta)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas {betas} must be two numbers in 0 … 1 (1 excluded)")
        _check_option("eps", eps)
        self.betas, self.eps = betas, eps
        self.m = [_zeros_like(p) for p in self.params]
        self.v = [_zeros_like(p) for p in self.params]

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"m": self.m, "v": self.v}

    def _update(
        self, group: Group, arrays: list[tuple[Array, ...]], masters: tuple[Array, ...] | None
    ) -> None:
        parameters, gradients, ms, vs = arrays
        group["params"][0].backend.adamw_step(
            parameters,
            gradients,
            ms,
            vs,
            self.steps,
            group["lr"],
            self.betas,
            self.eps,
            group["weight_decay"],
            masters,
        )


def _zeros_like(p: Tensor) -> Tensor:
    dtype = FLOAT32 if p.dtype in HALVES else p.dtype
    return Tensor.wrap(p.backend.full(p.shape, 0, dtype), p.backend)


def decay_groups(model: Module, weight_decay: float) -> list[Group]:
    """Two groups: matrices, which decay, and vectors (biases, layer norms), which do not. What
    requires no gradient is in neither.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def clip_grad_norm(params: Iterable[Tensor] | Tensor, max_norm: float) -> float:
    """Scale all gradients together to a norm of at most max_norm; return the norm before.

    The factor is max_norm / (norm + 1e-6), as torch's. A norm that is not finite is returned, and
    nothing scaled.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm: max_norm = {max_norm} must not be negative")
    params = [params] if isinstance(params, Tensor) else params
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return 0.0
    backend, arrays = grads[0].backend, [g.data for g in grads]
    with span("clip_grad_norm", arrays):
        norm = math.sqrt(backend.sum_of_squares(arrays))
        factor = max_norm / (norm + 1e-6)
        if factor < 1 and math.isfinite(norm):
            backend.scale(arrays, factor)
    return norm


# --- schedules: the learning rate of a step, counted from 0. All warm up linearly over the first
# `warmup_steps`.


def warmup_constant(
    step: int, lr: float, warmup_steps: int, max_steps: int, min_lr: float = 0.0
) -> float:
    """lr after the warm-up."""
    return lr * (step + 1) / warmup_steps if step < warmup_steps else lr


def _progress(step: int, warmup_steps: int, max_steps: int) -> float:
    """0 at the end of the warm-up, 1 from max_steps on."""
    return min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))


def warmup_linear(
    step: int, lr: float, warmup_steps: int, max_steps: int, min_lr: float = 0.0
) -> float:
    """A straight line from lr at the end of the warm-up to min_lr at max_steps."""
    if step < warmup_steps:
        return warmup_constant(step, lr, warmup_steps, max_steps)
    return lr + (min_lr - lr) * _progress(step, warmup_steps, max_steps)


def warmup_cosine(
    step: int, lr: float, warmup_steps: int, max_steps: int, min_lr: float = 0.0
) -> float:
    """Half a cosine from lr to min_lr at max_steps (Loshchilov and Hutter 2017)."""
    if step < warmup_steps:
        return warmup_constant(step, lr, warmup_steps, max_steps)
    return min_lr + (lr - min_lr) * 0.5 * (
        1 + math.cos(math.pi * _progress(step, warmup_steps, max_steps))
    )
