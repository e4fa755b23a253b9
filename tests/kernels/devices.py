"""What the tests of kernels share: devices, and a comparison.

They run on the emulator; with MINIGPT_TEST_DEVICE=cuda in the environment on a GPU.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernels.device import get_device
from kernels.emulator.build import compiler
from kernels.interface import Device
from tensor import devices
from tensor.cuda_backend import CudaBackend

SIZES = [1, 33, 65, 1000]
NAME = os.environ.get("MINIGPT_TEST_DEVICE", "emulator")
ORDERS: list[Any] = ["forward", "reverse", 7] if NAME == "emulator" else [None]


@functools.cache
def _what_is_missing() -> str:
    """Why the device can't be had or can't compile, or nothing; looked for once."""
    try:
        if NAME == "emulator":
            compiler()
        else:
            get_device(NAME)
    except OSError as error:
        return str(error)
    return ""


def needs_device() -> None:
    """Skip the test, with the reason, where there is no device."""
    if _what_is_missing():
        pytest.skip(_what_is_missing())


def on_each_device(cases: list[str], single: Callable[[str], bool] = lambda case: True) -> Any:
    """Parametrise a test by (case, device): each case on the CPU and, in the slow tier, those that
    are single precision on a device.
    """
    return pytest.mark.parametrize(
        ("case", "device"),
        [pytest.param(case, "cpu", id=case) for case in cases]
        + [
            pytest.param(case, NAME, id=f"{case}-{NAME}", marks=pytest.mark.slow)
            for case in cases
            if single(case)
        ],
    )


def backend(checked: bool = False) -> CudaBackend:
    return CudaBackend(NAME, checked)


def check_every_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the rest of a test, let tensors on the device be on its checked mode."""
    checked, make = backend(checked=True), devices._make  # noqa: SLF001
    monkeypatch.setattr(devices, "_make", lambda name: checked if name == NAME else make(name))


def device(checked: bool = False) -> Device:
    return get_device(NAME, checked)


def normal(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Normal numbers, float32."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def one_axis_at_a_time(base: tuple[int, ...]) -> list[tuple[int, ...]]:
    """`base` with each of its axes replaced by each of SIZES, one at a time."""
    shapes = [base]
    for axis, size in itertools.product(range(len(base)), SIZES):
        shapes.append((*base[:axis], size, *base[axis + 1:]))
    return list(dict.fromkeys(shapes))


def close(got: Any, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """The root mean square of the difference, relative to that of what is expected, and the
    largest difference relative to the largest number.
    """
    got = np.asarray(got if isinstance(got, np.ndarray) else got.numpy())
    assert got.shape == np.shape(expected) and got.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    numbers = ~np.isnan(expected)
    if numbers.any():
        difference, expected = np.abs(got - expected)[numbers], np.abs(expected)[numbers]
        assert np.square(difference).mean() ** 0.5 <= tolerance * np.square(expected).mean() ** 0.5
        assert difference.max() <= tolerance * expected.max()
