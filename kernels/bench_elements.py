"""The bench's cases that go element by element: GELU, AdamW, a transpose."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import grids
from kernels.bench_cases import (
    ALIGNED,
    FLOAT,
    Arrays,
    Case,
    Rows,
    Step,
    get,
    in_halves,
    nan,
    on_gpu,
    put,
    sample,
)
from kernels.interface import Device
from kernels.launch import load


class Gelu(Rows):
    """GPT-2's form of GELU(x + b). bytes: x, b and y. flops: x + b takes 1, u = x + a x^3 4, the
    sigmoid of 2 c u 4 (a product, an exponential, a sum, a quotient), times x 1.
    """

    family, axes = "gelu", ("rows", "C")
    versions = {
        "gelu_tanh_naive": (256, 64, 128, 512),
        "gelu_tanh_vector": (256, 64, 128, 512),
        "gelu_tanh_vector_bfloat16": (256, 64, 128, 512),
    }
    columns = {"gelu_tanh_vector": (1 << 30, 4), "gelu_tanh_vector_bfloat16": (1 << 30, 4)}
    needs = {"gelu_tanh_vector": ALIGNED, "gelu_tanh_vector_bfloat16": ALIGNED}
    files = ("gelu.cu",)
    shapes, small = ((8192, 3072),), (64, 768)

    def __init__(self, rows: int, C: int) -> None:
        super().__init__(rows, C)
        self.x, self.b = self.normal(rows, C), self.normal(C)
        self.bytes, self.flops = FLOAT * (2 * rows * C + C), 10 * rows * C
        self.saved = self.bytes // 2

    def upload(self, device: Device, version: str) -> Arrays:
        halves = in_halves(version)
        return {"x": put(device, self.x, halves), "b": put(device, self.b, halves),
                "y": nan(device, *self.x.shape, halves=halves)}  # fmt: skip

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        n, C = self.x.size, self.sizes[1]
        grid = grids.striding(grids.ceil_div(n, 4), block, grids.MOST_BLOCKS)
        load("gelu.cu", device)[version](
            arrays["x"], arrays["b"], arrays["y"], n, C, grid=grid, block=block
        )

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        rows = sample(self.sizes[0])
        z = self.x[rows].astype(np.float64) + self.b
        inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
        return get(arrays["y"])[rows], 0.5 * z * (1 + np.tanh(inner))

    def torch_step(self, torch: Any) -> Step:
        x, b = on_gpu(torch, self.x, self.b)
        return lambda: torch.nn.functional.gelu(x + b, approximate="tanh")


class AdamW(Case):
    """A step on one array. bytes: p, m, v read and written, g read. flops: 3 of m, 4 of v, 7 of
    p.
    """

    family, axes = "adamw", ("n",)
    versions = {
        "adamw_naive": (256, 64, 128, 512),
        "adamw_many": (256, 64, 128, 512),
        "adamw_vector": (256, 64, 128, 512),
    }
    needs = {"adamw_vector": ALIGNED}
    files = ("optimizer.cu",)
    shapes, small = ((50257 * 768,),), (64 * 768,)
    LR, BETA1, BETA2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 0.1  # of the first step

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.p, self.g, self.m = self.normal(n), self.normal(n), self.normal(n)
        self.v = self.normal(n) ** 2
        self.bytes, self.flops = 7 * FLOAT * n, 14 * n

    def upload(self, device: Device, version: str) -> Arrays:
        return {name: device.from_numpy(getattr(self, name)) for name in "pgmv"}

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        (n,) = self.sizes
        numbers = (self.BETA1, 1 - self.BETA1, self.BETA2, 1 - self.BETA2, 1 / (1 - self.BETA2),
                   self.EPS, self.LR / (1 - self.BETA1), 1 - self.LR * self.DECAY)  # fmt: skip
        kernel, given = load("optimizer.cu", device)[version], arrays.values()
        if version == "adamw_naive":
            kernel(*given, n, *numbers, grid=grids.ceil_div(n, block), block=block)
        else:
            tables = [(x.pointer,) for x in given]
            kernel(*tables, (n,), 1, *numbers, grid=grids.many([n]), block=block)

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        some = np.unique(np.linspace(0, self.sizes[0] - 1, 1 << 16).astype(int))
        p, g, m, v = (x[some].astype(np.float64) for x in (self.p, self.g, self.m, self.v))
        m = self.BETA1 * m + (1 - self.BETA1) * g
        v = self.BETA2 * v + (1 - self.BETA2) * g * g
        update = m / (1 - self.BETA1) / (np.sqrt(v / (1 - self.BETA2)) + self.EPS)
        p = p - self.LR * self.DECAY * p - self.LR * update
        return np.stack([arrays[name].numpy()[some] for name in "pmv"]), np.stack([p, m, v])

    def torch_step(self, torch: Any) -> Step:
        p, g = on_gpu(torch, self.p, self.g)
        p.grad = g
        optimizer = torch.optim.AdamW(
            [p], self.LR, (self.BETA1, self.BETA2), self.EPS, self.DECAY, fused=True
        )
        return optimizer.step


class Copy(Case):
    """The transpose of a matrix, without gaps. bytes: x and y. No arithmetic."""

    family, axes = "copy", ("rows", "cols")
    versions = {
        "copy_strided_float": (256, 64, 128, 512),
        "copy_tiles_float": (256,),
    }
    files = ("copy.cu",)
    shapes, small = ((8192, 3072),), (128, 96)

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__(rows, cols)
        self.x = self.normal(cols, rows)  # y[r][c] = x[c][r]
        self.bytes, self.flops = 2 * FLOAT * rows * cols, 0

    def upload(self, device: Device, version: str) -> Arrays:
        return {"x": device.from_numpy(self.x), "y": nan(device, *self.sizes)}

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        rows, cols = self.sizes
        kernel, x, y = load("copy.cu", device)[version], arrays["x"], arrays["y"]
        if version == "copy_tiles_float":
            grid = grids.striding(grids.copy_tiles(1, rows, cols), 1, grids.MOST_BLOCKS)
            kernel(x, y, 1, rows, cols, 0, rows, 0, cols, grid=grid, block=(grids.TILE, 8))
        else:
            grid = grids.striding(rows * cols, block, grids.MOST_BLOCKS)
            kernel(x, y, rows * cols, 2, (rows, cols), (1, rows), (cols, 1), grid=grid, block=block)

    def tolerance(self, version: str) -> float:
        return 0.0  # a copy has no rounding

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        return arrays["y"].numpy(), self.x.T.astype(np.float64)

    def torch_step(self, torch: Any) -> Step:
        (x,) = on_gpu(torch, self.x)
        return lambda: x.t().contiguous()
