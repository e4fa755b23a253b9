"""What can be wrong between Python and a GPU: what failed, what was looked at, what mends it.

The texts on the left of the tables are those that the loader of shared libraries, NVIDIA's driver
(`cuGetErrorString`) and nvcc print. What is not in a table is passed on with its own words.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

WSL_DRIVER = Path("/usr/lib/wsl/lib/libcuda.so.1")      # where Windows puts its driver into WSL
REBUILD = "pip install --force-reinstall --no-cache-dir --no-binary pycuda pycuda"


def trouble(failed: str, looked_at: str, mend: str) -> str:
    """The form of every message: what failed, what was looked at, one command that mends it."""
    return f"{failed}\n  (looked at: {looked_at})\n  to mend it: {mend}"    # good as one line, too


class CudaError(OSError):
    """CUDA cannot be used here: `failed` says what, `looked_at` where, `mend` is a command."""

    def __init__(self, failed: str, looked_at: str, mend: str) -> None:
        super().__init__(trouble(failed, looked_at, mend))
        self.failed, self.looked_at, self.mend = failed, looked_at, mend


@dataclass(frozen=True)
class Known:
    """A known failure: a pattern in its text, what it means, and the command that mends it."""

    pattern: str
    failed: str
    mend: str


IMPORT = (      # `import pycuda.driver`, an ImportError; the driver's own library comes first
    Known(r"lib(curand|cudart|cublas)\S*\.so",
          "PyCUDA was built with another CUDA toolkit than the one that is here",
          f"{REBUILD}     (with this toolkit's nvcc first on the PATH)"),
    Known(r"undefined symbol: _?cu[A-Z]|_v2",
          "PyCUDA was built with a newer CUDA toolkit than this driver knows",
          f"{REBUILD}     (with an older toolkit's nvcc first on the PATH; or update the driver)"),
    Known(r"GLIBCXX_|CXXABI_|libstdc\+\+",
          "PyCUDA was built with a newer C++ compiler than the C++ library that Python has loaded",
          f'conda install -c conda-forge "libstdcxx-ng>=12"     (elsewhere: {REBUILD})'),
    Known(r"numpy|_ARRAY_API",
          "PyCUDA was built for another version of NumPy", REBUILD),
    Known(r"DLL load failed",
          "Windows does not find a DLL that PyCUDA needs (the driver's nvcuda.dll, or one of the "
          "toolkit's bin folder, which Python looks for in CUDA_PATH only, not on the PATH)",
          r'setx CUDA_PATH "C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA\v13.0"     (the '
          "toolkit's folder; then open a new terminal)"),
)

DRIVER = (      # a pycuda.driver.Error before the first kernel has run
    Known("no CUDA-capable device is detected", "the driver sees no GPU", "nvidia-smi -L"),
    Known("invalid device ordinal", "there is no GPU of this number", "nvidia-smi -L"),
    Known("driver version is insufficient|unsupported toolchain|not supported in the installed",
          "this driver is older than the CUDA toolkit", "nvidia-smi     (shows the newest CUDA "
          "that it knows: update the driver, or install that toolkit)"),
    Known("unsupported display driver / cuda driver combination",
          "the driver was updated while in use: its library and its kernel module differ",
          "sudo reboot"),
    Known("forward compatibility was attempted on non supported HW",
          "the compatibility library of a newer CUDA is loaded, which this GPU does not support",
          "unset LD_LIBRARY_PATH     (or take the folder cuda/compat out of it)"),
    Known("system not yet initialized",
          "the GPUs' switch is not ready: its service does not run",
          "sudo systemctl start nvidia-fabricmanager"),
    Known("initialization error",
          "CUDA was in use before this process was forked, and cannot go on in its child",
          'multiprocessing.set_start_method("spawn")     (before the program starts a process)'),
    Known("busy or unavailable",
          "the GPU is in use by others, or in exclusive mode", "nvidia-smi     (shows by whom)"),
    Known("no kernel image is available|kernel image is invalid|no binary for",
          "the driver cannot run what nvcc made: it is older than the toolkit, or the cached "
          "file is damaged", "minigpt doctor     (shows the driver's and the toolkit's versions, "
          "and the cache)"),
    Known("out of memory", "no memory is left on the GPU for CUDA itself",
          "nvidia-smi     (shows which process has it)"),
    Known("unknown error",
          "the driver does not answer, as happens after a machine has slept or an update",
          "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm     (or reboot)"),
)

LOST = (        # after these the context is dead, and every later call of the process fails
    "illegal memory access", "misaligned address", "unspecified launch failure",
    "illegal instruction", "invalid program counter", "address space",
    "launch timed out", "device-side assert", "hardware stack error", "uncorrectable ECC",
    "context is destroyed",
)

NVCC = (
    Known(r"Cannot find compiler 'cl\.exe'|'cl(\.exe)?' is not recognized",
          "nvcc needs Microsoft's C++ compiler, cl.exe, on the PATH",
          'winget install Microsoft.VisualStudio.2022.BuildTools     (with "Desktop development '
          'with C++"; then start from an "x64 Native Tools Command Prompt")'),
    Known(r"unsupported (GNU|clang|Microsoft Visual Studio|\S+ clang) version|"
          r"UNSUPPORTED COMPILER",
          "nvcc does not know the host's C++ compiler: it is too new or too old for it",
          "export NVCC_APPEND_FLAGS='-ccbin g++-13'     (a version that the message allows; "
          "Debian, Ubuntu: apt install g++-13)"),
    Known(r"\b(gcc|g\+\+|clang|cc)\S*: (No such file|command not found|not found)|"
          r"Failed to preprocess host compiler|[Uu]nknown host compiler",
          "nvcc needs a C++ compiler of the host, and the one it asked for is not there",
          "sudo apt install g++     (or name one: export NVCC_APPEND_FLAGS='-ccbin /path/to/g++')"),
    Known(r"[Uu]nsupported gpu architecture|is not defined for option 'gpu-architecture'",
          "this CUDA toolkit does not know the GPU's architecture: CUDA 13 begins at sm_75, and "
          "a GPU newer than the toolkit needs a newer one",
          'pip install "nvidia-cuda-nvcc-cu12[all]"     (for sm_50 to sm_72; for a newer GPU: '
          "pip install -U nvidia-cuda-nvcc)"),
    Known(r"cicc: not found|ptxas: not found|cudafe\+\+: not found|libdevice library|"
          r"cuda_runtime\.h: No such file|current version is '\d|"
          r"(cicc|ptxas|cudafe\+\+)' is not recognized",
          "the CUDA toolkit is not whole, or a mixture of two",
          "pip install --force-reinstall nvidia-cuda-nvcc"),
    Known("No space left on device", "the disk is full", "df -h     (shows which)"),
    Known(r"Could not open output file|could not be opened",
          "nvcc cannot write its temporary files", "export TMPDIR=/tmp"),
    Known(r"Unknown option|nvcc fatal", "nvcc refused its options (those of NVCC_PREPEND_FLAGS "
          "and NVCC_APPEND_FLAGS are among them)", "unset NVCC_PREPEND_FLAGS NVCC_APPEND_FLAGS"),
)


def find(table: tuple[Known, ...], text: str) -> Known | None:
    """The first row whose pattern is in the text."""
    return next((known for known in table if re.search(known.pattern, text)), None)


def in_wsl() -> bool:
    """Is this Linux inside of Windows?"""
    return "microsoft" in platform.release().lower() or "WSL_DISTRO_NAME" in os.environ


def in_container() -> bool:
    """Is this a Docker or Podman container?"""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def explain_import(error: ImportError) -> CudaError:
    """What a failed `import pycuda.driver` means."""
    text = str(error)
    seen = f"import pycuda.driver in {sys.executable}: {text}"
    if isinstance(error, ModuleNotFoundError) and error.name in ("pycuda", "pycuda.driver"):
        return CudaError("PyCUDA is not installed", seen,
                         'pip install -e ".[cuda]"     (in the checkout; it is compiled there, '
                         "which needs nvcc and a C++ compiler)")
    if "libcuda.so" in text or "nvcuda" in text:
        return no_driver(seen)
    known = find(IMPORT, text)
    if known:
        return CudaError(known.failed, seen, known.mend)
    return CudaError("PyCUDA is installed but cannot be loaded", seen, REBUILD)


def no_driver(seen: str) -> CudaError:
    """The driver's own library, libcuda, is not there."""
    failed = "there is no NVIDIA driver"
    if in_wsl():
        if WSL_DRIVER.exists():
            return CudaError("Windows' NVIDIA driver is here, but not where libraries are sought",
                             f"{seen}; {WSL_DRIVER} is there",
                             f"export LD_LIBRARY_PATH={WSL_DRIVER.parent}")
        return CudaError(f"{failed} in Windows, which is where WSL takes it from",
                         f"{seen}; {WSL_DRIVER} is not there",
                         "winget install Nvidia.GeForceExperience     (in Windows; install no "
                         "driver inside of WSL)")
    if in_container():
        return CudaError(f"{failed} in this container", seen,
                         "docker run --gpus all …     (with the NVIDIA container toolkit)")
    return CudaError(failed, seen, "sudo ubuntu-drivers install     (elsewhere: "
                     "nvidia.com/drivers)")


