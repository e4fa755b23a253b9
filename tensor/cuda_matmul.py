"""Matrix products on CUDA devices: the kernels of `kernels/matmul*.cu`."""

from __future__ import annotations

import math

import numpy as np

from kernels import grids
from kernels.array import DeviceArray
from kernels.grids import ceil_div
from tensor import cuda_elementwise, cuda_moving, cuda_reduce
from tensor.backend import Shape
from tensor.cuda_launch import Version, as_rows, reshaped, tuned
from tensor.cuda_layout import FLOAT, Launcher
from tensor.dtypes import BFLOAT16
from tensor.precision import current_matmul_precision

FEW_ROWS = 8  # up to so many rows, reading B once is all the work
LARGE = 64  # so many tiles of 128 x 128 keep a GPU busy; fewer are cut into smaller ones
BUSY = 512  # up to so many blocks are made by cutting long sums …
LONG_SUM = 512  # … into pieces of at least this length


def matmul(
    be: Launcher,
    a: DeviceArray,
    b: DeviceArray,
    transpose_a: bool,
    transpose_b: bool,
    version: Version | None = None,
) -> DeviceArray:
    """(..., M, K) (..., K, N) -> (..., M, N); the flags swap the last two axes first."""
    if b.ndim == 2 and a.ndim > 2 and not transpose_a:  # one product instead of one an index
        rows = as_rows(be, a)
        y = product(be, rows, b, None, False, transpose_b, version=version)
        return reshaped(y, (*a.shape[:-1], y.shape[-1]))
    return product(be, a, b, None, transpose_a, transpose_b, version=version)


def linear(
    be: Launcher,
    x: DeviceArray,
    w: DeviceArray,
    b: DeviceArray | None,
    transpose: bool,
    version: Version | None = None,
) -> DeviceArray:
    """x w + b, x (..., K), w (K, N), with transpose (N, K), b (N,) -> (..., N)."""
    y = product(be, as_rows(be, x), w, b, False, transpose, version=version)
    return reshaped(y, (*x.shape[:-1], y.shape[-1]))


def linear_gelu(
    be: Launcher, x: DeviceArray, w: DeviceArray, b: DeviceArray, version: Version | None = None
) -> DeviceArray:
    """GPT-2's GELU of x w + b, computed before the product is stored."""
    y = product(be, as_rows(be, x), w, b, False, False, gelu=True, version=version)
    return reshaped(y, (*x.shape[:-1], y.shape[-1]))


def linear_backward_weight(
    be: Launcher, x: DeviceArray, dy: DeviceArray, version: Version | None = None
) -> DeviceArray:
    """x^T dy over all rows: x (..., K), dy (..., N) -> (K, N)."""
    return product(be, as_rows(be, x), as_rows(be, dy), None, True, False, version=version)


def product(
    be: Launcher,
    a: DeviceArray,
    b: DeviceArray,
    bias: DeviceArray | None,
    transpose_a: bool,
    transpose_b: bool,
    gelu: bool = False,
    version: Version | None = None,
) -> DeviceArray:
    """a b + bias, and, where asked for, GELU in GPT-2's form of that. Axes as in `matmul`.

    Operands may have any strides; one whose last two axes both have gaps is copied first. All
    arrays are float32, multiplied as `tensor.precision` says, or, where `multiplies_bfloat16`, all
    are bfloat16: then sums, bias and GELU are computed in float32, and the result is rounded once.
    """
    M, K = a.shape[:-3:-1] if transpose_a else a.shape[-2:]
    N = b.shape[-2] if transpose_b else b.shape[-1]
    leading = _broadcast(a.shape[:-2], b.shape[:-2])
    pieces = 1 if leading or gelu or version else _pieces(M, N, K)
    if pieces > 1:
        return _in_pieces(be, pieces, a, b, bias, transpose_a, transpose_b)
    parts = version is not None and version.name == "matmul_mma_bf16_parts"
    c = be.empty((*leading, M, N), FLOAT if parts else a.dtype)
    if c.size == 0:
        return c
    a, lda, transpose_a = _lying(be, a, transpose_a)
    b, ldb, transpose_b = _lying(be, b, transpose_b)
    batches = math.prod(leading)
    if version is None:
        version = _best(be, M, N, K, batches, a.dtype)
        if not (leading or transpose_a or transpose_b):  # what the bench measures
            version = tuned(be, "matmul", (M, K, N), version)
    batch: Shape = (1,)
    strides: list[Shape] = [(0,), (0,)]
    if leading:
        batch = leading
        strides = [x.expand((*leading, *x.shape[-2:])).strides[:-2] for x in (a, b)]
    be.kernel(grids.matmul_file(version.name), version.name)(
        a.strided, b.strided, None if bias is None else be.contiguous(bias), c, M, N, K, lda, ldb,
        int(transpose_a), int(transpose_b), int(gelu), len(batch), batch, *strides, batches,
        grid=grids.matmul(version.name, version.block, M, N, batches, transpose_b),
        block=grids.matmul_block(version.name, version.block),
        order=version.order,
    )  # fmt: skip
    return c


