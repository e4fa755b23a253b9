"""The families of kernels that the bench and the tuning know, by name."""

from __future__ import annotations

from kernels.bench_cases import AdamW, Case, Copy, CrossEntropy, Gelu, LayerNorm, Softmax
from kernels.bench_products import Attention, Matmul

FAMILIES: dict[str, type[Case]] = {
    case.family: case
    for case in (Matmul, Attention, LayerNorm, Softmax, Gelu, CrossEntropy, AdamW, Copy)
}
