"""A run of a model of a thousand numbers, and whether two runs ended alike."""

import os
import signal
import sys
import types
from pathlib import Path

from minigpt.presets import TrainConfig
from minigpt.run_folder import RunFolder
from minigpt.training import Trainer

TEXT = "".join(f"{n} and {n + 1} make {2 * n + 1}.\n" for n in range(120))
SMALL = TrainConfig(
    n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.1, tokenizer="char",
    max_steps=12, batch_size=4, warmup_steps=2, log_every=1, eval_every=4, eval_batches=2,
    checkpoint_every=5, keep_checkpoints=2, sample_tokens=40, seed=3,
)  # fmt: skip


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def start(config, out, **options):
    return Trainer.start(config, out, report=None, **options)


def resume(out, **changes):
    return Trainer.resume(out, changes, report=None)


def signal_after(trainer, step, number=signal.SIGINT):
    """Let ``trainer`` be sent a signal while it works on the step after ``step``."""
    train_step = trainer.train_step

    def step_with_signal():
        if trainer.step == step:
            os.kill(os.getpid(), number)
        return train_step()

    trainer.train_step = step_with_signal
    return trainer


def fake_notebook(monkeypatch):
    """A stand-in for IPython, which need not be installed; returns the list of what is shown."""
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(picture)

    def display(picture, display_id):
        assert display_id
        shown.append(picture)
        return Handle()

    modules = {"IPython": types.ModuleType("IPython"), "IPython.display": types.ModuleType("d")}
    modules["IPython.display"].display = display
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return shown


def told(folder):
    """The rows of a log without the speed, which is that of the day."""
    lines = (Path(folder) / "log.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]


def same_ending(a, b):
    """Whether two runs ended with the same bits: weights, moments, counters, log."""
    for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
        one, other = (RunFolder(folder).checkpoints()[-1] / name for folder in (a, b))
        if one.read_bytes() != other.read_bytes():
            return False
    return told(a) == told(b) and weights(a) == weights(b)
