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
from tensor.cuda_layout import FLOAT, Launcher, for_type, is_aligned
from tensor.dtypes import HALVES, name_of

MOST_ARRAYS = 64  # in a Table of common.cuh

Arrays = Sequence[DeviceArray]


def sum_of_squares(be: Launcher, xs: Arrays, version: Version | None = None) -> float:
    """Of all elements of all arrays. One number is read from the device."""
    how = version or Version("squares_many", be.threads)
    whole = [(dtype, _whole(be, [arrays], dtype)) for dtype, arrays in _by_type(xs)]
    blocks = grids.many(x.size for _, lists in whole for x in lists[0])
    if blocks == 0:
        return 0.0
    sums, total = be.device.empty(blocks, np.float64), be.device.empty(1, np.float64)
    first = 0
    for dtype, lists in whole:
        kernel = be.kernel("optimizer.cu", for_type(how.name, dtype))
        for (addresses,), sizes, grid in _tables(lists):
            kernel(addresses, sizes, len(sizes), sums, first, grid=grid, block=how.block,
                   order=how.order)  # fmt: skip
            first += grid
    be.kernel("optimizer.cu", "squares_total")(
        sums, total, blocks, grid=1, block=how.block, order=how.order
    )
    return float(total.numpy()[0])


def scale(be: Launcher, xs: Arrays, factor: float, version: Version | None = None) -> None:
    """Each x *= factor."""
    how = version or Version("scale_many", be.threads)
    for dtype, arrays in _by_type(xs):
        whole = _whole(be, [arrays], dtype)
        kernel = be.kernel("optimizer.cu", for_type(how.name, dtype))
        for (addresses,), sizes, grid in _tables(whole):
            kernel(addresses, sizes, len(sizes), factor, grid=grid, block=how.block,
                   order=how.order)  # fmt: skip
        _write_back(be, [arrays], whole)


def sgd_step(
    be: Launcher,
    ps: Arrays,
    gs: Arrays,
    velocities: Arrays | None,
    lr: float,
    momentum: float,
    decay: float,
    masters: Arrays | None = None,
    version: Version | None = None,
) -> None:
    """g' = g + decay * p; velocity = momentum * velocity + g' if there is one; p -= lr * either."""
    if masters is not None:
        gs = [cuda_moving.cast(be, g, FLOAT) for g in gs]
        sgd_step(be, masters, gs, velocities, lr, momentum, decay, version=version)
        for p, master in zip(ps, masters, strict=True):
            cuda_moving.assign(be, p, master)
        return
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
    masters: Arrays | None = None,
    version: Version | None = None,
) -> None:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), step counted from 1."""
    given = [ps, gs, ms, vs] if masters is None else [ps, gs, masters, ms, vs]
    dtype = ps[0].dtype if masters is not None and ps else FLOAT
    whole = _whole(be, given, dtype)
    fits = all(is_aligned(*arrays) for arrays in whole)
    name = "adamw" if masters is None else "adamw_master"
    how = version or Version(f"{name}_vector" if fits else f"{name}_many", be.threads)
    kernel = be.kernel("optimizer.cu", for_type(how.name, dtype))
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


def _by_type(xs: Arrays) -> Iterator[tuple[np.dtype, list[DeviceArray]]]:
    """The arrays of each type there is, since a kernel takes those of one."""
    for dtype in dict.fromkeys(x.dtype for x in xs):
        yield dtype, [x for x in xs if x.dtype == dtype]


def _whole(be: Launcher, given: list[Arrays], dtype: np.dtype = FLOAT) -> list[list[DeviceArray]]:
    """The arrays that have elements, each without gaps. dtype: float32 or a half, of the first two
    lists; the others are float32. TypeError for what is not, since a table hides it from the
    launch.
    """
    for number, arrays in enumerate(given):
        wanted = dtype if number < 2 and dtype in HALVES else FLOAT
        for x in arrays:
            if x.dtype != wanted:
                raise TypeError(
                    f"an optimizer's step on {be.name!r} wants {name_of(wanted)}, not "
                    f"{name_of(x.dtype)}"
                )
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
