"""Every snippet of README.md runs, as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minigpt.cli import main
from minigpt.data import load_text
from tests.kernels.devices import needs_device

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "sh"]


def run_minigpt(line, *more):
    """A `minigpt …` line of a shell block, in the current folder."""
    words = shlex.split(line)
    assert words[0] == "minigpt"
    assert main([*words[1:], *more]) == 0


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """A folder with what block 1 leaves behind, made in a fraction of its time."""
    monkeypatch.chdir(tmp_path)
    quick = ["--set", "max_steps=2", "--set", "eval_batches=1", "--set", "sample_tokens=0"]
    small = ["--set", "n_embd=16", "--set", "n_layer=1"]
    assert main(["train", "--quiet", *quick, *small]) == 0
    return tmp_path


def test_the_first_block_is_the_set_up_and_the_main_job(tiny_run, capsys):
    install, train, generate = SHELL[0].splitlines()
    assert install == "pip install -e ." and train == "minigpt train"
    run_minigpt(generate)
    assert capsys.readouterr().out.startswith("The object is")


@pytest.mark.slow
def test_the_main_job_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in SHELL[0].splitlines()[1:]:
        run_minigpt(line)
    printed = capsys.readouterr().out
    losses = re.search(r"validation loss: ([\d.]+) before .*?, ([\d.]+) after", printed)
    first, last = map(float, losses.groups())
    assert 6.0 < first < 6.5 and last < 3.7


def test_the_second_block_is_the_test_command():
    assert SHELL[1].splitlines() == ['pip install -e ".[test]"', "pytest"]


def test_training_on_ones_own_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my-text.txt").write_text(load_text(None)[:20_000], encoding="utf-8")
    (line,) = SHELL[2].splitlines()
    run_minigpt(line, "--set", "n_embd=16", "--set", "n_layer=1")
    assert "runs/mine" in capsys.readouterr().out


def test_preparing_tokens_and_training_on_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my-text.txt").write_text(load_text(None)[:20_000], encoding="utf-8")
    prepare, train = SHELL[3].splitlines()
    run_minigpt(prepare)
    assert "minigpt train --data tokens" in capsys.readouterr().out
    run_minigpt(train, "--set", "n_embd=16", "--set", "n_layer=1")
    assert "runs/of-tokens" in capsys.readouterr().out


def test_fine_tuning_with_adapters(tiny_run, capsys):
    (line,) = next(block for block in SHELL if "lora_rank" in block).splitlines()
    run_minigpt(line, "--set", "max_steps=2")
    assert "runs/adapted" in capsys.readouterr().out
    run_minigpt("minigpt generate --model runs/adapted --max-new-tokens 3 The")


def test_looking_into_a_file_of_weights_and_converting_it(tiny_run, capsys):
    info, convert = next(block for block in SHELL if "minigpt info" in block).splitlines()
    run_minigpt(info)
    assert re.search(r"^total  .* kB$", capsys.readouterr().out, re.M)
    run_minigpt(convert)
    assert "openai: checkpoint, config.json, encoder.json" in capsys.readouterr().out
    run_minigpt("minigpt generate --model openai --max-new-tokens 3 The")


@pytest.mark.slow
def test_a_ladder_of_kernels_is_counted():
    needs_device()
    (line,) = next(block for block in SHELL if "kernels.bench" in block).splitlines()
    command = [sys.executable, *shlex.split(line)[1:], "--device", "emulator"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "| softmax_naive" in done.stdout, done.stderr


def test_there_is_no_other_shell_block():
    assert len(SHELL) == 7


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=[pytest.mark.slow] if '"emulator"' in code else [])
     for n, code in enumerate(PYTHON)],
)  # fmt: skip
def test_python(tiny_run, number):
    if '"emulator"' in PYTHON[number]:
        needs_device()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", PYTHON[number]],
        capture_output=True, text=True, env=environment, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if '"emulator"' in PYTHON[number]:
        one, other = re.findall(r"Tensor\(([\d.]+)", done.stdout)
        # bfloat16 has two to three digits; the two others compute in float32.
        half = "bfloat16" in PYTHON[number]
        assert abs(float(one) - float(other)) <= (2e-2 if half else 1e-4) * float(one)
        assert half or done.stdout.endswith("emulator\n")
    elif "count = " in PYTHON[number]:
        loss, ids = done.stdout.split(maxsplit=1)
        assert float(loss) < 0.1
        assert np.array_equal(re.findall(r"\d+", ids), [str(i % 10) for i in range(3, 14)])
    if "gradcheck" in PYTHON[number]:
        assert float(done.stdout) < 1e-6


def test_the_files_of_the_map_exist():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.M)
    for row in rows:
        folder = ""
        for name in re.findall(r"`([^`]+)`", row):
            folder = name[: name.rfind("/") + 1] or folder
            assert (ROOT / (name if "/" in name else folder + name)).exists(), name
