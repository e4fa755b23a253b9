"""Arrays in device memory. There is one device so far: the emulator."""

from __future__ import annotations

import ctypes
import math
import weakref

import numpy as np

from kernels.emulator.runtime import runtime


class DeviceArray:
    """A contiguous array in device memory, of any shape; freed with its last reference.

    Its elements are unknown until a kernel or `to_device` writes them (the emulator fills them
    with NaN). Raises MemoryError, with the size, where the device has no room, ValueError for a
    negative size.
    """

    def __init__(self, shape: int | tuple[int, ...], dtype: np.dtype | type = np.float32) -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dtype = np.dtype(dtype)
        if any(size < 0 for size in self.shape):
            raise ValueError(f"DeviceArray: shape {self.shape} has a negative size")
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        lib = runtime()
        self.pointer = lib.emu_malloc(self.nbytes)
        if not self.pointer:
            raise MemoryError(f"the device has no {self.nbytes:,} bytes left for {self!r}")
        weakref.finalize(self, lib.emu_free, self.pointer)

    def numpy(self) -> np.ndarray:
        """A copy in the host's memory."""
        host = np.empty(self.shape, self.dtype)
        ctypes.memmove(host.ctypes.data, self.pointer, self.nbytes)
        return host

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"


def to_device(array: np.ndarray) -> DeviceArray:
    """Copy a NumPy array, made contiguous, to the device."""
    host = np.asarray(array, order="C")
    device = DeviceArray(host.shape, host.dtype)
    runtime().emu_copy_to_device(device.pointer, host.ctypes.data, device.nbytes)
    return device
