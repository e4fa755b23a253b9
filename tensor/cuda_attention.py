"""Attention on CUDA devices: the kernels of `kernels/attention*.cu`, whose headers explain them.

The plain path writes the (T, S) scores to memory; it is there for the weights, for large heads, and
to compare with. The others keep memory that grows with T alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import grids
from kernels.array import DeviceArray
from kernels.grids import ceil_div
from kernels.recording import Changing
from tensor import cuda_moving
from tensor.backend import DropoutMask
from tensor.cuda_launch import Version, random_numbers
from tensor.cuda_layout import Launcher, is_aligned
from tensor.cuda_matmul import multiplies_bfloat16, product
from tensor.dtypes import BFLOAT16
from tensor.precision import current_matmul_precision
from tensor.random import threshold

FEW_QUERIES = 4  # up to so many, a block a query is better than a tile, which holds 64
LARGEST_TILE = 128  # the largest D that the tiles take
LARGEST_ROW = 256  # the largest that a block a query takes
LARGEST_MMA_BACKWARD = 64  # the largest whose gradient the tensor cores compute


def attention(
    be: Launcher,
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    bias: DeviceArray | None,
    scale: float,
    causal: bool,
    dropout: DropoutMask | None,
    want_weights: bool,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray | None, Any]:
    """softmax(q k^T * scale + bias) v; the weights after dropout where wanted; and each row's
    maximum and 1 / sum, (B, H, T) each, for the backward.

    All arrays are float32, or, where `takes_bfloat16`, q, k, v and the results are bfloat16.
    Products are rounded as `tensor.precision` says: "tf32" and "bf16" have tiles of their own, and
    "3xtf32" is left to float32.
    """
    B, H, T, D = q.shape
    S = k.shape[2]
    q, k, v = (_lying(be, x) for x in (q, k, v))
    top, inverse = be.empty((B, H, T)), be.empty((B, H, T))
    how = version or _best(be, T, D, q.dtype, want_weights)
    if "softmax" in how.name:
        weights = product(be, q, k, None, False, True)  # (B, H, T, S)
        _softmax(be, how, weights, bias, top, inverse, scale, causal, dropout)
        out = product(be, weights, v, None, False, False)
        return out, weights if want_weights else None, (top, inverse)
    out = _empty_heads(be, B, H, T, D, q.dtype)
    if out.size:
        rows = how.name.startswith("attention_rows")
        be.kernel(grids.attention_file(how.name), how.name)(
            q.strided, k.strided, v.strided, _strided(bias), out.strided, top, inverse, B * H, H, T,
            Changing(S, "length"), D, *(x.strides[:3] for x in (q, k, v, out)),
            _bias_strides(bias, (B, H, T, S)), scale, int(causal), *_dropping(dropout),
            _vector(D, q, k, v),
            grid=grids.attention(how.name, how.block, B * H, T), block=how.block,
            shared=how.block // 32 * D * 4 if rows else 0, order=how.order,
        )  # fmt: skip
    return out, None, (top, inverse)


def attention_backward(
    be: Launcher,
    dout: DeviceArray,
    dweights: DeviceArray | None,
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    out: DeviceArray,
    bias: DeviceArray | None,
    scale: float,
    causal: bool,
    dropout: DropoutMask | None,
    stats: Any,
    version: Version | None = None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """-> dq, dk, dv."""
    B, H, T, D = q.shape
    S = k.shape[2]
    if 0 in (B, H, T, S, D):
        dq, dk, dv = (cuda_moving.full(be, x.shape, 0, x.dtype) for x in (q, k, v))
        return dq, dk, dv
    dout, q, k, v, out = (_lying(be, x) for x in (dout, q, k, v, out))
    plain = dweights is not None or D > LARGEST_TILE
    how = version or (
        Version("attention_softmax_backward_warp", be.threads) if plain else
        _best_backward(D, q.dtype)
    )  # fmt: skip
    if not how.name.startswith("attention_softmax"):
        return _tiles_backward(be, how, dout, q, k, v, out, bias, scale, causal, dropout, stats)
    p = product(be, q, k, None, False, True)  # (B, H, T, S), as da
    _softmax(be, Version("attention_softmax_warp", how.block, how.order), p, bias, None, None,
             scale, causal, None)  # fmt: skip
    da = product(be, dout, v, None, False, True)
    rows = B * H * T
    be.kernel("attention.cu", how.name)(
        p, da, None if dweights is None else be.contiguous(dweights), rows, S, scale,
        *_dropping(dropout),
        grid=grids.attention_softmax(how.name, how.block, rows), block=how.block,
        order=how.order,
    )  # fmt: skip
    ds, a = da, p
    return (
        product(be, ds, k, None, False, False),
        product(be, ds, q, None, True, False),
        product(be, a, dout, None, True, False),
    )


def _tiles_backward(
    be: Launcher,
    how: Version,
    dout: DeviceArray,
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    out: DeviceArray,
    bias: DeviceArray | None,
    scale: float,
    causal: bool,
    dropout: DropoutMask | None,
    stats: Any,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    B, H, T, D = q.shape
    S, heads, size = k.shape[2], B * H, _tile(D)
    file = grids.attention_file(how.name)
    # Two threads a row of a block of the tiles, which has 32 rows, or 16 for D <= 128.
    block = 128 if "mma" in how.name else 64 if size <= 64 else 32
    top, inverse = stats
    r = be.empty((B, H, T))
    row_products = "attention_row_products" + ("_bf16" if q.dtype == BFLOAT16 else "")
    be.kernel("attention_tiles_backward.cu", row_products)(
        dout.strided, out.strided, r, heads, H, T, D, dout.strides[:3], out.strides[:3],
        grid=ceil_div(heads * T, how.block // 8), block=how.block, order=how.order,
    )  # fmt: skip
    dq, dk, dv = (_empty_heads(be, B, H, n, D, q.dtype) for n in (T, S, S))
    inputs = (dout, q, k, v)
    arrays = (*(x.strided for x in inputs), _strided(bias), top, inverse, r)
    strides = [x.strides[:3] for x in inputs]
    numbers = (_bias_strides(bias, (B, H, T, S)), scale, int(causal), *_dropping(dropout),
               _vector(D, *inputs))  # fmt: skip
    be.kernel(file, f"{how.name}_queries_{size}")(
        *arrays, dq.strided, heads, H, T, S, D, *strides, dq.strides[:3], *numbers,
        grid=grids.attention(how.name, block, heads, T), block=block, order=how.order,
    )  # fmt: skip
    be.kernel(file, f"{how.name}_keys_{size}")(
        *arrays, dk.strided, dv.strided, heads, H, T, S, D, *strides, dk.strides[:3],
        dv.strides[:3], *numbers,
        grid=grids.attention(how.name, block, heads, S), block=block, order=how.order,
    )  # fmt: skip
    return dq, dk, dv


def takes_bfloat16(be: Launcher, D: int, backward: bool) -> bool:
    """Whether there is a kernel for arrays of bfloat16, where no weights are wanted."""
    return multiplies_bfloat16(be) and D <= (LARGEST_MMA_BACKWARD if backward else LARGEST_ROW)


def _mma(dtype: np.dtype) -> str:
    """The precision of the tensor cores that is asked for, or nothing."""
    if dtype == BFLOAT16:
        return "bf16_storage"
    precision = current_matmul_precision()
    return precision if precision in ("tf32", "bf16") else ""


def _best(be: Launcher, T: int, D: int, dtype: np.dtype, want_weights: bool) -> Version:
    if want_weights or D > LARGEST_ROW:
        return Version("attention_softmax_warp", be.threads)
    if T <= FEW_QUERIES or D > LARGEST_TILE:  # a block of one size, whatever S: recorded_step.py
        name = "attention_rows_bf16" if dtype == BFLOAT16 else "attention_rows"
        return Version(name, be.threads)
    if precision := _mma(dtype):
        return Version(f"attention_mma_{precision}_{_tile(D)}", 128)
    return Version(f"attention_tiles_{_tile(D)}", 128 if D <= 64 else 64)


def _best_backward(D: int, dtype: np.dtype) -> Version:
    precision = _mma(dtype) if D <= LARGEST_MMA_BACKWARD else ""
    if precision:
        return Version(f"attention_mma_backward_{precision}", 128)
    return Version("attention_tiles_backward", 64)


def _tile(D: int) -> int:
    """The columns of the smallest tile that holds D."""
    return 32 if D <= 32 else 64 if D <= 64 else 128


def _softmax(
    be: Launcher,
    how: Version,
    scores: DeviceArray,
    bias: DeviceArray | None,
    top: DeviceArray | None,
    inverse: DeviceArray | None,
    scale: float,
    causal: bool,
    dropout: DropoutMask | None,
) -> None:
    """Scores (B, H, T, S) become weights, in place."""
    B, H, T, S = scores.shape
    if B * H * T:
        be.kernel("attention.cu", how.name)(
            scores, _strided(bias), top, inverse, B * H, H, T, S, _bias_strides(bias, scores.shape),
            scale, int(causal), *_dropping(dropout),
            grid=grids.attention_softmax(how.name, how.block, B * H * T), block=how.block,
            order=how.order,
        )  # fmt: skip


def _lying(be: Launcher, x: DeviceArray) -> DeviceArray:
    """x itself where its last axis has no gaps."""
    return x if x.strides[-1] == 1 or x.shape[-1] == 1 else be.contiguous(x)


def _empty_heads(be: Launcher, B: int, H: int, T: int, D: int, dtype: np.dtype) -> DeviceArray:
    """(B, H, T, D) that lies in memory as (B, T, H, D): merging the heads copies nothing."""
    return be.empty((B, T, H, D), dtype).permute((0, 2, 1, 3))


def _strided(bias: DeviceArray | None) -> Any:
    return None if bias is None else bias.strided


def _bias_strides(bias: DeviceArray | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (0, 0, 0, 0) if bias is None else bias.expand(shape).strides


def _dropping(mask: DropoutMask | None) -> tuple[int, int, int, int, float]:
    """Whether there is a dropout, its seed, draw, threshold and factor."""
    if mask is None:
        return 0, 0, 0, 0, 1.0
    return 1, *random_numbers(mask), threshold(mask.p), 1 / (1 - mask.p)


def _vector(D: int, *arrays: DeviceArray) -> int:
    """1 if all rows can be loaded 16 bytes at a time."""
    each = 16 // arrays[0].dtype.itemsize
    steps = [step for x in arrays for step in (D, *x.strides[:3])]
    return int(is_aligned(*arrays) and all(step % each == 0 for step in steps))
