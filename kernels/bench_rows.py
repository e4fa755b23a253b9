"""The bench's cases that work on rows: softmax, layer norm, cross-entropy, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import grids
from kernels.bench_cases import (
    ALIGNED,
    FLOAT,
    Arrays,
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


class Softmax(Rows):
    """bytes: x and y. flops: a maximum, a difference, an exponential, a sum, a quotient: 5 each."""

    family, axes = "softmax", ("rows", "cols")
    versions = {
        "softmax_naive": (128, 64, 256),
        "softmax_warp": (128, 64, 256, 512),
        "softmax_registers": (128, 64, 256),
        "softmax_vector": (128, 64, 256),
        "softmax_block": (128, 64, 256, 512),
        "softmax_long": (128, 64, 256, 512),
    }
    columns = {"softmax_registers": (1024, 1), "softmax_vector": (1024, 4)}
    needs = {"softmax_vector": ALIGNED, "softmax_long": ALIGNED}
    files = ("softmax.cu",)
    shapes, small = ((49152, 512), (1024, 50257)), (64, 768)

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__(rows, cols)
        self.x = self.normal(rows, cols)
        self.bytes, self.flops = 2 * FLOAT * rows * cols, 5 * rows * cols

    def upload(self, device: Device, version: str) -> Arrays:
        return {"x": device.from_numpy(self.x), "y": nan(device, *self.x.shape)}

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        rows, cols = self.sizes
        load("softmax.cu", device)[version](
            arrays["x"], arrays["y"], rows, cols,
            grid=grids.over_rows(version, block, rows), block=block,
        )  # fmt: skip

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        rows = sample(self.sizes[0])
        x = self.x[rows].astype(np.float64)
        e = np.exp(x - x.max(-1, keepdims=True))
        return arrays["y"].numpy()[rows], e / e.sum(-1, keepdims=True)

    def torch_step(self, torch: Any) -> Step:
        (x,) = on_gpu(torch, self.x)
        return lambda: torch.softmax(x, -1)


class LayerNorm(Rows):
    """bytes: x, w, b, y, mean, rstd. flops an element: 1 of the mean, 3 of the variance (a
    difference, a square, a sum), 4 of y.
    """

    family, axes = "layer_norm", ("rows", "C")
    versions = {
        "layer_norm_naive": (128, 64, 256),
        "layer_norm_warp": (128, 64, 256, 512),
        "layer_norm_registers": (128, 64, 256),
        "layer_norm_vector": (128, 64, 256),
        "layer_norm_block": (128, 64, 256, 512),
        "layer_norm_long": (64, 128, 256, 512, 1024),
        "layer_norm_vector_bfloat16": (128, 64, 256),
        "layer_norm_long_bfloat16": (64, 128, 256, 512, 1024),
    }
    columns = {
        "layer_norm_registers": (1024, 1),
        "layer_norm_vector": (1024, 4),
        "layer_norm_long": (16384, 4),
        "layer_norm_vector_bfloat16": (1024, 4),
        "layer_norm_long_bfloat16": (16384, 4),
    }
    needs = dict.fromkeys(
        ("layer_norm_vector", "layer_norm_long", "layer_norm_vector_bfloat16",
         "layer_norm_long_bfloat16"), ALIGNED)  # fmt: skip
    files = ("layer_norm.cu",)
    shapes, small = ((16384, 768), (4096, 4096)), (64, 768)
    EPS = 1e-5

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        if version.startswith("layer_norm_long") and sizes[1] > 16 * block:
            return f"a thread holds 16 columns, a block of {block} does not hold {sizes[1]}"
        return super().why_not(version, sizes, block)

    def __init__(self, rows: int, C: int) -> None:
        super().__init__(rows, C)
        self.x, self.w, self.b = self.normal(rows, C), self.normal(C), self.normal(C)
        self.bytes = FLOAT * (2 * rows * C + 2 * C + 2 * rows)
        self.flops = 8 * rows * C
        self.saved = FLOAT // 2 * (2 * rows * C + 2 * C)

    def upload(self, device: Device, version: str) -> Arrays:
        rows, halves = self.sizes[0], in_halves(version)
        given = {name: put(device, getattr(self, name), halves) for name in ("x", "w", "b")}
        return {**given, "y": nan(device, *self.x.shape, halves=halves), "mean": nan(device, rows),
                "rstd": nan(device, rows)}  # fmt: skip

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        rows, C = self.sizes
        load("layer_norm.cu", device)[version](
            *(arrays[name] for name in ("x", "w", "b", "y", "mean", "rstd")), rows, C, self.EPS,
            grid=grids.over_rows(version, block, rows), block=block,
        )  # fmt: skip

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        rows = sample(self.sizes[0])
        x = self.x[rows].astype(np.float64)
        centred = x - x.mean(-1, keepdims=True)
        h = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.EPS)
        return get(arrays["y"])[rows], h * self.w + self.b

    def torch_step(self, torch: Any) -> Step:
        x, w, b = on_gpu(torch, self.x, self.w, self.b)
        return lambda: torch.nn.functional.layer_norm(x, w.shape, w, b, self.EPS)


class CrossEntropy(Rows):
    """The losses of the rows, and their log-sum-exps, which the backward needs.

    bytes: logits, targets, losses, lse. flops: a maximum, a difference, an exponential, a sum.
    """

    family, axes = "cross_entropy", ("rows", "V")
    versions = {
        "cross_entropy_naive": (128, 64, 256),
        "cross_entropy_block": (256, 64, 128, 512),
        "cross_entropy_vector": (256, 64, 128, 512),
        "cross_entropy_vector_bfloat16": (256, 64, 128, 512),
    }
    needs = {"cross_entropy_vector": ALIGNED, "cross_entropy_vector_bfloat16": ALIGNED}
    files = ("cross_entropy.cu",)
    shapes, small = ((2048, 50257),), (64, 1025)
    IGNORE = -100

    def __init__(self, rows: int, V: int) -> None:
        super().__init__(rows, V)
        self.logits, self.targets = self.normal(rows, V), self.rng.integers(0, V, rows)
        self.bytes = FLOAT * (rows * V + 2 * rows) + 8 * rows
        self.flops, self.saved = 4 * rows * V, FLOAT // 2 * rows * V

    def upload(self, device: Device, version: str) -> Arrays:
        rows = self.sizes[0]
        given = {"logits": put(device, self.logits, in_halves(version)),
                 "targets": device.from_numpy(self.targets)}  # fmt: skip
        return {**given, "lse": nan(device, rows), "losses": nan(device, rows)}

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        rows, V = self.sizes
        load("cross_entropy.cu", device)[version](
            *(arrays[name] for name in ("logits", "targets", "lse", "losses")), rows, V,
            self.IGNORE, grid=grids.over_rows(version, block, rows), block=block,
        )  # fmt: skip

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        rows = sample(self.sizes[0])
        x = self.logits[rows].astype(np.float64)
        top = x.max(-1)
        lse = np.log(np.exp(x - top[:, None]).sum(-1)) + top
        losses = lse - x[np.arange(len(rows)), self.targets[rows]]
        got = [arrays[name].numpy()[rows] for name in ("lse", "losses")]
        return np.stack(got), np.stack([lse, losses])

    def torch_step(self, torch: Any) -> Step:
        logits, targets = on_gpu(torch, self.logits, self.targets)
        return lambda: torch.nn.functional.cross_entropy(logits, targets, reduction="none")


# --- backward


class SoftmaxBackward(Rows):
    """bytes: dy, y and dx. flops: a product and a sum of the total, a difference and a product."""

    family, axes = "softmax_backward", ("rows", "cols")
    versions = {
        "softmax_backward_naive": (128, 64, 256),
        "softmax_backward_warp": (128, 64, 256, 512),
        "softmax_backward_registers": (128, 64, 256),
        "softmax_backward_vector": (128, 64, 256),
        "softmax_backward_block": (128, 64, 256, 512),
        "softmax_backward_long": (128, 64, 256, 512),
    }
    columns = {"softmax_backward_registers": (1024, 1), "softmax_backward_vector": (1024, 4)}
    needs = {"softmax_backward_vector": ALIGNED, "softmax_backward_long": ALIGNED}
    files = ("softmax.cu",)
    shapes, small = ((49152, 512),), (64, 768)

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__(rows, cols)
        self.dy, self.y = self.normal(rows, cols), np.abs(self.normal(rows, cols))
        self.y /= self.y.sum(-1, keepdims=True)
        self.bytes, self.flops = 3 * FLOAT * rows * cols, 4 * rows * cols

    def upload(self, device: Device, version: str) -> Arrays:
        given = {name: device.from_numpy(getattr(self, name)) for name in ("dy", "y")}
        return {**given, "dx": nan(device, *self.y.shape)}

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        rows, cols = self.sizes
        load("softmax.cu", device)[version](
            *(arrays[name] for name in ("dy", "y", "dx")), rows, cols,
            grid=grids.over_rows(version, block, rows), block=block,
        )  # fmt: skip

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        rows = sample(self.sizes[0])
        dy, y = self.dy[rows].astype(np.float64), self.y[rows].astype(np.float64)
        exact = y * (dy - (dy * y).sum(-1, keepdims=True))
        return arrays["dx"].numpy()[rows], exact

    def torch_step(self, torch: Any) -> Step:
        dy, y = on_gpu(torch, self.dy, self.y)
        return lambda: torch.ops.aten._softmax_backward_data(dy, y, -1, dy.dtype)


class LayerNormBackward(Rows):
    """All three gradients. bytes: dy, x and dx, and the small w, mean, rstd, dw, db. flops an
    element: g = dy w takes 1, h 2, the sums of g and of g h 3, dw and db 3, dx 4.
    """

    family, axes = "layer_norm_backward", ("rows", "C")
    versions = {
        "layer_norm_backward_naive": (128, 64, 256),
        "layer_norm_backward_rows": (128, 64, 256),
        "layer_norm_backward_block": (128, 64, 256),
        "layer_norm_backward_vector": (96, 64, 128, 256),
        "layer_norm_backward_vector_bfloat16": (96, 64, 128, 256),
    }
    columns = {
        "layer_norm_backward_block": (6112, 1),
        "layer_norm_backward_vector": (2048, 4),
        "layer_norm_backward_vector_bfloat16": (2048, 4),
    }
    needs = {
        "layer_norm_backward_vector": ALIGNED,
        "layer_norm_backward_vector_bfloat16": ALIGNED,
    }
    files = ("layer_norm.cu",)
    shapes, small = ((16384, 768),), (64, 768)

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        if version.startswith("layer_norm_backward_vector") and sizes[1] > 8 * block:
            return f"a thread holds 8 columns, a block of {block} does not hold {sizes[1]}"
        return super().why_not(version, sizes, block)

    def __init__(self, rows: int, C: int) -> None:
        super().__init__(rows, C)
        self.dy, self.x, self.w = self.normal(rows, C), self.normal(rows, C), self.normal(C)
        self.mean = self.x.mean(-1, dtype=np.float64).astype(np.float32)
        self.rstd = (1 / (self.x.std(-1, dtype=np.float64) + 1e-5)).astype(np.float32)
        self.bytes = FLOAT * (3 * rows * C + 3 * C + 2 * rows)
        self.flops = 13 * rows * C
        self.saved = FLOAT // 2 * (3 * rows * C + C)

    def upload(self, device: Device, version: str) -> Arrays:
        (rows, C), halves = self.sizes, in_halves(version)
        given = {name: put(device, getattr(self, name), halves) for name in ("dy", "x", "w")}
        return {**given, "mean": put(device, self.mean), "rstd": put(device, self.rstd),
                "dx": nan(device, rows, C, halves=halves), "dw": nan(device, C),
                "db": nan(device, C),
                "parts": nan(device, grids.layer_norm_backward(rows), 2 * C)}  # fmt: skip

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        rows, C = self.sizes
        dy, x, w, mean, rstd, dx, dw, db, parts = arrays.values()
        module = load("layer_norm.cu", device)
        if version.endswith(("_naive", "_rows")):
            grid = grids.over_rows(version, block, rows)
            module[version](dy, x, w, mean, rstd, dx, rows, C, grid=grid, block=block)
            module["layer_norm_backward_columns"](dy, x, mean, rstd, dw, db, rows, C,
                                                  grid=grids.ceil_div(C, block), block=block)
            return
        blocks = grids.layer_norm_backward(rows)
        plus = [None] if "_vector" in version else []  # no gradient of a residual sum
        module[version](dy, x, w, mean, rstd, *plus, dx, parts, rows, C, grid=blocks, block=block,
                        shared=2 * FLOAT * C if version.endswith("_block") else 0)  # fmt: skip
        module["layer_norm_backward_sum"](parts, dw, db, blocks, C,
                                          grid=grids.layer_norm_backward_sum(C), block=256)

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        dy, rows = self.dy.astype(np.float64), sample(self.sizes[0])
        h = (self.x - self.mean[:, None].astype(np.float64)) * self.rstd[:, None]
        g = dy[rows] * self.w
        dx = self.rstd[rows, None] * (g - g.mean(-1, keepdims=True)
                                      - h[rows] * (g * h[rows]).mean(-1, keepdims=True))
        got, exact = [get(arrays["dx"])[rows]], [dx]
        for name, gradient in (("dw", (dy * h).sum(0)), ("db", dy.sum(0))):
            got.append(arrays[name].numpy()[None])
            exact.append(gradient[None])
        scale = [1 / (float(np.sqrt(np.mean(e * e))) or 1.0) for e in exact]  # so that each counts
        return (np.concatenate([x * s for x, s in zip(got, scale)]),
                np.concatenate([x * s for x, s in zip(exact, scale)]))  # fmt: skip

    def torch_step(self, torch: Any) -> Step:
        dy, x, w, mean, rstd = on_gpu(torch, self.dy, self.x, self.w, self.mean[:, None],
                                      self.rstd[:, None])  # fmt: skip
        backward = torch.ops.aten.native_layer_norm_backward
        return lambda: backward(dy, x, list(w.shape), mean, rstd, w, w, [True, True, True])


class CrossEntropyBackward(Rows):
    """bytes: logits and their gradient, targets, lse. flops: a difference, an exponential, the
    target's one taken off, a product.
    """

    family, axes = "cross_entropy_backward", ("rows", "V")
    versions = {
        "cross_entropy_backward_naive": (256, 64, 128),
        "cross_entropy_backward_block": (256, 64, 128, 512),
        "cross_entropy_backward_vector": (256, 64, 128, 512),
        "cross_entropy_backward_vector_bfloat16": (256, 64, 128, 512),
    }
    needs = {
        "cross_entropy_backward_vector": ALIGNED,
        "cross_entropy_backward_vector_bfloat16": ALIGNED,
    }
    files = ("cross_entropy.cu",)
    shapes, small = ((2048, 50257),), (64, 1025)

    def __init__(self, rows: int, V: int) -> None:
        super().__init__(rows, V)
        self.logits, self.targets = self.normal(rows, V), self.rng.integers(0, V, rows)
        self.lse = np.log(np.exp(self.logits).sum(-1, dtype=np.float64)).astype(np.float32)
        self.bytes = FLOAT * (2 * rows * V + rows) + 8 * rows
        self.flops, self.saved = 4 * rows * V, FLOAT // 2 * 2 * rows * V

    def upload(self, device: Device, version: str) -> Arrays:
        (rows, V), halves = self.sizes, in_halves(version)
        step = grids.ceil_div(V, 8) * 8 if halves else V  # from a row of dlogits to the next
        return {"dy": put(device, np.ones(1, np.float32)),
                "logits": put(device, self.logits, halves),
                "targets": device.from_numpy(self.targets), "lse": put(device, self.lse),
                "count": put(device, np.full(1, rows, np.float32)),
                "dlogits": nan(device, rows, step, halves=halves)}  # fmt: skip

    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        rows, V = self.sizes
        step = [arrays["dlogits"].shape[1]] if in_halves(version) else []
        names = ("dy", "logits", "targets", "lse", "count", "dlogits")
        load("cross_entropy.cu", device)[version](
            *(arrays[name] for name in names), rows, V, *step, CrossEntropy.IGNORE,
            grid=grids.cross_entropy_backward(version, block, rows, V), block=block,
        )  # fmt: skip

    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        rows = sample(self.sizes[0])
        e = np.exp(self.logits[rows].astype(np.float64))
        exact = e / e.sum(-1, keepdims=True)
        exact[np.arange(len(rows)), self.targets[rows]] -= 1
        return get(arrays["dlogits"])[rows, : self.sizes[1]], exact / self.sizes[0]

    def torch_step(self, torch: Any) -> Step:
        logits, targets, one = on_gpu(torch, self.logits, self.targets, np.ones((), np.float32))
        probabilities = torch.log_softmax(logits, -1)
        nll, log_softmax = (torch.ops.aten.nll_loss_backward,
                            torch.ops.aten._log_softmax_backward_data)  # fmt: skip
        total = one * len(targets)

        def step() -> Any:
            gradient = nll(one, probabilities, targets, None, 1, CrossEntropy.IGNORE, total)
            return log_softmax(gradient, probabilities, -1, logits.dtype)
        return step
