"""Operations on several tensors, and those with options: what layers are built from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensor.apply import apply, operands
from tensor.backend import DropoutMask
from tensor.dtypes import FLOAT32, HALVES, is_float, name_of
from tensor.graph import is_grad_enabled
from tensor.ops import elementwise, fused, matmul, shape
from tensor.ops.function import broadcast_shapes, normalize_axis
from tensor.random import Generator, default_generator
from tensor.tensor import Tensor

# --- joining and choosing


def cat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors joined along an axis; their other sizes and dtypes must agree."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("cat: there is nothing to join")
    _need_tensors("cat", *tensors)
    first = tensors[0]
    if first.ndim == 0:
        raise ValueError("cat: tensors without dimensions have no axis to join; see stack")
    a = normalize_axis("cat", axis, first.ndim)
    for t in tensors:
        if (
            t.ndim != first.ndim
            or t.shape[:a] + t.shape[a + 1 :] != first.shape[:a] + first.shape[a + 1 :]
        ):
            raise ValueError(
                f"cat along axis {a}: shapes {first.shape} and {t.shape} differ elsewhere"
            )
        if t.dtype != first.dtype:
            raise TypeError(
                f"cat: {name_of(first.dtype)} and {name_of(t.dtype)} differ; convert one with "
                ".astype(…)"
            )
    return apply(shape.Concatenate, *tensors, axis=a)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("stack: there is nothing to join")
    _need_tensors("stack", *tensors)
    first = tensors[0]
    for t in tensors:
        if t.shape != first.shape:
            raise ValueError(f"stack: shapes {first.shape} and {t.shape} differ")
    a = normalize_axis("stack", axis, first.ndim + 1)
    return cat([t.unsqueeze(a) for t in tensors], a)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the boolean condition holds, b elsewhere; all three broadcast."""
    if not isinstance(condition, Tensor):
        like = next((x for x in (a, b) if isinstance(x, Tensor)), None)
        condition = Tensor(condition, device="cpu" if like is None else like.device)
    if condition.dtype.kind != "b":
        raise TypeError(
            f"where: the condition must be boolean, not {name_of(condition.dtype)}; compare "
            "first, as in x != 0"
        )
    if isinstance(a, Tensor) or not isinstance(b, Tensor):
        a, b = operands(
            "where", a if isinstance(a, Tensor) else Tensor(a, device=condition.device), b
        )
    else:
        b, a = operands("where", b, a)
    broadcast_shapes("where", condition.shape, a.shape, b.shape)
    return apply(elementwise.Where, condition, a, b)


# --- layers


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, transpose: bool = False) -> Tensor:
    """x w + b: (..., K), (K, N), (N,) -> (..., N). With `transpose`, w is (N, K)."""
    _check_linear("linear", x, w, b, transpose)
    inputs = (x, w) if b is None else (x, w, b)
    return apply(matmul.Linear, *inputs, transpose=transpose)


def _check_linear(name: str, x: Tensor, w: Tensor, b: Tensor | None, transpose: bool) -> None:
    inputs = (x, w) if b is None else (x, w, b)
    _need_tensors(name, *inputs)
    rows, columns = w.shape[::-1] if transpose and w.ndim == 2 else (w.shape + (-1, -1))[:2]
    if w.ndim != 2 or x.ndim == 0 or x.shape[-1] != rows:
        raise ValueError(
            f"{name}: input {x.shape} and weight {w.shape}{' transposed' if transpose else ''}: "
            "the input's last size must be the weight's number of rows"
        )
    if b is not None and b.shape != (columns,):
        raise ValueError(
            f"{name}: bias {b.shape} does not match the {columns} columns of the weight"
        )
    _same_dtype(name, *inputs)


