"""Half precision on CUDA devices: arrays of float16 and bfloat16 that are computed with in float32.

A primitive that has no kernel for halves is wrapped by `in_float32`: its half operands are widened,
exactly, the float32 kernels run, and the results are rounded once, to nearest even. So sums of any
length are float32's. What only moves elements (views, copies, concatenation, embedding) moves bits.

What a training step in bfloat16 does most has kernels that read and write that: widening would move
three times the bytes of float32. They, too, compute in float32 and round each result once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from kernels.array import DeviceArray, contiguous_strides
from tensor import (
    cuda_attention,
    cuda_elementwise,
    cuda_fused,
    cuda_gelu,
    cuda_matmul,
    cuda_moving,
)
from tensor.backend import DropoutMask
from tensor.cuda_layout import FLOAT, Launcher, as_pairs, is_aligned
from tensor.dtypes import BFLOAT16, FLOAT16, HALVES

BF16 = (BFLOAT16,)  # the half type that some primitives have kernels for


def in_float32(
    primitive: Callable[..., Any],
    narrow: Sequence[int] = (0,),
    own: Collection[np.dtype] = (),
) -> Callable[..., Any]:
    """A primitive of float32 as one that takes arrays of half precision, too.

    narrow: which of its results are rounded to the operands' type; the others (losses, statistics,
    places) stay what they are. Operands of float32 beside halves stay, too: the Functions above see
    to it that only losses and statistics are.
    own: half types that the primitive has kernels for, and takes as they are.
    """

    def call(be: Launcher, *arguments: Any, **options: Any) -> Any:
        half = next((a.dtype for a in arguments if _is_half(a)), None)
        if half is None or half in own:
            return primitive(be, *arguments, **options)
        wide = [cuda_moving.cast(be, a, FLOAT) if _is_half(a) else a for a in arguments]
        result = primitive(be, *wide, **options)
        if not isinstance(result, tuple):
            return cuda_moving.cast(be, result, half) if narrow else result
        return tuple(
            cuda_moving.cast(be, r, half) if i in narrow and r is not None else r
            for i, r in enumerate(result)
        )

    return call


def multiplied(primitive: Callable[..., Any]) -> Callable[..., Any]:
    """A product: of bfloat16 alone as it is, where the device can; otherwise `in_float32`."""
    wide = in_float32(primitive)

    def call(be: Launcher, *arguments: Any, **options: Any) -> Any:
        arrays = [a for a in arguments if isinstance(a, DeviceArray)]
        narrow = all(a.dtype == BFLOAT16 for a in arrays) and cuda_matmul.multiplies_bfloat16(be)
        return (primitive if narrow else wide)(be, *arguments, **options)

    return call


def attention(
    be: Launcher, q: DeviceArray, k: DeviceArray, v: DeviceArray, bias: DeviceArray | None,
    scale: float, causal: bool, dropout: DropoutMask | None, want_weights: bool,
) -> tuple[DeviceArray, DeviceArray | None, Any]:  # fmt: skip
    """As `cuda_attention.attention`; of bfloat16 as it is where there is a kernel for that."""
    compute = in_float32(cuda_attention.attention, (0, 1))
    if not want_weights and _as_it_is(be, q, k, v):
        bias, compute = _wide(be, bias), cuda_attention.attention
    return compute(be, q, k, v, bias, scale, causal, dropout, want_weights)


def attention_backward(
    be: Launcher, dout: DeviceArray, dweights: DeviceArray | None, q: DeviceArray, k: DeviceArray,
    v: DeviceArray, out: DeviceArray, bias: DeviceArray | None, *options: Any,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:  # fmt: skip
    """The same of `cuda_attention.attention_backward`."""
    compute = in_float32(cuda_attention.attention_backward, (0, 1, 2))
    if dweights is None and _as_it_is(be, q, k, v, dout, out, backward=True):
        bias, compute = _wide(be, bias), cuda_attention.attention_backward
    return compute(be, dout, dweights, q, k, v, out, bias, *options)


def _as_it_is(be: Launcher, *heads: DeviceArray, backward: bool = False) -> bool:
    """Whether attention has a kernel for these arrays (B, H, T or S, D) of bfloat16."""
    return all(x.dtype == BFLOAT16 for x in heads) and cuda_attention.takes_bfloat16(
        be, heads[0].shape[-1], backward
    )


def _wide(be: Launcher, x: DeviceArray | None) -> DeviceArray | None:
    return x if x is None or not _is_half(x) else cuda_moving.cast(be, x, FLOAT)


def _is_half(argument: Any) -> bool:
    return isinstance(argument, DeviceArray) and argument.dtype in HALVES


def embedding(be: Launcher, weight: DeviceArray, ids: DeviceArray) -> DeviceArray:
    """(V, C), (...) -> (..., C): a row for each id. Halves go two at a time, as floats do one."""
    pairs = as_pairs(be.contiguous(weight)) if _is_half(weight) else None
    if pairs is None:
        return in_float32(cuda_fused.embedding)(be, weight, ids)
    y = cuda_fused.embedding(be, pairs, ids)
    shape = (*ids.shape, weight.shape[-1])
    return DeviceArray(y.storage, shape, contiguous_strides(shape), 0, weight.dtype)


def accumulate(be: Launcher, into: DeviceArray, x: DeviceArray) -> None:
    """into += x, broadcast to its shape; a sum of halves is rounded once."""
    if into.dtype == FLOAT16:
        cuda_moving.assign(be, into, in_float32(cuda_elementwise.binary("add"))(be, into, x))
    else:
        cuda_elementwise.accumulate(be, into, x)


def gelu(
    be: Launcher, x: DeviceArray, b: DeviceArray | None, tanh: bool, keep: bool
) -> tuple[DeviceArray, DeviceArray | None]:
    """As cuda_gelu.gelu. What is kept is x itself, not what it was widened to."""
    x = be.contiguous(x)
    if x.dtype == FLOAT or _gelu_takes(x, b, tanh):
        return cuda_gelu.gelu(be, x, b, tanh, keep)
    y, _ = in_float32(cuda_gelu.gelu)(be, x, b, tanh, False)
    return y, x if keep else None


def gelu_backward(
    be: Launcher, dy: DeviceArray, kept: DeviceArray, b: DeviceArray | None, tanh: bool
) -> tuple[DeviceArray, DeviceArray | None]:
    """As cuda_gelu.gelu_backward."""
    dy = be.contiguous(dy)
    own = BF16 if _gelu_takes(kept, b, tanh) and is_aligned(dy) else ()
    return in_float32(cuda_gelu.gelu_backward, (0, 1), own)(be, dy, kept, b, tanh)


def layer_norm(
    be: Launcher, x: DeviceArray, w: DeviceArray, b: DeviceArray, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """As cuda_fused.layer_norm; mean and 1/std are float32."""
    x, w, b = (be.contiguous(a) for a in (x, w, b))
    own = BF16 if cuda_fused.layer_norm_in_fours(x.shape[-1], is_aligned(x, w, b)) else ()
    return in_float32(cuda_fused.layer_norm, own=own)(be, x, w, b, eps)


def add_layer_norm(
    be: Launcher, x: DeviceArray, r: DeviceArray, w: DeviceArray, b: DeviceArray, eps: float
) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray]:
    """As cuda_fused.add_layer_norm: a sum of halves is rounded before it is normalised."""
    x, r, w, b = (be.contiguous(a) for a in (x, r, w, b))
    fours = cuda_fused.layer_norm_in_fours(x.shape[-1], is_aligned(x, r, w, b))
    if x.dtype == FLOAT or (x.dtype == BFLOAT16 and fours):
        return cuda_fused.add_layer_norm(be, x, r, w, b, eps)
    total = in_float32(cuda_elementwise.binary("add"))(be, x, r)
    return total, *layer_norm(be, total, w, b, eps)


def layer_norm_backward(
    be: Launcher, dy: DeviceArray, x: DeviceArray, w: DeviceArray, mean: DeviceArray,
    rstd: DeviceArray, plus: DeviceArray | None,
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:  # fmt: skip
    """As cuda_fused.layer_norm_backward."""
    dy, x, w = (be.contiguous(a) for a in (dy, x, w))
    plus = None if plus is None else be.contiguous(plus)
    aligned = is_aligned(dy, x, w, *(() if plus is None else (plus,)))
    own = BF16 if cuda_fused.layer_norm_backward_in_fours(x.shape[-1], aligned) else ()
    primitive = in_float32(cuda_fused.layer_norm_backward, (0, 1, 2), own)
    return primitive(be, dy, x, w, mean, rstd, plus)


def cross_entropy(
    be: Launcher, logits: DeviceArray, targets: DeviceArray, ignore: int
) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """As cuda_fused.cross_entropy; its results are float32."""
    logits = be.contiguous(logits)
    own = BF16 if is_aligned(logits) else ()
    return in_float32(cuda_fused.cross_entropy, (), own)(be, logits, targets, ignore)


def cross_entropy_backward(
    be: Launcher, dy: DeviceArray, logits: DeviceArray, targets: DeviceArray, ignore: int,
    lse: DeviceArray, count: DeviceArray,
) -> DeviceArray:  # fmt: skip
    """As cuda_fused.cross_entropy_backward."""
    logits = be.contiguous(logits)
    primitive = in_float32(
        cuda_fused.cross_entropy_backward, own=BF16 if is_aligned(logits) else ()
    )
    return primitive(be, dy, logits, targets, ignore, lse, count)


def dropout(be: Launcher, x: DeviceArray, mask: DropoutMask) -> DeviceArray:
    """As cuda_fused.dropout."""
    x = be.contiguous(x)
    return in_float32(cuda_fused.dropout, own=BF16 if is_aligned(x) else ())(be, x, mask)


def _gelu_takes(x: DeviceArray, b: DeviceArray | None, tanh: bool) -> bool:
    """Is there a kernel of bfloat16? Of GPT-2's form, four elements at a time."""
    return x.dtype == BFLOAT16 and tanh and cuda_gelu.in_fours(x, b)
