"""What the primitives on CUDA devices share: a choice of version, and arrays as kernels want them.

The modules `cuda_*.py` hold the primitives of `tensor.backend.Backend` as plain functions, whose
first argument is the backend; `cuda_backend.py` makes methods of them. What they launch is in
`kernels/`. Each takes, as its last argument, the `Version` of the kernel to use: by default the
best one for the shapes. The choice follows from shapes alone, so that the same call gives the same
bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from kernels.array import DeviceArray
from kernels.launch import Kernel, load
from tensor.backend import Backend


class Version(NamedTuple):
    """One of the kernels of a family, and how it is launched."""

    name: str  # as in the .cu file
    block: int = 256  # threads in a block
    order: str | int | None = None  # of the threads, on the emulator alone: for tests


def kernel(file: str, name: str, array: DeviceArray) -> Kernel:
    """The kernel of that name on the array's device."""
    return load(file, array.device)[name]


def contiguous(be: Backend, x: DeviceArray) -> DeviceArray:
    """x itself where it lies row by row without gaps, else a copy that does."""
    return x if x.is_contiguous else be.copy(x)


def as_rows(be: Backend, x: DeviceArray) -> DeviceArray:
    """(..., C) as (N, C): a view where the strides allow it."""
    shape = (math.prod(x.shape[:-1]), x.shape[-1])
    view = x.reshape(shape)
    return be.copy(x).reshape(shape) if view is None else view


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
