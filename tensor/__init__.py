"""A small tensor library: arrays, automatic differentiation, layers, optimizers.

It knows nothing of GPT-2. Start reading at `tensor.py`; a derivative is found in `ops/`, the
arithmetic under it in `numpy_backend.py`.
"""

from tensor import functional, nn, optim, random
from tensor.apply import apply
from tensor.functional import (
    add_layer_norm,
    attention,
    bias_gelu,
    binary_cross_entropy_with_logits,
    cat,
    cross_entropy,
    dropout,
    embedding,
    layer_norm,
    linear,
    linear_gelu,
    mse_loss,
    stack,
    where,
)
from tensor.gradcheck import gradcheck
from tensor.graph import enable_grad, is_grad_enabled, no_grad
from tensor.nn import Module, Parameter
from tensor.precision import matmul_precision
from tensor.profiling import profile
from tensor.random import manual_seed
from tensor.recompute import recompute
from tensor.recorded_step import RecordedStep
from tensor.tensor import Tensor

__all__ = [
    "Module",
    "Parameter",
    "RecordedStep",
    "Tensor",
    "add_layer_norm",
    "apply",
    "attention",
    "bias_gelu",
    "binary_cross_entropy_with_logits",
    "cat",
    "cross_entropy",
    "dropout",
    "embedding",
    "enable_grad",
    "functional",
    "gradcheck",
    "is_grad_enabled",
    "layer_norm",
    "linear",
    "linear_gelu",
    "manual_seed",
    "matmul_precision",
    "mse_loss",
    "nn",
    "no_grad",
    "optim",
    "profile",
    "random",
    "recompute",
    "stack",
    "where",
]
