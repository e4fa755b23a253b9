"""Arrays in a device's memory: a storage, and how an array lies in it.

Everything here but `numpy` is arithmetic on shapes and strides: a view costs no launch and no copy.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kernels.interface import Device
    from kernels.recording import PrivateMemory

Shape = tuple[int, ...]
# NumPy has no bfloat16: an element is its bits, under a name that keeps it apart from integers.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


def dtype_name(dtype: np.dtype) -> str:
    """What to call an element type: "float32", "bfloat16"."""
    return "bfloat16" if dtype == BFLOAT16 else str(dtype)


class Storage:
    """A piece of device memory of `nbytes` bytes at `pointer`, freed with its last reference.

    memory: whose piece it is: the device's, or that of a recorded step. Raises MemoryError, with
    the size, where there is no room.
    """

    __slots__ = ("device", "memory", "nbytes", "pointer")

    def __init__(self, device: Device, nbytes: int, memory: Device | PrivateMemory) -> None:
        self.device, self.nbytes, self.memory, self.pointer = device, nbytes, memory, 0
        self.pointer = memory.allocate(nbytes)

    def __del__(self) -> None:
        if self.pointer:
            self.memory.free(self.pointer)


class DeviceArray:
    """An array of any shape; element (i, j, …) lies at offset + i·strides[0] + j·strides[1] + ….

    strides and offset count elements, not bytes. Made by a device's `empty` and `from_numpy`.
    """

    __slots__ = ("dtype", "is_contiguous", "is_view", "offset", "pointer", "shape", "storage",
                 "strides")

    def __init__(self, storage: Storage, shape: Shape, strides: Shape, offset: int,
                 dtype: np.dtype, is_view: bool = False) -> None:
        self.storage, self.shape, self.strides, self.offset = storage, shape, strides, offset
        self.dtype, self.is_view = dtype, is_view               # is_view: made from another array
        self.pointer = storage.pointer + offset * dtype.itemsize    # of element (0, 0, …)
        self.is_contiguous = _is_contiguous(shape, strides)     # row by row, without gaps

    @property
    def device(self) -> Device:
        return self.storage.device

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def strided(self) -> Strided:
        """Say to a kernel's pointer parameter: not contiguous, and the strides go along."""
        return Strided(self)

    def numpy(self) -> np.ndarray:
        """A contiguous copy in the host's memory."""
        if self.is_contiguous:
            host = np.empty(self.shape, self.dtype)
            if self.size:
                self.device.read(host, self.pointer)
            return host
        if not self.size:
            return np.empty(self.shape, self.dtype)
        # The piece of the storage from the lowest to the highest element, in one transfer.
        steps = [(n - 1) * s for n, s in zip(self.shape, self.strides)]
        low, high = sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps)
        piece = np.empty(high - low + 1, self.dtype)
        self.device.read(piece, self.pointer + low * self.dtype.itemsize)
        strides = [s * self.dtype.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(piece[-low:], self.shape, strides).copy()

    def reshape(self, shape: Shape) -> DeviceArray | None:
        """The same elements in the same order as a view, or None where that takes a copy.

        Raises ValueError for a shape of another size.
        """
        if math.prod(shape) != self.size:
            raise ValueError(f"reshape: {self.shape} has {self.size} elements, {shape} "
                             f"{math.prod(shape)}")
        if self.is_contiguous:
            strides: Shape | None = contiguous_strides(shape)
        else:
            strides = _reshaped_strides(self.shape, self.strides, shape)
        if strides is None:
            return None
        return self._view(tuple(shape), strides, self.offset)

    def permute(self, axes: Shape) -> DeviceArray:
        """Axis i of the view is axis axes[i] of this array; negative axes count from the end."""
        ndim = self.ndim
        axes = tuple(axis + ndim if axis < 0 else axis for axis in axes)
        if sorted(axes) != list(range(ndim)):
            raise ValueError(f"permute: {axes} does not name each of the {ndim} axes of "
                             f"{self.shape} once")
        return self._view(tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes),
                          self.offset)

    def expand(self, shape: Shape) -> DeviceArray:
        """Broadcast: axes of size 1, and new ones in front, repeat their elements (stride 0)."""
        new = len(shape) - self.ndim
        if new < 0 or any(m not in (n, 1) for m, n in zip(self.shape, shape[new:])):
            raise ValueError(f"expand: {self.shape} does not broadcast to {tuple(shape)}")
        strides = tuple(0 if m != n else s
                        for m, n, s in zip(self.shape, shape[new:], self.strides))
        return self._view(tuple(shape), (0,) * new + strides, self.offset)

    def __getitem__(self, index: Any) -> DeviceArray:
        """A view by ints, slices (negative steps, too), None and Ellipsis.

        Raises IndexError for an index outside its axis or one too many, TypeError for any other
        kind of index.
        """
        items = list(index) if isinstance(index, tuple) else [index]
        used = sum(item is not None and item is not Ellipsis for item in items)
        dots = [i for i, item in enumerate(items) if item is Ellipsis]
        if used > self.ndim or len(dots) > 1:
            raise IndexError(f"{index!r} is too many indices for an array of shape {self.shape}")
        rest: list[Any] = [slice(None)] * (self.ndim - used)
        where = dots[0] if dots else len(items)
        items[where:where + len(dots)] = rest
        shape: list[int] = []
        strides: list[int] = []
        offset, axis = self.offset, 0
        for item in items:
            if item is None:
                shape.append(1)
                strides.append(0)
                continue
            size, stride = self.shape[axis], self.strides[axis]
            axis += 1
            if isinstance(item, slice):
                start, stop, step = item.indices(size)
                length = len(range(start, stop, step))
                offset += start * stride if length else 0
                shape.append(length)
                strides.append(step * stride)
            else:
                offset += _position(item, size, axis - 1, self.shape) * stride
        return self._view(tuple(shape), tuple(strides), offset)

    def _view(self, shape: Shape, strides: Shape, offset: int) -> DeviceArray:
        return DeviceArray(self.storage, shape, strides, offset, self.dtype, is_view=True)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a DeviceArray of shape () has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return (f"DeviceArray(shape={self.shape}, dtype={dtype_name(self.dtype)}, "
                f"device={self.device.name!r})")


