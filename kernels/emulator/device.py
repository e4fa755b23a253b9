"""The emulator as a device: memory, compiled files, launches, and errors with file and line."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels.emulator import build, machine_code
from kernels.emulator.counts import Counts
from kernels.emulator.runtime import runtime
from kernels.interface import Device, KernelError, Sizes
from kernels.signature import Signatures

# struct Options in runtime.cpp: grid, block, seed, shared bytes, order, mode, workers, patient.
_OPTIONS = struct.Struct("3I3IQ5I")


@dataclass(frozen=True)
class Entry:
    """A compiled kernel: its address in `library`."""

    name: str
    file: str
    library: Path
    address: int


class EmulatorDevice(Device):
    """Runs kernels on the CPU. Raises CompilerNotFoundError where no C++ compiler is found.

    counted: `counts` has what each kernel does to memory and how its lanes part (counts.py).
    """

    def __init__(self, checked: bool, counted: bool = False) -> None:
        super().__init__("emulator", checked)
        if checked and counted:
            raise ValueError("the emulator checks or counts: two devices, one with checked=True, "
                             "one with counted=True")
        if counted and "clang" in build.compiler()[1]:
            raise build.CompilerNotFoundError(
                "the counting mode needs GNU's g++, whose -fsanitize-coverage=trace-pc it reads: "
                "install it and set CXX to its path")
        self.counted, self.counts = counted, Counts()
        # The checks and the counts need one order of things, so they have one worker.
        self.workers = 1 if checked or counted else _workers()
        self._lib = runtime()

    def allocate(self, nbytes: int) -> int:
        pointer = self._lib.emu_malloc(nbytes, self.checked)
        if not pointer:
            raise MemoryError(f"the emulator got no memory for an array of {nbytes:,} bytes")
        return pointer

    def free(self, pointer: int) -> None:
        self._lib.emu_free(pointer)

    def _write(self, pointer: int, host: np.ndarray) -> None:
        self._lib.emu_write(pointer, host.ctypes.data, host.nbytes)

    def _read(self, host: np.ndarray, pointer: int) -> None:
        ctypes.memmove(host.ctypes.data, pointer, host.nbytes)

    def copy_bytes(self, to: int, source: int, nbytes: int) -> None:
        self._lib.emu_copy(to, source, nbytes)

    def synchronize(self) -> None:
        """Nothing: a launch has ended when it returns."""

    def compile(self, path: Path, signatures: Signatures) -> dict[str, Entry]:
        """Raises CompileError, or ValueError for source that the emulator cannot read."""
        library_path = build.kernels(path, signatures, self.checked, self.counted)
        library = ctypes.CDLL(str(library_path))
        return {name: Entry(name, path.name, library_path, _address(library, name))
                for name in signatures}

    def launch(self, entry: Entry, packed: bytes, grid: Sizes, block: Sizes, shared: int,
               order: str | int | None) -> None:
        """Run a kernel to its end. Raises KernelError, MemoryError.

        Ctrl-C ends it: KeyboardInterrupt in the main thread. Where the program handles Ctrl-C in
        its own way, as to stop after a whole step, the kernel goes on, and the second one ends it.
        """
        kind, seed = 0, 0
        if isinstance(order, int):
            kind, seed = 2, order % 2**64
        elif order == "reverse":
            kind = 1
        elif order not in (None, "forward"):
            raise ValueError(f"{entry.name}: order is 'forward', 'reverse' or a seed, not "
                             f"{order!r}")
        patient = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        options = _OPTIONS.pack(*grid, *block, seed, shared, kind,
                                2 if self.counted else int(self.checked), self.workers, patient)
        status = self._lib.emu_launch(entry.address, packed, len(packed), options)
        if status:
            self._raise(entry, status)
        if self.counted:
            self.counts.read(self._lib, entry.name, entry.library, _load_address(entry.address))

    def _raise(self, entry: Entry, status: int) -> None:
        message = self._lib.emu_message().decode()
        if status == 2:
            raise MemoryError(f"{entry.name}: {message}")
        line, file = self._lib.emu_message_line(), self._lib.emu_message_file()
        place = (f"{Path(file.decode()).name}:{line}" if file
                 else _place(entry, self._lib.emu_message_code()))
        if status == 3:
            signal.raise_signal(signal.SIGINT)      # in Python's main thread: KeyboardInterrupt
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt             # for a handler that raises nothing
        raise KernelError(f"{place}: {entry.name}: {message}")


def _workers() -> int:
    """How many threads of the system run blocks: MINIGPT_EMULATOR_THREADS, else 1."""
    text = os.environ.get("MINIGPT_EMULATOR_THREADS", "1")
    if not text.isdigit() or not 1 <= int(text) <= 16:
        raise ValueError(f"MINIGPT_EMULATOR_THREADS is {text!r}: use a number from 1 to 16")
    return int(text)


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(library[f"emu_kernel_{name}"], ctypes.c_void_p).value or 0


def _place(entry: Entry, address: int) -> str:
    """file:line of an address in the code, or the file alone where no tool tells the line."""
    if not address:
        return entry.file
    offset = address - 1 - _load_address(entry.address)
    return machine_code.places(entry.library, [offset])[0] or entry.file


def _load_address(address: int) -> int:
    """Where the library that has this address begins in memory."""
    class Found(ctypes.Structure):
        _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p),
                    ("symbol", ctypes.c_char_p), ("symbol_address", ctypes.c_void_p)]

    found = Found()
    ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(found))
    return found.base or 0
