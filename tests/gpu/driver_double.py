"""Run a command with stand-ins for NVIDIA's driver and for nvcc: for tests, where there is no GPU.

    python tests/gpu/driver_double.py [--checked] python -m pytest ...

`kernels/cuda.py` then works through the real PyCUDA (which must be installed), and its kernels run
on the emulator. This shows that memory, copies, arguments and launches are handled as they must be;
it shows nothing about a GPU, and no time that it takes means anything.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from struct import calcsize

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VERSION = """nvcc: test double, no compiler for a GPU
Cuda compilation tools, release 13.0, V13.0.0
"""


def environment(folder: Path, checked: bool = False) -> dict[str, str]:
    """The variables of a process that meets the doubles; they are made in `folder`."""
    from kernels.emulator import build, runtime

    runtime.runtime()
    command, _ = build.compiler()
    c_compiler = os.environ.get("CC", "cc")
    subprocess.run([c_compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1",
                    str(HERE / "driver_double.c"), "-o", str(folder / "libcuda.so.1"), "-ldl"],
                   check=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))} LD_LIBRARY_PATH=\n'
                    f'exec {shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__)))} '
                    '--as-nvcc "$@"\n')
    nvcc.chmod(0o755)
    variables = {
        "LD_LIBRARY_PATH": str(folder),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "MINIGPT_KERNEL_CACHE": str(folder / "cache"),
        "DOUBLE_RUNTIME": str(runtime_library()),
        "CXX": shlex.join(command),
    }
    if checked:
        variables["DOUBLE_CHECKED"] = "1"
    return {**os.environ, **variables}


def runtime_library() -> Path:
    """The emulator's runtime, whose memory and launches the driver's double uses."""
    from kernels.emulator.runtime import runtime

    return Path(runtime()._name)


def as_nvcc(arguments: list[str]) -> int:
    """What nvcc does with `-cubin ... FILE.cu -o OUT`: here OUT names the emulator's library."""
    from kernels.emulator.build import kernels
    from kernels.signature import packing, read_signatures

    if "--version" in arguments:
        print(VERSION, end="")
        return 0
    source = Path(next(a for a in arguments if a.endswith(".cu")))
    out = Path(arguments[arguments.index("-o") + 1])
    signatures = read_signatures(source.read_text(encoding="utf-8"), source.name)
    library = kernels(source, signatures, "DOUBLE_CHECKED" in os.environ)
    lines = []
    for name, parameters in signatures.items():
        whole, places = packing(parameters)
        sizes = [calcsize(parameter.format) for parameter in parameters]
        each = [f"{place} {size}" for place, size in zip(places, sizes)]
        lines.append(f"{name} {whole.size} {len(each)} {' '.join(each)}")
    out.write_text("\n".join(["\x7fELF", str(library), *lines, ""]))
    return 0


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--as-nvcc"]:
        return as_nvcc(arguments[1:])
    checked = arguments[:1] == ["--checked"]
    with tempfile.TemporaryDirectory(prefix="driver-double-") as folder:
        variables = environment(Path(folder), checked)
        return subprocess.run(arguments[1:] if checked else arguments, env=variables).returncode


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
