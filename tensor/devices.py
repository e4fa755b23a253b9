"""From a device's name to its backend."""

from __future__ import annotations

import warnings
from functools import cache

from tensor.backend import Backend
from tensor.numpy_backend import NumpyBackend

DEVICES = ("cpu", "cuda", "emulator", "auto")


@cache
def get_backend(device: str) -> Backend:
    """The backend for a device name, the same one each time.

    "cpu": NumPy. "cuda": our kernels on an NVIDIA GPU. "emulator": the same kernels on the CPU,
    compiled by the host's C++ compiler; slow, and for tests and study. "auto": "cuda" where it
    works, else "cpu", with one warning that says why.

    A backend is made when it is first asked for, not at import: NumPy's changes how this process
    allocates memory (`numpy_backend.keep_freed_memory`), the others look for a driver or a
    compiler.

    Raises ValueError for another name, and for "cuda" and "emulator" a RuntimeError or an
    ImportError that says what is missing.
    """
    if device == "cpu":
        return NumpyBackend()
    if device == "auto":
        return _cuda_or_cpu()
    if device not in DEVICES:
        raise ValueError(f"device {device!r} is not known; there are {', '.join(DEVICES)}")
    from tensor.cuda_backend import CudaBackend  # imports `kernels`, which only these two need

    return CudaBackend(device)


def _cuda_or_cpu() -> Backend:
    try:
        return get_backend("cuda")
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f'device "auto" computes on the CPU: {reason}', stacklevel=2)
        return get_backend("cpu")
