"""From a `.cu` file to a cubin, the code of one GPU architecture: nvcc, and a cache of its work.

nvcc reads options of its user from NVCC_PREPEND_FLAGS and NVCC_APPEND_FLAGS, which is where a host
compiler is named (`-ccbin g++-13`): they are part of what the cache knows a file by.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kernels.cuda_errors import CudaError, explain_nvcc
from kernels.emulator.build import CompileError, cache_folder

HERE = Path(__file__).parent
# -lineinfo costs nothing at run time and lets compute-sanitizer and the profilers name lines.
OPTIONS = ["-cubin", "-std=c++17", "-lineinfo", f"-I{HERE}"]
CUBIN_MAGIC = b"\x7fELF"
TOOLKIT = Path("/usr/local/cuda")
USERS_OPTIONS = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN")

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
_RELEASE = re.compile(r"release (\d+\.\d+)")


@dataclass(frozen=True)
class Nvcc:
    """The CUDA compiler: its path (a wrapper script will do), its release, where it was found."""

    path: str
    release: str        # "13.0"
    version: str        # all that `nvcc --version` says
    found: str          # "PATH", "CUDA_HOME", ...


def nvcc_places() -> Iterator[tuple[str, Path]]:
    """(what leads there, a path) of each place where nvcc may be, in the order of their use."""
    name = "nvcc.exe" if sys.platform == "win32" else "nvcc"
    on_path = shutil.which("nvcc")
    if on_path:
        yield "PATH", Path(on_path)
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        if os.environ.get(variable):
            yield variable, Path(os.environ[variable]) / "bin" / name
    if sys.platform == "win32":
        toolkits = Path(os.environ.get("ProgramFiles", r"C:\Program Files"))
        for folder in sorted((toolkits / "NVIDIA GPU Computing Toolkit" / "CUDA").glob("v*"),
                             reverse=True):
            yield "the toolkit's folder", folder / "bin" / name
    else:
        yield "the toolkit's folder", TOOLKIT / "bin" / name
    prefixes = [os.environ.get("CONDA_PREFIX"), sys.prefix]
    for prefix in dict.fromkeys(p for p in prefixes if p):
        folder = Path(prefix, "Library", "bin") if sys.platform == "win32" else Path(prefix, "bin")
        yield "conda", folder / name
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    for pattern in ("nvidia/cu*/bin", "nvidia/cuda_nvcc/bin"):     # CUDA 13 on; CUDA 12
        for folder in (f for p in packages for f in sorted(Path(p).glob(pattern), reverse=True)):
            yield "pip", folder / name


@functools.cache
def find_nvcc() -> Nvcc:
    """The first nvcc that runs. Raises CudaError, which lists the places that were looked at."""
    seen = []
    for found, path in nvcc_places():
        if not path.is_file():
            seen.append(f"{found}: {path} is not there")
            continue
        try:
            run = subprocess.run([str(path), "--version"], capture_output=True, text=True,
                                 errors="replace", timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            seen.append(f"{found}: {path} does not run ({error})")
            continue
        release = _RELEASE.search(run.stdout)
        if run.returncode == 0 and release:
            return Nvcc(str(path), release[1], run.stdout, found)
        said = (run.stderr or run.stdout).strip()[:200] or f"exit status {run.returncode}"
        seen.append(f"{found}: {path} does not give its version ({said})")
    names = {found for found, _ in nvcc_places()}
    seen += [f"{name} is not set" for name in ("CUDA_PATH", "CUDA_HOME") if name not in names]
    if "PATH" not in names:
        seen.insert(0, "PATH: no nvcc")
    raise CudaError("there is no nvcc, the CUDA compiler", "; ".join(seen),
                    "pip install nvidia-cuda-nvcc     (or CUDA_HOME=/path/to/the/toolkit)")


def included_files(path: Path) -> list[Path]:
    """The files of ours that a source includes by `#include "name"`, and those that they do."""
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        for name in _INCLUDE.findall(file.read_text(encoding="utf-8")):
            beside = (file.parent / name, HERE / name)
            there = next((p for p in beside if p.is_file()), None)
            if there is not None and there not in found:
                found[there] = None
                waiting.append(there)
    return sorted(found)


def cubin_path(source: Path, arch: str, nvcc: Nvcc) -> Path:
    """Where the cache keeps a source's cubin: known by everything that its bytes depend on."""
    texts = [file.read_text(encoding="utf-8") for file in (source, *included_files(source))]
    users = [f"{name}={os.environ.get(name, '')}" for name in USERS_OPTIONS]
    options = [option.replace(str(HERE), "kernels") for option in OPTIONS]
    parts = [*texts, *options, *users, arch, nvcc.version]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    return cache_folder() / f"{source.stem}-{arch}-{key}.cubin"


def compile_all(arch: str) -> int:
    """Compile every file of this package that the cache lacks, several at a time: how many.

    One after another, as they come to be used, they would take a minute or two in which nothing
    is seen to happen. Raises what `compile_cubin` raises.
    """
    nvcc = find_nvcc()
    lacking = [source for source in sorted(HERE.glob("*.cu"))
               if not cubin_path(source, arch, nvcc).exists()]
    if lacking and sys.stderr.isatty():
        print(f"compiling {len(lacking)} files of CUDA kernels for {arch}, once", file=sys.stderr)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source: compile_cubin(source, arch), lacking))
    return len(lacking)


def compile_cubin(source: Path, arch: str) -> bytes:
    """The code of a `.cu` file for an architecture such as "sm_90", from the cache or from nvcc.

    Raises CudaError where there is no working nvcc or no place for the cache, CompileError, with
    nvcc's words, where the source is at fault.
    """
    nvcc = find_nvcc()
    path = cubin_path(source, arch, nvcc)
    try:
        code = path.read_bytes()
        if code.startswith(CUBIN_MAGIC):
            return code
    except OSError:             # not there; or unreadable, and made anew
        pass
    # Under a name of our own first: another process may make the same file now.
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise CudaError("compiled kernels cannot be kept", f"the cache folder {path.parent}: "
                        f"{error.strerror}", "export MINIGPT_KERNEL_CACHE=/tmp/minigpt-kernels"
                        ) from None
    try:
        _run_nvcc([nvcc.path, *OPTIONS, f"-arch={arch}", str(source), "-o", str(temporary)])
        code = temporary.read_bytes()
        if not code.startswith(CUBIN_MAGIC):
            raise CompileError(f"{nvcc.path} ended well, but made no cubin of {source}")
        try:
            os.replace(temporary, path)
        except PermissionError:     # Windows, while another process reads its own copy of it
            pass
    finally:
        temporary.unlink(missing_ok=True)
    return code


def _run_nvcc(command: list[str]) -> None:
    # In English, so that cuda_errors.py knows the words of nvcc, the shell and the host compiler.
    run = subprocess.run(command, capture_output=True, text=True, errors="replace",
                         env={**os.environ, "LC_ALL": "C"})
    if run.returncode:
        words = (run.stderr + run.stdout).strip()
        known = explain_nvcc(words, shlex.join(command))
        if known is not None:
            raise known
        raise CompileError(f"{shlex.join(command)}\n{words[-4000:]}")
