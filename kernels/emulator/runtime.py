"""The emulator's runtime library, compiled on first use and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import platform

from kernels.emulator import build

HEADERS = ["worker.h", "vector_types.h", "fibers.h", "memory.h", "scheduler.h", "counts.h",
           "checks.h", "faults.h"]


@functools.cache
def runtime() -> ctypes.PyDLL:
    """The library of runtime.cpp. PyDLL keeps Python's lock: the emulator runs one launch a time.

    Raises CompilerNotFoundError or CompileError.
    """
    headers = [build.HERE / name for name in HEADERS]
    options = ["-mno-red-zone"] if platform.machine() in ("x86_64", "AMD64") else []
    source = (build.HERE / "runtime.cpp").read_text(encoding="utf-8")
    path = build.library("runtime", {"runtime.cpp": source}, ["-pthread", *options], headers)
    # Global, because kernels find emu_syncthreads and the rest in it.
    lib = ctypes.PyDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    lib.emu_malloc.restype, lib.emu_malloc.argtypes = pointer, [size, ctypes.c_int]
    lib.emu_free.restype, lib.emu_free.argtypes = None, [pointer]
    for copy in (lib.emu_write, lib.emu_copy):
        copy.restype, copy.argtypes = None, [pointer, pointer, size]
    lib.emu_message.restype, lib.emu_message_code.restype = text, size
    lib.emu_message_file.restype = text
    lib.emu_counts.restype, lib.emu_counts.argtypes = pointer, [pointer, pointer, pointer]
    lib.emu_launch.argtypes = [pointer, text, size, text]
    return lib
