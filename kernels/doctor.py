"""Where can kernels run on this machine? Each part is looked at and then really used.

`report` is handed on to `minigpt doctor` by tensor.cuda_backend. Nothing here raises: what is
missing or broken is what it is asked for.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from kernels.cuda_compile import HERE, compile_cubin, find_nvcc
from kernels.cuda_context import import_driver
from kernels.cuda_errors import CudaError
from kernels.cuda_probe import Driver, probe_driver
from kernels.device import get_device
from kernels.emulator.build import CompileError, CompilerNotFoundError, cache_folder, compiler
from kernels.interface import KernelError
from kernels.launch import load

T = TypeVar("T")
WITHOUT_GPU = "sm_90"       # what nvcc is tried with where there is no GPU to ask


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: "ok", "missing" (not installed) or "wrong" (does not work)."""

    part: str               # "emulator" or "cuda"
    what: str
    state: str
    text: str
    mend: str = ""          # a command


def report() -> list[dict[str, str]]:
    """What was found, in the order in which it is needed; each Finding as a dict."""
    return [asdict(finding) for finding in [*emulator(), *cuda(), cache()]]


def emulator() -> list[Finding]:
    """The host's C++ compiler, and a kernel on the emulator."""
    try:
        command, version = compiler()
    except CompilerNotFoundError as error:
        mend = "unset CXX" if os.environ.get("CXX") else "sudo apt install g++"
        return [Finding("emulator", "C++ compiler", "missing", str(error), mend)]
    found = Finding("emulator", "C++ compiler", "ok",
                    f"{' '.join(command)}: {version.splitlines()[0]}")
    return [found, self_test("emulator")]


def cuda() -> list[Finding]:
    """Driver and GPUs, nvcc, PyCUDA, and, where all are there, a kernel on the GPU."""
    driver, found = _try("cuda", "driver and GPU", probe_driver, _driver_text)
    findings = [found]
    nvcc, found = _try("cuda", "nvcc", find_nvcc,
                       lambda nvcc: f"release {nvcc.release}, {nvcc.path} (by {nvcc.found})")
    findings.append(found)
    if nvcc:
        arch = driver.gpus[0].arch if driver else WITHOUT_GPU
        findings.append(_try("cuda", "nvcc's work", lambda: compile_cubin(HERE / "probe.cu", arch),
                             lambda code: f"compiles for {arch}")[1])
    findings.append(_try("cuda", "PyCUDA", import_driver, _pycuda_text)[1])
    if driver and nvcc and all(finding.state == "ok" for finding in findings):
        findings.append(self_test("cuda"))
    return findings


def _try(part: str, what: str, look: Callable[[], T],
            tell: Callable[[Any], str]) -> tuple[T | None, Finding]:
    """What `look` gives, and the finding; None where it raises."""
    try:
        result = look()
    except CudaError as error:
        missing = error.failed.startswith(("there is no", "PyCUDA is not installed"))
        return None, Finding(part, what, "missing" if missing else "wrong",
                             f"{error.failed} (looked at: {error.looked_at})", error.mend)
    except Exception as error:      # a report must not end half way
        return None, Finding(part, what, "wrong", f"{type(error).__name__}: {error}")
    return result, Finding(part, what, "ok", tell(result))


def _driver_text(driver: Driver) -> str:
    gpus = "; ".join(f"{gpu.name}, {gpu.arch}, {gpu.memory / 2**30:.1f} GiB" for gpu in driver.gpus)
    module = f" ({driver.kernel_module})" if driver.kernel_module else ""
    return f"{gpus}; the driver knows CUDA up to {driver.cuda}{module}"


def _pycuda_text(driver: ModuleType) -> str:
    built = ".".join(map(str, driver.get_version()[:2]))
    return f"{importlib.metadata.version('pycuda')}, built with CUDA {built}"


def self_test(device_name: str) -> Finding:
    """A kernel compiled and run on a device, compared with NumPy."""
    what = "a kernel"
    x, y = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    try:
        device = get_device(device_name)
        result = device.from_numpy(y)
        load("probe.cu", device)["probe_axpy"](2.0, device.from_numpy(x), result, len(x), grid=4,
                                               block=256)
        off = float(np.abs(result.numpy() - (2 * x + y)).max())
    except (CudaError, CompileError, KernelError, MemoryError, OSError) as error:
        mend = getattr(error, "mend", "")
        return Finding(device_name, what, "wrong", str(getattr(error, "failed", error)), mend)
    if not off <= 1e-6:
        return Finding(device_name, what, "wrong", f"its result is off by {off:.3g}")
    return Finding(device_name, what, "ok", "compiled, run, and equal to NumPy's result")


def cache() -> Finding:
    """The compiled kernels on disk."""
    folder = cache_folder()
    files = [path for path in folder.glob("*") if path.suffix in (".cubin", ".so")]
    size = sum(_size(path) for path in files)
    return Finding("cache", "compiled kernels", "ok",
                   f"{len(files)} files, {size / 2**20:.1f} MiB in {folder} "
                   "(may be deleted; MINIGPT_KERNEL_CACHE names another folder)")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:                 # another process may have removed it
        return 0
