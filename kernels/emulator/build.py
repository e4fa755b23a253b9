"""Compile for the emulator: C++ from CUDA source, and a cache of the libraries made of it."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kernels.signature import Signatures, packing, without_comments

HERE = Path(__file__).parent
# Version 4 of DWARF: in version 5, g++ 12 writes the wrong file names.
OPTIONS = ["-std=c++17", "-O2", "-g1", "-gdwarf-4", "-fPIC", "-fno-strict-aliasing",
           "-ffp-contract=off", "-fstack-clash-protection"]
# Each access to memory becomes a call, which checks.h answers.
CHECKED_OPTIONS = ["-DEMU_CHECKED", "-fsanitize=thread,alignment,bounds,signed-integer-overflow,"
                                    "shift-exponent,integer-divide-by-zero"]
# And each run of instructions without a branch begins with a call. Little is optimised, so that
# what is counted stays what the source says; of the values that are read twice in a row one stays.
# A struct of four floats is loaded as one thing, as nvcc does, and not as four (tree-sra).
COUNTED_OPTIONS = ["-DEMU_CHECKED", "-DEMU_COUNTED", "-fsanitize=thread",
                   "-fsanitize-coverage=trace-pc", "-O1", "-fno-math-errno", "-fno-thread-jumps",
                   "-fno-tree-sra", "-fno-tree-vectorize", "-fno-tree-loop-distribute-patterns"]
# clang++ leaves out the check of a read that a write to the same address follows.
CLANG_CHECKED_OPTIONS = ["-mllvm", "-tsan-instrument-read-before-write=1"]
# Only the entries are seen from outside: two libraries may both have an inline function of the same
# header, and its static variables (cuda_emulator.h keeps a shared array's place in one) are to be
# each library's own.
HIDDEN = ["-fvisibility=hidden"]

_DYNAMIC = re.compile(r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"/]+)"', re.MULTILINE)
_RETURN = re.compile(r"\breturn\s*;")
_STATIC = re.compile(r"__shared__\s+([\w ]+?)\s+(\w+)\s*((?:\[[^\]]*\]\s*)*);")


class CompilerNotFoundError(OSError):
    """No C++ compiler: the emulator cannot build a kernel."""


class CompileError(RuntimeError):
    """The C++ compiler refused a source; its own words are in the message."""


@functools.cache
def compiler() -> tuple[tuple[str, ...], str]:
    """(command, what it says of its version): that of CXX, else g++, clang++ or c++ on the PATH."""
    asked = os.environ.get("CXX")
    candidates = [asked] if asked else ["g++", "clang++", "c++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            run = subprocess.run([*command, "--version"], capture_output=True, text=True)
            if run.returncode == 0:
                return tuple(command), run.stdout
    raise CompilerNotFoundError(
        f"the emulator needs a C++ compiler, and none of {', '.join(candidates)} runs"
        f"{' (the variable CXX)' if asked else ''}: install one (Debian, Ubuntu: apt install g++; "
        "macOS: xcode-select --install) or set CXX to its path"
    )


def cache_folder() -> Path:
    """Where compiled kernels stay: MINIGPT_KERNEL_CACHE, else minigpt/kernels in the user's cache.
    """
    named = os.environ.get("MINIGPT_KERNEL_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minigpt" / "kernels"


def kernels(path: Path, signatures: Signatures, checked: bool, counted: bool = False) -> Path:
    """The library of a `.cu` file, with an entry `emu_kernel_NAME` for each of its kernels.

    Raises ValueError for source that the emulator cannot read, and what `library` raises.
    """
    options = list(HIDDEN)
    if checked:
        options += CHECKED_OPTIONS
        if "clang" in compiler()[1]:
            options += CLANG_CHECKED_OPTIONS
    if counted:
        options += COUNTED_OPTIONS
    return library(path.stem, kernel_sources(path, signatures), options,
                   sorted([*HERE.glob("*.h"), *HERE.glob("include/*.h")]))


def kernel_sources(path: Path, signatures: Signatures) -> dict[str, str]:
    """{file name: C++} of a `.cu` file, those that it includes, and last, to be compiled, a file
    with an entry for each kernel: it reads each argument from its place in the packed ones.
    """
    sources = translate(path)
    entries = ['#include "cuda_emulator.h"', f'#include "{path.name}"']
    for name, parameters in signatures.items():
        values = ", ".join(
            f"*({p.type}{'*' if p.pointer else ''} const*)(a + {place})"
            for p, place in zip(parameters, packing(parameters)[1])
        )
        entries.append('extern "C" __attribute__((no_sanitize("thread"), visibility("default"))) '
                       f"void emu_kernel_{name}(const char* a) {{ {name}({values}); }}")
    sources["entries.cpp"] = "\n".join(entries) + "\n"
    return sources


def translate(path: Path) -> dict[str, str]:
    """{file name: C++ for the host} of a `.cu` file and of those of ours that it includes.

    Shared variables are declared through macros of cuda_emulator.h; lines keep their numbers. A
    file that is neither beside the one that includes it nor in kernels/ is left to the compiler.
    Raises ValueError for a __shared__ declaration of another form than those in README.md.
    """
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        text = without_comments(path.read_text(encoding="utf-8"))
        text = _DYNAMIC.sub(r"EMU_DYNAMIC_SHARED(\1, \2);", text)
        text = _STATIC.sub(r"EMU_SHARED(\1, \2, \3);", text)
        text = _RETURN.sub("EMU_RETURN;", text)
        left = re.search(r"[^\n]*\b__shared__\b[^\n]*", text)
        if left:
            raise ValueError(
                f"{path.name}: write `{left[0].strip()}` as `__shared__ float name[rows][cols];`, "
                "one variable a declaration, or as `extern __shared__ float name[];`")
        found[path.name] = text
        for name in set(_INCLUDE.findall(text)) - set(found):
            places = (path.with_name(name), HERE.parent / name)     # as nvcc looks with our -I
            waiting += [place for place in places if place.exists()][:1]
    return found


def library(name: str, sources: dict[str, str], options: list[str], depends: list[Path]) -> Path:
    """The path of a shared library, compiled now or in the cache.

    sources: {file name: text}; the last is compiled and may include the others. The cache knows
    the library by them, the files in `depends` that they include, the options, the compiler and
    the kind of CPU.

    Raises CompilerNotFoundError, CompileError, or OSError where the cache cannot be written.
    """
    command, version = compiler()
    parts = [*sources, *sources.values(), *(p.read_text(encoding="utf-8") for p in depends),
             *command, *OPTIONS, *options, version, platform.machine()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = cache_folder() / f"{name}-{key}.so"
    if path.exists():
        return path
    # In a folder of our own first: another process may make the same library now.
    with _folder_beside(path) as folder:
        made, linked = f"{folder}/made.o", f"{folder}/linked.so"
        for file, text in sources.items():
            Path(folder, file).write_text(text, encoding="utf-8")
        _run([*command, *OPTIONS, *options, f"-I{HERE}", f"-I{HERE}/include",
              "-c", f"{folder}/{file}", "-o", made])
        # Linked without the sanitizer's option, so that its library is not wanted.
        # What a kernel calls is found in the runtime when it is loaded, which macOS wants said.
        later = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        _run([*command, "-shared", *later, made, "-o", linked])
        os.replace(linked, path)
    return path


def _folder_beside(path: Path) -> tempfile.TemporaryDirectory:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent)
    except OSError as error:
        raise OSError(f"the emulator cannot keep compiled kernels in {path.parent}: "
                      f"{error.strerror}; set MINIGPT_KERNEL_CACHE to a folder that can be written"
                      ) from None


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise CompileError(f"{shlex.join(command)}\n{run.stderr[-4000:]}")
