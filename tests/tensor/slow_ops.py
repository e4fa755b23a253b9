"""Operations written the obvious slow way, from their definitions: what the fast ones must equal.

They share no code with `tensor`. Everything is float64.
"""

from __future__ import annotations

import math

import numpy as np


def erf(x: np.ndarray) -> np.ndarray:
    """The C library's, element by element."""
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def gelu(x: np.ndarray, tanh: bool) -> np.ndarray:
    if not tanh:
        return x * (1 + erf(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def layer_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray, eps: float) -> np.ndarray:
    """Ba et al. 2016, row by row, with sums that are exact to the last digit."""
    y = np.empty(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        values = [float(v) for v in x[row]]
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        y[row] = [(v - mean) / math.sqrt(variance + eps) for v in values] * w + b
    return y


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Vaswani et al. 2017, section 3.2.1, one query at a time: output and weights (B, H, T, S)."""
    B, H, T, D = q.shape
    S = k.shape[2]
    out = np.zeros((B, H, T, D))
    weights = np.zeros((B, H, T, S))
    bias = np.broadcast_to(0.0 if bias is None else bias, (B, H, T, S))
    scale = 1 / math.sqrt(D) if scale is None else scale
    for b, h, t in np.ndindex(B, H, T):
        seen = S - T + t + 1 if causal else S  # the last query sees all keys
        scores = k[b, h, :seen] @ q[b, h, t] * scale + bias[b, h, t, :seen]
        e = np.exp(scores - scores.max())
        weights[b, h, t, :seen] = e / e.sum()
        out[b, h, t] = weights[b, h, t] @ v[b, h]
    return out, weights


def cross_entropy(logits: np.ndarray, targets: np.ndarray, ignore: int) -> float:
    """Mean of log(sum(exp(x))) - x[target], one position at a time."""
    losses = []
    for position in np.ndindex(targets.shape):
        target = int(targets[position])
        if target == ignore:
            continue
        x = logits[position]
        top = float(x.max())
        losses.append(math.log(math.fsum(math.exp(v - top) for v in x)) + top - float(x[target]))
    return math.fsum(losses) / len(losses) if losses else math.nan


def binary_cross_entropy(x: np.ndarray, z: np.ndarray) -> float:
    s = 1 / (1 + np.exp(-x))
    return float(np.mean(-(z * np.log(s) + (1 - z) * np.log(1 - s))))
