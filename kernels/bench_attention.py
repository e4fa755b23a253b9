"""The bench's cases of attention, forward and backward. bench_cases.py says what a case is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kernels import grids
from kernels.array import DeviceArray
from kernels.bench_cases import FLOAT, Arrays, Case, Step, get, in_halves, nan, on_gpu, put
from kernels.interface import Device
from kernels.launch import load


def in_sixteens(version: str, D: int) -> int:
    """1 if rows of D elements begin at multiples of 16 bytes."""
    return int(D % (8 if in_halves(version) else 4) == 0)


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
        "attention_rows_bf16": (128, 32, 64, 256),
        "attention_tiles_32": (128,),
        "attention_tiles_64": (128,),
        "attention_tiles_128": (64,),
        **{f"attention_mma_{kind}_{D}": (128,) for D in (32, 64, 128)
           for kind in ("tf32", "bf16", "bf16_storage")},
    }
    files = ("attention.cu", "attention_tiles.cu", "attention_mma.cu", "matmul.cu")
    shapes, small = ((4, 12, 1024, 64),), (1, 2, 64, 32)

    def __init__(self, B: int, H: int, T: int, D: int) -> None:
        super().__init__(B, H, T, D)
        self.q, self.k, self.v = (self.normal(B * H, T, D) for _ in range(3))
        self.scale = 1 / math.sqrt(D)
        self.bytes = FLOAT * B * H * (4 * T * D + 2 * T)
        self.flops = B * H * T * (T + 1) // 2 * (4 * D + 4)
        self.saved = FLOAT // 2 * B * H * 4 * T * D

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        D = sizes[3]
        if version.startswith("attention_rows") and D > 256:
            return f"it takes D up to 256, not {D}"
        if version.startswith(("attention_tiles", "attention_mma")):
            tile = int(version.rpartition("_")[2])
            if not tile // 2 < max(D, 17) <= tile:
                return f"its tiles are {tile} columns wide, and D is {D}"
        return ""

    def upload(self, device: Device, version: str) -> Arrays:
        (B, H, T, D), halves = self.sizes, in_halves(version)
        arrays = {name: put(device, getattr(self, name), halves) for name in "qkv"}
        arrays |= {"out": nan(device, B * H, T, D, halves=halves), "top": nan(device, B * H, T),
                   "inverse": nan(device, B * H, T)}  # fmt: skip
        if version.startswith("attention_softmax"):
            arrays["scores"] = device.empty((B * H, T, T))
        return arrays

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        B, H, T, D = self.sizes
        if version.startswith("attention_softmax"):
            self._launch_plain(device, version, block, arrays)
            return
        strides = (H * T * D, T * D, D)
        load(grids.attention_file(version), device)[version](
            arrays["q"], arrays["k"], arrays["v"], None, arrays["out"], arrays["top"],
            arrays["inverse"], B * H, H, T, T, D, *[strides] * 4, (0, 0, 0, 0), self.scale, 1,
            0, 0, 0, 0, 1.0, in_sixteens(version, D),
            grid=grids.attention(version, block, B * H, T), block=block,
            shared=block // 32 * D * FLOAT if version.startswith("attention_rows") else 0,
        )  # fmt: skip

    def _launch_plain(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        """Three launches: the scores to memory, their softmax in place, its product with v."""
        B, H, T, D = self.sizes
        q, k, v, scores = (arrays[name] for name in ("q", "k", "v", "scores"))
        product(device, q, k, scores, (T, D, T), B * H, transpose_b=True)
        load("attention.cu", device)[version](
            scores, None, arrays["top"], arrays["inverse"], B * H, H, T, T, (0, 0, 0, 0),
            self.scale, 1, 0, 0, 0, 0, 1.0,
            grid=grids.attention_softmax(version, block, B * H * T), block=block,
        )  # fmt: skip
        product(device, scores, v, arrays["out"], (T, T, D), B * H)

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        heads = np.unique([0, len(self.q) // 2, len(self.q) - 1])
        scores = causal_scores(self.q[heads], self.k[heads], self.scale)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return get(arrays["out"])[heads], e / e.sum(-1, keepdims=True) @ self.v[heads]

    def torch_step(self, torch: Any) -> Step:
        B, H, T, D = self.sizes
        q, k, v = (x.view(B, H, T, D) for x in on_gpu(torch, self.q, self.k, self.v))
        function = torch.nn.functional.scaled_dot_product_attention
        return lambda: function(q, k, v, is_causal=True)


class AttentionBackward(Case):
    """The gradients of causal attention, from what the forward pass keeps. bytes: q, k, v, out,
    dout, dq, dk, dv once each, top and inverse. flops: of the T (T + 1) / 2 scores a head, 2 D for
    each of five products, and 8 of the weights and their gradient.
    """

    family, axes = "attention_backward", ("B", "H", "T", "D")
    versions = {
        "attention_softmax_backward_naive": (128,),
        "attention_softmax_backward_warp": (128, 64, 256),
        "attention_tiles_backward": (64, 32),
        "attention_mma_backward_tf32": (128,),
        "attention_mma_backward_bf16": (128,),
        "attention_mma_backward_bf16_storage": (128,),
    }
    files = ("attention.cu", "attention_tiles_backward.cu", "attention_mma_backward.cu",
             "matmul.cu")  # fmt: skip
    shapes, small = ((4, 12, 1024, 64),), (1, 2, 64, 32)

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        most = {"attention_tiles_backward": 128}.get(version, 64 if "mma" in version else sizes[3])
        if sizes[3] > most:
            return f"it takes D up to {most}, not {sizes[3]}"
        if version == "attention_tiles_backward" and block != (64 if sizes[3] <= 64 else 32):
            return f"with D = {sizes[3]} it has another block"
        return ""

    def __init__(self, B: int, H: int, T: int, D: int) -> None:
        super().__init__(B, H, T, D)
        self.q, self.k, self.v, self.dout = (self.normal(B * H, T, D) for _ in range(4))
        self.out, self.top, self.inverse = (np.empty(shape, np.float32) for shape in
                                            ((B * H, T, D), (B * H, T), (B * H, T)))  # fmt: skip
        self.scale = 1 / math.sqrt(D)
        for head in range(B * H):
            scores = self._scores(head)
            self.top[head] = scores.max(-1)
            e = np.exp(scores - scores.max(-1, keepdims=True))
            self.inverse[head] = 1 / e.sum(-1)
            self.out[head] = e / e.sum(-1, keepdims=True) @ self.v[head]
        self.bytes = FLOAT * B * H * (8 * T * D + 2 * T)
        self.flops = B * H * T * (T + 1) // 2 * (10 * D + 8)
        self.saved = FLOAT // 2 * B * H * 8 * T * D

    def _scores(self, head: int) -> np.ndarray:
        return causal_scores(self.q[head], self.k[head], self.scale)

    def upload(self, device: Device, version: str) -> Arrays:
        halves, names = in_halves(version), ("dout", "q", "k", "v", "out")
        arrays = {name: put(device, getattr(self, name), halves) for name in names}
        arrays |= {name: nan(device, *self.q.shape, halves=halves) for name in ("dq", "dk", "dv")}
        arrays |= {"top": put(device, self.top), "inverse": put(device, self.inverse),
                   "r": nan(device, *self.top.shape)}  # fmt: skip
        if version.startswith("attention_softmax"):
            heads, T, _ = self.q.shape
            arrays |= {name: device.empty((heads, T, T)) for name in ("p", "da")}
        return arrays

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        B, H, T, D = self.sizes
        if version.startswith("attention_softmax"):
            self._launch_plain(device, version, block, arrays)
            return
        strides, size = (H * T * D, T * D, D), 32 if D <= 32 else 64 if D <= 64 else 128
        row_products = "attention_row_products" + ("_bf16" if in_halves(version) else "")
        load("attention_tiles_backward.cu", device)[row_products](
            arrays["dout"], arrays["out"], arrays["r"], B * H, H, T, D, strides, strides,
            grid=grids.ceil_div(B * H * T, 64 // 8), block=64,
        )  # fmt: skip
        given = [arrays[name] for name in ("dout", "q", "k", "v")]
        stats = [arrays[name] for name in ("top", "inverse", "r")]
        numbers = ((0, 0, 0, 0), self.scale, 1, 0, 0, 0, 0, 1.0,
                   in_sixteens(version, D))  # fmt: skip
        file = grids.attention_file(version)
        for kernel, results in (("queries", ["dq"]), ("keys", ["dk", "dv"])):
            load(file, device)[f"{version}_{kernel}_{size}"](
                *given, None, *stats, *(arrays[name] for name in results), B * H, H, T, T, D,
                *[strides] * (4 + len(results)), *numbers,
                grid=grids.attention(version, block, B * H, T), block=block,
            )  # fmt: skip

    def _launch_plain(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        """Scores and their gradient in memory: five products and two softmax kernels."""
        B, H, T, D = self.sizes
        p, da, q, k, v, dout = (arrays[n] for n in ("p", "da", "q", "k", "v", "dout"))
        softmax, rows = load("attention.cu", device), B * H * T
        grid = grids.attention_softmax("attention_softmax_warp", block, rows)
        product(device, q, k, p, (T, D, T), B * H, transpose_b=True)
        softmax["attention_softmax_warp"](p, None, None, None, B * H, H, T, T, (0, 0, 0, 0),
                                          self.scale, 1, 0, 0, 0, 0, 1.0, grid=grid, block=block)
        product(device, dout, v, da, (T, D, T), B * H, transpose_b=True)
        softmax[version](p, da, None, rows, T, self.scale, 0, 0, 0, 0, 1.0,
                         grid=grids.attention_softmax(version, block, rows), block=block)
        product(device, da, k, arrays["dq"], (T, T, D), B * H)
        product(device, da, q, arrays["dk"], (T, T, D), B * H, transpose_a=True)
        product(device, p, dout, arrays["dv"], (T, T, D), B * H, transpose_a=True)

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        heads = np.unique([0, len(self.q) // 2, len(self.q) - 1])
        exact = np.stack([self._gradients(head) for head in heads], 1)
        got = np.stack([get(arrays[name])[heads] for name in ("dq", "dk", "dv")])
        return got, exact

    def _gradients(self, head: int) -> np.ndarray:
        q, k, v, dout = (x[head].astype(np.float64) for x in (self.q, self.k, self.v, self.dout))
        e = np.exp(self._scores(head))
        p = e / e.sum(-1, keepdims=True)
        dp = dout @ v.T
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * self.scale
        return np.stack([ds @ k, ds.T @ q, p.T @ dout])

    def torch_step(self, torch: Any) -> Step:
        B, H, T, D = self.sizes
        q, k, v, dout = (x.view(B, H, T, D) for x in
                         on_gpu(torch, self.q, self.k, self.v, self.dout))  # fmt: skip
        inputs = [x.requires_grad_() for x in (q, k, v)]
        with torch.enable_grad():
            attend = torch.nn.functional.scaled_dot_product_attention
            out = attend(*inputs, is_causal=True)
        return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)


def causal_scores(q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    """q k^T scale in float64, (T, D) each or more axes before; -inf where a query sees no key."""
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * scale
    scores[..., ~np.tri(scores.shape[-1], dtype=bool)] = -np.inf
    return scores


def product(
    device: Device,
    a: DeviceArray,
    b: DeviceArray,
    c: DeviceArray,
    sizes: tuple[int, int, int],
    batches: int,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> None:
    """c = a b for each of `batches` matrices without gaps, by matmul_registers; sizes: M, K, N."""
    M, K, N = sizes
    load("matmul.cu", device)["matmul_registers"](
        a, b, None, c, M, N, K, M if transpose_a else K, K if transpose_b else N,
        int(transpose_a), int(transpose_b), 0, 1, (batches,), (M * K,), (K * N,), batches,
        grid=grids.matmul("matmul_registers", 64, M, N, batches, transpose_b), block=64,
    )  # fmt: skip
