"""Fine-tuning with LoRA through the trainer: small checkpoints, exact resume, folders that load."""

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.checkpoints.safetensors_file import read_safetensors
from minigpt.cli import main
from minigpt.lora import lora_layers, merge_lora
from minigpt.presets import TrainConfig
from minigpt.run_setup import byte_tokenizer
from minigpt.training import Trainer
from tensor import manual_seed

IDS = np.random.default_rng(0).integers(0, 200, (2, 16))


@pytest.fixture
def base(tmp_path):
    """The folder of a model with its tokenizer."""
    manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=257, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    )
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def config(base, tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 60)
    return TrainConfig(
        model=str(base), data=str(tmp_path / "text.txt"), lora_rank=2, lora_dropout=0.1,
        block_size=16, batch_size=4, max_steps=8, lr=1e-2, min_lr=1e-2, warmup_steps=0, dropout=0.1,
        eval_every=4, eval_batches=2, checkpoint_every=3, sample_tokens=4,
    )  # fmt: skip


def test_only_adapters_are_trained_and_saved_and_the_folder_loads(base, config, tmp_path):
    result = Trainer.start(config, tmp_path / "run", report=None).run()
    assert result.last_validation_loss < result.first_validation_loss - 0.05
    assert not (tmp_path / "run" / "model.safetensors").exists()
    names = read_safetensors(tmp_path / "run" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names) and len(names) == 2 * 4 * 2
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "run")
    assert len(lora_layers(model)) == 2 * 4 and not model.training
    wte = model.transformer.wte.weight.numpy()
    np.testing.assert_array_equal(wte, read_safetensors(base / "model.safetensors")
                                  ["transformer.wte.weight"])
    adapted = model(IDS).logits.numpy()
    merge_lora(model)
    model.save_pretrained(tmp_path / "merged")
    merged = GPT2LMHeadModel.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(merged(IDS).logits.numpy(), adapted, atol=1e-5)


def test_the_command_line_says_that_a_folder_holds_adapters_alone(base, config, tmp_path, capsys):
    Trainer.start(config.replace(max_steps=1), tmp_path / "run", report=None).run()
    assert main(["verify", str(tmp_path / "run")]) == 2
    assert f"holds LoRA adapters of {base}: load it, call merge_lora" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert f"LoRA adapters of {base}, whose memory" in told and "to run it" not in told


def test_a_stopped_run_goes_on_with_the_same_bits(config, tmp_path, monkeypatch):
    Trainer.start(config, tmp_path / "whole", report=None).run()
    trainer = Trainer.start(config, tmp_path / "parts", report=None)
    real = trainer.train_step

    def five_steps():
        if trainer.step == 5:
            raise KeyboardInterrupt
        return real()

    monkeypatch.setattr(trainer, "train_step", five_steps)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    monkeypatch.chdir(tmp_path)
    Trainer.resume("parts", {"model": "base"}, report=None).run()  # by a relative name, too
    states = [read_safetensors(tmp_path / run / "adapter_model.safetensors")
              for run in ("whole", "parts")]  # fmt: skip
    for name, values in states[0].items():
        np.testing.assert_array_equal(states[1][name], values, err_msg=name)


def test_settings_that_contradict_each_other(config, tmp_path):
    for changes in ({"model": None}, {"freeze": "*.bias"}):
        with pytest.raises(ValueError, match="lora_rank=2 adapts the weights of a model"):
            config.replace(**changes)
    with pytest.raises(ValueError, match="lora_targets=c_fc changes nothing without adapters"):
        config.replace(lora_rank=0, lora_targets="c_fc")
    with pytest.raises(ValueError, match="no layer is called 'q'"):
        Trainer.start(config.replace(lora_targets="c_attn, q"), tmp_path / "run", report=None)
    Trainer.start(config.replace(max_steps=1), tmp_path / "run", report=None).run()
    with pytest.raises(ValueError, match="lora_rank=2 and can't be resumed with 4"):
        Trainer.resume(tmp_path / "run", {"lora_rank": 4, "max_steps": 2}, report=None)


def test_a_base_that_is_gone_is_named(config, base, tmp_path):
    Trainer.start(config.replace(max_steps=1), tmp_path / "run", report=None).run()
    base.rename(tmp_path / "elsewhere")
    with pytest.raises((FileNotFoundError, ValueError), match="base"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "run")