def linear_gelu(x: Tensor, w: Tensor, b: Tensor, approximate: str = "none") -> Tensor:
    """GELU(x w + b), as `bias_gelu` of `linear`: (..., K), (K, N), (N,) -> (..., N).

    Where no gradient is recorded, a device computes GPT-2's form before it stores the product.
    """
    _check_linear("linear_gelu", x, w, b, False)
    recorded = is_grad_enabled() and any(t.requires_grad for t in (x, w, b))
    if recorded or not fused.is_tanh(approximate):
        return bias_gelu(linear(x, w), b, approximate)
    _same_dtype("linear_gelu", x, floats=True)
    return apply(matmul.LinearGelu, x, w, b)


def embedding(weight: Tensor, ids: Any) -> Tensor:
    """Row ids[...] of the weight (V, C) for each id: (...) -> (..., C). IndexError for an id
    outside 0 … V - 1.

    ids may be on any device: they are looked at where they are, so best on the CPU, and move to
    the weight's. While a step is recorded (`RecordedStep`) those on its device are not looked at.
    """
    _need_tensors("embedding", weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding: the weight must be (V, C), not {weight.shape}")
    ids = ids if isinstance(ids, Tensor) else Tensor(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids must be integers, not {name_of(ids.dtype)}")
    rows = weight.shape[0]
    if ids.size and not ids.backend.is_recording:
        values = ids.numpy()
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= rows:
            wrong = low if low < 0 else high
            raise IndexError(
                f"embedding: id {wrong} is outside 0 … {rows - 1} (the weight has {rows} rows)"
            )
    return apply(shape.Embedding, weight, ids.to(weight.device))


def _check_layer_norm(name: str, x: Tensor, w: Tensor, b: Tensor) -> None:
    if 0 in x.shape[-1:] or x.ndim == 0 or w.shape != x.shape[-1:] or b.shape != x.shape[-1:]:
        raise ValueError(
            f"{name}: weight {w.shape} and bias {b.shape} must have the size of the last axis "
            f"of the input {x.shape}"
        )


def layer_norm(x: Tensor, w: Tensor, b: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * w + b over the last axis (Ba et al. 2016).

    (..., C), (C,), (C,) -> (..., C).
    """
    _need_tensors("layer_norm", x, w, b)
    _check_layer_norm("layer_norm", x, w, b)
    _same_dtype("layer_norm", x, w, b, floats=True)
    return apply(fused.LayerNorm, x, w, b, eps=eps)


def add_layer_norm(
    x: Tensor, r: Tensor, w: Tensor, b: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """(x + r, its layer norm), x and r (..., C), w and b (C,), with fewer walks through memory than
    one after the other.
    """
    _need_tensors("add_layer_norm", x, r, w, b)
    if x.shape != r.shape:
        raise ValueError(f"add_layer_norm: inputs {x.shape} and {r.shape} must have one shape")
    _check_layer_norm("add_layer_norm", x, w, b)
    _same_dtype("add_layer_norm", x, r, w, b, floats=True)
    sum_and_norm: tuple[Tensor, Tensor] = apply(fused.AddLayerNorm, x, r, w, b, eps=eps)
    return sum_and_norm


def bias_gelu(x: Tensor, b: Tensor, approximate: str = "none") -> Tensor:
    """GELU(x + b), exact ("none") or in GPT-2's "tanh" form: (..., C), (C,) -> (..., C).

    The numbers of `(x + b).gelu(approximate)`, with fewer walks through memory both ways.
    """
    _need_tensors("bias_gelu", x, b)
    if x.ndim == 0 or b.shape != x.shape[-1:]:
        raise ValueError(
            f"bias_gelu: bias {b.shape} must have the size of the last axis of the input {x.shape}"
        )
    _same_dtype("bias_gelu", x, b, floats=True)
    return apply(fused.Gelu, x, b, tanh=fused.is_tanh(approximate))


def dropout(
    x: Tensor, p: float, training: bool = True, generator: Generator | None = None
) -> Tensor:
    """x with each element dropped with probability p, the others divided by 1 - p, in training."""
    _need_tensors("dropout", x)
    _same_dtype("dropout", x, floats=True)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p = {p} is not a probability")
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0.0
    return apply(fused.Dropout, x, mask=(generator or default_generator()).dropout_mask(p))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    head_mask: Tensor | None = None,
    want_weights: bool = False,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k^T * scale + bias) v for each head. Vaswani et al. 2017, section 3.2.

    q (B, H, T, D), k and v (B, H, S, D) -> out (B, H, T, D) and, with `want_weights`, the weights
    (B, H, T, S) after dropout and head_mask, otherwise None.

    bias: added to the scores, broadcasts to (B, H, T, S), a constant; -inf or the dtype's lowest
    number masks a key.
    scale: 1 / sqrt(D) unless given.
    causal: a query sees no later key, counted from the lower right corner: the last query sees all
    S keys.
    dropout: probability that a weight is dropped (only pass it when training).
    head_mask: the weights are multiplied by it after dropout, broadcasts to (B, H, T, S); it may
    require a gradient, which tells how much a head matters (Michel et al. 2019).
    """
    _check_attention(q, k, v, bias, causal, dropout)
    bias = None if bias is None else bias.astype(q.dtype)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    dropped = (generator or default_generator()).dropout_mask(dropout) if dropout else None
    if head_mask is not None:
        _check_head_mask(q, k, head_mask)
        out, weights = _attention_step_by_step(q, k, v, bias, scale, causal, dropped, head_mask)
        return out, weights if want_weights else None
    result = apply(
        fused.Attention,
        q,
        k,
        v,
        bias=None if bias is None else bias.data,
        scale=scale,
        causal=causal,
        dropout=dropped,
        want_weights=want_weights,
    )
    return result if want_weights else (result, None)


def _attention_step_by_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float,
    causal: bool,
    dropped: DropoutMask | None,
    head_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same with a head_mask, made of small operations: slower, and the definition itself."""
    scores = q @ k.transpose(-1, -2) * scale  # (B, H, T, S)
    T, S = scores.shape[-2:]
    if causal:  # the last query sees the last key
        future = np.triu(np.full((T, S), -np.inf), S - T + 1)
        scores = scores + Tensor(future, dtype=q.dtype, device=q.device)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax()
    if dropped is not None:
        weights = apply(fused.Dropout, weights, mask=dropped)
    weights = weights * head_mask
    return weights @ v, weights


def _check_head_mask(q: Tensor, k: Tensor, head_mask: Tensor) -> None:
    _need_tensors("attention: head_mask", head_mask)
    _same_dtype("attention with head_mask", q, head_mask)
    full = (*q.shape[:3], k.shape[2])
    if (
        head_mask.ndim != 4
        or broadcast_shapes("attention head_mask", head_mask.shape, full) != full
    ):
        raise ValueError(
            f"attention: head_mask {head_mask.shape} does not broadcast to (B, H, T, S) = {full}"
        )


def _check_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, dropout: float
) -> None:
    _need_tensors("attention", q, k, v, *(() if bias is None else (bias,)))
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"attention: q {q.shape}, k {k.shape}, v {v.shape}: (B, H, T, D) and twice (B, H, S, "
            "D) needed"
        )
    _same_dtype("attention", q, k, v, floats=True)
    b, h, t, d = q.shape
    s = k.shape[2]
    if s == 0 or d == 0:
        raise ValueError(f"attention: k {k.shape} holds no key, or keys of size 0")
    if causal and t > s:
        raise ValueError(
            f"attention: {t} queries but only {s} keys; a causal query needs its own key at least"
        )
    if bias is not None and (
        bias.ndim != 4
        or broadcast_shapes("attention bias", bias.shape, (b, h, t, s)) != (b, h, t, s)
    ):
        raise ValueError(
            f"attention: bias {bias.shape} does not broadcast to (B, H, T, S) = {(b, h, t, s)}"
        )
    if bias is not None and (not is_float(bias.dtype) or bias.requires_grad):
        raise TypeError(
            f"attention: the bias is {name_of(bias.dtype)}{' with a gradient' * bias.requires_grad}"
            "; it must be a float constant, 0 where a key is seen and -inf where not: where(), "
            ".detach()"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"attention: dropout = {dropout} is outside 0 … 1 (1 excluded)")


# --- losses


def cross_entropy(logits: Tensor, targets: Any, ignore_index: int = -100) -> Tensor:
    """Mean of -log softmax(logits)[target] over the targets that are not `ignore_index`: a scalar.

    logits (..., V), targets (...) integers in 0 … V - 1 or `ignore_index`. NaN if every target is
    ignored, as in torch. IndexError for another target, ValueError for shapes that don't match.

    Logits of half precision have a float32 loss, which is never rounded to them.

    targets may be on any device, best on the CPU: see `embedding`.
    """
    _need_tensors("cross_entropy", logits)
    _same_dtype("cross_entropy", logits, floats=True)
    targets = targets if isinstance(targets, Tensor) else Tensor(targets)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets must be integers, not {name_of(targets.dtype)}")
    if logits.ndim == 0 or logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"cross_entropy: logits {logits.shape} need targets {logits.shape[:-1]}, got "
            f"{targets.shape}"
        )
    size = logits.shape[-1]
    flat = targets.reshape(-1)  # (N,)
    if not flat.backend.is_recording:
        _check_targets(flat.numpy(), size, ignore_index)
    flat = flat.to(logits.device)
    return apply(fused.CrossEntropy, logits.reshape(-1, size), flat, ignore=ignore_index)  # (N, V)


def _check_targets(values: np.ndarray, size: int, ignore_index: int) -> None:
    wrong = values[(values != ignore_index) & ((values < 0) | (values >= size))]
    if wrong.size:
        raise IndexError(
            f"cross_entropy: target {wrong[0]} is neither in 0 … {size - 1} nor {ignore_index} "
            "(ignored)"
        )


def binary_cross_entropy_with_logits(logits: Tensor, targets: Any) -> Tensor:
    """Mean of -(z log s + (1 - z) log(1 - s)), s = sigmoid(logits), z the targets in [0, 1].

    Logits and targets have the same shape. Of half precision, the loss is float32.
    """
    _need_tensors("binary_cross_entropy_with_logits", logits)
    _same_dtype("binary_cross_entropy_with_logits", logits, floats=True)
    logits = _at_least_float32(logits)
    targets = _like("binary_cross_entropy_with_logits", targets, logits)
    return apply(fused.BinaryCrossEntropy, logits, targets).mean()


def mse_loss(x: Tensor, target: Any) -> Tensor:
    """Mean squared difference of two tensors of the same shape, in float32 for half precision."""
    _need_tensors("mse_loss", x)
    _same_dtype("mse_loss", x, floats=True)
    x = _at_least_float32(x)
    difference = x - _like("mse_loss", target, x)
    return (difference * difference).mean()


# --- what the functions share


def _like(name: str, values: Any, x: Tensor) -> Tensor:
    """Targets as a tensor of x's dtype, after a check that the shapes are the same."""
    t = values if isinstance(values, Tensor) else Tensor(values, x.dtype, device=x.device)
    if t.shape != x.shape:
        raise ValueError(f"{name}: shapes {x.shape} and {t.shape} differ")
    return t.astype(x.dtype) if t.requires_grad else t.to(x.device, x.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.astype(FLOAT32) if x.dtype in HALVES else x


def _need_tensors(name: str, *values: Any) -> None:
    for v in values:
        if not isinstance(v, Tensor):
            raise TypeError(
                f"{name}: a Tensor is needed, not {type(v).__name__}; see Tensor(values)"
            )


def _same_dtype(name: str, *tensors: Tensor, floats: bool = False) -> None:
    if floats and not is_float(tensors[0].dtype):
        raise TypeError(
            f"{name}: floats are needed, not {tensors[0].dtype}; see .astype('float32')"
        )
    if any(t.dtype != tensors[0].dtype for t in tensors):
        listed = ", ".join(name_of(t.dtype) for t in tensors)
        raise TypeError(f"{name}: dtypes {listed} differ; convert with .astype(…)")
