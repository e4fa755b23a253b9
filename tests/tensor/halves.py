"""What the tests of half precision share: rows of the table of operations, run in it."""

from __future__ import annotations

import numpy as np

from tensor import Tensor, cat
from tensor.dtypes import converted, is_float, name_of, named, widened
from tests.tensor.op_row import Case, as_tuple
from tests.tensor.op_table import CASES

# Root mean square of the error, x max(1, rms): eight bits of a bfloat16 and eleven of a float16, in
# operations that are made of several.
TOLERANCE = {"bfloat16": 2e-2, "float16": 3e-3}
# Not the one that moves its input by 1e3 first, which rounds most of it away.
HALF_CASES = [case for case in CASES if case.op.name != "layer_norm_shifted"]
LOSSES = ("cross_entropy", "bce", "mse")


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 numbers that are halves."""
    return widened(converted(x.astype(np.float32), named(dtype)))


def run(case: Case, dtype: str, device: str, values: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs, and the gradients of the inputs for a random gradient of the outputs."""
    inputs = [Tensor(x, dtype, requires_grad=True, device=device) for x in values]
    outputs = as_tuple(case.op.ours(*inputs))
    floats = [y for y in outputs if isinstance(y, Tensor) and is_float(y.dtype)]
    if device != "cpu" and not case.op.name.startswith(LOSSES):
        assert {name_of(y.dtype) for y in floats} <= {dtype}
    arrays = [y.numpy() if isinstance(y, Tensor) else np.asarray(y) for y in outputs]
    if not case.op.gradient:
        return arrays
    y = floats[0] if len(floats) == 1 else cat([y.reshape(-1) for y in floats])
    y.backward(rounded(np.random.default_rng(0).standard_normal(y.shape), "bfloat16"))
    for x in inputs:
        assert x.grad is None or x.grad.dtype == x.dtype
    return arrays + [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in inputs]


def assert_near(got: np.ndarray, exact: np.ndarray, tolerance: float) -> None:
    assert got.shape == exact.shape
    if exact.dtype.kind != "f":
        np.testing.assert_array_equal(got, exact)
        return
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(exact))
    numbers = np.isfinite(exact)
    if numbers.any():
        error = np.sqrt(np.mean((got[numbers] - exact[numbers].astype(np.float64)) ** 2))
        assert error <= tolerance * max(1.0, np.sqrt(np.mean(exact[numbers] ** 2)))