def _pieces(M: int, N: int, K: int) -> int:
    """Into how many pieces the sums over K are cut, so that a GPU has enough blocks to work on.

    The gradient of a weight of 768 x 768 is 36 tiles, and each a sum over all positions of a batch.
    """
    if M <= FEW_ROWS:
        return 1
    side = 128 if min(M, N) >= 128 else 64
    tiles, pieces = ceil_div(M, side) * ceil_div(N, side), 1
    while tiles * pieces * 2 <= BUSY and K % (pieces * 2) == 0 and K // (pieces * 2) >= LONG_SUM:
        pieces *= 2
    return pieces


def _in_pieces(
    be: Launcher,
    pieces: int,
    a: DeviceArray,
    b: DeviceArray,
    bias: DeviceArray | None,
    transpose_a: bool,
    transpose_b: bool,
) -> DeviceArray:
    """A product of matrices as a batch of products of their pieces along K, added up in float32."""
    dtype, parts = a.dtype, None
    if dtype == BFLOAT16:
        parts = Version("matmul_mma_bf16_parts")
        bias = None if bias is None else cuda_moving.cast(be, bias, FLOAT)
    a, b = _cut(a, pieces, 0 if transpose_a else 1), _cut(b, pieces, 1 if transpose_b else 0)
    c = product(be, a, b, None, transpose_a, transpose_b, version=parts)
    c = cuda_reduce.sum(be, c, (0,), False)
    if bias is not None:
        cuda_elementwise.accumulate(be, c, bias.expand(c.shape))
    return c if parts is None else cuda_moving.cast(be, c, dtype)


def _cut(x: DeviceArray, pieces: int, axis: int) -> DeviceArray:
    """A view of (rows, columns) with one of these axes in pieces: (pieces, rows, columns)."""
    rows, columns = x.shape
    if axis == 0:
        return reshaped(x, (pieces, rows // pieces, columns))
    return reshaped(x, (rows, pieces, columns // pieces)).permute((1, 0, 2))


def _lying(be: Launcher, x: DeviceArray, transpose: bool) -> tuple[DeviceArray, int, bool]:
    """x, the step from one row in memory to the next, and whether it lies transposed."""
    if x.strides[-1] != 1 and x.shape[-1] != 1:
        if x.strides[-2] == 1 or x.shape[-2] == 1:
            return x, x.strides[-1], not transpose
        x = cuda_moving.copy(be, x)
    return x, x.strides[-2], transpose


def multiplies_bfloat16(be: Launcher) -> bool:
    """Whether the device multiplies arrays of bfloat16 as they are."""
    return be.device.architecture is None or be.device.architecture >= 80


def _best(be: Launcher, M: int, N: int, K: int, batches: int, dtype: np.dtype) -> Version:
    precision = "bf16_storage" if dtype == BFLOAT16 else current_matmul_precision()
    if M <= FEW_ROWS:  # a warp for every 16 of K: many loads are on their way at any time
        most = 16 if be.threads >= 256 else 4
        name = "matmul_rows_bf16" if dtype == BFLOAT16 else "matmul_rows"
        return Version(name, 32 * max(1, min(most, ceil_div(K, 16))))
    if precision != "float32":
        return Version(f"matmul_mma_{precision}", 256)
    if min(M, N) >= 128 and batches * ceil_div(M, 128) * ceil_div(N, 128) >= LARGE:
        return Version("matmul_vector", 256)
    return Version("matmul_registers", 64)


def _broadcast(x: Shape, y: Shape) -> Shape:
    """The common shape of two that broadcast."""
    ndim = max(len(x), len(y))
    pairs = zip((1,) * (ndim - len(x)) + x, (1,) * (ndim - len(y)) + y, strict=True)
    return tuple(n if m == 1 else m for m, n in pairs)