def explain_driver(error: BaseException, doing: str) -> CudaError:
    """What an error of the driver means that came before any kernel ran."""
    text = str(error)
    seen = f"{doing}: {text}"
    if "no CUDA-capable device" in text:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = ", ".join(sorted(map(str, Path("/dev").glob("nvidia*")))) or "none"
        seen += f"; CUDA_VISIBLE_DEVICES={visible!r}; /dev/nvidia*: {devices}"
        if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
            return CudaError("CUDA_VISIBLE_DEVICES hides every GPU", seen,
                             "unset CUDA_VISIBLE_DEVICES")
        if in_wsl() and WSL_DRIVER.exists():
            return CudaError("a driver for Linux hides that of Windows", seen,
                             f"export LD_LIBRARY_PATH={WSL_DRIVER.parent}     (and remove the "
                             "driver that was installed inside of WSL)")
    known = find(DRIVER, text)
    if known:
        return CudaError(known.failed, seen, known.mend)
    return CudaError("the NVIDIA driver refused", seen, "nvidia-smi     (does it work?)")


def is_context_lost(error: BaseException) -> bool:
    """Has this error of the driver ended the process's work on the GPU?"""
    return any(text in str(error) for text in LOST)


def explain_nvcc(output: str, command: str) -> CudaError | None:
    """What nvcc's words mean when its set-up is at fault; None where the source is."""
    known = find(NVCC, output)
    if known is None or re.search(r"\.cuh?\(\d+\): error", output):
        return None
    line = next((line for line in output.splitlines() if re.search(known.pattern, line)), output)
    return CudaError(known.failed, f"{command}: {line.strip()[:500]}", known.mend)
