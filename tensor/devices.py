"""From a device's name to its backend."""

from __future__ import annotations

from functools import cache

from tensor.backend import Backend
from tensor.numpy_backend import NumpyBackend


@cache
def get_backend(device: str) -> Backend:
    """The backend for a device name: "cpu", the only one so far, or "auto", which chooses it.

    A backend is made when it is first asked for, not at import, because making one changes how this
    process allocates memory (`numpy_backend.keep_freed_memory`).

    Raises ValueError for another name.
    """
    if device == "auto":
        return get_backend("cpu")
    if device == "cpu":
        return NumpyBackend()
    raise ValueError(
        f"device {device!r} is not known; there are 'cpu' and 'auto' (which chooses 'cpu')"
    )
