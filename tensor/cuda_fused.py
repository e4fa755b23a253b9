"""Fused primitives on CUDA devices: softmax, layer norm, GELU.

Shapes are those of `tensor.backend.Backend`; the headers of the files in `kernels/` say what is
computed, and how. `cuda_launch.Version` says what the last argument of each function is.
"""

from __future__ import annotations

import math

from kernels.array import DeviceArray
from tensor import cuda_moving
from tensor.cuda_launch import Version, ceil_div
from tensor.cuda_layout import Launcher, is_aligned

LONG_ROW = 1024  # from so many columns on, a block works on a row instead of a warp
SHARED_FLOATS = 12 * 1024  # that fit the shared memory which every GPU gives a block

# --- softmax


def softmax(be: Launcher, x: DeviceArray, version: Version | None = None) -> DeviceArray:
    """exp(x) / sum(exp(x)) over the last axis."""
    return _over_rows(be, "softmax", [x], version)


def softmax_backward(
    be: Launcher, dy: DeviceArray, y: DeviceArray, version: Version | None = None
) -> DeviceArray:
    """dx = y * (dy - sum(dy * y))."""
    return _over_rows(be, "softmax_backward", [dy, y], version)


def log_softmax(be: Launcher, x: DeviceArray, version: Version | None = None) -> DeviceArray:
    """x - log(sum(exp(x))) over the last axis."""
    return _over_rows(be, "log_softmax", [x], version)


def log_softmax_backward(
    be: Launcher, dy: DeviceArray, y: DeviceArray, version: Version | None = None
) -> DeviceArray:
    """dx = dy - exp(y) * sum(dy)."""
    return _over_rows(be, "log_softmax_backward", [dy, y], version)


def _over_rows(
    be: Launcher, name: str, inputs: list[DeviceArray], version: Version | None
) -> DeviceArray:
    """Launch a kernel of softmax.cu on inputs of one shape; a result of that shape."""
    inputs = [be.contiguous(x) for x in inputs]
    y = be.empty(inputs[0].shape, inputs[0].dtype)
    if y.size:
        cols = y.shape[-1]
        rows = y.size // cols
        how = version or Version(name + ("_block" if cols > LONG_ROW else "_warp"), be.threads)
        be.kernel("softmax.cu", how.name)(
            *inputs, y, rows, cols, grid=_row_grid(how, rows), block=how.block, order=how.order
        )
    return y


def _row_grid(how: Version, rows: int) -> int:
    """How many blocks `rows` rows need: a version's name says who works on one."""
    if how.name.endswith("_block"):
        return rows
    return ceil_div(rows, how.block if how.name.endswith("_naive") else how.block // 32)


# --- layer norm


def layer_norm(
    be: Launcher,
    x: DeviceArray,
    w: DeviceArray,
    b: DeviceArray,
    eps: float,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """(..., C), (C,), (C,) -> y (..., C), mean (N,), 1/std (N,)."""
    x, w, b = (be.contiguous(a) for a in (x, w, b))
    y, C = be.empty(x.shape, x.dtype), x.shape[-1]
    rows = math.prod(x.shape[:-1])
    mean, rstd = be.empty((rows,), x.dtype), be.empty((rows,), x.dtype)
    if x.size:
        fits = C % 4 == 0 and C <= 2048 and is_aligned(x, w, b)
        how = version or Version("layer_norm_registers" if fits else "layer_norm_warp", be.threads)
        be.kernel("layer_norm.cu", how.name)(
            x, w, b, y, mean, rstd, rows, C, eps,
            grid=_row_grid(how, rows), block=how.block, order=how.order,
        )  # fmt: skip
    return y, mean, rstd


def layer_norm_backward(
    be: Launcher,
    dy: DeviceArray,
    x: DeviceArray,
    w: DeviceArray,
    mean: DeviceArray,
    rstd: DeviceArray,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """-> dx (..., C), dw (C,), db (C,)."""
    dy, x, w = (be.contiguous(a) for a in (dy, x, w))
    dx, rows, C = be.empty(x.shape, x.dtype), mean.shape[0], x.shape[-1]
    if x.size == 0:
        return dx, cuda_moving.full(be, (C,), 0, x.dtype), cuda_moving.full(be, (C,), 0, x.dtype)
    dw, db = be.empty((C,), x.dtype), be.empty((C,), x.dtype)
    fits = 2 * C <= SHARED_FLOATS
    how = version or Version(f"layer_norm_backward_{'block' if fits else 'naive'}", be.threads)
    if how.name == "layer_norm_backward_naive":
        be.kernel("layer_norm.cu", how.name)(
            dy, x, w, mean, rstd, dx, rows, C,
            grid=ceil_div(rows, how.block), block=how.block, order=how.order,
        )  # fmt: skip
        be.kernel("layer_norm.cu", "layer_norm_backward_columns")(
            dy, x, mean, rstd, dw, db, rows, C,
            grid=ceil_div(C, how.block), block=how.block, order=how.order,
        )  # fmt: skip
        return dx, dw, db
    blocks = min(rows, 512)
    parts = be.empty((blocks, 2 * C), x.dtype)
    be.kernel("layer_norm.cu", how.name)(
        dy, x, w, mean, rstd, dx, parts, rows, C,
        grid=blocks, block=how.block, shared=8 * C, order=how.order,
    )  # fmt: skip
    be.kernel("layer_norm.cu", "layer_norm_backward_sum")(
        parts, dw, db, blocks, C, grid=ceil_div(2 * C, 32), block=how.block, order=how.order
    )
    return dx, dw, db


# --- GELU


def gelu(
    be: Launcher, x: DeviceArray, derivative: bool, version: Version | None = None
) -> tuple[DeviceArray, DeviceArray | None]:
    """The exact form, and its derivative where wanted."""
    return _gelu(be, "gelu", x, derivative, version)


def gelu_tanh(
    be: Launcher, x: DeviceArray, derivative: bool, version: Version | None = None
) -> tuple[DeviceArray, DeviceArray | None]:
    """GPT-2's form, and its derivative where wanted."""
    return _gelu(be, "gelu_tanh", x, derivative, version)


def _gelu(
    be: Launcher, name: str, x: DeviceArray, derivative: bool, version: Version | None
) -> tuple[DeviceArray, DeviceArray | None]:
    x = be.contiguous(x)
    y = be.empty(x.shape, x.dtype)
    slope = be.empty(x.shape, x.dtype) if derivative else None
    if x.size:
        how = version or Version(name + ("_vector" if is_aligned(x) else "_naive"), be.threads)
        grid = be.blocks(ceil_div(x.size, 4), how.block)
        be.kernel("gelu.cu", how.name)(
            x, y, slope, x.size, grid=grid, block=how.block, order=how.order
        )
    return y, slope
