"""Fused primitives on CUDA devices: softmax, layer norm, embedding, cross-entropy, dropout.

Shapes are those of `tensor.backend.Backend`; the headers of the files in `kernels/` say what is
computed, and how. `cuda_launch.Version` says what the last argument of each function is.
"""

from __future__ import annotations

import math

from kernels import grids
from kernels.array import DeviceArray
from kernels.grids import ceil_div
from tensor import cuda_elementwise, cuda_moving
from tensor.backend import DropoutMask
from tensor.cuda_launch import Version, random_numbers, tuned
from tensor.cuda_layout import FLOAT, LONG, Launcher, for_type, is_aligned
from tensor.random import threshold

LONG_ROW = 1024  # of more columns than this, a block works on a row instead of a warp
# What fits the shared memory that every GPU gives a block, beside the 64 floats of block_sums.
SHARED_FLOATS = 12 * 1024 - 64

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
        usual = Version(name + _kind(cols, is_aligned(*inputs)), be.threads)
        how = version or tuned(be, name, (rows, cols), usual)
        be.kernel("softmax.cu", how.name)(
            *inputs, y, rows, cols,
            grid=grids.over_rows(how.name, how.block, rows), block=how.block, order=how.order,
        )  # fmt: skip
    return y


def _kind(cols: int, aligned: bool) -> str:
    """The version of softmax.cu for rows of `cols` columns: the one that reads them once, or of
    rows that no warp holds the one that reads them twice; four columns a load where that works.
    """
    if cols > LONG_ROW:
        return "_long" if aligned else "_block"
    return "_vector" if aligned and cols % 4 == 0 else "_registers"


def _threads_of_row(be: Launcher, columns: int) -> int:
    """In a block that works on a row: each has four columns or more, for sums have their price."""
    return min(be.threads, 32 * ceil_div(columns, 128))


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
    mean, rstd = be.empty((rows,)), be.empty((rows,))
    if x.size:
        how = version or _layer_norm_version(be, C, is_aligned(x, w, b))
        if version is None and x.dtype == FLOAT:
            how = tuned(be, "layer_norm", (rows, C), how)
        be.kernel("layer_norm.cu", for_type(how.name, x.dtype))(
            x, w, b, y, mean, rstd, rows, C, eps,
            grid=grids.over_rows(how.name, how.block, rows), block=how.block, order=how.order,
        )  # fmt: skip
    return y, mean, rstd


def add_layer_norm(
    be: Launcher,
    x: DeviceArray,
    r: DeviceArray,
    w: DeviceArray,
    b: DeviceArray,
    eps: float,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray]:
    """-> x + r, and the layer norm of that, in one launch where four columns a load work."""
    x, r, w, b = (be.contiguous(a) for a in (x, r, w, b))
    how = version or _layer_norm_version(be, x.shape[-1], is_aligned(x, r, w, b))
    if x.size == 0 or not how.name.endswith(("_vector", "_long")):
        total = cuda_elementwise.binary("add")(be, x, r)
        return total, *layer_norm(be, total, w, b, eps)
    rows, C = math.prod(x.shape[:-1]), x.shape[-1]
    total, y = be.empty(x.shape, x.dtype), be.empty(x.shape, x.dtype)
    mean, rstd = be.empty((rows,)), be.empty((rows,))
    be.kernel("layer_norm.cu", for_type(f"add_{how.name}", x.dtype))(
        x, r, w, b, total, y, mean, rstd, rows, C, eps,
        grid=grids.over_rows(how.name, how.block, rows), block=how.block, order=how.order,
    )  # fmt: skip
    return total, y, mean, rstd


def layer_norm_in_fours(C: int, aligned: bool) -> bool:
    """Is there a version that takes four columns at a time? Those of bfloat16 all do."""
    return aligned and C % 4 == 0 and C <= 16 * 1024


def _layer_norm_version(be: Launcher, C: int, aligned: bool) -> Version:
    """Whatever reads x once, if there is such a version for C columns."""
    fours = layer_norm_in_fours(C, aligned)
    if C <= LONG_ROW:
        return Version("layer_norm_vector" if fours else "layer_norm_registers", be.threads)
    if fours:
        return Version("layer_norm_long", 32 * ceil_div(C, 512))
    return Version("layer_norm_block", _threads_of_row(be, C))


