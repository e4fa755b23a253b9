"""How closely numbers must agree with a reference: each tolerance once, and why it is that size.

Two correct programs that add the same float32 numbers in a different order differ: every sum of n
terms is rounded up to n times by at most 2**-24 (6e-8) of the running value. The tolerances below
are a small multiple of what such rounding does to GPT-2 (2e-6 in the logits of a model with two
layers), and far below what a wrong formula does: the exact GELU in place of its tanh form, the
least of the usual mistakes, moves those logits by 1e-3.

Outputs are compared on the scale of the whole array, gradients on the scale of their parameter:
a single entry near zero is the difference of large terms, so its own size says nothing about the
error that it may carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

# Logits, hidden states, attentions, losses, cached keys and values: x max(1, rms of the reference).
# The same for one call against several through the cache: the same arithmetic on other shapes, for
# which BLAS picks another order of additions.
OUTPUT_FLOAT32 = 1e-5
OUTPUT_FLOAT64 = 1e-9

# Gradients: x the largest entry of the parameter's own gradient. Backward passes add over batch,
# time and vocabulary, which costs a decimal more than the forward pass.
GRADIENT_FLOAT32 = 1e-4
GRADIENT_FLOAT64 = 1e-7
# A parameter whose true gradient is zero (the key part of c_attn.bias: softmax does not see a
# shift) shows nothing but rounding. Its scale is at least this part of the model's largest entry.
GRADIENT_FLOOR = 1e-2

# A device's kernels in float32 against NumPy, outputs and gradients: x max(1, rms). The sums of a
# matrix product or an attention in other orders, and exp, tanh and erf of another library.
DEVICE_FLOAT32 = 1e-4

# Losses of a few AdamW steps, absolute. Adam divides by the gradient's own size, so rounding in
# small gradients grows to whole steps; in the loss, ten steps of it stay below this.
TRAINING_LOSS = 1e-5

# Logits of the 124M model in float32, absolute: twelve layers of sums of 768 and 3072 terms, and
# logits as large as 100 with the official weights, where one float32 step is already 8e-6.
LOGITS_124M = 1e-3


@dataclass(frozen=True)
class Comparison:
    """The worst entry of one array compared with its reference; `str()` makes the error message."""

    name: str
    ok: bool
    difference: float  # largest |ours - reference|; inf where just one side is NaN or infinite
    allowed: float
    index: tuple[int, ...]  # where the largest difference is
    ours: float
    reference: float

    @property
    def ratio(self) -> float:
        """Difference in units of what is allowed: at most 1 passes."""
        if self.difference == 0:  # a gradient that is zero everywhere allows nothing else
            return 0.0
        return self.difference / self.allowed if self.allowed else np.inf

    def __str__(self) -> str:
        where = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return (
            f"{self.name}: largest difference {self.difference:.3g} "
            f"({'within' if self.ok else 'over'} {self.allowed:.3g} allowed), "
            f"{self.ours:.9g} against {self.reference:.9g} at {self.name}{where}"
        )


def compare(name: str, ours: np.ndarray, reference: np.ndarray, allowed: float) -> Comparison:
    """Compare two arrays of one shape, entry by entry, with an absolute tolerance.

    NaN agrees with NaN and an infinity with the same infinity; anything else non-finite is a
    difference of infinity. ValueError where the shapes differ.
    """
    ours, reference = np.asarray(ours), np.asarray(reference)
    if ours.shape != reference.shape:
        raise ValueError(f"{name}: shape {ours.shape} is not the reference's {reference.shape}")
    if ours.size == 0:
        return Comparison(name, True, 0.0, allowed, (), np.nan, np.nan)
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        differences = np.where(same, 0.0, np.abs(a - b))
    differences[np.isnan(differences)] = np.inf
    worst = np.unravel_index(int(np.argmax(differences)), differences.shape)
    return Comparison(
        name=name,
        ok=bool(differences[worst] <= allowed),
        difference=float(differences[worst]),
        allowed=allowed,
        index=tuple(int(i) for i in worst),
        ours=float(a[worst]),
        reference=float(b[worst]),
    )


def output_tolerance(reference: np.ndarray) -> float:
    """The absolute tolerance for an output: by the reference's dtype, x max(1, its rms)."""
    base = OUTPUT_FLOAT64 if _is_float64(reference) else OUTPUT_FLOAT32
    finite = np.asarray(reference, np.float64)[np.isfinite(reference)]
    rms = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    return base * max(1.0, rms)


def compare_output(name: str, ours: np.ndarray, reference: np.ndarray) -> Comparison:
    """Compare an output (logits, loss, hidden states …) with the tolerance of its dtype."""
    return compare(name, ours, reference, output_tolerance(reference))


def compare_activations(
    name: str, ours: np.ndarray, reference: np.ndarray, layers: int = 1
) -> Comparison:
    """`compare_output` for what went through several layers, each of which may add the rounding of
    one; and where an entry larger than all that is compared on its own scale.

    In trained models a few channels of the first token are thousands of times larger than the rest
    (Sun et al. 2024, "Massive activations in large language models"): float32's last bit of one of
    those is more than 1e-5 of the rms.
    """
    allowed = output_tolerance(reference) * layers
    base = (OUTPUT_FLOAT64 if _is_float64(reference) else OUTPUT_FLOAT32) * layers
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    scale = np.asarray(np.maximum(np.abs(reference) * base / allowed, 1.0))  # 1 up to the rms
    scale[~np.isfinite(scale)] = 1.0
    with np.errstate(invalid="ignore"):
        worst = compare(name, ours / scale, reference / scale, allowed)
    if not worst.index and reference.ndim:
        return worst                                                # of an empty array
    factor = float(scale[worst.index])
    return replace(
        worst, difference=worst.difference * factor, allowed=allowed * factor,
        ours=float(ours[worst.index]), reference=float(reference[worst.index]),
    )


def gradient_tolerances(reference: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The absolute tolerance for each gradient, {parameter name: tolerance}."""
    largest = {name: float(np.abs(g).max(initial=0.0)) for name, g in reference.items()}
    floor = GRADIENT_FLOOR * max(largest.values(), default=0.0)
    return {
        name: (GRADIENT_FLOAT64 if _is_float64(g) else GRADIENT_FLOAT32) * max(largest[name], floor)
        for name, g in reference.items()
    }


def compare_gradients(
    ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> list[Comparison]:
    """Compare the gradients of all parameters, the worst (by ratio) first.

    ValueError where one side lacks a parameter of the other, or shapes differ.
    """
    if ours.keys() != reference.keys():
        raise ValueError(
            f"gradients of different parameters: missing {sorted(reference.keys() - ours.keys())}, "
            f"unexpected {sorted(ours.keys() - reference.keys())}"
        )
    allowed = gradient_tolerances(reference)
    results = [compare(name, ours[name], reference[name], allowed[name]) for name in reference]
    return sorted(results, key=lambda result: result.ratio, reverse=True)


def _is_float64(array: np.ndarray) -> bool:
    return bool(np.asarray(array).dtype == np.float64)
