"""The CPU: every primitive of `tensor.backend.Backend` in NumPy, the reference for other devices.

The elementwise operations, reductions, views and products are here; the fused ones, which work
through their arrays in blocks of rows that fit the cache, are in `numpy_fused.py` and
`numpy_attention.py`.
"""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensor import numpy_attention, numpy_fused, numpy_layer_norm, special
from tensor.backend import Axes, Shape

_COMPARISONS: dict[str, np.ufunc] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def _primitive(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A NumPy function as a primitive.

    Results without dimensions stay arrays, where NumPy returns scalars that can't be written to.
    Overflow, 0/0 and log(0) give inf and NaN silently, as IEEE 754 and every tensor library have
    it.
    """

    def call(self: NumpyBackend, *arrays: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays))

    return call


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)): exact to the last digits everywhere; exp overflows to inf, which gives 0.
    Twice as fast in float64 as (1 + tanh(x / 2)) / 2, whose small values are lost in rounding.
    """
    one = x.dtype.type(1)
    return one / (one + np.exp(-x))


def _as_matrix(x: np.ndarray) -> np.ndarray:
    """(..., C) as (N, C). N is written out, because with C = 0 reshape can't work out a -1."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if b.ndim == 2 and a.ndim > 2:  # one large product instead of one a leading index
        return (_as_matrix(a) @ b).reshape(*a.shape[:-1], b.shape[-1])
    return a @ b


# Up to how many rows a product goes row by row, and how much of the weight at a time: that much
# stays in the third-level cache between the rows.
FEW_ROWS = 3
WEIGHT_BYTES = 1 << 22


def _rows_times_weight(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x (N, K) w (K, M) -> (N, M).

    A few rows go one by one. OpenBLAS's matrix-matrix product first copies the weight into another
    layout, which a large N pays for; its matrix-vector product reads the weight where it lies. A
    decoding step of GPT-2 124M takes 0.74 of the time for 2 rows, 0.84 for 3, 1.6 for 8 (Zen 5).
    """
    if not 1 < len(x) <= FEW_ROWS:
        return x @ w
    y = np.empty((len(x), w.shape[1]), x.dtype)
    for block in numpy_fused.blocks(w.shape[1], len(w) * w.itemsize, WEIGHT_BYTES):
        for row, out in zip(x, y, strict=True):
            np.matmul(row, w[:, block], out=out[block])
    return y


class NumpyBackend:
    """Primitives on `numpy.ndarray`. See `tensor.backend.Backend` for the shapes."""

    name = "cpu"

    launches = 0
    is_recording = False

    def __init__(self) -> None:
        keep_freed_memory()

    def new_recording(self) -> Any:
        raise ValueError(
            "the device 'cpu' launches no kernels, so that there is nothing to record: use 'cuda' "
            "or 'emulator'"
        )

    def overwrite(self, into: np.ndarray, x: np.ndarray) -> None:
        into[...] = x

    # --- making and moving arrays

    def from_numpy(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, order="C")

    def to_numpy(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, order="C")

    def full(self, shape: Shape, value: float, dtype: np.dtype) -> np.ndarray:
        return np.full(shape, value, dtype)

    def cast(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        with np.errstate(all="ignore"):
            return x.astype(dtype)

    def copy(self, x: np.ndarray) -> np.ndarray:
        return np.array(x, order="C")

    def is_view(self, x: np.ndarray) -> bool:
        return x.base is not None

    # --- elementwise

    add = _primitive(np.add)
    sub = _primitive(np.subtract)
    mul = _primitive(np.multiply)
    div = _primitive(np.divide)
    pow = _primitive(np.power)
    maximum = _primitive(np.maximum)
    where = _primitive(np.where)
    logical_and = _primitive(np.logical_and)
    logical_or = _primitive(np.logical_or)
    logical_not = _primitive(np.logical_not)
    neg = _primitive(np.negative)
    exp = _primitive(np.exp)
    log = _primitive(np.log)
    sqrt = _primitive(np.sqrt)
    tanh = _primitive(np.tanh)
    erf = _primitive(special.erf)
    sigmoid = _primitive(_sigmoid)

    def pow_scalar(self, x: np.ndarray, exponent: float) -> np.ndarray:
        # A float32 power takes 10 ns an element, a multiplication 0.2 (Zen 3, NumPy 2.4).
        if exponent in (2, 3, 4):
            square = self.mul(x, x)
            return square if exponent == 2 else self.mul(square, x if exponent == 3 else square)
        return self.pow(x, x.dtype.type(exponent))

    def clip(self, x: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
        return np.asarray(np.clip(x, low, high))

    def compare(self, x: np.ndarray, y: np.ndarray, how: str) -> np.ndarray:
        return np.asarray(_COMPARISONS[how](x, y))

    def relu(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(x, x.dtype.type(0)))

    # --- reductions

    def sum(self, x: np.ndarray, axes: Axes, keepdims: bool) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(x.sum(axis=axes, keepdims=keepdims))

    def max(self, x: np.ndarray, axes: Axes, keepdims: bool) -> np.ndarray:
        return np.asarray(x.max(axis=axes, keepdims=keepdims))

    def argmax(self, x: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(x.argmax(axis=axis))

    # --- shapes

    def reshape(self, x: np.ndarray, shape: Shape) -> np.ndarray:
        return x.reshape(shape)

    def permute(self, x: np.ndarray, axes: Axes) -> np.ndarray:
        return x.transpose(axes)

    def expand(self, x: np.ndarray, shape: Shape) -> np.ndarray:
        return np.broadcast_to(x, shape)

    def slice(self, x: np.ndarray, index: Any) -> np.ndarray:
        return np.asarray(x[index])

    def slice_backward(self, dy: np.ndarray, index: Any, shape: Shape) -> np.ndarray:
        dx = np.zeros(shape, dy.dtype)
        dx[index] = dy
        return dx

    def concatenate(self, xs: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(xs, axis)

    def pad(self, x: np.ndarray, widths: Sequence[tuple[int, int]], value: float) -> np.ndarray:
        return np.pad(x, widths, constant_values=value)

    # --- integer indices

    def gather(self, x: np.ndarray, index: Any) -> np.ndarray:
        return np.asarray(x[index])

    def gather_backward(self, dy: np.ndarray, index: Any, shape: Shape) -> np.ndarray:
        dx = np.zeros(shape, dy.dtype)
        np.add.at(dx, index, dy)
        return dx

    def embedding(self, weight: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return weight[ids]

    def embedding_backward(self, dy: np.ndarray, ids: np.ndarray, rows: int) -> np.ndarray:
        dy = _as_matrix(dy)  # (N, C)
        dw = np.zeros((rows, dy.shape[-1]), dy.dtype)
        if dy.size == 0:
            return dw
        # Sorted, the rows of one id lie together and reduceat adds each run: 1.8 times as fast as
        # np.add.at, measured on 768 rows of 128.
        order = np.argsort(ids, axis=None, kind="stable")
        in_order = ids.ravel()[order]
        starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
        dw[in_order[starts]] = np.add.reduceat(dy[order], starts, axis=0)
        return dw

    # --- products

    def matmul(
        self, a: np.ndarray, b: np.ndarray, transpose_a: bool, transpose_b: bool
    ) -> np.ndarray:
        with np.errstate(all="ignore"):
            return _matmul(
                a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b
            )

    def linear(
        self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, transpose: bool
    ) -> np.ndarray:
        w = w.T if transpose else w
        with np.errstate(all="ignore"):
            y = _rows_times_weight(_as_matrix(x), w)  # (N, out)
            if b is not None:
                y += b
        return y.reshape(*x.shape[:-1], w.shape[-1])

    def linear_gelu(self, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.gelu(self.linear(x, w, None, False), b, True, False)[0]

    def linear_backward_weight(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return _as_matrix(x).T @ _as_matrix(dy)

    # --- fused

    gelu = staticmethod(numpy_fused.gelu)
    gelu_backward = staticmethod(numpy_fused.gelu_backward)
    softmax = staticmethod(numpy_fused.softmax)
    softmax_backward = staticmethod(numpy_fused.softmax_backward)
    log_softmax = staticmethod(numpy_fused.log_softmax)
    log_softmax_backward = staticmethod(numpy_fused.log_softmax_backward)
    layer_norm = staticmethod(numpy_layer_norm.layer_norm)
    add_layer_norm = staticmethod(numpy_layer_norm.add_layer_norm)
    layer_norm_backward = staticmethod(numpy_layer_norm.layer_norm_backward)
    cross_entropy = staticmethod(numpy_fused.cross_entropy)
    cross_entropy_backward = staticmethod(numpy_fused.cross_entropy_backward)
    dropout = staticmethod(numpy_fused.dropout)
    attention = staticmethod(numpy_attention.attention)
    attention_backward = staticmethod(numpy_attention.attention_backward)

    # --- in place

    def accumulate(self, into: np.ndarray, x: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            np.add(into, x, out=into)

    def assign(self, into: np.ndarray, x: np.ndarray) -> None:
        into[...] = x

    def cache_append(
        self, k_room: np.ndarray, v_room: np.ndarray, k: np.ndarray, v: np.ndarray, length: int
    ) -> None:
        for room, new in ((k_room, k), (v_room, v)):
            room[:, :, length : length + new.shape[2]] = new

    # --- over many arrays

    scale = staticmethod(numpy_fused.scale)
    sum_of_squares = staticmethod(numpy_fused.sum_of_squares)
    sgd_step = staticmethod(numpy_fused.sgd_step)
    adamw_step = staticmethod(numpy_fused.adamw_step)


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next array instead of giving it back to the system.

    By default glibc maps every array of more than 128 KiB anew and unmaps it when freed, and the
    page faults of a fresh megabyte cost several times the arithmetic on it. The thresholds are
    raised for this process with mallopt(3). Returns whether that was done: on macOS, Windows and
    musl there is no such call.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    # Arrays of up to 1 GiB come from the heap (older versions allow 32 MiB at most), and 2 GiB may
    # lie free at its end before it shrinks.
    raised = mallopt(m_mmap_threshold, 1 << 30) or mallopt(m_mmap_threshold, 32 << 20)
    return bool(mallopt(m_trim_threshold, (1 << 31) - 1)) and bool(raised)
