"""Launch a kernel: `load("softmax.cu")["softmax_naive"](x, y, rows, cols, grid=rows, block=128)`.

What a kernel takes is read from its source, and what it is given is checked against that.
"""

from __future__ import annotations

import ctypes
import functools
import math
import numbers
import operator
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np

from kernels.device import DeviceArray
from kernels.emulator import build
from kernels.emulator.runtime import runtime
from kernels.signature import Parameter, read_signatures

HERE = Path(__file__).parent
MAX_THREADS = 1024                          # in a block, on every GPU since 2010
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
MAX_SHARED = 48 * 1024                      # bytes, without opting in to more

Dimensions = int | tuple[int, ...]


class KernelError(RuntimeError):
    """A kernel did what it must not: its name, file, line, block and thread are in the message."""


class Module:
    """The kernels of one `.cu` file by name, compiled. `checked` looks at every access to memory.

    Raises FileNotFoundError, ValueError for source the emulator cannot read, CompileError, or
    CompilerNotFoundError.
    """

    def __init__(self, path: Path, checked: bool = False) -> None:
        source = path.read_text(encoding="utf-8")
        self.file, self.checked = path.name, checked
        self.signatures = read_signatures(source, path.name)
        cpp = build.to_cpp(source, path.name, self.signatures)
        runtime()                           # before the kernels: they look for its functions
        options = build.CHECKED_OPTIONS if checked else []
        self.library_path = build.library(path.stem, cpp, options,
                                          [build.HERE / "cuda_emulator.h"])
        self.library = ctypes.CDLL(str(self.library_path))

    def __getitem__(self, name: str) -> Kernel:
        if name not in self.signatures:
            raise KeyError(f"{self.file} has no kernel {name!r}, but {', '.join(self.signatures)}")
        return Kernel(self, name)


@functools.cache
def load(file: str, checked: bool = False) -> Module:
    """A file of this package, compiled once in a process."""
    return Module(HERE / file, checked)


class Kernel:
    """One `__global__` function. Call it with an argument for each parameter.

    A pointer takes a DeviceArray of its type, an integer or float parameter a number. grid and
    block are a number or up to three of them (x, y, z); shared is the bytes of dynamic shared
    memory; order is "forward", "reverse" or the seed of a random order of the threads.

    Raises TypeError, with the parameter's name, for a wrong count or type, ValueError for sizes no
    GPU has, KernelError for what goes wrong in the kernel.
    """

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name, self.parameters = module, name, module.signatures[name]
        self._entry = ctypes.cast(module.library[f"emu_kernel_{name}"], ctypes.c_void_p)

    def __call__(self, *arguments: object, grid: Dimensions, block: Dimensions, shared: int = 0,
                 order: str | int = "forward") -> None:
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments "
                            f"({', '.join(map(str, self.parameters))}), not {len(arguments)}")
        packed = b"".join(self._pack(p, a) for p, a in zip(self.parameters, arguments))
        grid, block = self._sizes("grid", grid, MAX_GRID), self._sizes("block", block, MAX_BLOCK)
        if math.prod(block) > MAX_THREADS:
            raise ValueError(f"{self.name}: block {block} has {math.prod(block)} threads; "
                             f"{MAX_THREADS} is the most")
        if not 0 <= shared <= MAX_SHARED:
            raise ValueError(f"{self.name}: {shared} bytes of shared memory; 0 to {MAX_SHARED} are "
                             "possible")
        if isinstance(order, str) and order not in ("forward", "reverse"):
            raise ValueError(f"{self.name}: order is 'forward', 'reverse' or a seed, not {order!r}")
        kind = {"forward": 0, "reverse": 1}.get(order, 2) if isinstance(order, str) else 2
        seed = 0 if isinstance(order, str) else order
        three = ctypes.c_uint * 3
        lib = runtime()
        status = lib.emu_launch(self._entry, packed, len(packed), three(*grid), three(*block),
                                shared, kind, seed, self.module.checked, self._entry)
        if status == 2:
            raise MemoryError(f"{self.name}: {lib.emu_message().decode()}")
        if status:
            raise KernelError(f"{self._place(lib)}: {self.name}: {lib.emu_message().decode()}")

    def _pack(self, parameter: Parameter, value: object) -> bytes:
        """The 8 bytes that the entry reads."""
        wanted = f"{self.name}: '{parameter.name}' is {parameter}"
        if parameter.pointer:
            if not isinstance(value, DeviceArray):
                raise TypeError(f"{wanted} and wants a DeviceArray, not {type(value).__name__}; "
                                "copy an array there with kernels.device.to_device")
            if value.dtype != parameter.dtype:
                raise TypeError(f"{wanted} and wants {parameter.dtype} elements, not {value.dtype}")
            return struct.pack("=Q", value.pointer)
        wants_float = parameter.dtype.kind == "f"
        kind: type = numbers.Real if wants_float else numbers.Integral
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind):
            raise TypeError(f"{wanted} and wants {'a number' if wants_float else 'an integer'}, "
                            f"not {value!r}")
        if wants_float:
            with np.errstate(over="ignore"):
                return np.array(value, parameter.dtype).tobytes().ljust(8, b"\0")
        limits = np.iinfo(parameter.dtype)
        number = operator.index(value)      # type: ignore[arg-type]
        if not limits.min <= number <= limits.max:
            raise ValueError(f"{wanted}, which {number} does not fit: {limits.min} to {limits.max}")
        return np.array(number, parameter.dtype).tobytes().ljust(8, b"\0")

    def _sizes(self, what: str, given: Dimensions, most: tuple[int, ...]) -> tuple[int, ...]:
        sizes = (given,) if isinstance(given, int) else tuple(given)
        sizes = (*sizes, *(1,) * (3 - len(sizes)))
        if len(sizes) != 3 or any(not 1 <= n <= m for n, m in zip(sizes, most)):
            raise ValueError(f"{self.name}: {what}={given}: one to three sizes from 1 to {most}")
        return sizes

    def _place(self, lib: ctypes.PyDLL) -> str:
        """file.cu:line of what went wrong, or the file alone where no tool tells the line."""
        if lib.emu_message_line():
            return f"{self.module.file}:{lib.emu_message_line()}"
        address, tool = lib.emu_message_address(), shutil.which("addr2line")
        if not address or not tool:
            return self.module.file
        entry = self._entry.value or 0
        offset = address - 1 - _load_address(entry)
        run = subprocess.run([tool, "-i", "-e", str(self.module.library_path), hex(offset)],
                             capture_output=True, text=True)
        # Innermost first; atomics are in our header. g++ 12 gives our lines, but the name of the
        # C++ file that it read: so any other file is the kernel's.
        for line in run.stdout.splitlines():
            file, _, number = line.split(" (")[0].rpartition(":")
            if Path(file).name != "cuda_emulator.h" and number.isdigit():
                return f"{self.module.file}:{number}"
        return self.module.file


def _load_address(address: int) -> int:
    """Where the library that has this address begins in memory."""
    class Found(ctypes.Structure):
        _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p),
                    ("symbol", ctypes.c_char_p), ("symbol_address", ctypes.c_void_p)]

    found = Found()
    ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(found))
    return found.base or 0
