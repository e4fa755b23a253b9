"""Is a derivative right? Compare it with differences, along random directions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tensor.graph import no_grad
from tensor.tensor import Tensor


def gradcheck(
    function: Callable[..., Tensor],
    *inputs: Tensor,
    directions: int = 3,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> float:
    """Check the gradients of `function(*inputs)` for every float64 input that requires one.

    For a random weight w on the output and a random direction d of unit length through all inputs
    together, the slope of L = sum(w * function(x)) along d is known twice: from `backward` as
    sum(d * dL/dx), and from the central difference (L(x + h d) - L(x - h d)) / 2h. Whatever the
    number of elements, that costs two calls a direction, and a wrong derivative of any element
    shows in almost every direction. The method is that of HIPS autograd's test_util.py.

    The inputs end with the values and the `.grad` that they had before.

    Returns the largest error seen, relative to 1 + |slope|: so scale a function up whose slopes are
    far below 1. AssertionError with both numbers where an error passes the tolerance; TypeError for
    inputs that are not float64, since float32 can't tell a wrong formula from rounding.
    """
    checked = [x for x in inputs if x.requires_grad]
    if not checked:
        raise ValueError("gradcheck: none of the inputs requires a gradient")
    for x in checked:
        if x.dtype != np.float64:
            raise TypeError(f"gradcheck: an input is {x.dtype}; differences need float64")
    before = [x.grad for x in checked]
    try:
        return _largest_error(function, inputs, checked, directions, step, tolerance, seed)
    finally:
        for x, grad in zip(checked, before, strict=True):
            x.grad = grad


def _largest_error(
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    checked: list[Tensor],
    directions: int,
    step: float,
    tolerance: float,
    seed: int,
) -> float:
    """The comparison of `gradcheck`, which overwrites the inputs' `.grad`."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for number in range(directions):
        for x in checked:
            x.grad = None
        output = function(*inputs)
        weight = rng.standard_normal(output.shape)
        output.backward(weight)
        direction = [rng.standard_normal(x.shape) for x in checked]
        length = np.sqrt(sum((d * d).sum() for d in direction)) or 1.0
        direction = [d / length for d in direction]
        slope = 0.0
        for d, x in zip(direction, checked, strict=True):
            slope += 0.0 if x.grad is None else float((d * x.grad.numpy()).sum())
        difference = _difference(function, inputs, checked, direction, weight, step)
        error = abs(slope - difference) / (1 + abs(difference))
        worst = max(worst, error)
        if not error <= tolerance:
            raise AssertionError(
                f"gradcheck: direction {number}: backward gives the slope {slope:.10g}, "
                f"differences {difference:.10g}, "
                f"relative error {error:.2g} > {tolerance:g}, inputs {[x.shape for x in checked]}"
            )
    return worst


def _difference(
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    checked: list[Tensor],
    direction: list[np.ndarray],
    weight: np.ndarray,
    step: float,
) -> float:
    """(L(x + h d) - L(x - h d)) / 2h; the inputs end as they were."""
    start = [x.numpy() for x in checked]
    values = []
    try:
        with no_grad():
            for h in (step, -step):
                for x, x0, d in zip(checked, start, direction, strict=True):
                    x.copy_(x0 + h * d)
                values.append(float((weight * function(*inputs).numpy()).sum()))
    finally:
        for x, x0 in zip(checked, start, strict=True):
            x.copy_(x0)
    return (values[0] - values[1]) / (2 * step)
