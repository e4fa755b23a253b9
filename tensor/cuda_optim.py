"""Optimizer steps and the norm of gradients on CUDA devices, over many arrays in a few launches.

The kernels of `kernels/optimizer.cu` take up to 64 arrays each, by a table of addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kernels import grids
from kernels.array import DeviceArray
from kernels.grids import ceil_div
from tensor import cuda_moving
from tensor.cuda_launch import Version
from tensor.cuda_layout import FLOAT, Launcher, is_aligned

MOST_ARRAYS = 64  # in a Table of common.cuh

Arrays = Sequence[DeviceArray]


def sum_of_squares(be: Launcher, xs: Arrays, version: Version | None = None) -> float:
    """Of all elements of all arrays. One number is read from the device."""
    how = version or Version("squares_many", be.threads)
    lists = _whole(be, [xs])
    blocks = grids.many(x.size for x in lists[0])
    if blocks == 0:
        return 0.0
    sums, total = be.device.empty(blocks, np.float64), be.device.empty(1, np.float64)
    first = 0
    for (addresses,), sizes, grid in _tables(lists):
        be.kernel("optimizer.cu", how.name)(
            addresses, sizes, len(sizes), sums, first, grid=grid, block=how.block, order=how.order
        )
        first += grid
    be.kernel("optimizer.cu", "squares_total")(
        sums, total, blocks, grid=1, block=how.block, order=how.order
    )
    return float(total.numpy()[0])


def scale(be: Launcher, xs: Arrays, factor: float, version: Version | None = None) -> None:
    """Each x *= factor."""
    how = version or Version("scale_many", be.threads)
    whole = _whole(be, [xs])
    for (addresses,), sizes, grid in _tables(whole):
        be.kernel("optimizer.cu", how.name)(
            addresses, sizes, len(sizes), factor, grid=grid, block=how.block, order=how.order
        )
    _write_back(be, [xs], whole)


def sgd_step(
    be: Launcher,
    ps: Arrays,
    gs: Arrays,
    velocities: Arrays | None,
    lr: float,
    momentum: float,
    decay: float,
    version: Version | None = None,
) -> None:
    """g' = g + decay * p; velocity = momentum * velocity + g' if there is one; p -= lr * either."""
    how = version or Version("sgd_many", be.threads)
    given = [ps, gs, ps if velocities is None else velocities]
    whole = _whole(be, given)
    for tables, sizes, grid in _tables(whole):
        be.kernel("optimizer.cu", how.name)(
            *tables, sizes, len(sizes), int(velocities is not None), lr, momentum, decay,
            grid=grid, block=how.block, order=how.order,
        )  # fmt: skip
    _write_back(be, given, whole)


def adamw_step(
    be: Launcher,
    ps: Arrays,
    gs: Arrays,
    ms: Arrays,
    vs: Arrays,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float,
    version: Version | None = None,
) -> None:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), step counted from 1."""
    given = [ps, gs, ms, vs]
    whole = _whole(be, given)
    fits = all(is_aligned(*arrays) for arrays in whole)
    how = version or Version("adamw_vector" if fits else "adamw_many", be.threads)
    kernel = be.kernel("optimizer.cu", how.name)
    beta1, beta2 = betas
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, 1 / (1 - beta2**step), eps,
               lr / (1 - beta1**step), 1 - lr * decay)  # fmt: skip
    if how.name == "adamw_naive":
        for arrays in zip(*whole, strict=True):
            n = arrays[0].size
            kernel(*arrays, n, *numbers, grid=ceil_div(n, how.block), block=how.block,
                   order=how.order)  # fmt: skip
    else:
        for tables, sizes, grid in _tables(whole):
            kernel(*tables, sizes, len(sizes), *numbers, grid=grid, block=how.block,
                   order=how.order)  # fmt: skip
    _write_back(be, given, whole)


def _whole(be: Launcher, given: list[Arrays]) -> list[list[DeviceArray]]:
    """The arrays that have elements, each without gaps. TypeError for another dtype than float32:
    a table of addresses hides it from the launch.
    """
    for arrays in given:
        for x in arrays:
            if x.dtype != FLOAT:
                raise TypeError(f"an optimizer's step on {be.name!r} wants float32, not {x.dtype}")
    return [[be.contiguous(x) for x in arrays if x.size] for arrays in given]


def _write_back(be: Launcher, given: list[Arrays], whole: list[list[DeviceArray]]) -> None:
    """Into the arrays that have gaps, from the copies without."""
    for arrays, copies in zip(given, whole, strict=True):
        for x, copy in zip((x for x in arrays if x.size), copies, strict=True):
            if x is not copy:
                cuda_moving.assign(be, x, copy)


def _tables(
    lists: list[list[DeviceArray]],
) -> Iterator[tuple[list[tuple[DeviceArray, ...]], tuple[int, ...], int]]:
    """For up to 64 arrays at a time: those of each list, their sizes, blocks to launch."""
    for start in range(0, len(lists[0]), MOST_ARRAYS):
        parts = [arrays[start : start + MOST_ARRAYS] for arrays in lists]
        sizes = tuple(x.size for x in parts[0])
        yield [tuple(part) for part in parts], sizes, grids.many(sizes)
