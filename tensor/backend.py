"""What a device must be able to do, and where to get one.

A backend is a list of primitives on raw arrays. It knows shapes and numbers and nothing of graphs:
every derivative is written once, above, in `tensor/ops`. An array of a backend has `.shape`,
`.ndim`, `.size` and `.dtype` (a NumPy dtype), whatever memory it lives in; for "cpu" it is a
`numpy.ndarray`, for "cuda" and "emulator" a `kernels.array.DeviceArray`.

Rules for every primitive:
* it never writes into its inputs, except the few in the section "in place";
* reshape (where possible), permute, expand and slice return views;
* shapes have been checked before it is called, so it need not check them again.

Letters in shape comments: N rows, B batch, H heads, T queries, S keys, D head size, C channels, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = Any  # the backend's own array type: numpy.ndarray on "cpu"
Shape = tuple[int, ...]
Axes = tuple[int, ...]


class DropoutMask(NamedTuple):
    """Which elements a dropout drops: a function of these numbers and an element's flat index."""

    p: float  # probability of being dropped, 0 <= p < 1
    seed: int  # the generator's seed
    draw: int  # the number of the draw: each use of a generator gets the next one


class Backend(Protocol):
    """The primitives. One comment line each: shapes in, shapes out."""

    name: str

    @property
    def launches(self) -> int: ...  # kernels started so far: 0 on "cpu"

    # --- making and moving arrays
    def from_numpy(self, x: np.ndarray) -> Array: ...  # a copy on the device, C-contiguous
    def to_numpy(self, x: Array) -> np.ndarray: ...  # a copy on the host
    def full(self, shape: Shape, value: float, dtype: np.dtype) -> Array: ...
    def cast(self, x: Array, dtype: np.dtype) -> Array: ...  # a copy of another dtype
    def copy(self, x: Array) -> Array: ...  # a C-contiguous copy
    def is_view(self, x: Array) -> bool: ...  # does x share its memory with another array?

    # --- elementwise, with broadcasting
    def add(self, x: Array, y: Array) -> Array: ...
    def sub(self, x: Array, y: Array) -> Array: ...
    def mul(self, x: Array, y: Array) -> Array: ...
    def div(self, x: Array, y: Array) -> Array: ...
    def pow(self, x: Array, y: Array) -> Array: ...
    def pow_scalar(self, x: Array, exponent: float) -> Array: ...
    def maximum(self, x: Array, y: Array) -> Array: ...
    def clip(self, x: Array, low: float | None, high: float | None) -> Array: ...
    def where(self, condition: Array, x: Array, y: Array) -> Array: ...
    def compare(self, x: Array, y: Array, how: str) -> Array: ...  # "==" "!=" "<" "<=" ">" ">="
    def logical_and(self, x: Array, y: Array) -> Array: ...
    def logical_or(self, x: Array, y: Array) -> Array: ...
    def logical_not(self, x: Array) -> Array: ...
    def neg(self, x: Array) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def log(self, x: Array) -> Array: ...
    def sqrt(self, x: Array) -> Array: ...
    def tanh(self, x: Array) -> Array: ...
    def erf(self, x: Array) -> Array: ...
    def relu(self, x: Array) -> Array: ...
    def sigmoid(self, x: Array) -> Array: ...

    # --- reductions; axes are non-negative and sorted
    def sum(self, x: Array, axes: Axes, keepdims: bool) -> Array: ...
    def max(self, x: Array, axes: Axes, keepdims: bool) -> Array: ...
    def argmax(self, x: Array, axis: int) -> Array: ...  # int64, the first of equal ones

    # --- shapes
    def reshape(self, x: Array, shape: Shape) -> Array: ...  # a view where the strides allow it
    def permute(self, x: Array, axes: Axes) -> Array: ...  # view
    def expand(self, x: Array, shape: Shape) -> Array: ...  # view; size-1 axes are repeated
    def slice(self, x: Array, index: Any) -> Array: ...  # view; ints, slices, None, Ellipsis
    def slice_backward(self, dy: Array, index: Any, shape: Shape) -> Array: ...  # dy in zeros
    def concatenate(self, xs: Sequence[Array], axis: int) -> Array: ...
    def pad(self, x: Array, widths: Sequence[tuple[int, int]], value: float) -> Array: ...

    # --- integer indices; arrays in an index are NumPy's, ids are the backend's
    def gather(self, x: Array, index: Any) -> Array: ...  # integer or boolean arrays in the index
    def gather_backward(self, dy: Array, index: Any, shape: Shape) -> Array: ...  # repeats add up
    def embedding(self, weight: Array, ids: Array) -> Array: ...  # (V, C), (...) -> (..., C)
    def embedding_backward(self, dy: Array, ids: Array, rows: int) -> Array: ...  # -> (V, C)

    # --- products
    def matmul(self, a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> Array: ...
    # ^ (..., M, K), (..., K, N) -> (..., M, N); the leading axes broadcast; flags swap the last two
    #   axes first
    def linear(self, x: Array, w: Array, b: Array | None, transpose: bool) -> Array: ...
    # ^ (..., K), (K, N) or with transpose (N, K), (N,) -> (..., N)
    def linear_gelu(self, x: Array, w: Array, b: Array) -> Array: ...  # GPT-2's GELU of linear
    def linear_backward_weight(self, x: Array, dy: Array) -> Array: ...  # -> (K, N), sum over rows

    # --- fused; the last axis is the one that is normalised
    def gelu(
        self, x: Array, b: Array | None, tanh: bool, keep: bool
    ) -> tuple[Array, Array | None]: ...
    # ^ (..., C), (C,) -> GELU(x + b), and what the backward needs where it will be wanted: dy/dx,
    #   or x itself; in the exact form or in GPT-2's
    def gelu_backward(
        self, dy: Array, kept: Array, b: Array | None, tanh: bool
    ) -> tuple[Array, Array | None]: ...  # -> dx like x, db (C,) where there is a bias
    def softmax(self, x: Array) -> Array: ...
    def softmax_backward(self, dy: Array, y: Array) -> Array: ...
    def log_softmax(self, x: Array) -> Array: ...
    def log_softmax_backward(self, dy: Array, y: Array) -> Array: ...
    def layer_norm(
        self, x: Array, w: Array, b: Array, eps: float
    ) -> tuple[Array, Array, Array]: ...
    # ^ (..., C), (C,), (C,) -> y (..., C), mean (N,), 1/std (N,)
    def add_layer_norm(
        self, x: Array, r: Array, w: Array, b: Array, eps: float
    ) -> tuple[Array, Array, Array, Array]: ...  # -> s = x + r, and the layer norm of s as above
    def layer_norm_backward(
        self, dy: Array, x: Array, w: Array, mean: Array, rstd: Array, plus: Array | None
    ) -> tuple[Array, Array, Array]: ...
    # ^ -> dx (..., C), with `plus` added where x has that gradient from elsewhere, dw (C,), db (C,)
    def cross_entropy(
        self, logits: Array, targets: Array, ignore: int
    ) -> tuple[Array, Array, Array]: ...
    # ^ (N, V), (N,) -> mean loss (), log-sum-exp (N,), the number of targets that count ()
    def cross_entropy_backward(
        self, dy: Array, logits: Array, targets: Array, ignore: int, lse: Array, count: Array
    ) -> Array: ...  # -> (N, V)
    def dropout(self, x: Array, mask: DropoutMask) -> Array: ...  # its own backward, too
    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        bias: Array | None,
        scale: float,
        causal: bool,
        dropout: DropoutMask | None,
        want_weights: bool,
    ) -> tuple[Array, Array | None, Any]: ...
    # ^ q (B, H, T, D), k and v (B, H, S, D), bias broadcasts to (B, H, T, S)
    #   -> out (B, H, T, D), weights (B, H, T, S) where wanted, statistics for the backward
    def attention_backward(
        self,
        dout: Array,
        dweights: Array | None,
        q: Array,
        k: Array,
        v: Array,
        out: Array,
        bias: Array | None,
        scale: float,
        causal: bool,
        dropout: DropoutMask | None,
        stats: Any,
    ) -> tuple[Array, Array, Array]: ...  # -> dq, dk, dv

    # --- in place: gradient accumulation, copy_, a cache's new positions
    def accumulate(self, into: Array, x: Array) -> None: ...  # into += x
    def assign(self, into: Array, x: Array) -> None: ...  # into[...] = x
    def cache_append(
        self, k_room: Array, v_room: Array, k: Array, v: Array, length: int
    ) -> None: ...
    # ^ k, v (B, H, T, D) to the positions from length on of k_room, v_room (B, H, room, D)

    # --- over many arrays at once, so that a device needs few launches; in place but for the first
    # masters: float32, of ps that are all of one type of half precision: they take the step, and
    # ps become what they round to
    def sum_of_squares(self, xs: Sequence[Array]) -> float: ...  # of all elements of all arrays
    def scale(self, xs: Sequence[Array], factor: float) -> None: ...  # each x *= factor
    def sgd_step(
        self,
        ps: Sequence[Array],
        gs: Sequence[Array],
        velocities: Sequence[Array] | None,
        lr: float,
        momentum: float,
        decay: float,
        masters: Sequence[Array] | None = None,
    ) -> None: ...
    def adamw_step(
        self,
        ps: Sequence[Array],
        gs: Sequence[Array],
        ms: Sequence[Array],
        vs: Sequence[Array],
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        decay: float,
        masters: Sequence[Array] | None = None,
    ) -> None: ...

    # --- steps that are recorded and replayed: see recorded_step.py
    @property
    def is_recording(self) -> bool: ...  # then nothing can be copied to the host
    def new_recording(self) -> Any: ...  # a kernels.recording.Recording; ValueError on "cpu"
    def overwrite(self, into: Array, x: np.ndarray) -> None: ...  # of one shape and dtype
