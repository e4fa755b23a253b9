"""`mpiexec -n N minigpt train`: the numbers of one process, and runs that survive their ranks."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigpt.checkpoints.safetensors_file import read_safetensors
from minigpt.run_folder import RunFolder
from tests.kernels.devices import NAME, needs_device
from tests.minigpt.mpi_helpers import MPIEXEC, RANK_SETTINGS, needs_mpi

pytestmark = [
    needs_mpi,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds ranks in /proc"),
]


@pytest.fixture
def text(tmp_path):
    words = "the cat sat on a mat and saw one bird that sang of rain".split()
    choose = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(choose.choices(words, k=8)) for _ in range(600)))
    return path


def start(ranks, out, text, *extra, **settings):
    """mpiexec with `minigpt train` on it."""
    chosen = {
        "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32, "batch_size": 6,
        "max_steps": 50, "warmup_steps": 5, "eval_every": 10, "eval_batches": 3,
        "checkpoint_every": 5, "log_every": 1, "sample_tokens": 5, **settings,
    }  # fmt: skip
    sets = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "minigpt", "train", "--data",
               str(text), "--tokenizer", "byte", "--out", str(out), *sets, *extra]  # fmt: skip
    return subprocess.Popen(command, env=os.environ | RANK_SETTINGS, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def finish(process):
    """Its exit code and output."""
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


def run(*arguments, **settings):
    code, output = finish(start(*arguments, **settings))
    assert code == 0, output
    return output


def weights(out):
    return read_safetensors(Path(out) / "model.safetensors")


def losses(out):
    rows = np.genfromtxt(Path(out) / "log.csv", delimiter=",", names=True)
    return rows["train_loss"][1:], rows["val_loss"][~np.isnan(rows["val_loss"])]


def assert_same_bits(one, other):
    for name, values in weights(one).items():
        np.testing.assert_array_equal(weights(other)[name], values, err_msg=name)


def rank_pids(process):
    """{rank: its pid} of the ranks that have imported so much that they are at work."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        rank = [v for v in environment if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
        if rank and parent == process.pid:
            found[int(rank[0].split(b"=")[1])] = int(folder.name)
    return found


def test_two_ranks_have_one_process_losses(tmp_path, text):
    for ranks in (1, 2, 3):
        output = run(ranks, tmp_path / str(ranks), text)
        assert output.count("validation loss:") == 1  # rank 0 alone speaks
    for ranks in (2, 3):
        for one, several in zip(losses(tmp_path / "1"), losses(tmp_path / str(ranks))):
            np.testing.assert_allclose(several, one, rtol=0, atol=1e-5)
    train, validation = losses(tmp_path / "1")
    assert len(train) == 50 and len(validation) == 6 and validation[-1] < validation[0] - 0.5


def test_ranks_take_a_device(tmp_path, text):
    needs_device()
    small = {"n_layer": 1, "block_size": 16, "batch_size": 4, "max_steps": 5, "eval_every": 5,
             "eval_batches": 1, "shard_optimizer": "true"}  # fmt: skip
    run(1, tmp_path / "cpu", text, **small)
    run(2, tmp_path / "device", text, "--device", NAME, **small)
    for cpu, device in zip(losses(tmp_path / "cpu"), losses(tmp_path / "device")):
        np.testing.assert_allclose(device, cpu, rtol=0, atol=1e-5)


@pytest.mark.parametrize("setting", ["shard_optimizer", "recompute"])
def test_settings_that_save_memory_keep_the_bits(setting, tmp_path, text):
    run(2, tmp_path / "plain", text, dropout=0.1, max_steps=12)
    run(2, tmp_path / "saving", text, dropout=0.1, max_steps=12, **{setting: "true"})
    assert_same_bits(tmp_path / "plain", tmp_path / "saving")


def test_a_run_goes_on_with_other_numbers_of_ranks(tmp_path, text):
    run(1, tmp_path / "one", text, max_steps=30)
    out = tmp_path / "several"
    run(2, out, text, max_steps=10, shard_optimizer="true")
    run(3, out, text, "--resume", max_steps=20, shard_optimizer="true")
    run(1, out, text, "--resume", max_steps=30, shard_optimizer="false")
    # The schedule of the first legs ended earlier, so only the mechanism is compared: it went on.
    assert len(losses(out)[0]) == 30 and RunFolder(out).checkpoints()[-1].name == "step-000030"
    assert losses(out)[1][-1] < losses(out)[1][0]


@pytest.mark.parametrize("sharded", ["false", "true"])
def test_killed_ranks_cost_nothing_but_time(sharded, tmp_path, text):
    settings = {"dropout": 0.1, "shard_optimizer": sharded, "max_steps": 60}
    run(2, tmp_path / "whole", text, **settings)
    out, choose = tmp_path / "killed", random.Random(1)
    killed = 0
    for attempt in range(5):
        process = start(2, out, text, "--resume", **settings)
        before = len((out / "log.csv").read_text().splitlines()) if out.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:  # until it makes steps
            log = out / "log.csv"
            if log.exists() and len(log.read_text().splitlines()) > max(before, 1):
                break
            time.sleep(0.01)
        time.sleep(choose.random() * 0.2)
        pid = rank_pids(process).get(attempt % 2)
        if pid is not None and process.poll() is None:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        code, output = finish(process)
        if code == 0:
            break
        assert f"rank {attempt % 2}" in output and "signal 9" in output, output
    assert killed >= 3
    run(2, out, text, "--resume", **settings)
    assert_same_bits(tmp_path / "whole", out)


def test_a_rank_that_hangs_is_named(tmp_path, text):
    process = start(2, tmp_path / "run", text, max_steps=100_000, rank_timeout=3)
    log = tmp_path / "run" / "log.csv"
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        time.sleep(0.05)
    os.kill(rank_pids(process)[1], signal.SIGSTOP)
    code, output = finish(process)
    assert code != 0 and "rank 0 has waited 3 seconds for rank 1: it hangs" in output, output
    assert "--resume goes on" in output and "Traceback" not in output


def test_an_error_on_all_ranks_is_told_once(tmp_path, text):
    code, output = finish(start(2, tmp_path / "run", text, batch_size=1))
    assert code != 0 and "1 rows can't be divided among 2 ranks" in output, output
    assert output.count("minigpt: error") == 1 and "Traceback" not in output
