"""The training loop: settings, checkpoints and their damage, resuming, stopping."""

import json
import math
import os
import random as python_random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigpt.data import TokenData
from minigpt.evaluation import next_token_loss, sampled_loss, split_loss
from minigpt.files import FolderInUseError, FolderLock
from minigpt.heads import GPT2LMHeadModel
from minigpt.plots import plot_run
from minigpt.presets import PRESETS, TrainConfig, parse_settings
from minigpt.run_folder import (
    COLUMNS,
    DamagedCheckpointError,
    RunFolder,
    RunLog,
    checkpoint_step,
    verify_checkpoint,
)
from minigpt.sampling import generate_beyond_context
from minigpt.training import Trainer

TEXT = "".join(f"{n} and {n + 1} make {2 * n + 1}.\n" for n in range(120))
SMALL = TrainConfig(
    n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.1, tokenizer="char",
    max_steps=12, batch_size=4, warmup_steps=2, log_every=1, eval_every=4, eval_batches=2,
    checkpoint_every=5, keep_checkpoints=2, sample_tokens=40, seed=3,
)  # fmt: skip


@pytest.fixture
def config(tmp_path):
    """A model of a thousand numbers on a text of a few thousand characters."""
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return SMALL.replace(data=str(path))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than all the rest of these runs."""
    monkeypatch.setattr("minigpt.training.plot_run", lambda log, title: None)


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


class TestSettings:
    def test_values_take_the_type_of_their_field(self):
        assert parse_settings(["max_steps=20", "lr=3e-4", "schedule=linear", "data=a=b"]) == {
            "max_steps": 20, "lr": 3e-4, "schedule": "linear", "data": "a=b",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("assignment", "complaint"),
        [
            ("max_step=20", r"unknown setting 'max_step': did you mean max_steps\b.*n_layer"),
            ("qqq=1", "unknown setting 'qqq': All settings: n_layer, n_head"),
            ("max_steps", "--set max_steps: expected KEY=VALUE"),
            ("max_steps=many", "'many' should be a whole number"),
            ("max_steps=1e3", "'1e3' should be a whole number"),
            ("lr=fast", "'fast' should be a number"),
        ],
    )
    def test_bad_assignments(self, assignment, complaint):
        with pytest.raises(ValueError, match=complaint):
            parse_settings([assignment])

    def test_of_the_same_key_twice_the_last_counts(self):
        assert parse_settings(["lr=1", "max_steps=3", "lr=2"]) == {"max_steps": 3, "lr": 2.0}

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"max_steps": 0}, "max_steps=0 should be at least 1"),
            ({"block_size": 1}, "block_size=1 should be at least 2"),
            ({"lr": 0.0, "min_lr": 0.0}, "lr=0 learns nothing"),
            ({"lr": -1.0}, "lr=-1.0 should be at least 0"),
            ({"lr": math.nan}, "lr=nan should be a finite number"),
            ({"lr": math.inf}, "lr=inf should be a finite number"),
            ({"dropout": 1.0}, "dropout=1.0 should be below 1"),
            ({"weight_decay": -0.1}, "weight_decay=-0.1 should be at least 0"),
            ({"seed": -1}, "seed=-1 should be at least 0"),
            ({"seed": 2**63}, "seed=9223372036854775808 should be below"),
            ({"n_embd": 130}, "n_embd=130 can't be divided among n_head=4"),
            ({"lr": 1e-5}, "min_lr=0.0001 is above lr=1e-05"),
            ({"schedule": "step"}, "schedule='step' is none of cosine, linear, constant"),
            ({"max_steps": 10.0}, "max_steps=10.0 should be a whole number"),
            ({"max_steps": True}, "max_steps=True should be a whole number"),
            ({"lr": "1e-3"}, "lr='1e-3' should be a number"),
            ({"data": 3}, "data=3 should be text"),
        ],
    )
    def test_values_that_make_no_sense(self, changes, complaint):
        with pytest.raises(ValueError, match=complaint):
            TrainConfig().replace(**changes)

    def test_round_trip_through_json(self):
        for preset in PRESETS.values():
            assert TrainConfig.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset

    def test_nano_cpu_is_what_nanogpt_prints(self):
        # README of karpathy/nanoGPT, "I only have a macbook"; learning rates and the rest from
        # config/train_shakespeare_char.py.
        published = {
            "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "dropout": 0.0,
            "batch_size": 12, "max_steps": 2000, "lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 100,
            "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "grad_clip": 1.0,
            "schedule": "cosine", "tokenizer": "char", "grad_accumulation": 1, "eval_batches": 20,
        }  # fmt: skip
        assert published.items() <= PRESETS["nano-cpu"].to_dict().items()


def fill(folder, step, keep=2):
    with folder.new_checkpoint(step, keep) as path:
        for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
            (path / name).write_text(f"{name} of {step}")


class TestRunFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        for step in (100, 20, 1_000_000):
            fill(folder, step, keep=5)
        return folder

    def test_checkpoints_are_ordered_by_step(self, folder):
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [20, 100, 1_000_000]
        assert folder.newest_good_checkpoint(pytest.fail).name == "step-1000000"

    def test_only_the_newest_are_kept(self, folder):
        fill(folder, 1_000_001, keep=2)
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [1_000_000, 1_000_001]

    def test_the_sums_are_those_of_sha256sum(self, folder):
        if shutil.which("sha256sum") is None:
            pytest.skip("this system has no sha256sum")
        for checkpoint in folder.checkpoints():
            subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=checkpoint, check=True)

    @pytest.mark.parametrize(
        "name",
        ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "SHA256SUMS"],
    )
    @pytest.mark.parametrize("how", ["flip a bit", "cut", "empty", "delete"])
    def test_every_damage_is_seen(self, folder, name, how):
        newest = folder.checkpoints()[-1]
        path = newest / name
        data = path.read_bytes()
        if how == "delete":
            path.unlink()
        elif how == "flip a bit":
            path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        else:
            path.write_bytes(data[:-1] if how == "cut" and name != "SHA256SUMS" else b"")
        with pytest.raises(DamagedCheckpointError, match="step-1000000"):
            verify_checkpoint(newest)
        told = []
        assert folder.newest_good_checkpoint(told.append).name == "step-000100"
        assert len(told) == 1 and told[0].startswith("passing over a damaged checkpoint: ")

    def test_sums_may_not_lead_outside(self, folder):
        newest = folder.checkpoints()[-1]
        sums = newest / "SHA256SUMS"
        sums.write_text(sums.read_text() + "0" * 64 + "  ../../secret\n")
        with pytest.raises(DamagedCheckpointError, match="garbled"):
            verify_checkpoint(newest)

    def test_all_damaged_is_an_error_and_none_is_none(self, folder, tmp_path):
        for checkpoint in folder.checkpoints():
            (checkpoint / "model.safetensors").write_text("")
        with pytest.raises(ValueError, match="all of its 3 checkpoints are damaged"):
            folder.newest_good_checkpoint(lambda text: None)
        assert RunFolder(tmp_path / "other").newest_good_checkpoint(pytest.fail) is None

    def test_a_failed_write_leaves_the_old_ones(self, folder):
        before = sorted(folder.path.rglob("*"))
        with pytest.raises(OSError, match="disk full"), folder.new_checkpoint(7, 1) as path:
            (path / "model.safetensors").write_text("half")
            raise OSError("disk full")
        assert sorted(folder.path.rglob("*")) == before

    def test_what_a_killed_run_left_is_removed(self, folder):
        leftover = folder.checkpoints_path / ".unfinished-step-000200"
        leftover.mkdir()
        (leftover / "model.safetensors").write_text("half")
        assert len(folder.checkpoints()) == 3
        fill(folder, 200, keep=9)
        assert not leftover.exists()
        verify_checkpoint(folder.checkpoints_path / "step-000200")

    def test_a_damaged_one_of_the_same_step_is_replaced(self, folder):
        path = folder.checkpoints_path / "step-000100"
        (path / "model.safetensors").write_text("")
        fill(folder, 100, keep=9)
        verify_checkpoint(path)

    def test_clear_deletes_only_what_a_run_writes(self, folder):
        for name in ("log.csv", "model.safetensors", "notes.txt"):
            (folder.path / name).write_text("")
        assert folder.in_the_way() == ["checkpoints", "model.safetensors", "log.csv"]
        folder.clear()
        assert [p.name for p in sorted(folder.path.iterdir())] == ["checkpoints", "notes.txt"]
        assert folder.in_the_way() == []


class TestRunLog:
    def test_rows_past_the_resumed_step_and_cut_rows_are_dropped(self, tmp_path):
        path = tmp_path / "log.csv"
        with RunLog(path, 0) as log:
            log.write(0, val_loss=6.25)
            for step in (10, 20, 30):
                log.write(step, train_loss=1 / step, lr=1e-3)
        with open(path, "a") as file:
            file.write("40,0.1")
        with RunLog(path, 20) as log:
            log.write(20, train_loss=9.0)  # told already
            log.write(25, train_loss=2.0)
        assert path.read_text().splitlines() == [
            "step,train_loss,val_loss,lr,grad_norm,tokens_per_s",
            "0,,6.25,,,",
            "10,0.1,,0.001,,",
            "20,0.05,,0.001,,",
            "25,2,,,,",
        ]

    @pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\x00\n1,2\n"])
    def test_a_damaged_log_begins_again(self, tmp_path, content):
        path = tmp_path / "log.csv"
        path.write_bytes(content)
        RunLog(path, 50).__exit__()
        assert path.read_text() == "step,train_loss,val_loss,lr,grad_norm,tokens_per_s\n"


class TestEvaluation:
    @pytest.fixture
    def model(self, config, tmp_path):
        model = start(config, tmp_path / "run").model
        for parameter in model.parameters():  # far from uniform predictions
            parameter.copy_(parameter.numpy() * 5)
        return model

    def slow_loss(self, model, inputs, targets):
        """Token by token, from the logits, in float64."""
        model.eval()
        logits = model(inputs).logits.numpy().astype(np.float64)
        model.train()
        losses = [
            np.log(np.exp(row).sum()) - row[target]
            for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.ravel())
        ]
        return float(np.mean(losses))

    def test_the_loss_over_a_split_counts_every_token_once(self, model):
        ids = np.random.default_rng(0).integers(0, 10, 75)
        data = TokenData(ids, 10)
        rows = [(ids[i : i + 16], ids[i + 1 : i + 17]) for i in range(0, 74, 16)]
        total = 0.0
        for inputs, targets in rows:
            inputs = inputs[: len(targets)]
            total += self.slow_loss(model, inputs[None], targets) * len(targets)
        for batch_size in (1, 3, 50):
            loss = split_loss(model, data, batch_size=batch_size, block_size=16)
            assert loss == pytest.approx(total / 74, abs=1e-5)
        assert model.training  # as before

    def test_every_position_has_a_target(self, model):
        inputs, targets = np.array([[1, 2, 3]]), np.array([[2, 3, 4]])
        model.eval()
        loss = next_token_loss(model, inputs, targets).item()
        assert loss == pytest.approx(self.slow_loss(model, inputs, targets), abs=1e-5)

    def test_the_estimate_is_repeatable_and_close(self, model):
        data = TokenData(np.random.default_rng(0).integers(0, 10, 400), 10)
        options = {"batches": 30, "batch_size": 4, "block_size": 16}
        first = sampled_loss(model, data, seed=1, **options)
        assert first == sampled_loss(model, data, seed=1, **options)
        assert first != sampled_loss(model, data, seed=2, **options)
        whole = split_loss(model, data, batch_size=4, block_size=16)
        assert first == pytest.approx(whole, rel=0.1)

    def test_a_single_token_has_no_loss(self, model):
        with pytest.raises(ValueError, match="1 tokens: a loss needs at least two"):
            split_loss(model, TokenData([1], 10, "split"), batch_size=1, block_size=4)


class TestSampling:
    @pytest.fixture
    def model(self, config, tmp_path):
        return start(config, tmp_path / "run").model.eval()

    def test_within_the_context_it_is_generate(self, model):
        ids = generate_beyond_context(model, [1, 2, 3], 10, do_sample=False)
        assert ids == model.generate(np.array([[1, 2, 3]]), max_new_tokens=10)[0].tolist()

    def test_past_the_context_it_goes_on_from_the_last_half(self, model):
        seen = []
        ids = generate_beyond_context(model, [1, 2, 3], 50, on_token=seen.append)
        assert len(ids) == 53 and ids[:3] == [1, 2, 3] and seen == ids[3:]
        again = model.generate(np.array([ids[8:16]]), max_new_tokens=8)[0].tolist()
        assert ids[8:24] == again

    def test_a_seed_repeats_the_text(self, model):
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0}
        texts = [generate_beyond_context(model, [1], 60, seed=s, **options) for s in (1, 1, 2)]
        assert texts[0] == texts[1] != texts[2]

    @pytest.mark.parametrize("length", [0, 16, 40])
    def test_prompts_that_do_not_fit(self, model, length):
        with pytest.raises(ValueError, match=f"the prompt has {length} tokens.* from 1 to 15 "):
            generate_beyond_context(model, [1] * length, 5)


class TestRun:
    def test_it_learns(self, config, tmp_path):
        config = config.replace(max_steps=150, lr=1e-2, dropout=0.0, eval_every=50, n_embd=32)
        config = config.replace(checkpoint_every=0)
        result = start(config, tmp_path / "run").run()
        assert result.step == 150 and not result.interrupted
        assert result.first_validation_loss == pytest.approx(math.log(len(set(TEXT))), abs=0.1)
        assert result.last_validation_loss < result.first_validation_loss / 2
        assert result.whole_validation_loss == pytest.approx(result.last_validation_loss, abs=0.3)
        assert len(result.sample) == 41  # the first character of the validation text, and 40

    def test_what_it_leaves_behind(self, config, tmp_path, monkeypatch):
        monkeypatch.setattr("minigpt.training.plot_run", plot_run)
        out = tmp_path / "runs" / "first"
        trainer = start(config, out)
        assert not out.exists()  # nothing is written before the run
        trainer.run()
        folder = RunFolder(out)
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [10, 12]
        for checkpoint in folder.checkpoints():
            verify_checkpoint(checkpoint)
        assert weights(out) == weights(folder.checkpoints()[-1])
        assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
        loaded = GPT2LMHeadModel.from_pretrained(out)
        trainer.model.eval()
        ids = np.array([[1, 2, 3]])
        assert (loaded(ids).logits.numpy() == trainer.model(ids).logits.numpy()).all()
        lines = (out / "log.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(13)]
        assert [line.split(",")[0] for line in lines[1:] if line.split(",")[2]] == [
            "0", "4", "8", "12",
        ]  # fmt: skip

    def test_the_same_seed_gives_the_same_bits_and_another_does_not(self, config, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            start(config.replace(seed=seed), tmp_path / name).run()
        assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")

    def test_accumulation_is_the_larger_batch(self, config, tmp_path):
        class Slices(TokenData):
            """The rows of one batch of 12, dealt out to the micro-batches in turn."""

            def random_batch(self, batch_size, block_size, *, seed, step, micro_batch=0, stream=1):
                inputs, targets = super().random_batch(
                    12, block_size, seed=seed, step=step, stream=stream
                )
                rows = slice(micro_batch * batch_size, (micro_batch + 1) * batch_size)
                return inputs[rows], targets[rows]

        results = []
        for batch_size, accumulation in ((12, 1), (3, 4)):
            trainer = start(
                config.replace(
                    batch_size=batch_size, grad_accumulation=accumulation, dropout=0.0,
                    grad_clip=0.0,
                ),
                tmp_path / "run",
            )  # fmt: skip
            trainer.train_data = Slices(trainer.train_data.ids, 70_000)
            stats = trainer.train_step()
            gradients = np.concatenate([p.grad.numpy().ravel() for p in trainer.model.parameters()])
            results.append((stats.loss, stats.grad_norm, gradients))
        assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
        assert results[0][1] == pytest.approx(results[1][1], abs=1e-6)
        assert np.abs(results[0][2] - results[1][2]).max() < 1e-6

    def test_the_learning_rate_warms_up_and_falls(self, config, tmp_path):
        trainer = start(config.replace(max_steps=20, warmup_steps=4), tmp_path / "run")
        rates = [trainer.train_step().lr for _ in range(20)]
        assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
        expected = [1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * i / 16)) for i in range(16)]
        assert rates[4:] == pytest.approx(expected)

    def test_gradients_are_clipped_and_their_norm_told(self, config, tmp_path):
        norms = []
        for clip in (0.0, 1e-3):
            trainer = start(config.replace(grad_clip=clip), tmp_path / "run")
            told = trainer.train_step().grad_norm
            gradients = [p.grad.numpy() for p in trainer.model.parameters()]
            norms.append((told, math.sqrt(sum(float((g**2).sum()) for g in gradients))))
        assert norms[0][0] == pytest.approx(norms[0][1], rel=1e-5)
        assert norms[1] == pytest.approx((norms[0][0], 1e-3), rel=1e-2)

    def test_a_text_shorter_than_the_context(self, config, tmp_path):
        with pytest.raises(ValueError, match=r"validation split: \d+ tokens, .*block_size="):
            start(config.replace(block_size=500), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_model_is_not_overwritten_unless_asked(self, config, tmp_path):
        out = tmp_path / "run"
        start(config, out).run()
        before = weights(out)
        with pytest.raises(FileExistsError, match="saved at step 12: --resume goes on with it"):
            start(config, out)
        assert weights(out) == before
        trainer = start(config.replace(seed=9, max_steps=4), out, overwrite=True)
        assert weights(out) == before  # untouched until the run begins
        trainer.run()
        assert weights(out) != before
        assert [checkpoint_step(p) for p in RunFolder(out).checkpoints()] == [4]

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json", "log.csv"])
    def test_files_of_others_are_not_overwritten(self, config, tmp_path, name):
        (tmp_path / name).write_text("of somebody else")
        with pytest.raises(FileExistsError, match=f"holds {name} already: --overwrite"):
            start(config, tmp_path)
        assert (tmp_path / name).read_text() == "of somebody else"

    def test_what_was_killed_before_its_first_checkpoint_starts_anew(self, config, tmp_path):
        (tmp_path / "log.csv").write_text(",".join(COLUMNS) + "\n0,,99.9,,,\n1,99.9,,,,\n")
        start(config, tmp_path).run()
        assert "99.9" not in (tmp_path / "log.csv").read_text()

    def test_a_folder_in_use(self, config, tmp_path):
        out = tmp_path / "run"
        out.mkdir()
        with FolderLock(out), pytest.raises(FolderInUseError, match="in use by another run"):
            start(config, out).run()

    def test_out_is_a_file(self, config, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(NotADirectoryError, match="is a file: a run needs a folder"):
            start(config, tmp_path / "run")


class TestNotFinite:
    def run_until_it_breaks(self, trainer, spoil):
        train_step = trainer.train_step

        def spoilt_step():
            if trainer.step == 7:
                spoil(dict(trainer.model.named_parameters()))
            return train_step()

        trainer.train_step = spoilt_step
        with pytest.raises(FloatingPointError) as error:
            trainer.run()
        return str(error.value)

    def test_step_and_parameter_are_named_and_nothing_is_overwritten(self, config, tmp_path):
        trainer = start(config, tmp_path / "run")

        def spoil(parameters):
            parameters["transformer.h.0.mlp.c_fc.weight"].copy_(np.full((16, 64), np.nan))

        message = self.run_until_it_breaks(trainer, spoil)
        assert message.startswith("step 8: the training loss is nan; the first non-finite tensor "
                                  "is parameter transformer.h.0.mlp.c_fc.weight (16, 64)")
        folder = RunFolder(tmp_path / "run")
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [5]
        assert weights(folder.path) == weights(folder.checkpoints()[0])

    def test_a_gradient_is_named(self, config, tmp_path, monkeypatch):
        trainer = start(config.replace(dropout=0.0), tmp_path / "run")

        def spoil(parameters):
            # Finite logits, whose gradient overflows on its way back through the large factor.
            name = "transformer.ln_f.weight"
            bad = parameters[name]
            import minigpt.training as training

            real = training.next_token_loss

            def loss_with_an_infinite_slope(*arguments):
                return real(*arguments) + (bad * 0.0).sum() * 1.0 + ((bad - bad) ** 0.5).sum()

            monkeypatch.setattr(training, "next_token_loss", loss_with_an_infinite_slope)

        with np.errstate(all="ignore"):
            message = self.run_until_it_breaks(trainer, spoil)
        assert "step 8: the norm of the gradients is" in message
        assert "the first non-finite tensor is gradient of transformer.ln_f.weight (16,)" in message


class TestResume:
    @pytest.fixture
    def whole(self, config, tmp_path):
        """The folder of the run that nothing interrupted."""
        start(config, tmp_path / "whole").run()
        return tmp_path / "whole"

    def same_ending(self, a, b):
        for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
            one, other = (RunFolder(f).checkpoints()[-1] / name for f in (a, b))
            if one.read_bytes() != other.read_bytes():
                return False

        def told(folder):  # without the speed, which is that of the day
            lines = (folder / "log.csv").read_text().splitlines()
            return [line.rpartition(",")[0] for line in lines]

        return told(a) == told(b) and weights(a) == weights(b)

    @pytest.mark.parametrize("step", [0, 1, 5, 8, 11])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_stopped_run_resumes_exactly(self, config, tmp_path, whole, step, number):
        out = tmp_path / "stopped"
        result = signal_after(start(config, out), step, number).run()
        assert result.interrupted and result.step == step + 1
        assert result.whole_validation_loss is None and result.sample is None
        result = resume(out).run()
        assert result.step == 12 and not result.interrupted
        assert result.first_validation_loss == json.loads(
            (RunFolder(whole).checkpoints()[-1] / "trainer_state.json").read_text()
        )["first_validation_loss"]
        assert self.same_ending(out, whole)

    def test_stopping_twice(self, config, tmp_path, whole):
        out = tmp_path / "stopped"
        signal_after(start(config, out), 2).run()
        signal_after(resume(out), 7).run()
        resume(out).run()
        assert self.same_ending(out, whole)

    def test_the_signal_handlers_are_put_back(self, config, tmp_path):
        before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        start(config, tmp_path / "run").run()
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before

    def test_the_second_signal_aborts(self, config, tmp_path):
        trainer = start(config, tmp_path / "run")
        signal_after(signal_after(trainer, 6), 6)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        assert [checkpoint_step(p) for p in RunFolder(tmp_path / "run").checkpoints()] == [5]

    def test_a_damaged_checkpoint_is_passed_over(self, config, tmp_path, whole):
        out = tmp_path / "stopped"
        signal_after(start(config, out), 7).run()
        newest = RunFolder(out).checkpoints()[-1]
        assert newest.name == "step-000008"
        data = bytearray((newest / "optimizer.safetensors").read_bytes())
        data[-100] ^= 4
        (newest / "optimizer.safetensors").write_bytes(data)
        told = []
        trainer = Trainer.resume(out, report=told.append)
        assert trainer.step == 5
        assert "step-000008: optimizer.safetensors is not what was written" in told[0]
        trainer.report = None
        trainer.run()
        assert self.same_ending(out, whole)

    def test_a_failing_disk_loses_nothing(self, config, tmp_path, whole, monkeypatch):
        out = tmp_path / "full"
        trainer = start(config, out)
        import minigpt.training as training

        real = training.write_safetensors

        def full(path, tensors):
            if "step-000010" in str(path):
                raise OSError(28, "No space left on device", str(path))
            real(path, tensors)

        monkeypatch.setattr(training, "write_safetensors", full)
        with pytest.raises(OSError, match="No space left"):
            trainer.run()
        monkeypatch.undo()
        assert [checkpoint_step(p) for p in RunFolder(out).checkpoints()] == [5]
        resume(out).run()
        assert self.same_ending(out, whole)

    def test_a_finished_run_goes_on_when_given_more_steps(self, whole):
        assert resume(whole).run().step == 12
        result = resume(whole, max_steps=15).run()
        assert result.step == 15
        steps = [line.split(",")[0] for line in (whole / "log.csv").read_text().splitlines()[1:]]
        assert steps == [str(i) for i in range(16)]

    @pytest.mark.parametrize(
        "change", [{"n_layer": 2}, {"n_embd": 32}, {"block_size": 8}, {"tokenizer": "bpe:300"}]
    )
    def test_what_a_resumed_run_can_not_change(self, whole, change):
        ((name, value),) = change.items()
        with pytest.raises(ValueError, match=f"started with {name}=.* can't be .* {value}:"):
            resume(whole, **change)

    def test_what_is_given_again_is_no_change(self, whole):
        assert resume(whole, n_layer=1, tokenizer="char").step == 12

    def test_another_text_is_refused(self, whole, tmp_path):
        other = tmp_path / "other.txt"
        other.write_text(TEXT[:-10] + "1234567890")
        with pytest.raises(ValueError, match=r"not the text this run was started on .*validation"):
            resume(whole, data=str(other))

    def test_no_checkpoint(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no checkpoint to go on from"):
            resume(tmp_path / "nothing")


@pytest.mark.reference
def test_twenty_steps_are_those_of_torch(config, tmp_path):
    """The whole step (batches, loss, clipping, schedule, two groups of AdamW) beside a loop written
    with torch and transformers.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = config.replace(dropout=0.0, max_steps=20, grad_accumulation=2, lr=3e-3, n_layer=2)
    trainer = start(config, tmp_path / "run")
    trainer.model.save_pretrained(tmp_path / "initial")
    model = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "initial", attn_implementation="eager"
    ).train()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.99),
    )
    for step in range(20):
        optimizer.zero_grad()
        torch_loss = 0.0
        for micro_batch in range(2):
            inputs, targets = trainer.train_data.random_batch(
                4, 16, seed=config.seed, step=step, micro_batch=micro_batch
            )
            logits = model(torch.tensor(inputs)).logits
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), torch.tensor(targets).reshape(-1)
            )
            (loss / 2).backward()
            torch_loss += loss.item() / 2
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        warmed_up = 0.5 * (1 + math.cos(math.pi * (step - 2) / 18))
        lr = 3e-3 * (step + 1) / 2 if step < 2 else 1e-4 + (3e-3 - 1e-4) * warmed_up
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        stats = trainer.train_step()
        assert stats.lr == pytest.approx(lr)
        assert stats.loss == pytest.approx(torch_loss, abs=1e-4)
        assert stats.grad_norm == pytest.approx(norm, rel=1e-3)


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_bit(config, tmp_path):
    """The process is killed again and again, as a power cut would, and resumed until it ends."""
    config = config.replace(max_steps=300, checkpoint_every=3, eval_every=50, log_every=1)
    settings = [
        f"--set={key}={value}" for key, value in config.to_dict().items() if value is not None
    ]

    def command(out):
        return [sys.executable, "-m", "minigpt", "train", "--out", str(out), "--quiet", *settings]

    started = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - started

    killed, dice = tmp_path / "killed", python_random.Random(0)
    kills = 0
    while True:
        process = subprocess.Popen(
            [*command(killed), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        patience = duration if kills >= 20 else dice.uniform(0.3, 0.5) * duration
        try:
            _, stderr = process.communicate(timeout=patience if kills < 20 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, stderr
        break
    assert kills >= 5
    assert weights(killed) == weights(tmp_path / "whole")
    for name in ("model.safetensors", "optimizer.safetensors", "trainer_state.json"):
        one, other = (RunFolder(tmp_path / f).checkpoints()[-1] / name for f in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes()
    steps = [line.split(",")[0] for line in (killed / "log.csv").read_text().splitlines()[1:]]
    assert steps == [str(i) for i in range(301)]
