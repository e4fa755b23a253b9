"""Every row of the table of operations on a device: outputs and gradients against NumPy's.

The device is the emulator; with MINIGPT_TEST_DEVICE=cuda in the environment, a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from minigpt import tolerances
from tensor import Tensor, cat
from tests.kernels.devices import NAME, check_every_access, needs_device
from tests.tensor.op_row import Case, as_tuple
from tests.tensor.op_table import CASES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]


@pytest.fixture
def _device():
    needs_device()


def one(outputs: tuple[Tensor, ...]) -> Tensor:
    """All outputs as a single flat tensor, so that one backward goes through all of them."""
    return outputs[0] if len(outputs) == 1 else cat([y.reshape(-1) for y in outputs])


def run(case: Case, inputs: list[Tensor]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(outputs, gradients of the inputs) for a random gradient of the output."""
    outputs = as_tuple(case.op.ours(*inputs))
    arrays = [y.numpy() if isinstance(y, Tensor) else np.asarray(y) for y in outputs]
    if not case.op.gradient:
        return arrays, []
    y = one(outputs)
    y.backward(np.random.default_rng(0).standard_normal(y.shape).astype(np.float32))
    nothing = [np.zeros(x.shape, np.float32) for x in inputs]
    return arrays, [n if x.grad is None else x.grad.numpy() for x, n in zip(inputs, nothing)]


def on_device(x: np.ndarray) -> Tensor:
    return Tensor(x, requires_grad=True, device=NAME)


def lying_otherwise(x: np.ndarray) -> Tensor:
    """The same values as a view with reversed strides, of every second row."""
    if x.ndim == 0:
        return on_device(x)
    view = Tensor(np.repeat(x.T, 2, axis=0), device=NAME)[::2]
    view = view.permute(*reversed(range(x.ndim))).detach()
    view.requires_grad = True
    return view


def assert_close(name: str, got: np.ndarray, exact: np.ndarray) -> None:
    """Equal where the results are integers or booleans, else within the tolerance of a device."""
    assert got.shape == exact.shape
    if exact.dtype.kind != "f":
        assert got.dtype == exact.dtype
        np.testing.assert_array_equal(got, exact)
        return
    assert got.dtype == np.float32
    allowed = tolerances.DEVICE_FLOAT32 * max(1.0, _rms(exact))
    result = tolerances.compare(name, got, exact, allowed)
    assert result.ok, str(result)


def _rms(x: np.ndarray) -> float:
    finite = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row(case: Case) -> None:
    check(case, on_device)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row_of_strided_inputs_where_every_access_is_checked(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_every_access(monkeypatch)
    check(case, lying_otherwise)


def check(case: Case, place: Callable[[np.ndarray], Tensor]) -> None:
    """Outputs and gradients against float64 on the CPU; the inputs stay as they were."""
    values = case.draw(np.float32)
    inputs = [place(x) for x in values]
    ours = run(case, inputs)
    exact = run(case, [Tensor(x, "float64", requires_grad=True) for x in values])
    for kind, got, wanted in zip(("output", "gradient"), ours, exact, strict=True):
        assert len(got) == len(wanted)
        for number, (a, b) in enumerate(zip(got, wanted, strict=True)):
            assert_close(f"{kind} {number}", a, b)
    for x, value in zip(inputs, values, strict=True):
        np.testing.assert_array_equal(x.numpy(), value)  # as it was
