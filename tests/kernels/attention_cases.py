"""What the tests of attention share: one check of a version, forward and backward, against the
definition in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensor import cuda_attention
from tensor.backend import DropoutMask
from tensor.cuda_backend import CudaBackend
from tensor.cuda_launch import Version
from tensor.dtypes import BFLOAT16, FLOAT32, converted, widened
from tensor.random import keep_mask
from tests.kernels.devices import backend, close, normal
from tests.tensor import slow_ops

TOLERANCES = {"tf32": 3e-3, "bf16": 2e-2}  # of versions that round the operands of products


def tolerance(version: Version | None) -> float:
    """How far a version may be from float64; None is the best one, in float32."""
    parts = version.name.split("_") if version else []
    return max(TOLERANCES.get(part, 1e-4) for part in ["float32", *parts])


def sized(version: Version, D: int) -> Version:
    """The kernel for heads of D, of a version that has one for D <= 32, one for 64 and one for 128.
    """
    if not version.name.startswith(("attention_tiles", "attention_mma")):
        return version
    size = 32 if D <= 32 else 64 if D <= 64 else 128
    small = version.name == "attention_tiles" and D > 64  # a block of 32 queries
    return version._replace(name=f"{version.name}_{size}", block=64 if small else 128)


def reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None,
    scale: float,
    causal: bool,
    dropout: DropoutMask | None,
    dout: np.ndarray,
    dweights: np.ndarray | None,
) -> tuple[np.ndarray, ...]:
    """Output, weights, dq, dk and dv, from the definition."""
    q, k, v, dout = (x.astype(np.float64) for x in (q, k, v, dout))
    B, H, T, D = q.shape
    _, p = slow_ops.attention(q, k, v, bias, scale, causal)
    m = np.ones(p.shape)
    if dropout is not None:
        m = keep_mask(dropout, 0, p.size).reshape(p.shape) / (1 - dropout.p)
    a = p * m
    da = dout @ v.swapaxes(2, 3) + (0 if dweights is None else dweights)
    ds = p * (m * da - (a * da).sum(3, keepdims=True)) * scale
    return a @ v, a, ds @ k, ds.swapaxes(2, 3) @ q, a.swapaxes(2, 3) @ dout


def as_heads(be: CudaBackend, x: np.ndarray, dtype: np.dtype = FLOAT32) -> Any:
    """x (B, H, T, D) on the device as a model has it: a part of (B, T, 3 H D), permuted."""
    B, H, T, D = x.shape
    room = np.full((B, T, 3, H, D), np.nan, np.float32)
    room[:, :, 1] = x.transpose(0, 2, 1, 3)
    return be.from_numpy(converted(room, dtype))[:, :, 1].permute((0, 2, 1, 3))


def check(
    forward: Version | None,
    backward: Version | None,
    shape: tuple[int, ...],
    causal: bool,
    bias: np.ndarray | None = None,
    dropout: DropoutMask | None = None,
    weights: bool = False,
    checked: bool = False,
) -> None:
    """One call of each on random numbers; shape: (B, H, T, S, D). Without `backward` forward alone;
    weights: they are wanted, and have a gradient.
    """
    be = backend(checked)
    B, H, T, S, D = shape
    q, k, v, dout, dweights = normal(
        0, (B, H, T, D), (B, H, S, D), (B, H, S, D), (B, H, T, D), (B, H, T, S))
    dweights = dweights if weights else None
    dtype = FLOAT32
    if forward and ("storage" in forward.name or forward.name == "attention_rows_bf16"):
        dtype = BFLOAT16
        q, k, v, dout = (widened(converted(x, dtype)) for x in (q, k, v, dout))
    scale = 0.7 / math.sqrt(D)
    options = (None if bias is None else be.from_numpy(bias.astype(np.float32)), scale, causal,
               dropout)
    qkv = [as_heads(be, x, dtype) for x in (q, k, v)]
    out, w, stats = cuda_attention.attention(be, *qkv, *options, weights, forward)
    expected = reference(q, k, v, bias, scale, causal, dropout, dout, dweights)
    close(be.to_numpy(out), expected[0], tolerance(forward))
    if weights:
        close(w, expected[1])
    if backward is not None:
        got = cuda_attention.attention_backward(
            be, as_heads(be, dout, dtype), None if dweights is None else be.from_numpy(dweights),
            *qkv, out, *options, stats, backward)
        for g, e in zip(got, expected[2:], strict=True):
            g = be.to_numpy(g)
            if S > 1:
                close(g, e, tolerance(backward))
            else:           # of one key dq and dk are 0, but for rounding
                bound = tolerance(backward) / 10 * max(1, np.abs(e).max())
                assert np.abs(g - e).max() < bound
