"""GPT-2 in half precision on a device: loading, generation, training, resuming, files.

The device is the emulator; with MINIGPT_TEST_DEVICE=cuda in the environment, a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kernels.launch import Kernel
from minigpt import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from minigpt.checkpoints.reader import RAW, Stored
from minigpt.checkpoints.safetensors_file import SafetensorsReader, write_safetensors_one_by_one
from minigpt.cli import main
from minigpt.evaluation import window_loss
from minigpt.lora import add_lora
from minigpt.run_folder import RunFolder
from tensor import manual_seed, no_grad, optim
from tensor.dtypes import HALVES, converted, name_of, named, widened
from tests.kernels.devices import NAME, needs_device
from tests.minigpt.training_helpers import SMALL, TEXT, resume, same_ending, signal_after, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_device")]
V, T, B = 37, 24, 3
NAMES = [name_of(dtype) for dtype in HALVES]


@pytest.fixture
def _device():
    needs_device()


def tiny(device: str = "cpu", dtype: str = "float32") -> GPT2LMHeadModel:
    manual_seed(3)
    config = GPT2Config(vocab_size=V, n_positions=T, n_embd=32, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config).to(device, dtype)


def ids(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, shape)


def raw(folder: Path) -> tuple[set[str], dict[str, np.ndarray]]:
    """The types of a file's tensors, and these as they are stored."""
    arrays = {}
    with SafetensorsReader(folder / "model.safetensors") as reader:
        for name, stored in reader.header().items():
            arrays[name] = np.empty(stored.shape, RAW[stored.dtype])
            reader.read_raw(name, arrays[name])
        return {stored.dtype for stored in reader.header().values()}, arrays


@pytest.fixture
def halves(tmp_path):
    """folder(dtype): a model whose file is in half precision."""

    def folder(dtype: str):
        model, path = tiny(), tmp_path / dtype
        model.save_pretrained(path)
        values = {name: converted(p.numpy(), named(dtype)) for name, p in model.named_parameters()}

        def read_raw(name, out):
            out[...] = values[name].view(out.dtype)

        stored = {name: Stored(dtype, x.shape) for name, x in values.items()}
        write_safetensors_one_by_one(path / "model.safetensors", stored, read_raw)
        return path

    return folder


# --- files


@pytest.mark.parametrize("dtype", NAMES)
def test_files_of_halves_are_loaded_and_written_bit_for_bit(halves, tmp_path, dtype):
    folder = halves(dtype)
    model = GPT2LMHeadModel.from_pretrained(folder, device=NAME, dtype=dtype)
    dtypes, stored = raw(folder)
    assert dtypes == {dtype}
    for name, p in model.named_parameters():
        assert p.dtype == named(dtype) and p.data.nbytes == 2 * p.size
        np.testing.assert_array_equal(p.data.numpy().view(stored[name].dtype), stored[name])
    model.save_pretrained(tmp_path / "again")
    dtypes, again = raw(tmp_path / "again")
    assert dtypes == {dtype}
    for name, array in stored.items():
        np.testing.assert_array_equal(again[name], array)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == dtype
    on_cpu = GPT2LMHeadModel.from_pretrained(tmp_path / "again")
    for p, q in zip(on_cpu.parameters(), model.parameters(), strict=True):
        assert p.dtype == np.float32
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_other_files_are_rounded_once_and_new_heads_are_halves(halves, tmp_path):
    tiny().save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path, device=NAME, dtype="bfloat16")
    for p, q in zip(model.parameters(), tiny().parameters(), strict=True):
        exact = widened(converted(q.numpy(), named("bfloat16")))
        np.testing.assert_array_equal(p.numpy(), exact)
    with pytest.warns(UserWarning, match="newly initialised"):
        classifier = GPT2ForSequenceClassification.from_pretrained(
            halves("float16"), device=NAME, dtype="bfloat16", num_labels=3, pad_token_id=0
        )
    assert {name_of(p.dtype) for p in classifier.parameters()} == {"bfloat16"}
    for labels, kind in (([0, 2], "single_label_classification"), (np.ones((2, 3)), None)):
        classifier.config.problem_type = kind or "multi_label_classification"
        loss = classifier(ids(0, 2, 5), labels=np.asarray(labels)).loss
        assert loss.dtype == np.float32 and np.isfinite(loss.item())


# --- the forward pass


@pytest.mark.parametrize("dtype", NAMES)
def test_logits_and_loss_are_near_those_of_the_same_weights_in_float32(halves, dtype):
    folder, x = halves(dtype), ids(0, B, T)
    mask = np.ones_like(x)
    mask[0, :7] = 0
    exact = GPT2LMHeadModel.from_pretrained(folder)(x, attention_mask=mask, labels=x)
    model = GPT2LMHeadModel.from_pretrained(folder, device=NAME, dtype=dtype)
    for changes in ({}, {"output_attentions": True}, {"head_mask": np.ones(4)}):
        ours = model(x, attention_mask=mask, labels=x, **changes)
        assert ours.logits.dtype == named(dtype) and ours.loss.dtype == np.float32
        assert abs(ours.loss.item() - exact.loss.item()) < 1e-3
        error = (ours.logits.numpy() - exact.logits.numpy())[mask == 1]
        scale = np.sqrt(np.mean(exact.logits.numpy() ** 2))
        assert np.sqrt(np.mean(error**2)) < (2e-2 if dtype == "bfloat16" else 3e-3) * scale