def layer_norm_backward(
    be: Launcher,
    dy: DeviceArray,
    x: DeviceArray,
    w: DeviceArray,
    mean: DeviceArray,
    rstd: DeviceArray,
    plus: DeviceArray | None,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """-> dx + plus (..., C), dw (C,), db (C,)."""
    dy, x, w = (be.contiguous(a) for a in (dy, x, w))
    plus = None if plus is None else be.contiguous(plus)
    dx, rows, C = be.empty(x.shape, x.dtype), mean.shape[0], x.shape[-1]
    if x.size == 0:
        return dx, cuda_moving.full(be, (C,), 0, x.dtype), cuda_moving.full(be, (C,), 0, x.dtype)
    dw, db = be.empty((C,), x.dtype), be.empty((C,), x.dtype)
    aligned = is_aligned(dy, x, w, *(() if plus is None else (plus,)))
    how = version or _layer_norm_backward_version(be, C, aligned)
    kernel = be.kernel("layer_norm.cu", for_type(how.name, x.dtype))
    if how.name in ("layer_norm_backward_naive", "layer_norm_backward_rows"):
        kernel(
            dy, x, w, mean, rstd, dx, rows, C,
            grid=grids.over_rows(how.name, how.block, rows), block=how.block, order=how.order,
        )  # fmt: skip
        be.kernel("layer_norm.cu", "layer_norm_backward_columns")(
            dy, x, mean, rstd, dw, db, rows, C,
            grid=ceil_div(C, how.block), block=how.block, order=how.order,
        )  # fmt: skip
    else:
        blocks = grids.layer_norm_backward(rows)
        parts = be.empty((blocks, 2 * C))
        vector = how.name == "layer_norm_backward_vector"
        kernel(
            dy, x, w, mean, rstd, *((plus,) if vector else ()), dx, parts, rows, C, grid=blocks,
            block=how.block, shared=0 if vector else 8 * C, order=how.order,
        )  # fmt: skip
        plus = None if vector else plus
        be.kernel("layer_norm.cu", for_type("layer_norm_backward_sum", x.dtype))(
            parts, dw, db, blocks, C, grid=grids.layer_norm_backward_sum(C),
            block=max(how.block, be.threads), order=how.order,
        )  # fmt: skip
    if plus is not None:
        cuda_elementwise.accumulate(be, dx, plus)
    return dx, dw, db


def layer_norm_backward_in_fours(C: int, aligned: bool) -> bool:
    """The same of the gradient, which holds two rows in registers."""
    return aligned and C % 4 == 0 and C <= 2048


def _layer_norm_backward_version(be: Launcher, C: int, aligned: bool) -> Version:
    """Whatever reads x and dy least often, of the versions that there are for C columns."""
    if layer_norm_backward_in_fours(C, aligned):
        return Version("layer_norm_backward_vector", 32 * ceil_div(C, 256))
    kind = "block" if 2 * C <= SHARED_FLOATS else "rows"
    return Version(f"layer_norm_backward_{kind}", _threads_of_row(be, C))


# --- embedding


def embedding(
    be: Launcher, weight: DeviceArray, ids: DeviceArray, version: Version | None = None
) -> DeviceArray:
    """(V, C), (...) -> (..., C): a row for each id."""
    weight, ids = be.contiguous(weight), _long(be, ids)
    C = weight.shape[-1]
    y = be.empty((*ids.shape, C), weight.dtype)
    if y.size:
        fits = C % 4 == 0 and is_aligned(weight)
        how = version or Version("embedding_vector" if fits else "embedding_naive", be.threads)
        work = y.size // 4 if how.name == "embedding_vector" else y.size
        be.kernel("embedding.cu", how.name)(
            weight, ids, y, ids.size, C,
            grid=ceil_div(work, how.block), block=how.block, order=how.order,
        )  # fmt: skip
    return y


def embedding_backward(
    be: Launcher, dy: DeviceArray, ids: DeviceArray, rows: int, version: Version | None = None
) -> DeviceArray:
    """(..., C), (...) -> (rows, C): the rows of dy with the same id added up, in their order."""
    dy, ids, C = be.contiguous(dy), _long(be, ids), dy.shape[-1]
    if dy.size == 0 or rows == 0:
        return cuda_moving.full(be, (rows, C), 0, dy.dtype)
    how = version or Version("embedding_backward_first", be.threads)
    if how.name == "embedding_backward_naive":
        dweight = be.empty((rows, C), dy.dtype)
        grid = ceil_div(rows * C, how.block)
    else:
        dweight = cuda_moving.full(be, (rows, C), 0, dy.dtype)
        grid = ceil_div(ids.size * ceil_div(C, 128), how.block // 32)
    be.kernel("embedding.cu", for_type(how.name, dy.dtype))(
        dy, ids, dweight, ids.size, rows, C, grid=grid, block=how.block, order=how.order
    )
    return dweight


def _long(be: Launcher, ids: DeviceArray) -> DeviceArray:
    """Ids without gaps, as int64."""
    return be.contiguous(ids if ids.dtype == LONG else cuda_moving.cast(be, ids, LONG))


# --- cross-entropy


def cross_entropy(
    be: Launcher,
    logits: DeviceArray,
    targets: DeviceArray,
    ignore: int,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """(N, V), (N,) -> mean loss (), log-sum-exp (N,), the number of targets that count ()."""
    logits, targets = be.contiguous(logits), _long(be, targets)
    rows, V = logits.shape
    lse, losses, loss, count = (be.empty(shape) for shape in ((rows,), (rows,), (), ()))
    how = version or _cross_entropy_version(be, "cross_entropy", logits)
    if version is None and logits.dtype == FLOAT:
        how = tuned(be, "cross_entropy", (rows, V), how)
    if rows:
        be.kernel("cross_entropy.cu", for_type(how.name, logits.dtype))(
            logits, targets, lse, losses, rows, V, ignore,
            grid=grids.over_rows(how.name, how.block, rows), block=how.block, order=how.order,
        )  # fmt: skip
    be.kernel("cross_entropy.cu", "cross_entropy_mean")(
        losses, targets, loss, count, rows, ignore,
        grid=1, block=max(how.block, be.threads), order=how.order,
    )  # fmt: skip
    return loss, lse, count


def cross_entropy_backward(
    be: Launcher,
    dy: DeviceArray,
    logits: DeviceArray,
    targets: DeviceArray,
    ignore: int,
    lse: DeviceArray,
    count: DeviceArray,
    version: Version | None = None,
) -> DeviceArray:
    """-> (N, V). Of bfloat16, rows begin at multiples of 16 bytes, as products want them."""
    dy, logits, targets = be.contiguous(dy), be.contiguous(logits), _long(be, targets)
    rows, V = logits.shape
    step = V if logits.dtype == FLOAT else ceil_div(V, 8) * 8
    dlogits = be.empty((rows, step), logits.dtype)[:, :V]
    if dlogits.size:
        how = version or _cross_entropy_version(be, "cross_entropy_backward", logits)
        be.kernel("cross_entropy.cu", for_type(how.name, logits.dtype))(
            dy, logits, targets, lse, count, dlogits.strided, rows, V,
            *([] if logits.dtype == FLOAT else [step]), ignore,
            grid=grids.cross_entropy_backward(how.name, how.block, rows, V), block=how.block,
            order=how.order,
        )  # fmt: skip
    return dlogits


def _cross_entropy_version(be: Launcher, name: str, logits: DeviceArray) -> Version:
    kind = "_vector" if is_aligned(logits) else "_block"
    return Version(name + kind, _threads_of_row(be, logits.shape[-1]))


# --- dropout


def dropout(
    be: Launcher, x: DeviceArray, mask: DropoutMask, version: Version | None = None
) -> DeviceArray:
    """x / (1 - p) where the mask keeps an element, 0 elsewhere: the same bits as on the CPU."""
    x = be.contiguous(x)
    y = be.empty(x.shape, x.dtype)
    if x.size:
        how = version or Version("dropout_eight" if is_aligned(x) else "dropout_naive", be.threads)
        eights = be.blocks(ceil_div(x.size, 8), how.block)
        be.kernel("dropout.cu", for_type(how.name, x.dtype))(
            x, y, x.size, *random_numbers(mask), threshold(mask.p), 1 / (1 - mask.p),
            grid=ceil_div(x.size, how.block) if how.name == "dropout_naive" else eights,
            block=how.block, order=how.order,
        )  # fmt: skip
    return y
