"""Modules: layers that own parameters, and trees of them.

A module's parameters and children are its attributes, found by walking them; names come from the
attributes, so that `state_dict` has exactly the names of the checkpoint files
("h.0.attn.c_attn.weight").
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from tensor import functional
from tensor.devices import get_backend
from tensor.dtypes import converted, is_float, named
from tensor.random import default_generator
from tensor.tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module trains: a float leaf that requires gradients."""

    first_values: Callable[[], np.ndarray] | None = None

    def __init__(self, values: Any, device: str = "cpu", dtype: Any = None) -> None:
        super().__init__(values, dtype, requires_grad=True, device=device)

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], first_values: Callable[[], np.ndarray]) -> Parameter:
        """A parameter that starts as `first_values()`: called at once, or, inside
        `deferred_values()`, by `initialise`. Until then it has a shape, but no memory, and reads as
        NaN.
        """
        if not _deferral.on:
            return cls(first_values())
        parameter = cls(np.nan)
        try:
            parameter.data = np.broadcast_to(np.float32(np.nan), shape)
        except ValueError:
            raise ValueError(f"a parameter of shape {shape} is too large for an array") from None
        parameter.first_values = first_values
        return parameter

    def initialise(self, dtype: Any = np.float32, device: str = "cpu") -> None:
        """Give a deferred parameter the values that it starts with."""
        if self.first_values is None:
            raise RuntimeError("initialise: this parameter has its values already")
        self.take(converted(self.first_values(), named(dtype)), device)

    def take(self, values: np.ndarray, device: str = "cpu") -> None:
        """Take over an array of the parameter's shape as its values on a device; on the CPU without
        a copy, so it must be nobody else's.
        """
        if values.shape != self.shape:
            raise ValueError(f"take: an array {values.shape} for a parameter {self.shape}")
        self.backend = get_backend(device)
        self.data = values if self.device == "cpu" else self.backend.from_numpy(values)
        self.grad = self.first_values = None


class _Deferral(threading.local):
    on = False


_deferral = _Deferral()


@contextmanager
def deferred_values() -> Iterator[None]:
    """Modules made inside have parameters with shapes, but no memory and no values: for whoever
    reads them from a file next. Each is then given values by `Parameter.take` or `initialise`.
    """
    before = _deferral.on
    _deferral.on = True
    try:
        yield
    finally:
        _deferral.on = before


