"""What the bench runs: a problem a family, the versions that solve it, and what it takes at least.

A case makes its inputs from a seed, launches any version on them, and compares what comes out with
NumPy in float64. Its `bytes` and `flops` are those of the problem, by a formula that its class
states: each input read once, each output written once, an operation counted as the formula writes
it. What a version really moves is for the emulator's counts to say.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from kernels.array import BFLOAT16, DeviceArray
from kernels.interface import Device

Arrays = dict[str, DeviceArray]
Step = Callable[[], Any]
FLOAT = 4  # bytes
ALIGNED = frozenset({"arrays at multiples of 16 bytes"})

# How far a result may be off (`Case.error`), by the kind of arithmetic.
TOLERANCES = {"3xtf32": 1e-4, "tf32": 3e-3, "bf16": 2e-2, "float32": 1e-4}


def precision(version: str) -> str:
    """The arithmetic of a version, which its name says where it is not float32."""
    if version == "matmul_wmma":
        return "tf32"
    if version.endswith("rows_bf16"):  # its arrays are bfloat16, and widened
        return "float32"
    return next((kind for kind in TOLERANCES if kind in version), "float32")


def in_halves(version: str) -> bool:
    """Are the arrays of a version bfloat16?"""
    return "bf16_storage" in version or version.endswith(("rows_bf16", "_bfloat16"))


class Case(abc.ABC):
    """One problem of a family: a subclass with its sizes."""

    family: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]  # what --shape gives, in this order
    versions: ClassVar[dict[str, tuple[int, ...]]]  # the naive one first: blocks, the usual first
    # What a version asks of its arrays beyond their sizes; one that asks less can stand for it.
    needs: ClassVar[dict[str, frozenset[str]]] = {}
    files: ClassVar[tuple[str, ...]]  # where the versions are
    shapes: ClassVar[tuple[tuple[int, ...], ...]]  # on a GPU: those of GPT-2 of 124M
    small: ClassVar[tuple[int, ...]]  # on the emulator

    bytes: int  # each input read and each output written once
    flops: int
    saved: int = 0  # of these bytes, where a version's arrays are bfloat16

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal float32, the same in each process."""
        return self.rng.standard_normal(shape, np.float32)

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        """Why a version with such a block cannot solve a problem of these sizes, or ""."""
        return ""

    @abc.abstractmethod
    def upload(self, device: Device, version: str) -> Arrays:
        """The arrays of one launch of a version; results are NaN until it has been."""

    @abc.abstractmethod
    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        """All launches that the version takes."""

    @abc.abstractmethod
    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """(what a first launch left, what it should be, in float64), of a sample of the rows."""

    @abc.abstractmethod
    def torch_step(self, torch: Any) -> Step:
        """The same problem on torch's GPU, float32: cuBLAS's and cuDNN's choice of kernels."""

    def bytes_of(self, version: str) -> int:
        """Of the problem, in the arrays that a version takes."""
        return self.bytes - self.saved * in_halves(version)

    def tolerance(self, version: str) -> float:
        return TOLERANCES["bf16" if in_halves(version) else precision(version)]

    def error(self, arrays: Arrays) -> float:
        """The root mean square of the errors over that of the exact numbers, or the largest error
        over the largest number: what is more. NaN where the result has one. Where all exact
        numbers are 0, as the gradient of a softmax of one column, the errors themselves.
        """
        got, exact = self.compare(arrays)
        off = np.abs(got - exact)
        root = math.sqrt(float(np.mean(off * off)) / (float(np.mean(exact * exact)) or 1.0))
        return max(root, float(off.max() / (np.abs(exact).max() or 1.0)))

    def __str__(self) -> str:
        return " x ".join(f"{axis} {n:,}" for axis, n in zip(self.axes, self.sizes))


class Rows(Case):
    """A problem of (rows, columns). columns: of a version the most that it takes, and of what they
    must be a multiple, where it does not take any number.
    """

    columns: ClassVar[dict[str, tuple[int, int]]] = {}

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        most, multiple = cls.columns.get(version, (sizes[1], 1))
        if sizes[1] > most or sizes[1] % multiple:
            which = f"a multiple of {multiple}, " if multiple > 1 else ""
            return f"it takes {which}up to {most} columns, not {sizes[1]}"
        return ""


def sample(n: int) -> np.ndarray:
    """Up to 64 of n indices, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, 64).astype(int))


def put(device: Device, x: np.ndarray, halves: bool = False) -> DeviceArray:
    """float32 on the device, or the nearest bfloat16, ties to even."""
    if halves:
        bits = x.view(np.uint32)
        x = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16).view(BFLOAT16)
    return device.from_numpy(x)


def nan(device: Device, *shape: int, halves: bool = False) -> DeviceArray:
    """A result that no kernel has written is not mistaken for a right one."""
    return put(device, np.full(shape, np.nan, np.float32), halves)


def get(x: DeviceArray) -> np.ndarray:
    """float32 on the host, of either."""
    host = x.numpy()
    return (host.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if (
        host.dtype == BFLOAT16) else host  # fmt: skip


def on_gpu(torch: Any, *arrays: np.ndarray) -> list[Any]:
    """torch's tensors of them, on its GPU."""
    return [torch.from_numpy(x).to("cuda") for x in arrays]
