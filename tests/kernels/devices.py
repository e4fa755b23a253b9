"""What the tests of kernels share: devices, and a comparison."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from kernels.device import get_device
from kernels.emulator.build import CompilerNotFoundError, compiler
from kernels.interface import Device

SIZES = [1, 33, 65, 1000]
ORDERS: list[Any] = ["forward", "reverse", 7]


def needs_compiler() -> None:
    """Skip the test, with the reason, where the emulator cannot compile."""
    try:
        compiler()
    except CompilerNotFoundError as error:
        pytest.skip(str(error))


def emulator(checked: bool = False) -> Device:
    return get_device("emulator", checked)


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
    """The largest difference, relative to the root mean square of what is expected."""
    got = np.asarray(got if isinstance(got, np.ndarray) else got.numpy())
    assert got.shape == np.shape(expected) and got.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    if np.size(expected) and not np.isnan(expected).all():
        scale = np.sqrt(np.nanmean(np.square(expected, dtype=np.float64)))
        assert np.nanmax(np.abs(got - expected)) <= tolerance * max(scale, 1e-30)
