"""From a device's name to its backend."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np

from tensor.backend import Backend
from tensor.numpy_backend import NumpyBackend

DEVICES = ("cpu", "cuda", "emulator", "auto")


def get_backend(device: str) -> Backend:
    """The backend for a device name, the same one each time.

    "cpu": NumPy. "cuda": our kernels on an NVIDIA GPU. "emulator": the same kernels on the CPU,
    compiled by the host's C++ compiler; slow, and for tests and study. "auto": "cuda" where it
    works, else "cpu", with one warning that says why.

    A backend is made when it is first asked for, not at import: NumPy's changes how this process
    allocates memory (`numpy_backend.keep_freed_memory`), the others look for a driver or a
    compiler.

    Raises ValueError for another name; for "cuda" and "emulator" an OSError or RuntimeError that
    says what is missing.
    """
    return _make(choose() if device == "auto" else device)


@cache
def _make(device: str) -> Backend:
    if device == "cpu":
        return NumpyBackend()
    if device not in DEVICES:
        names = ", ".join(map(repr, DEVICES))
        raise ValueError(f"device {device!r} is not known; there are {names}")
    from tensor.cuda_backend import CudaBackend  # imports `kernels`, which only these two need

    return CudaBackend(device)


@cache
def choose() -> str:
    """What "auto" stands for here: "cuda" where a kernel can be compiled and run, else "cpu"."""
    try:
        _make("cuda").full((1,), 0.0, np.dtype("float32"))
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"device 'auto' computes on the CPU: {reason}", stacklevel=2)
        return "cpu"
    return "cuda"
