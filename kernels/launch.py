"""Launch a kernel: `load("softmax.cu", device)["softmax_naive"](x, y, 9, 5, grid=1, block=32)`.

What a kernel takes is read from its source, and what it is given is checked against that.
"""

from __future__ import annotations

import math
import numbers
import operator
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kernels.array import BFLOAT16, DeviceArray, Strided, dtype_name
from kernels.interface import Device, KernelError, Sizes
from kernels.recording import Changing
from kernels.signature import (
    POINTERS,
    SIZES,
    Parameter,
    packing,
    read_architectures,
    read_launch_bounds,
    read_signatures,
)

__all__ = ["HERE", "Kernel", "KernelError", "Module", "load"]

HERE = Path(__file__).parent
MAX_THREADS = 1024                          # in a block, on every GPU since 2010
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
MAX_SHARED = 48 * 1024                      # bytes, without opting in to more

Dimensions = int | tuple[int, ...]


def load(file: str, device: Device) -> Module:
    """A file of this package, compiled once for a device."""
    module = device.modules.get(file)
    if module is None:
        module = device.modules[file] = Module(HERE / file, device)
    return module


class Module:
    """The kernels of one `.cu` file by name, compiled for a device.

    Raises FileNotFoundError, ValueError for source that cannot be read, and what the device raises
    where it cannot compile.
    """

    def __init__(self, path: Path, device: Device) -> None:
        source = path.read_text(encoding="utf-8")
        self.path, self.file, self.device = path, path.name, device
        signatures = read_signatures(source, path.name)
        entries, bounds = device.compile(path, signatures), read_launch_bounds(source)
        self.since = read_architectures(source)
        self.kernels = {name: Kernel(name, parameters, device, entries[name],
                                     bounds.get(name, MAX_THREADS))
                        for name, parameters in signatures.items()}

    def __getitem__(self, name: str) -> Kernel:
        """KeyError for a name that is not there, KernelError for a kernel that has no code here."""
        has, since = self.device.architecture, self.since.get(name, 0)
        if has is not None and has < since:
            raise KernelError(f"{name} ({self.file}) needs a GPU of architecture sm_{since} or "
                              f"later, and this one is sm_{has}: take another version")
        try:
            return self.kernels[name]
        except KeyError:
            raise KeyError(f"{self.file} has no kernel {name!r}, but "
                           f"{', '.join(self.kernels)}") from None


class Kernel:
    """One `__global__` function. Call it with an argument for each parameter.

    A pointer takes a contiguous DeviceArray of its type on the kernel's device (or `x.strided`,
    where the kernel gets the strides, too) or, where the source says OPTIONAL, None; an integer or
    float parameter takes a number, Dims a tuple of integers, Table one of integers or of arrays.
    grid and block are a number or up to three of them (x, y, z); shared is the bytes of dynamic
    shared memory. On the emulator alone, order is "forward" (if not given), "reverse" or the seed
    of a random order of the threads.

    Raises TypeError, with the parameter's name, for a wrong count, type or device, ValueError for
    sizes no GPU has, KernelError for what goes wrong in the kernel.
    """

    def __init__(self, name: str, parameters: tuple[Parameter, ...], device: Device,
                 entry: Any, max_threads: int = MAX_THREADS) -> None:
        self.name, self.parameters, self.device, self.entry = name, parameters, device, entry
        self.max_threads = max_threads          # in a block: what __launch_bounds__ says
        self._struct, self.places = packing(parameters)
        self._adders = [_adder(name, parameter, device) for parameter in parameters]

    def __call__(self, *arguments: object, grid: Dimensions, block: Dimensions, shared: int = 0,
                 order: str | int | None = None) -> None:
        if len(arguments) != len(self._adders):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments "
                            f"({', '.join(map(str, self.parameters))}), not {len(arguments)}")
        values: list[int | float] = []
        for add, argument in zip(self._adders, arguments):
            add(values, argument)
        grid, block = self._sizes("grid", grid, MAX_GRID), self._sizes("block", block, MAX_BLOCK)
        if block[0] * block[1] * block[2] > self.max_threads:
            raise ValueError(f"{self.name}: block {block} has {math.prod(block)} threads; "
                             f"{self.max_threads} is the most")
        if not 0 <= shared <= MAX_SHARED:
            raise ValueError(f"{self.name}: {shared} bytes of shared memory; 0 to {MAX_SHARED} are "
                             "possible")
        device, packed = self.device, self._struct.pack(*values)
        if device.recording is not None:
            device.recording.add_launch(self, arguments, packed, grid, block, shared, order)
        device.launches += 1
        device.launch(self.entry, packed, grid, block, shared, order)

    def differing(self, packed: bytes, other: bytes) -> str:
        """The first parameter that has another value in `other`, for messages."""
        for parameter, place in zip(self.parameters, self.places):
            value, now = (struct.unpack_from(parameter.format, x, place) for x in (packed, other))
            if struct.pack(parameter.format, *value) != struct.pack(parameter.format, *now):
                at = next((i for i, (a, b) in enumerate(zip(value, now)) if a != b), 0)
                which = f", entry {at}," if len(value) > 1 else ""
                return f"'{parameter}'{which} {now[at]} where a replay would have {value[at]}"
        return "other bytes between its arguments"

    def _sizes(self, what: str, given: Dimensions, most: Sizes) -> Sizes:
        if type(given) is int and 1 <= given <= most[0]:
            return given, 1, 1
        sizes = given if isinstance(given, tuple) else (given,)
        fits = len(sizes) <= 3
        if fits:
            x, y, z = map(operator.index, (*sizes, 1, 1)[:3])
            fits = 1 <= x <= most[0] and 1 <= y <= most[1] and 1 <= z <= most[2]
        if not fits:
            raise ValueError(f"{self.name}: {what}={given}: one to three sizes from 1 to {most}")
        return x, y, z