@pytest.mark.parametrize("dtype", NAMES)
def test_the_cache_and_generation(dtype):
    """Greedy ids are those of the logits computed anew for each of them."""
    model, x = tiny(NAME, dtype).eval(), ids(1, 2, 5)
    found = model.generate(x, max_new_tokens=8, eos_token_id=None)
    with no_grad():
        logits = model(found).logits.numpy()  # (2, 13, V)
        top = logits[:, 4:-1].max(axis=-1)
        chosen = np.take_along_axis(logits[:, 4:-1], found[:, 5:, None], axis=-1)[..., 0]
        assert (chosen >= top - 2e-2 * np.sqrt(np.mean(logits**2))).all()
        past = model(found[:, :9], use_cache=True).past_key_values
        assert {name_of(a.dtype) for pair in past for a in pair} == {dtype}
        as_arrays = [(k.numpy(), v.numpy()) for k, v in past]
        rest = [model(found[:, 9:], past_key_values=p).logits.numpy() for p in (past, as_arrays)]
    np.testing.assert_array_equal(rest[0], rest[1])
    assert np.abs(rest[0] - logits[:, 9:]).max() < 2e-2
    np.testing.assert_array_equal(
        model.generate(x, num_beams=2, max_new_tokens=4, eos_token_id=None).shape, (2, 9)
    )


# --- training


def losses(model: GPT2LMHeadModel, steps: int) -> list[float]:
    """Of steps of AdamW on random windows of one short text, with clipping."""
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=3e-3, betas=(0.9, 0.95))
    text, found = ids(0, 60), []
    for step in range(steps):
        starts = np.random.default_rng(step).integers(0, len(text) - T, B)
        windows = text[starts[:, None] + np.arange(T + 1)]  # (B, T + 1)
        optimizer.zero_grad()
        loss = window_loss(model, windows[:, :-1], windows[:, 1:])
        found.append(loss.item())
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
    return found


def test_twenty_steps_in_bfloat16_beside_float32():
    ours, exact = losses(tiny(NAME, "bfloat16").train(), 20), losses(tiny().train(), 20)
    assert exact[-1] < exact[0] - 0.3  # it does learn
    np.testing.assert_allclose(ours, exact, atol=2e-2)


def test_a_step_in_bfloat16_widens_nothing(monkeypatch):
    """Every kernel of GPT-2's step reads and writes bfloat16 as it is."""
    names, call = [], Kernel.__call__

    def noted(self, *arguments, **options):
        names.append(self.name)
        call(self, *arguments, **options)

    model = tiny(NAME, "bfloat16").train()
    monkeypatch.setattr(Kernel, "__call__", noted)
    losses(model, 3)
    assert "adamw_master_vector_bfloat16" in names
    masters = 2 * len(list(model.parameters()))  # made with the optimizer, and at its first step
    assert sum(name.startswith("cast_bfloat16_float") for name in names) == masters


def test_recomputed_blocks_and_adapters_have_halves_too():
    model = tiny(NAME, "bfloat16").train()
    model.gradient_checkpointing_enable()
    assert losses(model, 2) == losses(tiny(NAME, "bfloat16").train(), 2)
    adapted = tiny(NAME, "bfloat16").train()
    add_lora(adapted, rank=2)
    assert {name_of(p.dtype) for p in adapted.parameters()} == {"bfloat16"}
    found = losses(adapted, 3)
    assert np.isfinite(found).all()


# --- runs, and the command line


CONFIG = SMALL.replace(device=NAME, dtype="bfloat16", max_steps=6, checkpoint_every=2)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.training.plot_run", lambda log, title: None)
    (tmp_path / "text.txt").write_text(TEXT)
    return CONFIG.replace(data=str(tmp_path / "text.txt"))


def test_a_stopped_run_resumes_with_the_same_bits(config, tmp_path):
    start(config, tmp_path / "whole").run()
    signal_after(start(config, tmp_path / "stopped"), 3).run()
    trainer = resume(tmp_path / "stopped")
    assert name_of(trainer.model.dtype) == "bfloat16"
    trainer.run()
    assert same_ending(tmp_path / "stopped", tmp_path / "whole")
    assert raw(RunFolder(tmp_path / "whole").checkpoints()[-1])[0] == {"bfloat16"}
    with pytest.raises(ValueError, match="started with dtype=bfloat16 and can't be resumed with"):
        resume(tmp_path / "stopped", dtype="float32")


def test_what_can_not_be_had_is_told_at_once(config, tmp_path):
    with pytest.raises(ValueError, match="dtype='bfloat16' on device 'cpu': NumPy has no bfl"):
        start(config.replace(device="cpu"), tmp_path / "run")
    start(config.replace(max_steps=2), tmp_path / "run").run()
    with pytest.raises(ValueError, match="dtype='bfloat16' on device 'cpu'"):
        resume(tmp_path / "run", device="cpu", max_steps=4)
    with pytest.raises(ValueError, match="dtype='float16' is none of float32, bfloat16"):
        config.replace(dtype="float16")
    with pytest.raises(ValueError, match="not the masters that dtype=bfloat16 needs"):
        config.replace(shard_optimizer=True)


def test_generate_and_eval_on_the_command_line(config, tmp_path, capsys):
    start(config.replace(max_steps=2), tmp_path / "run").run()
    model, text = ["--model", str(tmp_path / "run")], config.data
    for dtype in NAMES:
        halves = [*model, "--device", NAME, "--dtype", dtype]
        arguments = ["generate", "1 and", "--max-new-tokens", "8", "--greedy", *halves]
        assert main(arguments) == 0
        assert main(["eval", "--data", text, "--limit", "40", "--quiet", *halves]) == 0
    capsys.readouterr()
    assert main(["generate", "1 and", *model, "--dtype", "bfloat16"]) == 2
    assert "dtype='bfloat16' on device 'cpu'" in capsys.readouterr().err
