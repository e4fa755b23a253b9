"""The bench's cases of products: matmul and attention. bench_cases.py says what a case is."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import grids
from kernels.bench_cases import FLOAT, Arrays, Case, Step, get, in_halves, nan, on_gpu, put, sample
from kernels.interface import Device
from kernels.launch import load


class Matmul(Case):
    """C = A B. bytes: A, B and C once each. flops: a product and a sum for each of M N K."""

    family, axes = "matmul", ("M", "K", "N")
    versions = {
        "matmul_naive": (256, 64, 128),
        "matmul_coalesced": (256, 64, 128),
        "matmul_tiles": (256,),
        "matmul_registers": (64,),
        "matmul_vector": (256,),
        "matmul_wmma": (128,),
        "matmul_mma_tf32": (256,),
        "matmul_mma_3xtf32": (256,),
        "matmul_mma_bf16": (256,),
        "matmul_mma_bf16_storage": (256,),
        "matmul_rows": (512, 128, 256),
        "matmul_rows_bf16": (512, 128, 256),
    }
    files = ("matmul.cu", "matmul_wmma.cu", "matmul_mma.cu")
    # c_fc of GPT-2 in training and in decoding, and a large square
    shapes, small = ((4096, 768, 3072), (1, 768, 3072), (4096, 4096, 4096)), (128, 64, 128)

    def __init__(self, M: int, K: int, N: int) -> None:
        super().__init__(M, K, N)
        self.a, self.b = self.normal(M, K), self.normal(K, N)
        self.bytes, self.flops = FLOAT * (M * K + K * N + M * N), 2 * M * N * K
        self.saved = self.bytes // 2

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        M = sizes[0]
        if version.startswith("matmul_rows") and M > 64:
            return f"it is for few rows, and reads B M / 4 times: M is {M}"
        return ""

    def upload(self, device: Device, version: str) -> Arrays:
        (M, _, N), halves = self.sizes, in_halves(version)
        return {"a": put(device, self.a, halves), "b": put(device, self.b, halves),
                "c": nan(device, M, N, halves=halves)}  # fmt: skip

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        M, K, N = self.sizes
        load(grids.matmul_file(version), device)[version](
            arrays["a"], arrays["b"], None, arrays["c"], M, N, K, K, N, 0, 0, 0, 1, (1,), (0,),
            (0,), 1, grid=grids.matmul(version, block, M, N, 1, False),
            block=grids.matmul_block(version, block),
        )  # fmt: skip

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        rows = sample(self.sizes[0])
        exact = self.a[rows].astype(np.float64) @ self.b.astype(np.float64)
        return get(arrays["c"])[rows], exact

    def torch_step(self, torch: Any) -> Step:
        a, b = on_gpu(torch, self.a, self.b)
        return lambda: a @ b
