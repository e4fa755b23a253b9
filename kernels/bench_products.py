"""The bench's cases of products: matmul and attention. bench_cases.py says what a case is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kernels import grids
from kernels.bench_cases import FLOAT, Arrays, Case, Step, nan, on_gpu, sample
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
        "matmul_rows": (512, 128, 256),
    }
    files = ("matmul.cu", "matmul_wmma.cu", "matmul_mma.cu")
    # c_fc of GPT-2 in training and in decoding, and a large square
    shapes, small = ((4096, 768, 3072), (1, 768, 3072), (4096, 4096, 4096)), (128, 64, 128)

    def __init__(self, M: int, K: int, N: int) -> None:
        super().__init__(M, K, N)
        self.a, self.b = self.normal(M, K), self.normal(K, N)
        self.bytes, self.flops = FLOAT * (M * K + K * N + M * N), 2 * M * N * K

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        M = sizes[0]
        if version == "matmul_rows" and M > 64:
            return f"it is for few rows, and reads B M / 4 times: M is {M}"
        return ""

    def upload(self, device: Device) -> Arrays:
        M, _, N = self.sizes
        return {"a": device.from_numpy(self.a), "b": device.from_numpy(self.b),
                "c": nan(device, M, N)}  # fmt: skip

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
        return arrays["c"].numpy()[rows], exact

    def torch_step(self, torch: Any) -> Step:
        a, b = on_gpu(torch, self.a, self.b)
        return lambda: a @ b


class Attention(Case):
    """Causal attention, T queries and keys. bytes: q, k, v, out once each, and top and inverse.
    flops: of the T (T + 1) / 2 scores a head, 4 D for q k^T and for the sum over v, and 4 of each
    softmax (maximum, difference, exponential, sum).
    """

    family, axes = "attention", ("B", "H", "T", "D")
    versions = {
        "attention_softmax_naive": (128,),
        "attention_softmax_warp": (128, 64, 256),
        "attention_rows": (128, 32, 64, 256),
        "attention_tiles_32": (128,),
        "attention_tiles_64": (128,),
        "attention_tiles_128": (64,),
        **{f"attention_mma_{kind}_{D}": (128,) for kind in ("tf32", "bf16") for D in (32, 64, 128)},
    }
    files = ("attention.cu", "attention_tiles.cu", "attention_mma.cu", "matmul.cu")
    shapes, small = ((4, 12, 1024, 64),), (1, 2, 64, 32)

    def __init__(self, B: int, H: int, T: int, D: int) -> None:
        super().__init__(B, H, T, D)
        self.q, self.k, self.v = (self.normal(B * H, T, D) for _ in range(3))
        self.scale = 1 / math.sqrt(D)
        self.bytes = FLOAT * B * H * (4 * T * D + 2 * T)
        self.flops = B * H * T * (T + 1) // 2 * (4 * D + 4)

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        D = sizes[3]
        if version == "attention_rows" and D > 256:
            return f"it takes D up to 256, not {D}"
        if version.startswith(("attention_tiles", "attention_mma")):
            tile = int(version.rpartition("_")[2])
            if not tile // 2 < max(D, 17) <= tile:
                return f"its tiles are {tile} columns wide, and D is {D}"
        return ""

    def upload(self, device: Device) -> Arrays:
        B, H, T, D = self.sizes
        given = {name: device.from_numpy(getattr(self, name)) for name in "qkv"}
        return {**given, "out": nan(device, B * H, T, D), "top": nan(device, B * H, T),
                "inverse": nan(device, B * H, T)}  # fmt: skip

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        B, H, T, D = self.sizes
        if version.startswith("attention_softmax"):
            self._launch_plain(device, version, block, arrays)
            return
        strides = (H * T * D, T * D, D)
        load(grids.attention_file(version), device)[version](
            arrays["q"], arrays["k"], arrays["v"], None, arrays["out"], arrays["top"],
            arrays["inverse"], B * H, H, T, T, D, *[strides] * 4, (0, 0, 0, 0), self.scale, 1,
            0, 0, 0, 0, 1.0, int(D % 4 == 0),
            grid=grids.attention(version, block, B * H, T), block=block,
            shared=block // 32 * D * FLOAT if version == "attention_rows" else 0,
        )  # fmt: skip

    def _launch_plain(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        """Three launches: the scores to memory, their softmax in place, its product with v."""
        B, H, T, D = self.sizes
        if "scores" not in arrays:
            arrays["scores"] = device.empty((B * H, T, T))
        q, k, v, scores = (arrays[name] for name in ("q", "k", "v", "scores"))
        product = load("matmul.cu", device)["matmul_registers"]
        batches, grid = B * H, grids.matmul("matmul_registers", 64, T, T, B * H, True)
        product(q, k, None, scores, T, T, D, D, D, 0, 1, 0, 1, (batches,), (T * D,), (T * D,),
                batches, grid=grid, block=64)  # fmt: skip
        load("attention.cu", device)[version](
            scores, None, arrays["top"], arrays["inverse"], batches, H, T, T, (0, 0, 0, 0),
            self.scale, 1, 0, 0, 0, 0, 1.0,
            grid=grids.attention_softmax(version, block, batches * T), block=block,
        )  # fmt: skip
        product(scores, v, None, arrays["out"], T, D, T, T, D, 0, 0, 0, 1, (batches,), (T * T,),
                (T * D,), batches, grid=grids.matmul("matmul_registers", 64, T, D, batches, False),
                block=64)  # fmt: skip

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        B, H, T, _ = self.sizes
        heads = np.unique([0, B * H // 2, B * H - 1])
        q, k, v = (x[heads].astype(np.float64) for x in (self.q, self.k, self.v))
        scores = q @ k.swapaxes(-1, -2) * self.scale
        scores[:, ~np.tri(T, dtype=bool)] = -np.inf
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return arrays["out"].numpy()[heads], e / e.sum(-1, keepdims=True) @ v

    def torch_step(self, torch: Any) -> Step:
        B, H, T, D = self.sizes
        q, k, v = (x.view(B, H, T, D) for x in on_gpu(torch, self.q, self.k, self.v))
        function = torch.nn.functional.scaled_dot_product_attention
        return lambda: function(q, k, v, is_causal=True)
