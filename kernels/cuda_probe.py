"""What NVIDIA's driver says of itself and its GPUs, asked through ctypes: PyCUDA is not needed."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kernels.cuda_errors import explain_driver, no_driver

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
KERNEL_MODULE = Path("/proc/driver/nvidia/version")     # Linux: the driver's other half


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, architecture ("sm_90") and memory in bytes."""

    name: str
    arch: str
    memory: int


@dataclass
class Driver:
    """cuda: the newest CUDA that the driver knows, "13.0"; kernel_module: its version, or ""."""

    cuda: str
    kernel_module: str
    gpus: list[Gpu] = field(default_factory=list)


def probe_driver() -> Driver:
    """Ask the driver. Raises CudaError where there is none, or it refuses, or has no GPU."""
    try:
        lib = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise no_driver(f"the library {LIBRARY}: {error}") from None
    number = ctypes.c_int()
    lib.cuDriverGetVersion(ctypes.byref(number))
    module = KERNEL_MODULE.read_text().splitlines()[0] if KERNEL_MODULE.exists() else ""
    driver = Driver(f"{number.value // 1000}.{number.value % 1000 // 10}", module)
    _check(lib, lib.cuInit(0), "cuInit")
    _check(lib, lib.cuDeviceGetCount(ctypes.byref(number)), "cuDeviceGetCount")
    if number.value == 0:
        raise explain_driver(RuntimeError("no CUDA-capable device is detected"), "cuInit")
    driver.gpus = [_gpu(lib, ordinal) for ordinal in range(number.value)]
    return driver


def _gpu(lib: ctypes.CDLL, ordinal: int) -> Gpu:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    _check(lib, lib.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
    lib.cuDeviceGetName(name, len(name), device)
    lib.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), device)
    lib.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode(errors="replace"), f"sm_{major.value}{minor.value}", memory.value)


def _check(lib: ctypes.CDLL, status: int, function: str) -> None:
    if status:
        text = ctypes.c_char_p()
        lib.cuGetErrorString(status, ctypes.byref(text))
        words = (text.value or b"unknown error").decode(errors="replace")
        raise explain_driver(RuntimeError(f"{function} failed: {words}"), function) from None
