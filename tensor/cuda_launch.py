"""A choice between the versions of a kernel, and small help for those that work on rows."""

from __future__ import annotations

import math
from typing import NamedTuple

from kernels import tuning
from kernels.array import DeviceArray
from kernels.recording import Changing
from tensor import cuda_moving
from tensor.backend import DropoutMask, Shape
from tensor.cuda_layout import Launcher


class Version(NamedTuple):
    """One of the kernels of a family, and how it is launched.

    Many primitives take one as their last argument. Without it they choose the best one for the
    shapes, from what was measured on this GPU, if anything was (`tuned`), and from nothing else:
    in one process the same call gives the same bits.
    """

    name: str  # as in the .cu file
    block: int = 256  # threads in a block
    order: str | int | None = None  # of the threads, on the emulator alone: for tests


def tuned(be: Launcher, family: str, sizes: Shape, usual: Version) -> Version:
    """The version that was measured to be the fastest (kernels/tuning.py), else the usual one."""
    choice = tuning.best(family, usual.name, sizes, be.device)
    return usual if choice is None else Version(choice.version, choice.block, usual.order)


def as_rows(be: Launcher, x: DeviceArray) -> DeviceArray:
    """(..., C) as (N, C): a view where the strides allow it."""
    shape = (math.prod(x.shape[:-1]), x.shape[-1])
    view = x.reshape(shape)
    return reshaped(cuda_moving.copy(be, x), shape) if view is None else view


def reshaped(x: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """A view of another shape, of an array without gaps, or one that only cuts its axes."""
    view = x.reshape(shape)
    assert view is not None, f"{x!r} with strides {x.strides} has no view of shape {shape}"
    return view


def random_numbers(mask: DropoutMask) -> tuple[Changing, Changing]:
    """Its seed and its draw. A step that is recorded makes new masks each time it is replayed."""
    return Changing(mask.seed, "seed"), Changing(mask.draw, "draw")
