"""Fused primitives in NumPy: softmax, GELU, losses, dropout, optimizer steps.

Each works through its array in blocks of rows that stay in the processor's cache, because NumPy
makes one pass over memory for each operator: on a block that fits the cache the passes after the
first are nearly free. Shapes are those of `tensor.backend.Backend`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tensor.backend import DropoutMask
from tensor.random import keep_mask
from tensor.special import erf

# Of one operand of a block: three or four of this size fit a second-level cache of 1 MiB.
BLOCK_BYTES = 1 << 18


def blocks(rows: int, row_bytes: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices that cut `rows` rows into blocks of about `block_bytes`, at least one row each."""
    step = max(1, block_bytes // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def as_rows(x: np.ndarray) -> np.ndarray:
    """(..., C) as (N, C); a view unless x is strided."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


# --- softmax


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) / sum(exp(x)) over the last axis, the row's maximum subtracted first."""
    with np.errstate(all="ignore"):
        y = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
        np.exp(y, out=y)
        y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = y * (dy - sum(dy * y))."""
    dx = dy * y
    total = dx.sum(axis=-1, keepdims=True)
    return np.subtract(dx, y * total, out=dx)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """x - log(sum(exp(x))) over the last axis."""
    with np.errstate(all="ignore"):
        y = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
        y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
    return y


def log_softmax_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx = dy - exp(y) * sum(dy)."""
    return dy - np.exp(y) * dy.sum(axis=-1, keepdims=True)


# --- GELU (Hendrycks and Gimpel 2016)


def gelu(
    x: np.ndarray, b: np.ndarray | None, tanh: bool, keep: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """y = GELU(x + b) and, to be kept, dy/dx: computed while the exponential is at hand, which
    saves a second one and takes no more room than x.
    """
    rows = np.ascontiguousarray(x).reshape(-1) if b is None else as_rows(x)
    y = np.empty_like(rows)
    slope = np.empty_like(rows) if keep else None
    form = _gelu_tanh if tanh else _gelu_exact
    with np.errstate(all="ignore"):
        for block in blocks(len(rows), rows.itemsize * math.prod(rows.shape[1:])):
            z = rows[block] if b is None else rows[block] + b
            form(z, y[block], None if slope is None else slope[block])
    return y.reshape(x.shape), None if slope is None else slope.reshape(x.shape)


def _gelu_exact(z: np.ndarray, y: np.ndarray, slope: np.ndarray | None) -> None:
    """y = z * P(z) with P(z) = (1 + erf(z / sqrt(2))) / 2, the exact form.

    dy/dz = P(z) + z * exp(-z^2 / 2) / sqrt(2 pi).
    """
    number = z.dtype.type
    p = erf(z * number(math.sqrt(0.5)))
    p += 1
    p *= number(0.5)
    np.multiply(z, p, out=y)
    if slope is not None:
        np.multiply(z, z, out=slope)
        slope *= number(-0.5)
        np.exp(slope, out=slope)
        slope *= number(1 / math.sqrt(2 * math.pi))
        slope *= z
        slope += p


def _gelu_tanh(z: np.ndarray, y: np.ndarray, slope: np.ndarray | None) -> None:
    """GPT-2's form: y = z * (1 + tanh(u)) / 2, u = c * (z + a z^3), c = sqrt(2 / pi), a = 0.044715.

    (1 + tanh(u)) / 2 is s = 1 / (1 + exp(-2u)), which takes half of tanh's time. With it
    dy/dz = s + y * (1 - s) * 2c * (1 + 3 a z^2).
    """
    number = z.dtype.type
    c, a = math.sqrt(2 / math.pi), 0.044715
    square = z * z
    s = square * number(-2 * c * a)
    s -= number(2 * c)
    s *= z  # -2u
    np.exp(s, out=s)
    s += number(1)
    np.reciprocal(s, out=s)
    np.multiply(z, s, out=y)
    if slope is not None:
        square *= number(6 * c * a)
        square += number(2 * c)
        np.subtract(number(1), s, out=slope)
        slope *= y
        slope *= square
        slope += s


def gelu_backward(
    dy: np.ndarray, kept: np.ndarray, b: np.ndarray | None, tanh: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """dx = dy * slope, and with a bias db = sum over rows of dx, while a block of it is at hand."""
    with np.errstate(all="ignore"):
        if b is None:
            return np.asarray(dy * kept), None  # of one number, too, an array
        dys, slopes = as_rows(dy), as_rows(kept)
        dx, db = np.empty_like(slopes), np.zeros_like(b)
        for block in blocks(len(dx), dx.itemsize * b.size):
            out = dx[block]
            np.multiply(dys[block], slopes[block], out=out)
            db += np.ones(len(out), out.dtype) @ out
    return dx.reshape(kept.shape), db


# --- cross-entropy


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, ignore: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of log(sum(exp(logits))) - logits[target] where the target counts; NaN if none does.

    The sum is kept in float64. No array of the size of the logits is made.
    """
    n, vocabulary = logits.shape
    lse = np.empty(n, logits.dtype)
    with np.errstate(all="ignore"):
        for block in blocks(n, logits.itemsize * vocabulary):
            top = logits[block].max(axis=-1, keepdims=True)
            shifted = logits[block] - top
            np.exp(shifted, out=shifted)
            lse[block] = np.log(shifted.sum(axis=-1)) + top[:, 0]
        counted = np.flatnonzero(targets != ignore)
        losses = lse[counted] - logits[counted, targets[counted]]
        count = np.asarray(counted.size, logits.dtype)
        loss = np.asarray(
            losses.sum(dtype=np.float64) / counted.size if counted.size else np.nan, logits.dtype
        )
    return loss, lse, count


def cross_entropy_backward(
    dy: np.ndarray,
    logits: np.ndarray,
    targets: np.ndarray,
    ignore: int,
    lse: np.ndarray,
    count: np.ndarray,
) -> np.ndarray:
    """dlogits = (softmax(logits) - one_hot(target)) * dy / count, 0 in ignored rows."""
    n, vocabulary = logits.shape
    dlogits = np.empty(logits.shape, logits.dtype)
    with np.errstate(all="ignore"):
        factor = np.where(targets == ignore, 0, dy / count).astype(logits.dtype)
        for block in blocks(n, logits.itemsize * vocabulary):
            d, wanted = dlogits[block], targets[block]
            np.subtract(logits[block], lse[block, None], out=d)
            np.exp(d, out=d)
            rows = np.flatnonzero(wanted != ignore)
            d[rows, wanted[rows]] -= 1
            d *= factor[block, None]
    return dlogits


# --- dropout (Srivastava et al. 2014)


def dropout(x: np.ndarray, mask: DropoutMask) -> np.ndarray:
    """x / (1 - p) where the mask keeps an element, 0 elsewhere."""
    kept = keep_mask(mask, 0, x.size).reshape(x.shape)
    with np.errstate(all="ignore"):
        y = np.asarray(x * kept)  # an array even where x has no dimensions
        y *= x.dtype.type(1 / (1 - mask.p))
    return y


# --- over many arrays: the norm of all gradients, and optimizer steps, in place


def scale(xs: Sequence[np.ndarray], factor: float) -> None:
    """Each x *= factor."""
    with np.errstate(all="ignore"):
        for x in xs:
            x *= x.dtype.type(factor)


def sum_of_squares(xs: Sequence[np.ndarray]) -> float:
    """Of all elements of all arrays."""
    return sum(map(_sum_of_squares, xs))


def _sum_of_squares(x: np.ndarray) -> float:
    """In float64 over runs of 256 elements; each run's own sum in the array's dtype.

    As fast as one product over everything, whose float32 sum is off by 2e-5 for a million elements.
    """
    flat = np.ascontiguousarray(x).reshape(-1)
    whole = flat.size - flat.size % 256
    runs, rest = flat[:whole].reshape(-1, 256), flat[whole:]
    with np.errstate(all="ignore"):
        sums = np.einsum("nc,nc->n", runs, runs)
        total = float(sums.sum(dtype=np.float64)) + float(np.dot(rest, rest))
        if math.isfinite(total):
            return total
        return float(np.square(flat, dtype=np.float64).sum())  # 1e20 squared overflows float32


def sgd_step(
    ps: Sequence[np.ndarray],
    gs: Sequence[np.ndarray],
    velocities: Sequence[np.ndarray] | None,
    lr: float,
    momentum: float,
    decay: float,
    masters: Sequence[np.ndarray] | None = None,
) -> None:
    """g' = g + decay * p; velocity = momentum * velocity + g' if there is one; p -= lr * either."""
    _need_no(masters)
    for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
        number = p.dtype.type
        with np.errstate(all="ignore"):
            update = g + number(decay) * p
            if velocities is not None:
                velocity = velocities[i]
                velocity *= number(momentum)
                velocity += update
                update = velocity
            p -= number(lr) * update


def adamw_step(
    ps: Sequence[np.ndarray],
    gs: Sequence[np.ndarray],
    ms: Sequence[np.ndarray],
    vs: Sequence[np.ndarray],
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    masters: Sequence[np.ndarray] | None = None,
) -> None:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), step counted from 1:

    p *= 1 - lr * decay;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps).
    """
    _need_no(masters)
    for p, g, m, v in zip(ps, gs, ms, vs, strict=True):
        _adamw_step(p, g, m, v, step, lr, betas, eps, decay)


def _need_no(masters: Sequence[np.ndarray] | None) -> None:
    if masters is not None:
        raise TypeError("the CPU has no half precision, whose weights alone have masters")


def _adamw_step(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
) -> None:
    """One parameter's step, in blocks that stay in the cache."""
    number = p.dtype.type
    beta1, beta2 = betas
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    ps, gs, ms, vs = (a.reshape(-1) for a in (p, np.ascontiguousarray(g), m, v))
    strided = not p.flags.c_contiguous  # then ps is a copy
    room = np.empty(min(ps.size, BLOCK_BYTES // ps.itemsize), p.dtype)
    with np.errstate(all="ignore"):
        for block in blocks(ps.size, ps.itemsize):
            gradient, first, second = gs[block], ms[block], vs[block]
            update = room[: len(gradient)]
            first *= number(beta1)
            np.multiply(gradient, number(1 - beta1), out=update)
            first += update
            second *= number(beta2)
            np.multiply(gradient, gradient, out=update)
            update *= number(1 - beta2)
            second += update
            np.multiply(second, number(1 / correction2), out=update)
            np.sqrt(update, out=update)
            update += number(eps)
            np.divide(first, update, out=update)
            update *= number(lr / correction1)
            if decay:
                ps[block] *= number(1 - lr * decay)
            ps[block] -= update
    if strided:
        p[...] = ps.reshape(p.shape)