Adder = Callable[[list[int | float], Any], None]


def _adder(kernel: str, parameter: Parameter, device: Device) -> Adder:
    """A function that checks one argument and adds what `struct` packs of it to a list."""
    wanted = f"{kernel}: '{parameter.name}' is {parameter}"
    if parameter.pointer:
        return _pointer_adder(wanted, POINTERS[parameter.type], parameter.optional, device)
    if parameter.type == "Table":
        return _table_adder(wanted, SIZES["Table"], device)
    if parameter.type in SIZES:
        return _dims_adder(wanted, SIZES[parameter.type])
    if parameter.type in ("float", "double"):
        return _float_adder(wanted, np.float32 if parameter.type == "float" else np.float64)
    return _integer_adder(wanted, parameter.format)


def _pointer_adder(wanted: str, names: tuple[str, ...], optional: bool, device: Device) -> Adder:
    dtypes = tuple(BFLOAT16 if name == "bfloat16" else np.dtype(name) for name in names)

    def add(values: list[int | float], argument: Any) -> None:
        if argument is None and optional:
            values.append(0)
            return
        if (type(argument) is DeviceArray and argument.dtype is dtypes[0]
                and argument.storage.device is device and argument.is_contiguous):
            values.append(argument.pointer)         # the most frequent case, quickly
            return
        array = argument.array if isinstance(argument, Strided) else argument
        if not isinstance(array, DeviceArray):
            raise TypeError(f"{wanted} and wants a DeviceArray, not {type(array).__name__}; copy "
                            "an array there with the device's from_numpy")
        if array.dtype not in dtypes:
            raise TypeError(f"{wanted} and wants {' or '.join(names)} elements, not "
                            f"{dtype_name(array.dtype)}")
        if array.storage.device is not device:
            raise TypeError(f"{wanted} on {device!r}, and the array is on {array.device!r}")
        if array is argument and not array.is_contiguous:
            raise TypeError(f"{wanted} and wants a contiguous array, not one of shape "
                            f"{array.shape} with strides {array.strides}: copy it, or pass "
                            "`.strided` where the kernel takes the strides")
        values.append(array.pointer)
    return add


def _dims_adder(wanted: str, size: int) -> Adder:
    def add(values: list[int | float], argument: Any) -> None:
        if not isinstance(argument, (tuple, list)) or len(argument) > size:
            raise TypeError(f"{wanted} and wants a tuple of up to {size} integers, not "
                            f"{argument!r}")
        try:
            values.extend(map(operator.index, argument))
        except TypeError:
            raise TypeError(f"{wanted} and wants integers, not {argument!r}") from None
        values.extend((0,) * (size - len(argument)))
    return add


def _table_adder(wanted: str, size: int, device: Device) -> Adder:
    """Of integers, or of arrays, whose addresses the kernel gets."""
    add_integers = _dims_adder(wanted, size)

    def add(values: list[int | float], argument: Any) -> None:
        if isinstance(argument, tuple) and argument and isinstance(argument[0], DeviceArray):
            for x in argument:
                if x.storage.device is not device or not x.is_contiguous:
                    raise TypeError(f"{wanted} of arrays without gaps on {device!r}, and got {x!r}")
            argument = tuple([x.pointer for x in argument])
        add_integers(values, argument)
    return add


def _float_adder(wanted: str, dtype: type[np.floating]) -> Adder:
    def add(values: list[int | float], argument: Any) -> None:
        if type(argument) is float and -1e38 < argument < 1e38:
            values.append(argument)                 # the most frequent case, quickly
            return
        if isinstance(argument, (bool, np.bool_)) or not isinstance(argument, numbers.Real):
            raise TypeError(f"{wanted} and wants a number, not {argument!r}")
        with np.errstate(over="ignore"):        # too large a number is infinite, as in C
            values.append(float(dtype(argument)))
    return add


def _integer_adder(wanted: str, letter: str) -> Adder:
    bits = 8 * struct.calcsize(letter)
    low, high = (-(2**(bits - 1)), 2**(bits - 1) - 1) if letter.islower() else (0, 2**bits - 1)

    def add(values: list[int | float], argument: Any) -> None:
        if type(argument) in (int, Changing) and low <= argument <= high:
            values.append(argument)                 # the most frequent case, quickly
            return
        if isinstance(argument, (bool, np.bool_)) or not isinstance(argument, numbers.Integral):
            raise TypeError(f"{wanted} and wants an integer, not {argument!r}")
        number = int(argument)
        if not low <= number <= high:
            raise ValueError(f"{wanted}, which {number} does not fit: {low} to {high}")
        values.append(number)
    return add
