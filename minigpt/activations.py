"""The activation functions that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable

from tensor import Tensor


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function for a configuration's `activation_function`. ValueError for an unknown name.

    "gelu_new", GPT-2's own, is the tanh form of GELU; "gelu" is the exact one. They differ by up to
    5e-4, enough to spoil a comparison of logits.
    """
    if name in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"):
        return lambda x: x.gelu("tanh")
    if name in ("gelu", "gelu_python"):
        return Tensor.gelu
    if name in ("silu", "swish"):
        return Tensor.silu
    if name == "relu":
        return Tensor.relu
    if name == "tanh":
        return Tensor.tanh
    if name == "sigmoid":
        return Tensor.sigmoid
    if name == "linear":
        return lambda x: x
    raise ValueError(f"activation_function {name!r} is not known")
