"""GPT-2 on a device: training, generation, files, and what crosses between host and device.

The device is the emulator; with MINIGPT_TEST_DEVICE=cuda in the environment, a GPU.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from kernels.device import get_device
from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.cache import KVCache
from minigpt.cli import main
from minigpt.evaluation import window_loss
from minigpt.run_folder import RunFolder
from tensor import manual_seed, no_grad, optim
from tests.kernels.devices import NAME, check_every_access, needs_device

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
V, T, B = 37, 24, 3


@pytest.fixture
def _device():
    needs_device()


@pytest.fixture
def transfers(_device):
    """The count of copies between host and device."""
    return get_device(NAME).transfers


def tiny(device: str = "cpu", **changes) -> GPT2LMHeadModel:
    manual_seed(3)
    sizes = dict(vocab_size=V, n_positions=T, n_embd=32, n_layer=2, n_head=4) | changes
    return GPT2LMHeadModel(GPT2Config(**sizes)).to(device)


def ids(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, shape)


# --- training


class Training:
    """Steps on random windows of one short text, with dropout, clipping and AdamW."""

    def __init__(self, device: str, **changes) -> None:
        self.model = tiny(device, **changes)
        groups = optim.decay_groups(self.model, 0.1)
        self.optimizer = optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
        self.text = ids(0, 200)
        self.steps = 0
        manual_seed(11)  # of dropout

    def step(self) -> tuple[float, float]:
        """(loss, norm of the gradients) of one step."""
        starts = np.random.default_rng(self.steps).integers(0, len(self.text) - T, B)
        windows = self.text[starts[:, None] + np.arange(T + 1)]  # (B, T + 1)
        self.optimizer.zero_grad()
        loss = window_loss(self.model, windows[:, :-1], windows[:, 1:])
        value = loss.item()
        loss.backward()
        norm = optim.clip_grad_norm(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        return value, norm

    def run(self, steps: int) -> list[tuple[float, float]]:
        return [self.step() for _ in range(steps)]


def test_fifty_steps_have_numpys_losses():
    """With dropout, whose masks are the same bits on every device."""
    ours, numpys = np.array(Training(NAME).run(50)), np.array(Training("cpu").run(50))  # (50, 2)
    assert numpys[-1, 0] < numpys[0, 0] - 0.3  # it does learn
    np.testing.assert_allclose(ours[:, 0], numpys[:, 0], atol=1e-3)
    np.testing.assert_allclose(ours[0], numpys[0], rtol=1e-4)


def test_the_same_seed_gives_the_same_bits():
    one = Training(NAME)
    steps = one.run(5)
    other = Training(NAME)
    assert other.run(5) == steps
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_recomputed_blocks_have_the_same_bits():
    plain = Training(NAME).run(3)
    recomputed = Training(NAME)
    recomputed.model.gradient_checkpointing_enable()
    assert recomputed.run(3) == plain


def test_a_training_step_moves_its_inputs_in_and_two_numbers_out(transfers):
    training = Training(NAME)
    training.step()
    transfers.reset()
    training.step()
    # In: ids and targets (B, T), positions (1, T), of int64. Out: the loss and the norm.
    assert transfers.to_device == 3 and transfers.to_device_bytes == 8 * (2 * B * T + T)
    assert transfers.from_device == 2 and transfers.from_device_bytes <= 4 + 8


def test_labels_are_shifted_before_they_move(transfers):
    model, x = tiny(NAME), ids(0, B, T)
    transfers.reset()
    model(x, labels=x).loss.backward()
    assert (transfers.to_device, transfers.from_device) == (3, 0)


def test_a_step_and_a_few_tokens_where_every_access_is_checked(monkeypatch):
    """The kernels on a model's own shapes: no race, nothing out of bounds, nothing unwritten."""
    check_every_access(monkeypatch)
    training = Training(NAME)
    assert training.model.transformer.wte.weight.data.device.checked
    ours, numpys = training.run(2), Training("cpu").run(2)
    np.testing.assert_allclose(ours, numpys, rtol=1e-4)
    prompt = ids(2, 2, 3)
    expected = tiny().generate(prompt, max_new_tokens=4, eos_token_id=None)
    found = tiny(NAME).generate(prompt, max_new_tokens=4, eos_token_id=None)
    np.testing.assert_array_equal(found, expected)


# --- generation


def test_a_decoding_step_moves_a_token_in_and_its_logits_out(transfers):
    model, prompt = tiny(NAME), ids(0, B, 4)

    def counted(new: int) -> np.ndarray:
        transfers.reset()
        model.generate(prompt, max_new_tokens=new, eos_token_id=None)
        return np.array([transfers.to_device, transfers.to_device_bytes, transfers.from_device,
                         transfers.from_device_bytes])

    few, more = counted(4), counted(14)
    # In: a token and its position a row, int64. Out: the logits of the last position, float32.
    np.testing.assert_array_equal(more - few, 10 * np.array([2, 8 * 2 * B, 1, 4 * B * V]))


