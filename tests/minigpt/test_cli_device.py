"""--device: what is said where a device can't be had. Needs neither a GPU nor a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("one two three. " * 60)


def refused(capsys, *arguments):
    """The one line that a refused command prints."""
    few = ["--set", "max_steps=1", "--set", "n_embd=16"]  # if it is not refused
    code = main(["train", "--data", "text.txt", "--tokenizer", "char", *few, *arguments])
    out, err = capsys.readouterr()
    assert code == 2 and err.count("\n") == 1 and not Path("runs").exists()
    return out, err


def test_a_device_that_is_not_known(capsys):
    out, err = refused(capsys, "--device", "gpu")
    assert "device 'gpu' is not known; there are 'cpu', 'cuda', 'emulator', 'auto'" in err
    assert out == ""  # before the text is read


def test_half_precision_that_can_not_be_had(capsys):
    out, err = refused(capsys, "--set", "dtype=bfloat16")
    assert "dtype='bfloat16' on device 'cpu': NumPy has no bfloat16" in err and out == ""
    out, err = refused(capsys, "--set", "dtype=float16")
    assert "dtype='float16' is none of float32, bfloat16" in err and out == ""


def test_the_emulator_without_a_compiler(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "minigpt", "train", "--data", "text.txt", "--device", "emulator"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "CXX": "/nonexistent",
             "MINIGPT_KERNEL_CACHE": str(tmp_path / "kernels")},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "/nonexistent" in run.stderr and "CXX" in run.stderr
