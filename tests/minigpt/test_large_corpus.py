"""A corpus larger than the memory that a run is allowed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.run_folder import RunFolder
from minigpt.run_setup import byte_tokenizer

resource = pytest.importorskip("resource", reason="no limits of memory on this system")

TOKENS, MEMORY = 300_000_000, 450_000_000  # 600 MB of tokens; bytes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what is not a mapped file")
@pytest.mark.parametrize("order", ["random", "epochs"])
def test_it_is_read_without_being_loaded(tmp_path, order):
    """Two shards of zeros, which take no room on the disk; what a process allocates is limited."""
    data = tmp_path / "data"
    byte_tokenizer().save_pretrained(data)
    for name, tokens in (("a_train_0", TOKENS // 2), ("a_train_1", TOKENS // 2), ("a_val", 10**6)):
        with open(data / f"{name}.bin", "wb") as file:
            file.truncate(2 * tokens)
    settings = {"max_steps": 4, "n_layer": 1, "n_embd": 16, "n_head": 2, "sample_tokens": 0,
                "eval_batches": 1, "order": order, "batch_size": 2, "block_size": 1024}  # fmt: skip
    command = [sys.executable, "-m", "minigpt", "train", "--data", str(data)]
    command += ["--out", str(tmp_path / "run"), *(f"--set={k}={v}" for k, v in settings.items())]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"tokens: {TOKENS:,} to train on, 1,000,000 to validate" in done.stdout
    assert RunFolder(tmp_path / "run").checkpoints()