class Module:
    """A part of a model, with Parameters and Modules as attributes. Subclasses define forward."""

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def children(self) -> Iterator[tuple[str, Module]]:
        """The modules among the attributes, with their names, in the order of assignment."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of this module and all below; a parameter in two places comes once,
        under the first name.
        """
        seen: set[int] = set()
        for name, parameter in self._all_names(prefix):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _all_names(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children():
            yield from child._all_names(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Parameter]:
        """The parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def num_parameters(self) -> int:
        """How many numbers the parameters hold, a tied matrix counted once."""
        return sum(parameter.size for parameter in self.parameters())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Every parameter's values by name, copied; a tied matrix once."""
        return {name: parameter.numpy() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy values into the parameters. Nothing is written unless all names and shapes fit.

        ValueError with a list of what is missing, unexpected or misshapen.
        """
        own = dict(self.named_parameters())
        values = {name: v if isinstance(v, Tensor) else np.asarray(v) for name, v in state.items()}
        problems = [f"missing: {name} {own[name].shape}" for name in own if name not in values]
        problems += [
            f"unexpected: {name} {values[name].shape}" for name in values if name not in own
        ]
        problems += [
            f"misshapen: {name} is {values[name].shape}, the model's is {own[name].shape}"
            for name in own
            if name in values and values[name].shape != own[name].shape
        ]
        problems += [
            f"not numbers: {name} is {v.dtype}"
            for name, v in values.items()
            if v.dtype.kind not in "iub" and not is_float(v.dtype)
        ]
        if problems:
            raise ValueError(
                f"load_state_dict into {type(self).__name__}:\n  " + "\n  ".join(problems)
            )
        for name, parameter in own.items():
            parameter.copy_(values[name])

    def train(self, mode: bool = True) -> Self:
        """Training mode (dropout on), or with False evaluation mode, here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode: dropout off."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: str, dtype: Any = None) -> Self:
        """Move the parameters to a device, and to a dtype if one is given, in place, so that ties
        stay; forget the gradients.

        TypeError for float64, which lives on the CPU alone, and for half precision there,
        MemoryError where there is no room: then nothing has moved.
        """
        moved = [(p, p.detach().to(device, dtype)) for p in self.parameters()]
        for parameter, there in moved:
            parameter.data, parameter.backend, parameter.grad = there.data, there.backend, None
        return self

    def astype(self, dtype: Any) -> Self:
        """Convert the parameters to float32, float64, or on a device that has them "float16" or
        "bfloat16", in place. Gradients are forgotten.

        TypeError for another dtype.
        """
        wanted = named(dtype)
        if not is_float(wanted):
            raise TypeError(f"parameters are floats, such as float32 or float64, not {wanted}")
        for parameter in self.parameters():
            parameter.data, parameter.grad = parameter.detach().astype(wanted).data, None
        return self

    def __repr__(self) -> str:
        lines = [
            f"  {name}: " + repr(child).replace("\n", "\n  ") for name, child in self.children()
        ]
        own = [f"{n} {tuple(p.shape)}" for n, p in vars(self).items() if isinstance(p, Parameter)]
        head = f"{type(self).__name__}({', '.join(own)})"
        return "\n".join([head, *lines])


class ModuleList(Module):
    """Modules by number: "0", "1", …"""

    def __init__(self, modules: list[Module]) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Any]:
        return (child for _, child in self.children())

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]


def normal_parameter(shape: tuple[int, ...], std: float) -> Parameter:
    """A parameter that starts as N(0, std)."""
    return Parameter.of_shape(shape, lambda: default_generator().normal(shape, std=std))


class Conv1D(Module):
    """y = x weight + bias, weight (n_in, n_out): the orientation and name of OpenAI's GPT-2.

    The weight starts as N(0, std), the bias as 0.
    """

    def __init__(self, n_in: int, n_out: int, std: float = 0.02) -> None:
        self.weight = normal_parameter((n_in, n_out), std)
        self.bias = Parameter.of_shape((n_out,), lambda: np.zeros(n_out, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)  # (..., n_in) -> (..., n_out)


class Linear(Module):
    """y = x weight^T + bias, weight (n_out, n_in): as in torch and the heads of checkpoints.

    The weight starts as N(0, std), the bias as 0.
    """

    def __init__(self, n_in: int, n_out: int, bias: bool = True, std: float = 0.02) -> None:
        self.weight = normal_parameter((n_out, n_in), std)
        zeros = Parameter.of_shape((n_out,), lambda: np.zeros(n_out, np.float32))
        self.bias = zeros if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias, transpose=True)  # (..., n_out)


class Embedding(Module):
    """Row id of weight (rows, width) for each id. The weight starts as N(0, std)."""

    def __init__(self, rows: int, width: int, std: float = 0.02) -> None:
        self.weight = normal_parameter((rows, width), std)

    def forward(self, ids: Any) -> Tensor:
        return functional.embedding(self.weight, ids)  # (...) -> (..., width)


class LayerNorm(Module):
    """Mean 0 and variance 1 over the last axis, then scaled and shifted by weight (1) and bias (0).
    Ba et al. 2016.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        self.weight = Parameter.of_shape((width,), lambda: np.ones(width, np.float32))
        self.bias = Parameter.of_shape((width,), lambda: np.zeros(width, np.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight, self.bias, self.eps)

    def of_sum(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """(x + r, forward(x + r)): x a residual stream, r what a layer adds to it."""
        return functional.add_layer_norm(x, r, self.weight, self.bias, self.eps)


class Dropout(Module):
    """In training, drop each element with probability p and divide the others by 1 - p."""

    def __init__(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p = {p} is not a probability")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training)
