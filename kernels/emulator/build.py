"""Compile for the emulator: C++ from CUDA source, and a cache of the libraries made of it."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
from pathlib import Path

from kernels.signature import Parameter, without_comments

HERE = Path(__file__).parent
OPTIONS = ["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]
# Each access to memory becomes a call, which checks.h answers.
CHECKED_OPTIONS = ["-fsanitize=thread,alignment"]

_DYNAMIC = re.compile(r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
_STATIC = re.compile(r"__shared__\s+([\w ]+?)\s+(\w+)\s*((?:\[[^\]]*\]\s*)*);")


class CompilerNotFoundError(RuntimeError):
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


def to_cpp(source: str, file: str, kernels: dict[str, tuple[Parameter, ...]]) -> str:
    """C++ for the host: shared variables declared through macros, and an entry for each kernel.

    Lines keep their numbers. An entry `emu_kernel_NAME` reads each argument from its 8 bytes.
    Raises ValueError for a __shared__ declaration of another form than those in README.md.
    """
    text = without_comments(source)
    text = _DYNAMIC.sub(r"EMU_DYNAMIC_SHARED(\1, \2);", text)
    text = _STATIC.sub(r"EMU_SHARED(\1, \2, \3);", text)
    left = re.search(r"[^\n]*\b__shared__\b[^\n]*", text)
    if left:
        raise ValueError(f"{file}: write `{left[0].strip()}` as `__shared__ float name[rows][cols];"
                         "`, one variable a declaration, or as `extern __shared__ float name[];`")
    entries = []
    for name, parameters in kernels.items():
        values = ", ".join(
            f"*({p.type}{'*' if p.pointer else ''} const*)(a + {8 * i})"
            for i, p in enumerate(parameters)
        )
        entries.append(f'extern "C" __attribute__((no_sanitize("thread"))) '
                       f"void emu_kernel_{name}(const char* a) {{ {name}({values}); }}")
    return (f'#include "cuda_emulator.h"\n#line 1 "{file}"\n{text}\n#line 1 "entries"\n'
            + "\n".join(entries) + "\n")


def library(name: str, cpp: str, options: list[str], depends: list[Path]) -> Path:
    """The path of the shared library of C++ source, compiled now or in the cache.

    The cache knows it by the source, the files it includes, the options and the compiler. Raises
    CompilerNotFoundError, CompileError, or OSError where the cache folder cannot be written.
    """
    command, version = compiler()
    parts = [cpp, *(p.read_text(encoding="utf-8") for p in depends), *command, *options, version]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = cache_folder() / f"{name}-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under names of our own first: another process may make the same library now.
        stem = path.with_name(f".{name}-{key}-{secrets.token_hex(8)}")
        written, made = Path(f"{stem}.cpp"), Path(f"{stem}.o")
        linked = Path(f"{stem}.tmp")
        try:
            written.write_text(cpp, encoding="utf-8")
            _run([*command, *OPTIONS, *options, f"-I{HERE}", "-c", str(written), "-o", str(made)])
            # Linked without the sanitizer's option, so that its library is not wanted.
            _run([*command, "-shared", str(made), "-o", str(linked)])
            os.replace(linked, path)
        finally:
            for temporary in (written, made, linked):
                temporary.unlink(missing_ok=True)
    return path


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise CompileError(f"{shlex.join(command)}\n{run.stderr[-4000:]}")
