"""What to say when training comes to numbers that are none, or to the end of the memory."""

import math

import numpy as np

from minigpt.presets import TrainConfig
from tensor.nn import Module


def require_finite(value: float, what: str, step: int, model: Module) -> None:
    """Raise FloatingPointError where ``value`` is not finite, with the first tensor that is not."""
    if math.isfinite(value):
        return
    raise FloatingPointError(
        f"step {step}: the {what} is {value}; {_first_non_finite(model)}; stopped, the last "
        "checkpoint is as it was: lower the learning rate (--set lr=...) or look for what the "
        "text holds there"
    )


def _first_non_finite(model: Module) -> str:
    """Where the trouble shows first: weights spoil the forward pass, gradients the weights."""
    for kind in ("parameter", "gradient of"):
        for name, parameter in model.named_parameters():
            tensor = parameter if kind == "parameter" else parameter.grad
            if tensor is not None and not np.isfinite(tensor.numpy()).all():
                return f"the first non-finite tensor is {kind} {name} {parameter.shape}"
    return "all parameters and gradients are finite, so it arose in the forward pass"


def out_of_memory(step: int, config: TrainConfig, error: MemoryError) -> MemoryError:
    """An error that says what to lower, and how to keep the result all the same."""
    tokens = f"{config.batch_size} x {config.block_size} tokens at a time"
    return MemoryError(f"step {step}, {tokens} ({error}): {what_needs_less(config)}")


def what_needs_less(config: TrainConfig) -> str:
    """Which settings to change where a step does not fit into the memory."""
    B, times = config.batch_size, config.grad_accumulation
    if B == 1:
        return "lower block_size or the size of the model" + (
            "" if config.recompute else ", or set recompute=true"
        )
    part = next(n for n in range(2, B + 1) if B % n == 0)
    return (
        f"batch_size={B // part} with grad_accumulation={times * part} needs less and gives the "
        "same gradients; or lower block_size, or the size of the model"
    )
