"""The training loop: settings, checkpoints and their damage, resuming, stopping."""

import json
import math
import signal

import numpy as np
import pytest

from minigpt.data import TokenData
from minigpt.files import FolderInUseError, FolderLock
from minigpt.heads import GPT2LMHeadModel
from minigpt.plots import plot_run
from minigpt.run_folder import (
    COLUMNS,
    RunFolder,
    checkpoint_step,
    verify_checkpoint,
)
from minigpt.training import Trainer
from tests.minigpt.training_helpers import (
    SMALL,
    TEXT,
    resume,
    same_ending,
    signal_after,
    start,
    weights,
)


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
        (tmp_path / "log.csv").write_text(",".join(COLUMNS) + "\n0,,-99.25,,,\n1,-99.25,,,,\n")
        start(config, tmp_path).run()
        assert "-99.25" not in (tmp_path / "log.csv").read_text()

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
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [4, 5]
        assert weights(folder.path) == weights(folder.checkpoints()[1])

    def test_a_gradient_is_named(self, config, tmp_path, monkeypatch):
        trainer = start(config.replace(dropout=0.0), tmp_path / "run")

        def spoil(parameters):
            # Finite logits, whose gradient overflows on its way back through the large factor.
            name = "transformer.ln_f.weight"
            bad = parameters[name]
            from minigpt import train_step

            real = train_step.batch_loss

            def loss_with_an_infinite_slope(*arguments):
                return real(*arguments) + (bad * 0.0).sum() * 1.0 + ((bad - bad) ** 0.5).sum()

            monkeypatch.setattr(train_step, "batch_loss", loss_with_an_infinite_slope)

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
        assert same_ending(out, whole)

    def test_stopping_twice(self, config, tmp_path, whole):
        out = tmp_path / "stopped"
        signal_after(start(config, out), 2).run()
        signal_after(resume(out), 7).run()
        resume(out).run()
        assert same_ending(out, whole)

    def test_the_signal_handlers_are_put_back(self, config, tmp_path):
        before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        start(config, tmp_path / "run").run()
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before

    def test_the_second_signal_aborts(self, config, tmp_path):
        trainer = start(config, tmp_path / "run")
        signal_after(signal_after(trainer, 6), 6)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        assert [checkpoint_step(p) for p in RunFolder(tmp_path / "run").checkpoints()] == [4, 5]

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
        assert same_ending(out, whole)

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
