"""A GPU, or the emulator of one: every primitive of `tensor.backend.Backend` as launches of our
kernels.

The modules `cuda_*.py` are the only ones that import `kernels`, and `devices.get_backend` imports
them when "cuda" or "emulator" is asked for. An array here is a `kernels.array.DeviceArray`:
(storage, shape, strides, dtype), of float32, int64, int32 or bool.

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
from tensor import (
    cuda_attention,
    cuda_elementwise,
    cuda_fused,
    cuda_index,
    cuda_matmul,
    cuda_moving,
    cuda_optim,
    cuda_reduce,
)
from tensor.backend import Axes, Shape
from tensor.cuda_layout import FLOAT, INT, LONG, SUFFIX


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
        self.most_blocks = 4 if name == "emulator" else 4096

    # --- what the primitives are made of: tensor.cuda_layout.Launcher

    def kernel(self, file: str, name: str) -> Kernel:
        return load(file, self.device)[name]

    def empty(self, shape: Shape, dtype: np.dtype = FLOAT) -> DeviceArray:
        return self.device.empty(shape, self._known(np.dtype(dtype)))

    def _known(self, dtype: np.dtype) -> np.dtype:
        """The dtype; TypeError for one that no kernel computes with."""
        if dtype not in SUFFIX:
            raise TypeError(
                f"the device {self.name!r} computes with float32, int64, int32 and bool, not "
                f"{dtype}; convert with .astype('float32'), or stay on the device 'cpu'"
            )
        return dtype

    def contiguous(self, x: DeviceArray) -> DeviceArray:
        return x if x.is_contiguous else cuda_moving.copy(self, x)

    def blocks(self, work: int, each: int | None = None) -> int:
        each = self.threads if each is None else each
        return grids.striding(work, each, self.most_blocks)

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
        return x.numpy()

    def is_view(self, x: DeviceArray) -> bool:
        return x.is_view

    full = cuda_moving.full
    cast = cuda_moving.cast
    copy = cuda_moving.copy

    # --- elementwise

    add = cuda_elementwise.binary("add")
    sub = cuda_elementwise.binary("sub")
    mul = cuda_elementwise.binary("mul")
    div = cuda_elementwise.binary("div")
    pow = cuda_elementwise.binary("pow")
    pow_scalar = cuda_elementwise.pow_scalar
    maximum = cuda_elementwise.binary("maximum")
    clip = cuda_elementwise.clip
    where = cuda_elementwise.where
    compare = cuda_elementwise.compare
    logical_and = cuda_elementwise.binary("mul")
    logical_or = cuda_elementwise.binary("maximum")
    logical_not = cuda_elementwise.logical_not
    neg = cuda_elementwise.neg
    exp = cuda_elementwise.unary("exp")
    log = cuda_elementwise.unary("log")
    sqrt = cuda_elementwise.unary("sqrt")
    tanh = cuda_elementwise.unary("tanh")
    erf = cuda_elementwise.unary("erf")
    relu = cuda_elementwise.unary("relu")
    sigmoid = cuda_elementwise.unary("sigmoid")

    # --- reductions

    sum = cuda_reduce.sum
    max = cuda_reduce.max
    argmax = cuda_reduce.argmax

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

    slice_backward = cuda_moving.slice_backward
    concatenate = cuda_moving.concatenate
    pad = cuda_moving.pad

    # --- integer indices

    gather = cuda_index.gather
    gather_backward = cuda_index.gather_backward
    embedding = cuda_fused.embedding
    embedding_backward = cuda_fused.embedding_backward

    # --- products

    matmul = cuda_matmul.matmul
    linear = cuda_matmul.linear
    linear_backward_weight = cuda_matmul.linear_backward_weight

    # --- fused

    gelu = cuda_fused.gelu
    gelu_tanh = cuda_fused.gelu_tanh
    softmax = cuda_fused.softmax
    softmax_backward = cuda_fused.softmax_backward
    log_softmax = cuda_fused.log_softmax
    log_softmax_backward = cuda_fused.log_softmax_backward
    layer_norm = cuda_fused.layer_norm
    layer_norm_backward = cuda_fused.layer_norm_backward
    cross_entropy = cuda_fused.cross_entropy
    cross_entropy_backward = cuda_fused.cross_entropy_backward
    dropout = cuda_fused.dropout
    attention = cuda_attention.attention
    attention_backward = cuda_attention.attention_backward

    # --- in place

    accumulate = cuda_elementwise.accumulate
    assign = cuda_moving.assign

    # --- over many arrays at once

    sum_of_squares = cuda_optim.sum_of_squares
    scale = cuda_optim.scale
    sgd_step = cuda_optim.sgd_step
    adamw_step = cuda_optim.adamw_step
