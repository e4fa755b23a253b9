"""GPT-2 124M, random weights, in each format that official checkpoints come in: the same bits, and
no more memory than the model. torch and transformers write the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT2Config
from tests.minigpt.checkpoint_files import write_tf
from tests.minigpt.test_tf_bundle import gpt2_shapes

pytestmark = [pytest.mark.slow, pytest.mark.reference]

ROOT = Path(__file__).parents[2]
FORMATS = ["safetensors", "torch zip", "torch legacy", "tf"]
WEIGHTS_MB = 497_759_232 / 1e6

# In a process of its own, for its peak memory (which getrusage would take over from ours).
LOAD = """
import hashlib, json, re, sys
from minigpt import GPT2LMHeadModel
def peak_kib():
    if sys.platform != "linux":
        return None
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
before = peak_kib()
model = GPT2LMHeadModel.from_pretrained(sys.argv[1])
peak = peak_kib()
digests = {name: hashlib.sha256(p.data).hexdigest() for name, p in model.named_parameters()}
print(json.dumps({"before": before, "peak": peak, "digests": digests}))
"""


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in gpt2_shapes(12, 768).items()
    }


@pytest.fixture(scope="module")
def digests(weights) -> dict[str, str]:
    return {
        f"transformer.{name}": hashlib.sha256(array).hexdigest() for name, array in weights.items()
    }


def write(folder: Path, kind: str, weights: dict[str, np.ndarray]) -> None:
    """As the official files: bare names, and in those of the Hub the masks and a second head."""
    torch = pytest.importorskip("torch")
    if kind == "tf":
        write_tf(folder, weights, GPT2Config())
        assert (folder / "model.ckpt.index").stat().st_size == 5_215
        return
    GPT2Config().save_pretrained(folder)
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    mask = torch.ones(1024, 1024).tril().view(1, 1, 1024, 1024)
    state |= {f"h.{i}.attn.bias": mask.clone() for i in range(12)}
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(state, folder / "model.safetensors", {"format": "pt"})
        # The Hub's file has 548,105,171 bytes: the same tensors, and a header a little longer.
        assert abs((folder / "model.safetensors").stat().st_size - 548_105_171) < 5000
    else:
        state["lm_head.weight"] = state["wte.weight"]  # one storage
        torch.save(state, folder / "pytorch_model.bin",
                   _use_new_zipfile_serialization=kind == "torch zip")  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_bits_in_the_memory_of_the_model(tmp_path, weights, digests, kind):
    write(tmp_path, kind, weights)
    try:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], text=True,
                              capture_output=True, env=environment)  # fmt: skip
    finally:
        for file in tmp_path.iterdir():  # half a gigabyte
            file.unlink()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["digests"] == digests
    if result["peak"] is not None:
        taken = (result["peak"] - result["before"]) * 1024 / 1e6
        print(f"{kind}: {taken:.0f} MB for {WEIGHTS_MB:.0f} MB of weights")
        assert 0.9 * WEIGHTS_MB < taken < 1.1 * WEIGHTS_MB


def test_a_folder_of_transformers_with_a_bin_file(tmp_path):
    """transformers' own pytorch_model.bin, also sharded, and its half precision."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from minigpt import GPT2LMHeadModel

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=300)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        theirs = transformers.GPT2LMHeadModel(config).to(dtype)
        for size in ("1GB", "40KB"):
            folder = tmp_path / f"{dtype} {size}"
            theirs.save_pretrained(folder, safe_serialization=False, max_shard_size=size)
            assert (folder / "pytorch_model.bin.index.json").exists() == (size == "40KB")
            ours = GPT2LMHeadModel.from_pretrained(folder)
            expected = dict(theirs.named_parameters())
            for name, parameter in ours.named_parameters():
                assert np.array_equal(parameter.numpy(), expected[name].detach().float().numpy())
