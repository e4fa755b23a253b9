"""What a device must be able to do: hold memory, copy, compile a `.cu` file, launch.

`EmulatorDevice` (kernels/emulator/device.py) and `CudaDevice` (kernels/cuda.py) are the two.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kernels.array import BFLOAT16, DeviceArray, Shape, Storage, contiguous_strides, dtype_name
from kernels.recording import Part, PrivateMemory, Recording, Runner
from kernels.signature import Signatures

Sizes = tuple[int, int, int]        # x, y, z


class KernelError(RuntimeError):
    """A kernel did what it must not: its name, file, line, block and thread are in the message."""


@dataclass
class Transfers:
    """Copies between host and device since the last `reset`: how many, and how many bytes."""

    to_device: int = 0
    to_device_bytes: int = 0
    from_device: int = 0
    from_device_bytes: int = 0

    def reset(self) -> None:
        self.to_device = self.to_device_bytes = self.from_device = self.from_device_bytes = 0


class Device(abc.ABC):
    """Memory and launches. `launches` counts them, a replay as one; set it to 0 to count anew.

    A launch gets its arguments packed as a C struct of the kernel's parameters would be: each at
    a multiple of its own size.
    """

    name: str                       # "emulator" or "cuda"
    checked: bool                   # is every access to memory looked at?
    architecture: int | None = None             # of a GPU: 90 is sm_90

    def __init__(self, name: str, checked: bool) -> None:
        self.name, self.checked = name, checked
        self.transfers = Transfers()
        self.launches = 0
        self.modules: dict[str, Any] = {}       # kernels.launch keeps what it has loaded here
        self.recording: Recording | None = None     # of the step that is being recorded

    # --- what each device has of its own

    @abc.abstractmethod
    def allocate(self, nbytes: int) -> int:
        """The address of new memory, also for 0 bytes. Raises MemoryError with the size."""

    @abc.abstractmethod
    def free(self, pointer: int) -> None:
        """Give back what `allocate` gave."""

    @abc.abstractmethod
    def _write(self, pointer: int, host: np.ndarray) -> None:
        """Copy a contiguous array to the device."""

    @abc.abstractmethod
    def _read(self, host: np.ndarray, pointer: int) -> None:
        """Copy to a contiguous array from the device, after the launches before it."""

    @abc.abstractmethod
    def copy_bytes(self, to: int, source: int, nbytes: int) -> None:
        """Copy from one address of the device to another; the two must not overlap."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait until all launches have ended."""

    @abc.abstractmethod
    def compile(self, path: Path, signatures: Signatures) -> dict[str, Any]:
        """{kernel name: whatever `launch` needs of it} of a `.cu` file."""

    @abc.abstractmethod
    def launch(self, entry: Any, packed: bytes, grid: Sizes, block: Sizes, shared: int,
               order: str | int | None) -> None:
        """Start a kernel. Raises KernelError. `order` is for the emulator; elsewhere None."""

    # --- what they share

    def prepare(self) -> None:
        """Compile what is not in the cache before it is asked for, where that saves time."""
        return

    def runner(self, parts: list[Part]) -> Runner:
        """A function that does all parts of a recording, the counters having moved by so much."""
        def run(moved: dict[str, int]) -> None:
            for part in parts:
                part.run(self, moved)
        return run

    def write(self, into: DeviceArray, host: np.ndarray) -> None:
        """Copy a contiguous array to one of the device, of the same dtype and shape."""
        if not into.is_contiguous or into.shape != host.shape or into.dtype != host.dtype:
            raise ValueError(f"write: {host.dtype} {host.shape} into {into!r} with strides "
                             f"{into.strides}: both without gaps, of one dtype and shape")
        if self.recording is not None:
            self.recording.add_constant(into, host)
        self.transfers.to_device += 1
        self.transfers.to_device_bytes += host.nbytes
        self._write(into.pointer, host)

    def copy(self, into: DeviceArray, source: DeviceArray) -> None:
        """Copy an array of the device to another of as many bytes, both without gaps; they must not
        overlap.
        """
        if not (into.is_contiguous and source.is_contiguous and into.nbytes == source.nbytes):
            raise ValueError(f"copy: {source!r} into {into!r}: both without gaps, as many bytes")
        if self.recording is not None:
            self.recording.add_copy(into, source)
        self.copy_bytes(into.pointer, source.pointer, into.nbytes)

    def read(self, host: np.ndarray, pointer: int) -> None:
        """Copy to a contiguous array from the device."""
        if self.recording is not None:
            self.recording.refuse_read(host)
        self.transfers.from_device += 1
        self.transfers.from_device_bytes += host.nbytes
        self._read(host, pointer)

    def empty(self, shape: int | Shape, dtype: np.dtype | type = np.float32,
              memory: PrivateMemory | None = None) -> DeviceArray:
        """A contiguous array whose elements are unknown until they are written. Its memory is the
        device's, or that of the step that is being recorded, unless it is named.

        Raises ValueError for a negative size, MemoryError, with the size, where there is no room.
        """
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = np.dtype(dtype)
        if (dtype.kind not in "biuf" and dtype != BFLOAT16) or not dtype.isnative:
            raise TypeError("a device holds bool, integer and float arrays, not "
                            f"{dtype_name(dtype)}")
        if any(size < 0 for size in shape):
            raise ValueError(f"empty: shape {shape} has a negative size")
        usual = self if self.recording is None else self.recording.memory
        storage = Storage(self, math.prod(shape) * dtype.itemsize, memory or usual)
        return DeviceArray(storage, shape, contiguous_strides(shape), 0, dtype)

    def from_numpy(self, array: np.ndarray) -> DeviceArray:
        """A contiguous copy on the device."""
        host = np.asarray(array, order="C")
        memory = None if self.recording is None else self.recording.constants
        on_device = self.empty(host.shape, host.dtype, memory)
        if host.size:
            self.write(on_device, host)
        return on_device

    def __repr__(self) -> str:
        return f"<device {self.name!r}{', checked' if self.checked else ''}>"
