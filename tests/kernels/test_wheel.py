"""A wheel, installed outside the checkout, is whole: one kernel of it runs on the emulator."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.emulated import needs_compiler

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from pathlib import Path
import numpy as np
import kernels
from kernels.device import get_device
from kernels.launch import Module, load
assert Path(kernels.__file__).is_relative_to(sys.argv[1]), kernels.__file__
device = get_device("emulator", checked=True)
x, y = device.from_numpy(np.ones((2, 3), np.float32)), device.empty((2, 3))
load("softmax.cu", device)["softmax_naive"](x, y, 2, 3, grid=1, block=32)
# mma.h stands in a folder of its own, and brings in the other two headers there.
Path("half.cu").write_text('''#include "common.cuh"
#include <mma.h>
extern "C" __global__ void k(__half* x) { x[threadIdx.x] = __half(1.5f); }''')
h = device.empty(32, np.float16)
Module(Path("half.cu"), device)["k"](h, grid=1, block=32)
print(y.numpy().sum(), h.numpy().sum())
"""


@pytest.mark.slow
def test_a_kernel_runs_from_an_installed_wheel(tmp_path):
    needs_compiler()
    source, site = tmp_path / "source", tmp_path / "site"
    for package in ("tensor", "kernels", "minigpt"):
        shutil.copytree(ROOT / package, source / package,
                        ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run = subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)],
                         capture_output=True, text=True)
    if run.returncode and "No matching distribution found for setuptools" in run.stderr:
        pytest.skip("building the wheel takes setuptools from a package index, and none answers")
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)],
                   check=True)
    environment = {**os.environ, "PYTHONPATH": str(site),
                   "MINIGPT_KERNEL_CACHE": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", CODE, str(site)], cwd=tmp_path, env=environment,
                         capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "2.0 48.0\n"), run.stderr
