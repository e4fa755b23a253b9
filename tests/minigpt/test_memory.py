"""The estimate of a step's memory beside what Python's allocator counts."""

import tracemalloc

import numpy as np
import pytest

from kernels.device import get_device
from minigpt import GPT2Config, GPT2LMHeadModel, memory
from minigpt.evaluation import window_loss
from minigpt.freezing import freeze
from minigpt.memory import MemoryEstimate, estimate_memory
from minigpt.presets import TrainConfig
from tensor import optim
from tests.kernels.devices import NAME, needs_device
from tests.minigpt.training_helpers import SMALL, TEXT, start


def train_steps(model, config, number):
    """Make some steps; returns what makes one more."""
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1))
    ids = np.zeros((config.batch_size, config.block_size), np.int64)

    def step():
        window_loss(model, ids, ids).backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(number):
        step()
    return step


def measured(model, config):
    """The peak of a step beyond what is there before it, and the weights and moments."""
    step = train_steps(model, config, 1)
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    trained = model.num_parameters(only_trainable=True)
    return peak + 4 * (model.num_parameters() + 2 * trained)


def prepared(shape, changes):
    config = TrainConfig(batch_size=8, block_size=64).replace(**changes)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 128, "vocab_size": 65} | shape
    tokens = {"bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(n_positions=128, **sizes, **tokens)).train()
    freeze(model, config.freeze)
    if config.recompute:
        model.gradient_checkpointing_enable()
    return model, config


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ({}, {}),
        ({"n_layer": 6}, {"batch_size": 3}),
        ({"n_embd": 256}, {}),
        ({"vocab_size": 3000}, {}),
        ({"n_inner": 128}, {"block_size": 128}),
        ({"n_layer": 6}, {"recompute": True}),
        ({"n_layer": 3}, {"freeze": "*.wte.*,*.h.0.*,*.h.1.*"}),
    ],
)
def test_the_estimate_is_close(shape, changes):
    model, config = prepared(shape, changes)
    estimate = estimate_memory(model, config).total
    found = measured(model, config)
    assert 0.95 * found < estimate < 1.3 * found, (estimate, found)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{}, {"vocab_size": 2000, "n_layer": 1}])
def test_the_estimate_is_close_in_bfloat16(shape, monkeypatch):
    """Beside the peak of what a device has given out in a step; a cached block would not count."""
    needs_device()
    device = get_device(NAME)
    sizes, peaks = {}, [0]

    def allocate(nbytes, given=device.allocate):
        pointer = given(nbytes)
        sizes[pointer] = nbytes
        peaks.append(max(peaks[-1], sum(sizes.values())))
        return pointer

    def free(pointer, given=device.free):
        sizes.pop(pointer, None)
        given(pointer)

    monkeypatch.setattr(device, "allocate", allocate)
    monkeypatch.setattr(device, "free", free)
    model, config = prepared(shape, {"batch_size": 3})
    model.to(NAME, "bfloat16")
    train_steps(model, config, 1)
    estimate = estimate_memory(model, config).total
    assert 0.95 * peaks[-1] < estimate < 1.3 * peaks[-1], (estimate, peaks[-1])


def test_it_is_told_before_the_first_step(tmp_path, monkeypatch):
    (tmp_path / "sums.txt").write_text(TEXT)
    trainer = start(SMALL.replace(data=str(tmp_path / "sums.txt")), tmp_path / "run")
    line = trainer.describe().splitlines()[2]
    assert line.startswith("memory: about 0.2 MB: weights, gradients and AdamW's moments 0.1 MB")
    assert "is free" not in trainer.describe()
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    line = trainer.describe().splitlines()[2]
    assert "only 0.0 MB is free: batch_size=2 with grad_accumulation=2 needs less" in line


def test_a_system_that_does_not_tell(monkeypatch):
    def no_such_file(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", no_such_file)
    assert memory.free_memory() is None


def test_sizes_can_be_read():
    assert str(MemoryEstimate(1_500_000_000, 20_000_000)) == (
        "about 1.5 GB: weights, gradients and AdamW's moments 1.5 GB, activations 20 MB"
    )
