"""What the tests of the emulator itself share: kernels compiled from a piece of source."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels.device import get_device
from kernels.emulator.build import CompilerNotFoundError, compiler
from kernels.launch import HERE, Module


def needs_compiler() -> None:
    """Skip the test, with the reason, where there is no C++ compiler."""
    try:
        compiler()
    except CompilerNotFoundError as error:
        pytest.skip(str(error))


def maker(folder: Path) -> Callable[..., Module]:
    """make(source, checked) -> its kernels on the emulator, from a file `test.cu` in a folder."""
    def make(source: str, checked: bool = False) -> Module:
        (folder / "test.cu").write_text(source)
        return Module(folder / "test.cu", get_device("emulator", checked))
    return make


def nvcc_takes(source: str, folder: Path) -> None:
    """What the emulator takes is CUDA: nvcc compiles the source. Skipped where there is no nvcc."""
    nvcc = shutil.which("nvcc")
    if not nvcc:
        pytest.skip("nvcc is not on the PATH")
    (folder / "test.cu").write_text(source)
    run = subprocess.run([nvcc, "-arch=sm_80", "-ptx", f"-I{HERE}", "-o", str(folder / "test.ptx"),
                          str(folder / "test.cu")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
