"""The families of kernels that the bench and the tuning know, by name."""

from __future__ import annotations

from kernels.bench_attention import Attention, AttentionBackward
from kernels.bench_cases import Case
from kernels.bench_elements import AdamW, Copy, Gelu
from kernels.bench_products import Matmul
from kernels.bench_rows import (
    CrossEntropy,
    CrossEntropyBackward,
    LayerNorm,
    LayerNormBackward,
    Softmax,
    SoftmaxBackward,
)

FAMILIES: dict[str, type[Case]] = {
    case.family: case
    for case in (
        Matmul, Attention, AttentionBackward, LayerNorm, LayerNormBackward, Softmax,
        SoftmaxBackward, Gelu, CrossEntropy, CrossEntropyBackward, AdamW, Copy,
    )
}  # fmt: skip