@pytest.mark.parametrize("options", [
    {}, {"do_sample": True, "top_k": 20, "seed": 5}, {"num_beams": 3}, {"use_cache": False},
    {"do_sample": True, "num_return_sequences": 2, "temperature": 0.7, "seed": 1},
], ids=str)  # fmt: skip
def test_generate_gives_numpys_ids(options):
    prompt = ids(1, 2, 5)
    prompt[0, :2] = 0
    mask = np.ones_like(prompt)
    mask[0, :2] = 0  # padded on the left
    options = {"max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0} | options
    ours = tiny(NAME).generate(prompt, attention_mask=mask, **options)
    np.testing.assert_array_equal(ours, tiny().generate(prompt, attention_mask=mask, **options))


def test_the_cache_grows_by_doubling_on_the_device(transfers):
    model = tiny(NAME).eval()
    cache, rooms = KVCache(), []
    with no_grad():
        for _ in range(T):
            model(ids(0, 1, 1), past_key_values=cache, use_cache=True)
            rooms.append(cache._layers[0].k.shape[2])  # noqa: SLF001
    assert sorted(set(rooms)) == [1, 2, 4, 8, 16, 32]
    assert cache._layers[0].k.device == NAME  # noqa: SLF001
    transfers.reset()
    k, v = cache[0]
    cache.select([0, 0, 0])
    assert k.shape == v.shape == (1, 4, T, 8) and cache[0][0].shape == (3, 4, T, 8)
    assert (transfers.to_device, transfers.from_device) == (0, 0)
    as_arrays = [(k.numpy(), v.numpy()) for k, v in cache]
    out = tiny(NAME, n_positions=T + 1).eval()(ids(0, 3, 1), past_key_values=as_arrays)
    assert out.logits.device == NAME


# --- files and the command line


def test_files_are_the_same_from_every_device(tmp_path):
    on_cpu = tiny()
    on_cpu.save_pretrained(tmp_path / "cpu")
    tiny(NAME).save_pretrained(tmp_path / "device")
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("cpu", "device")]
    assert weights[0] == weights[1]
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "cpu", device=NAME)
    assert {p.device for p in loaded.parameters()} == {NAME}
    for name, values in loaded.state_dict().items():
        np.testing.assert_array_equal(values, on_cpu.state_dict()[name])
    with pytest.raises(TypeError, match="float64"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "cpu", device=NAME, dtype="float64")


SMALL = [
    "--tokenizer", "char", "--set", "n_layer=1", "--set", "n_head=2", "--set", "n_embd=16",
    "--set", "block_size=16", "--set", "max_steps=8", "--set", "batch_size=2",
    "--set", "eval_every=4", "--set", "eval_batches=1", "--set", "checkpoint_every=4",
    "--set", "sample_tokens=10", "--set", "dropout=0.1", "--quiet",
]  # fmt: skip


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minigpt.training.plot_run", lambda log, title: None)
    Path("text.txt").write_text("".join(f"{n} times 3 is {3 * n}.\n" for n in range(60)))


def train(out: str, *arguments: str) -> dict[str, np.ndarray]:
    """The weights after `minigpt train`."""
    assert main(["train", "--data", "text.txt", "--out", out, *SMALL, *arguments]) == 0
    return GPT2LMHeadModel.from_pretrained(out).state_dict()


def losses(out: str) -> list[float]:
    log = np.genfromtxt(RunFolder(out).log_path, delimiter=",", names=True)
    return [x for x in log["val_loss"] if not math.isnan(x)]


def test_train_and_resume_on_a_device(text):
    whole = train("whole", "--device", NAME)
    part = train("part", "--device", NAME, "--set", "max_steps=4", "--set", "schedule=constant")
    assert (whole["transformer.wte.weight"] != part["transformer.wte.weight"]).any()
    straight = train("straight", "--device", NAME, "--set", "schedule=constant")
    resumed = train("part", "--resume", "--set", "max_steps=8")
    for name, values in straight.items():  # stopped and resumed: bit for bit
        np.testing.assert_array_equal(resumed[name], values)
    train("cpu", "--device", "cpu")
    np.testing.assert_allclose(losses("whole"), losses("cpu"), atol=1e-3)


def test_a_run_goes_on_on_another_device(text):
    train("run", "--device", NAME, "--set", "max_steps=4")
    train("run", "--resume", "--device", "cpu", "--set", "max_steps=8")
    train("same", "--device", "cpu", "--set", "max_steps=4")
    train("same", "--resume", "--device", NAME, "--set", "max_steps=8")
    np.testing.assert_allclose(losses("run"), losses("same"), atol=1e-3)


@pytest.mark.parametrize("options", [["--greedy"], ["--seed", "4"]], ids=str)
def test_generate_prints_the_same_text(text, capsys, options):
    train("run")
    capsys.readouterr()
    texts = []
    for device in (NAME, "cpu"):
        arguments = ["generate", "12 times", "--model", "run", "--max-new-tokens", "30"]
        assert main([*arguments, "--device", device, *options]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(texts[0]) > 30
