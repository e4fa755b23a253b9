"""A GPU, or the emulator of one: every primitive of `tensor.backend.Backend` as launches of our
kernels.

The modules `cuda_*.py` are the only ones that import `kernels`, and `devices.get_backend` imports
them when "cuda" or "emulator" is asked for. An array here is a `kernels.array.DeviceArray`:
(storage, shape, strides, dtype), of float32, float16, bfloat16, int64, int32 or bool; halves are
computed with in float32 (`cuda_half.py`).

Nothing goes through the host but what has to: `from_numpy` and `to_numpy`; the index arrays of
`gather` and its gradient, which are the host's own; and `sum_of_squares`, whose result is a Python
number. Each is one transfer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels import doctor, grids
from kernels.array import DeviceArray
from kernels.device import get_device
from kernels.launch import Kernel, load
from kernels.recording import Recording
from tensor import (
    cuda_elementwise,
    cuda_fused,
    cuda_half,
    cuda_index,
    cuda_matmul,
    cuda_moving,
    cuda_optim,
    cuda_reduce,
)
from tensor.backend import Axes, Shape
from tensor.cuda_half import BF16, in_float32, multiplied
from tensor.cuda_layout import FLOAT, INT, LONG, SUFFIX
from tensor.dtypes import name_of, widened


def report() -> list[dict[str, str]]:
    """What `minigpt doctor` tells of "emulator" and "cuda": kernels.doctor.Finding as dicts."""
    return doctor.report()


class CudaBackend:
    """Primitives on `DeviceArray`. See `tensor.backend.Backend` for the shapes.

    name: "cuda" or "emulator". Raises what `kernels.device.get_device` does where there is no such
    device. `checked`: the emulator's mode that looks at every access to memory.
    """

    def __init__(self, name: str, checked: bool = False) -> None:
        self.name = name
        self.device = get_device(name, checked)
        self.device.prepare()
        # The emulator's threads take turns on one core: a few do what a GPU needs thousands for.
        self.threads = 64 if name == "emulator" else 256
        self.most_blocks = 4 if name == "emulator" else grids.MOST_BLOCKS

    # --- what the primitives are made of: tensor.cuda_layout.Launcher

    def kernel(self, file: str, name: str) -> Kernel:
        return load(file, self.device)[name]

    def empty(self, shape: Shape, dtype: np.dtype = FLOAT) -> DeviceArray:
        return self.device.empty(shape, self._known(np.dtype(dtype)))

    def _known(self, dtype: np.dtype) -> np.dtype:
        """The dtype; TypeError for one that no kernel computes with."""
        if dtype not in SUFFIX:
            raise TypeError(
                f"the device {self.name!r} computes with float32, float16, bfloat16, int64, int32 "
                f"and bool, not {name_of(dtype)}; convert with .astype('float32'), or stay on the "
                "device 'cpu'"
            )
        return dtype

    def contiguous(self, x: DeviceArray) -> DeviceArray:
        return x if x.is_contiguous else cuda_moving.copy(self, x)

    def blocks(self, work: int, each: int | None = None) -> int:
        each = self.threads if each is None else each
        return grids.striding(work, each, self.most_blocks)

    # --- launches, and steps of them that are recorded

    @property
    def launches(self) -> int:
        return self.device.launches

    @property
    def is_recording(self) -> bool:
        return self.device.recording is not None

    def new_recording(self) -> Recording:
        return Recording(self.device)

    def overwrite(self, into: DeviceArray, x: np.ndarray) -> None:
        self.device.write(into, np.asarray(x, order="C"))

    # --- making and moving arrays

    def from_numpy(self, x: np.ndarray) -> DeviceArray:
        """Integers of other sizes become int64. TypeError for float64."""
        if x.dtype.kind in "iu" and x.dtype not in (INT, LONG):
            if x.size and x.dtype == np.uint64 and x.max() > np.iinfo(np.int64).max:
                raise ValueError(f"{x.max()} does not fit the int64 of the device {self.name!r}")
            x = x.astype(LONG)
        self._known(x.dtype)
        return self.device.from_numpy(x)

    def to_numpy(self, x: DeviceArray) -> np.ndarray:
        """Halves become float32, exactly."""
        return widened(x.numpy())

    def is_view(self, x: DeviceArray) -> bool:
        return x.is_view

    full = cuda_moving.full
    cast = cuda_moving.cast
    copy = cuda_moving.copy

    # --- elementwise

    add = in_float32(cuda_elementwise.binary("add"), own=BF16)
    sub = in_float32(cuda_elementwise.binary("sub"), own=BF16)
    mul = in_float32(cuda_elementwise.binary("mul"), own=BF16)
    div = in_float32(cuda_elementwise.binary("div"), own=BF16)
    pow = in_float32(cuda_elementwise.binary("pow"), own=BF16)
    pow_scalar = in_float32(cuda_elementwise.pow_scalar)
    maximum = in_float32(cuda_elementwise.binary("maximum"), own=BF16)
    clip = in_float32(cuda_elementwise.clip)
    where = in_float32(cuda_elementwise.where)
    compare = in_float32(cuda_elementwise.compare, ())
    logical_and = cuda_elementwise.binary("mul")
    logical_or = cuda_elementwise.binary("maximum")
    logical_not = cuda_elementwise.logical_not
    neg = in_float32(cuda_elementwise.neg)
    exp = in_float32(cuda_elementwise.unary("exp"))
    log = in_float32(cuda_elementwise.unary("log"))
    sqrt = in_float32(cuda_elementwise.unary("sqrt"))
    tanh = in_float32(cuda_elementwise.unary("tanh"))
    erf = in_float32(cuda_elementwise.unary("erf"))
    relu = in_float32(cuda_elementwise.unary("relu"))
    sigmoid = in_float32(cuda_elementwise.unary("sigmoid"))

    # --- reductions

    sum = in_float32(cuda_reduce.sum, own=BF16)
    max = in_float32(cuda_reduce.max)
    argmax = in_float32(cuda_reduce.argmax, ())

    # --- shapes

    def reshape(self, x: DeviceArray, shape: Shape) -> DeviceArray:
        view = x.reshape(shape)
        return cuda_moving.copy(self, x).reshape(shape) if view is None else view

    def permute(self, x: DeviceArray, axes: Axes) -> DeviceArray:
        return x.permute(axes)

    def expand(self, x: DeviceArray, shape: Shape) -> DeviceArray:
        return x.expand(shape)

    def slice(self, x: DeviceArray, index: Any) -> DeviceArray:
        return x[index]

    slice_backward = in_float32(cuda_moving.slice_backward)
    concatenate = cuda_moving.concatenate
    pad = in_float32(cuda_moving.pad)

    # --- integer indices

    gather = in_float32(cuda_index.gather)
    gather_backward = in_float32(cuda_index.gather_backward)
    embedding = cuda_half.embedding
    embedding_backward = in_float32(cuda_fused.embedding_backward, own=BF16)

    # --- products

    matmul = multiplied(cuda_matmul.matmul)
    linear = multiplied(cuda_matmul.linear)
    linear_gelu = multiplied(cuda_matmul.linear_gelu)
    linear_backward_weight = multiplied(cuda_matmul.linear_backward_weight)

    # --- fused

    gelu = cuda_half.gelu
    gelu_backward = cuda_half.gelu_backward
    softmax = in_float32(cuda_fused.softmax)
    softmax_backward = in_float32(cuda_fused.softmax_backward)
    log_softmax = in_float32(cuda_fused.log_softmax)
    log_softmax_backward = in_float32(cuda_fused.log_softmax_backward)
    layer_norm = cuda_half.layer_norm
    add_layer_norm = cuda_half.add_layer_norm
    layer_norm_backward = cuda_half.layer_norm_backward
    cross_entropy = cuda_half.cross_entropy
    cross_entropy_backward = cuda_half.cross_entropy_backward
    dropout = cuda_half.dropout
    attention = cuda_half.attention
    attention_backward = cuda_half.attention_backward

    # --- in place

    accumulate = cuda_half.accumulate
    assign = cuda_moving.assign
    cache_append = cuda_moving.cache_append

    # --- over many arrays at once

    sum_of_squares = cuda_optim.sum_of_squares
    scale = cuda_optim.scale
    sgd_step = cuda_optim.sgd_step
    adamw_step = cuda_optim.adamw_step
