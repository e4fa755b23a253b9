"""What the bench runs: a problem a family, the versions that solve it, and what it takes at least.

A case makes its inputs from a seed, launches any version on them, and compares what comes out with
NumPy in float64. Its `bytes` and `flops` are those of the problem, by a formula that its class
states: each input read once, each output written once, an operation counted as the formula writes
it. What a version really moves is for the emulator's counts to say.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from kernels import grids
from kernels.array import DeviceArray
from kernels.interface import Device
from kernels.launch import load

Arrays = dict[str, DeviceArray]
Step = Callable[[], Any]
FLOAT = 4  # bytes
ALIGNED = frozenset({"arrays at multiples of 16 bytes"})

# How far a result may be off (`Case.error`), by the kind of arithmetic.
TOLERANCES = {"3xtf32": 1e-4, "tf32": 3e-3, "bf16": 2e-2, "float32": 1e-4}


def precision(version: str) -> str:
    """The arithmetic of a version, which its name says where it is not float32."""
    if version == "matmul_wmma":
        return "tf32"
    return next((kind for kind in TOLERANCES if kind in version), "float32")


class Case(abc.ABC):
    """One problem of a family: a subclass with its sizes."""

    family: ClassVar[str]
    axes: ClassVar[tuple[str, ...]]  # what --shape gives, in this order
    versions: ClassVar[dict[str, tuple[int, ...]]]  # the naive one first: blocks, the usual first
    # What a version asks of its arrays beyond their sizes; one that asks less can stand for it.
    needs: ClassVar[dict[str, frozenset[str]]] = {}
    files: ClassVar[tuple[str, ...]]  # where the versions are
    shapes: ClassVar[tuple[tuple[int, ...], ...]]  # on a GPU: those of GPT-2 of 124M
    small: ClassVar[tuple[int, ...]]  # on the emulator

    bytes: int  # each input read and each output written once
    flops: int

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal float32, the same in each process."""
        return self.rng.standard_normal(shape, np.float32)

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        """Why a version with such a block cannot solve a problem of these sizes, or ""."""
        return ""

    @abc.abstractmethod
    def upload(self, device: Device) -> Arrays:
        """The arrays of one launch; results are NaN until it has been."""

    @abc.abstractmethod
    def launch(self, device: Device, version: str, block: int, arrays: Arrays) -> None:
        """All launches that the version takes."""

    @abc.abstractmethod
    def compare(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """(what a first launch left, what it should be, in float64), of a sample of the rows."""

    @abc.abstractmethod
    def torch_step(self, torch: Any) -> Step:
        """The same problem on torch's GPU, float32: cuBLAS's and cuDNN's choice of kernels."""

    def tolerance(self, version: str) -> float:
        return TOLERANCES[precision(version)]

    def error(self, arrays: Arrays) -> float:
        """The root mean square of the errors over that of the exact numbers, or the largest error
        over the largest number: what is more. NaN where the result has one.
        """
        got, exact = self.compare(arrays)
        off = np.abs(got - exact)
        root = math.sqrt(float(np.mean(off * off)) / float(np.mean(exact * exact)))
        return max(root, float(off.max() / np.abs(exact).max()))

    def __str__(self) -> str:
        return " x ".join(f"{axis} {n:,}" for axis, n in zip(self.axes, self.sizes))


def sample(n: int) -> np.ndarray:
    """Up to 64 of n indices, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, 64).astype(int))


def nan(device: Device, *shape: int) -> DeviceArray:
    """Of float32: a result that no kernel has written is not mistaken for a right one."""
    return device.from_numpy(np.full(shape, np.nan, np.float32))


def on_gpu(torch: Any, *arrays: np.ndarray) -> list[Any]:
    """torch's tensors of them, on its GPU."""
    return [torch.from_numpy(x).to("cuda") for x in arrays]


# --- rows


class Rows(Case):
    """A problem of (rows, columns). columns: of a version the most that it takes, and of what they
    must be a multiple, where it does not take any number.
    """

    columns: ClassVar[dict[str, tuple[int, int]]] = {}

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        most, multiple = cls.columns.get(version, (sizes[1], 1))
        if sizes[1] > most or sizes[1] % multiple:
            which = f"a multiple of {multiple}, " if multiple > 1 else ""
            return f"it takes {which}up to {most} columns, not {sizes[1]}"
        return ""


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

    def upload(self, device: Device) -> Arrays:
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
    }
    columns = {
        "layer_norm_registers": (1024, 1),
        "layer_norm_vector": (1024, 4),
        "layer_norm_long": (16384, 4),
    }
    needs = {"layer_norm_vector": ALIGNED, "layer_norm_long": ALIGNED}
    files = ("layer_norm.cu",)
    shapes, small = ((16384, 768), (4096, 4096)), (64, 768)
    EPS = 1e-5

    @classmethod
    def why_not(cls, version: str, sizes: tuple[int, ...], block: int) -> str:
        if version == "layer_norm_long" and sizes[1] > 16 * block:
            return f"a thread holds 16 columns, a block of {block} does not hold {sizes[1]}"
        return super().why_not(version, sizes, block)

    def __init__(self, rows: int, C: int) -> None:
        super().__init__(rows, C)
        self.x, self.w, self.b = self.normal(rows, C), self.normal(C), self.normal(C)
        self.bytes = FLOAT * (2 * rows * C + 2 * C + 2 * rows)
        self.flops = 8 * rows * C

    def upload(self, device: Device) -> Arrays:
        rows = self.sizes[0]
        given = {name: device.from_numpy(getattr(self, name)) for name in ("x", "w", "b")}
        return {**given, "y": nan(device, *self.x.shape), "mean": nan(device, rows),
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
        return arrays["y"].numpy()[rows], h * self.w + self.b

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
    }
    needs = {"cross_entropy_vector": ALIGNED}
    files = ("cross_entropy.cu",)
    shapes, small = ((2048, 50257),), (64, 1025)
    IGNORE = -100

    def __init__(self, rows: int, V: int) -> None:
        super().__init__(rows, V)
        self.logits, self.targets = self.normal(rows, V), self.rng.integers(0, V, rows)
        self.bytes = FLOAT * (rows * V + 2 * rows) + 8 * rows
        self.flops = 4 * rows * V

    def upload(self, device: Device) -> Arrays:
        rows = self.sizes[0]
        given = {name: device.from_numpy(getattr(self, name)) for name in ("logits", "targets")}
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