class Strided:
    """An array whose strides the kernel gets in parameters of its own."""

    __slots__ = ("array",)

    def __init__(self, array: DeviceArray) -> None:
        self.array = array


def contiguous_strides(shape: Shape) -> Shape:
    """Strides, in elements, of an array that lies row by row without gaps."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _is_contiguous(shape: Shape, strides: Shape) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides)):
        if size == 0:
            return True
        if size != 1 and stride != step:
            return False
        step *= size
    return True if step else 0 in shape


def _position(item: Any, size: int, axis: int, shape: Shape) -> int:
    if isinstance(item, (bool, np.bool_)):
        raise TypeError(f"a DeviceArray is indexed by ints, slices, None and ..., not {item!r}")
    try:
        position = operator.index(item)
    except TypeError:
        raise TypeError("a DeviceArray is indexed by ints, slices, None and ..., not "
                        f"{type(item).__name__}") from None
    if not -size <= position < size:
        raise IndexError(f"index {position} is outside axis {axis}, of size {size}, of an array of "
                         f"shape {shape}")
    return position % size


def _reshaped_strides(old: Shape, old_strides: Shape, new: Shape) -> Shape | None:
    """Strides of a view of another shape, or None. Both shapes have the same size.

    Walks both shapes in groups of axes of equal size: inside a group of old axes each must step on
    where the next one ends; then the new axes divide the group among them.
    """
    if 0 in old:
        return contiguous_strides(new)
    axes = [(n, s) for n, s in zip(old, old_strides) if n != 1]
    strides: list[int] = [0] * len(new)
    i = j = 0
    while i < len(axes):
        i_end, j_end, n_old, n_new = i + 1, j + 1, axes[i][0], new[j]
        while n_old != n_new:
            if n_old < n_new:
                n_old *= axes[i_end][0]
                i_end += 1
            else:
                n_new *= new[j_end]
                j_end += 1
        for k in range(i, i_end - 1):
            if axes[k][1] != axes[k + 1][0] * axes[k + 1][1]:
                return None
        step = axes[i_end - 1][1]
        for k in range(j_end - 1, j - 1, -1):
            strides[k] = step
            step *= new[k]
        i, j = i_end, j_end
    return tuple(strides)       # what is left of `new` are axes of size 1
