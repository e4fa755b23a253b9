"""Recorded steps of GPT-2: `cuda_graph=true` has the bits of a run without it.

On the emulator a recording is replayed launch by launch; with MINIGPT_TEST_DEVICE=cuda it is a
CUDA graph.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from kernels.recording import RecordingError
from minigpt.cli import main
from tensor import RecordedStep, Tensor, cuda_fused
from tests.kernels.devices import NAME, needs_device
from tests.minigpt.training_helpers import SMALL, TEXT, start, weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]


@pytest.fixture
def _device():
    needs_device()


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def run(config, out, steps=10):
    """Ten steps, with an evaluation between two of them."""
    trainer = start(config, out)
    trainer.figures, trainer.launches = [], []
    for step in range(steps):
        stats = trainer.train_step()
        trainer.figures.append((stats.loss, stats.grad_norm))
        trainer.launches.append(stats.launches)
        if step == 4:
            trainer.figures.append(trainer.evaluate())
    return trainer


@pytest.mark.parametrize(
    "changes",
    [
        {"grad_clip": 0.1},
        {"grad_accumulation": 2, "n_layer": 2, "batch_size": 2, "order": "epochs"},
        {"recompute": True},
    ],
    ids=["clipped", "accumulated", "recomputed"],
)
def test_ten_steps_have_the_same_bits(tmp_path, text, changes):
    config = SMALL.replace(device=NAME, data=text, weight_decay=0.1, **changes)
    plain = run(config, tmp_path / "plain")
    recorded = run(config.replace(cuda_graph=True), tmp_path / "recorded")
    assert recorded.figures == plain.figures
    assert recorded.launches[-1] < plain.launches[-1] / 4
    assert recorded.launches[:2] == plain.launches[:2]
    for (name, p), q in zip(plain.model.named_parameters(), recorded.model.parameters()):
        np.testing.assert_array_equal(p.numpy(), q.numpy(), err_msg=name)


def test_a_change_that_nobody_marked_is_told(tmp_path, text, monkeypatch):
    """Dropout's masks are new in each step: a replay would make the old ones again."""
    monkeypatch.setattr(cuda_fused, "random_numbers", lambda mask: (mask.seed, mask.draw))
    trainer = start(SMALL.replace(device=NAME, data=text, cuda_graph=True), tmp_path / "run")
    trainer.train_step()
    with pytest.raises(RecordingError, match="dropout_eight with 'unsigned long long draw' "):
        trainer.train_step()


def test_a_step_that_asks_for_a_number_cannot_be_recorded():
    x = Tensor(np.ones(3, np.float32), device=NAME)
    step = RecordedStep(lambda x: x * x.sum().item(), NAME)
    with pytest.raises(RecordingError, match=r"copies an array to the host, float32 \(\)"):
        step(x.numpy())
    with pytest.raises(RecordingError, match="has failed"):
        step(x.numpy())


def test_inputs_keep_their_shapes():
    step = RecordedStep(lambda x: x + x, NAME)
    for value in (1, 2, 3, 4):
        assert step(np.full(3, value)).numpy().tolist() == [2 * value] * 3
    with pytest.raises(ValueError, match=r"recorded for .*\(3,\), 'int64'.* was given .*\(4,\)"):
        step(np.ones(4, np.int64))


def test_a_run_on_the_command_line(tmp_path, text, capsys):
    """Interrupted after 6 steps and taken up again without recording, it ends with the same bits.
    """
    settings = [f"{name}={getattr(SMALL, name)}" for name in
                ("n_layer", "n_head", "n_embd", "block_size", "dropout", "batch_size", "seed")]
    out, options = tmp_path / "run", []
    for setting in [*settings, "log_every=1", "eval_every=3", "eval_batches=1"]:
        options += ["--set", setting]
    options += ["--tokenizer", "char", "--data", text, "--device", NAME]
    whole = [*options, "--set", "max_steps=8", "--out", str(tmp_path / "whole")]
    assert main(["train", *whole]) == 0
    graph = ["--out", str(out), "--set", "cuda_graph=true", "--set", "max_steps=6"]
    assert main(["train", *options, *graph]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " launches " in line]
    assert main(["train", "--resume", "--out", str(out), "--set", "max_steps=8",
                 "--set", "cuda_graph=false"]) == 0
    assert weights(out) == weights(tmp_path / "whole")
    assert len(lines) == 8 + 6
    assert re.search(r"\d launches", lines[0])


def test_what_it_is_not_for(tmp_path, text):
    with pytest.raises(ValueError, match="'cpu' launches no kernels.*use 'cuda' or 'emulator'"):
        start(SMALL.replace(data=text, cuda_graph=True), tmp_path / "run")
    with pytest.raises(ValueError, match="cuda_graph=true replays batches of one shape"):
        SMALL.replace(task="addition", cuda_graph=True)
