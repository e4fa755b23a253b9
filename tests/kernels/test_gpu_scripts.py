"""tests/gpu/run.sh as far as it goes without a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.devices import needs_device

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _bash():
    if not shutil.which("bash") or not shutil.which("timeout"):
        pytest.skip("bash or timeout is not on the PATH")


def run(*options, **variables):
    return subprocess.run(["bash", str(ROOT / "tests" / "gpu" / "run.sh"), *options], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables)


def test_without_a_driver_it_says_so(tmp_path):
    for tool in ("bash", "dirname", "mktemp", "rm", "grep"):    # and no nvidia-smi, no ldconfig
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = run(PATH=str(tmp_path), PYTHON=sys.executable)
    assert done.returncode == 2 and "no NVIDIA driver here" in done.stdout


@pytest.mark.slow
def test_the_dry_run_goes_through_every_part():
    needs_device()
    done = run("--dry-run", **{**os.environ, "PYTHON": sys.executable,
                               "MINIGPT_TEST_DEVICE": "emulator"})
    assert done.returncode == 0, done.stdout
    summary = done.stdout.partition("## Summary")[2]
    for part in ("install", "doctor", "kernels", "model", "agreement", "speed", "ladders"):
        assert f"| {part} | ok |" in summary, done.stdout
    assert "### matmul, M 128 x K 64 x N 128: counted" in summary
    assert "| softmax_warp, 128 " in summary
    assert "DRY RUN on the emulator" in summary and "| memcheck | not run |" in summary
