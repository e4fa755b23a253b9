"""The GELU on CUDA devices, with a bias before it or without: the kernels of `kernels/gelu.cu`.

Shapes are those of `tensor.backend.Backend`.
"""

from __future__ import annotations

import math

from kernels import grids
from kernels.array import DeviceArray
from kernels.grids import ceil_div
from tensor import cuda_moving, cuda_reduce
from tensor.cuda_launch import Version, tuned
from tensor.cuda_layout import FLOAT, Launcher, for_type, is_aligned

FILE = "gelu.cu"


def gelu(
    be: Launcher,
    x: DeviceArray,
    b: DeviceArray | None,
    tanh: bool,
    keep: bool,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray | None]:
    """GELU(x + b), and x, from which the backward pass computes the slope anew."""
    x = be.contiguous(x)
    b = None if b is None else be.contiguous(b)
    y = be.empty(x.shape, x.dtype)
    if x.size:
        how = version or Version(_name(tanh, "", in_fours(x, b)), be.threads)
        if version is None and b is not None and x.dtype == FLOAT:  # as the bench measures it
            how = tuned(be, "gelu", (x.size // b.size, b.size), how)
        be.kernel(FILE, for_type(how.name, x.dtype))(
            x, b, y, x.size, _columns(b), grid=be.blocks(ceil_div(x.size, 4), how.block),
            block=how.block, order=how.order,
        )  # fmt: skip
    return y, x if keep else None


def gelu_backward(
    be: Launcher,
    dy: DeviceArray,
    kept: DeviceArray,
    b: DeviceArray | None,
    tanh: bool,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray | None]:
    """dx = dy * GELU'(x + b), db = its sum over rows, None without a bias."""
    dy, x = be.contiguous(dy), be.contiguous(kept)
    b = None if b is None else be.contiguous(b)
    dx = be.empty(x.shape, x.dtype)
    if x.size == 0:
        return dx, None if b is None else cuda_moving.full(be, b.shape, 0, x.dtype)
    fours = in_fours(x, b) and is_aligned(dy)
    how = version or Version(
        f"gelu_{'tanh_' if tanh else ''}backward_bias" if b is not None and fours
        else _name(tanh, "backward_", fours), be.threads)  # fmt: skip
    if how.name.endswith("_bias") and b is not None:
        return dx, _backward_bias(be, dy, x, b, dx, how)
    be.kernel(FILE, for_type(how.name, x.dtype))(
        dy, x, b, dx, x.size, _columns(b), grid=be.blocks(ceil_div(x.size, 4), how.block),
        block=how.block, order=how.order,
    )  # fmt: skip
    rows = tuple(range(x.ndim - 1))
    return dx, None if b is None else cuda_reduce.sum(be, dx, rows, False)


def _backward_bias(
    be: Launcher, dy: DeviceArray, x: DeviceArray, b: DeviceArray, dx: DeviceArray, how: Version
) -> DeviceArray:
    """Fill dx; db, the sum of what each chunk of rows left."""
    C = b.size
    rows = math.prod(x.shape[:-1])
    grid = grids.gelu_backward_bias(rows, C)
    parts = be.empty((grid[1], C), FLOAT)
    be.kernel(FILE, for_type(how.name, x.dtype))(
        dy, x, b, dx, parts, rows, C, grid=grid, block=how.block, order=how.order
    )
    db = cuda_reduce.sum(be, parts, (0,), False)
    return db if x.dtype == FLOAT else cuda_moving.cast(be, db, x.dtype)


def _name(tanh: bool, way: str, fours: bool) -> str:
    return f"gelu_{'tanh_' if tanh else ''}{way}{'vector' if fours else 'naive'}"


def in_fours(x: DeviceArray, b: DeviceArray | None) -> bool:
    """May a thread take four neighbouring elements at a time?"""
    return is_aligned(x) and (b is None or (b.size % 4 == 0 and is_aligned(b)))


def _columns(b: DeviceArray | None) -> int:
    return 1 if b is None else b.size
