"""The activation functions that a configuration can name."""

from __future__ import annotations

import math
from collections.abc import Callable

from tensor import Module, Tensor, linear_gelu, where
from tensor.nn import Conv1D


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's own: the tanh form of GELU. It differs from the exact one by up to 5e-4, enough to
    spoil a comparison of logits. Hendrycks and Gimpel 2016, section 2.
    """
    return x.gelu("tanh")


def mish(x: Tensor) -> Tensor:
    """x * tanh(log(1 + e^x)) (Misra 2019), written with s = sigmoid(x) and r = sigmoid(-x).

    1 + e^x = 1 / r, so that the tanh is (1 - r^2) / (1 + r^2), where 1 - r^2 = s (1 + r) loses no
    digits.
    """
    s, r = x.sigmoid(), (-x).sigmoid()
    return x * s * (1 + r) / (1 + r * r)


def laplace(x: Tensor) -> Tensor:
    """The normal distribution's function with mean sqrt(1/2) and variance 1 / (4 pi), rounded to
    six digits: nearly a squared ReLU, but bounded. Ma et al. 2022 (MEGA), section 3.2.
    """
    return (1 + ((x - 0.707107) / (0.282095 * math.sqrt(2))).erf()) * 0.5


# The names of transformers 4.56.2. Those that stand together are one function in other words.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu": Tensor.gelu,  # exact, with erf
    "gelu_python": Tensor.gelu,
    "gelu_10": lambda x: x.gelu().clip(-10, 10),
    "quick_gelu": lambda x: x * (x * 1.702).sigmoid(),
    "silu": Tensor.silu,
    "swish": Tensor.silu,
    "mish": mish,
    "relu": Tensor.relu,
    "relu2": lambda x: x.relu() ** 2,
    "relu6": lambda x: x.relu().clip(high=6),
    "leaky_relu": lambda x: where(x > 0, x, x * 0.01),
    "tanh": Tensor.tanh,
    "sigmoid": Tensor.sigmoid,
    "laplace": laplace,
    "linear": lambda x: x,
}
# Those before which a bias can be added in the same walk, and their form in tensor.linear_gelu.
WITH_BIAS: dict[Callable[[Tensor], Tensor], str] = {gelu_tanh: "tanh", Tensor.gelu: "none"}
# Known to transformers, but with parameters of their own, which no GPT-2 checkpoint has.
LEARNED_ACTIVATIONS = ("prelu", "xielu")


def activated(layer: Module, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """activation(layer(x)). After a Conv1D, a GELU adds the bias itself and sums up its gradient,
    or is part of the product: the same numbers, with fewer walks through the largest array of a
    block.
    """
    form = WITH_BIAS.get(activation)
    if form is None or type(layer) is not Conv1D:
        return activation(layer(x))
    return linear_gelu(x, layer.weight, layer.bias, form)