# --- element by element


class Gelu(Rows):
    """GPT-2's form of GELU(x + b). bytes: x, b and y. flops: x + b takes 1, u = x + a x^3 4, the
    sigmoid of 2 c u 4 (a product, an exponential, a sum, a quotient), times x 1.
    """

    family, axes = "gelu", ("rows", "C")
    versions = {
        "gelu_tanh_naive": (256, 64, 128, 512),
        "gelu_tanh_vector": (256, 64, 128, 512),
    }
    columns = {"gelu_tanh_vector": (1 << 30, 4)}
    needs = {"gelu_tanh_vector": ALIGNED}
    files = ("gelu.cu",)
    shapes, small = ((8192, 3072),), (64, 768)

    def __init__(self, rows: int, C: int) -> None:
        super().__init__(rows, C)
        self.x, self.b = self.normal(rows, C), self.normal(C)
        self.bytes, self.flops = FLOAT * (2 * rows * C + C), 10 * rows * C

    def upload(self, device: Device) -> Arrays:
        return {"x": device.from_numpy(self.x), "b": device.from_numpy(self.b),
                "y": nan(device, *self.x.shape)}  # fmt: skip

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
        return arrays["y"].numpy()[rows], 0.5 * z * (1 + np.tanh(inner))

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

    def upload(self, device: Device) -> Arrays:
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

    def upload(self, device: Device) -> Arrays:
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
