"""How arrays are described to the kernels that take any strides, and what these primitives need of
the backend.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from kernels.array import DeviceArray
from tensor.backend import Array, Shape
from tensor.dtypes import BFLOAT16, FLOAT16

FLOAT = np.dtype("float32")
LONG = np.dtype("int64")
INT = np.dtype("int32")
BOOL = np.dtype("bool")
# What a kernel's name ends in, by the type of its elements.
SUFFIX = {FLOAT: "float", LONG: "long", INT: "int", BOOL: "bool", FLOAT16: "half",
          BFLOAT16: "bfloat16"}  # fmt: skip

MOST_AXES = 8  # of a Dims in common.cuh


class Launcher(Protocol):
    """The part of a CUDA backend that the primitives use."""

    name: str
    device: Any  # a kernels.interface.Device
    threads: int  # in a block, where a kernel takes any number

    def kernel(self, file: str, name: str) -> Any: ...  # one of a .cu file, compiled when needed
    def empty(self, shape: Shape, dtype: np.dtype = FLOAT) -> Array: ...  # unknown elements
    def contiguous(self, x: Array) -> Array: ...  # x itself, or a copy without gaps
    def blocks(self, work: int, each: int | None = None) -> int: ...
    # ^ of a kernel whose threads go on until all is done: enough for `work` pieces, `each` a block


def for_type(name: str, dtype: np.dtype) -> str:
    """The name of a kernel of floats, or of the same for elements of another type."""
    return name if dtype == FLOAT else f"{name}_{SUFFIX[dtype]}"


def join_axes(shape: Shape, *strides: Shape) -> tuple[Shape, list[Shape]]:
    """The same elements with as few axes as possible, at least one: (shape, strides of each array).

    Neighbouring axes become one where every array steps from the end of the inner one to the next
    element of the outer one; axes of size 1 go. ValueError for more axes than a kernel takes.
    """
    axes: list[list[int]] = []  # [size, stride in each array]
    for size, *steps in zip(shape, *strides):
        if size == 1:
            continue
        if axes and all(outer == size * inner for outer, inner in zip(axes[-1][1:], steps)):
            axes[-1] = [axes[-1][0] * size, *steps]
        else:
            axes.append([size, *steps])
    if not axes:
        axes = [[1, *(0 for _ in strides)]]
    check_axes(len(axes), shape)
    sizes, *steps_of_each = zip(*axes, strict=True)
    return sizes, steps_of_each


def check_axes(number: int, shape: Shape) -> None:
    """ValueError for more axes than a kernel takes."""
    if number > MOST_AXES:
        raise ValueError(
            f"an array of shape {shape} has {number} axes that can't be joined, and a kernel takes "
            f"{MOST_AXES}: reshape it, or compute with it on the CPU: .to('cpu')"
        )


def strides_in(x: Array, shape: Shape) -> Shape:
    """The strides of x broadcast to a shape: 0 along repeated axes."""
    return x.strides if x.shape == shape else x.expand(shape).strides


def is_aligned(*arrays: Array) -> bool:
    """Do they begin at a multiple of 16 bytes, as loads of four floats need it?"""
    return all(x.pointer % 16 == 0 for x in arrays)


def as_pairs(x: Array) -> Array | None:
    """The memory of an array of two-byte elements as floats, two elements in each, for kernels
    that only move them; None where they do not lie in pairs.
    """
    in_pairs = x.ndim > 0 and x.strides[-1] == 1 and x.pointer % 4 == 0
    if not in_pairs or any(n % 2 for n in (x.shape[-1], x.offset, *x.strides[:-1])):
        return None
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    strides = (*(s // 2 for s in x.strides[:-1]), 1)
    return DeviceArray(x.storage, shape, strides, x.offset // 2, FLOAT, is_view=True)
