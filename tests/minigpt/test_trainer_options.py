"""What a run can be asked for beyond training to the end: patience, the best checkpoint, samples,
callbacks, another order of the data, a model to start from, parts of it frozen.
"""

import json

import numpy as np
import pytest

from minigpt import GPT2LMHeadModel
from minigpt.callbacks import Callback
from minigpt.cli import main
from minigpt.run_folder import RunFolder, checkpoint_step, verify_checkpoint
from minigpt.training import Trainer
from tests.minigpt.training_helpers import (
    SMALL,
    TEXT,
    resume,
    same_ending,
    signal_after,
    start,
    told,
    weights,
)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return SMALL.replace(data=str(path))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing takes longer than all the rest of these runs."""
    monkeypatch.setattr("minigpt.training.plot_run", lambda log, title: None)


def with_losses(trainer, losses):
    """Let the trainer find these validation losses, one after the other."""
    real, told = trainer.evaluate, iter(losses)

    def evaluate(*arguments, **options):
        return next(told)

    def patched():
        import minigpt.training as training

        sampled, training.sampled_loss = training.sampled_loss, evaluate
        try:
            return real()
        finally:
            training.sampled_loss = sampled

    trainer.evaluate = patched
    return trainer


class TestBest:
    def test_the_best_checkpoint_stays_beside_the_newest(self, config, tmp_path):
        config = config.replace(eval_every=2, checkpoint_every=2, keep_checkpoints=2)
        trainer = with_losses(start(config, tmp_path), [9, 8, 3, 7, 6, 5, 4])
        result = trainer.run()
        assert (result.best_step, result.best_validation_loss) == (4, 3)
        folder = RunFolder(tmp_path)
        assert [checkpoint_step(p) for p in folder.checkpoints()] == [4, 10, 12]
        verify_checkpoint(folder.checkpoint(4))

    def test_an_evaluation_that_is_the_best_so_far_is_saved(self, config, tmp_path):
        config = config.replace(eval_every=3, checkpoint_every=5, keep_checkpoints=1)
        with_losses(start(config, tmp_path), [9, 8, 3, 7, 6]).run()
        steps = [checkpoint_step(p) for p in RunFolder(tmp_path).checkpoints()]
        assert steps == [6, 12]  # evaluated at 3, 6, 9 and 12

    def test_it_is_remembered_by_a_resumed_run(self, config, tmp_path):
        config = config.replace(eval_every=2, checkpoint_every=2, keep_checkpoints=1)
        trainer = with_losses(start(config, tmp_path), [9, 8, 3, 7])
        signal_after(trainer, 5).run()
        result = with_losses(resume(tmp_path), [6, 5, 4]).run()
        assert (result.best_step, result.best_validation_loss) == (4, 3)
        steps = [checkpoint_step(p) for p in RunFolder(tmp_path).checkpoints()]
        assert steps == [4, 12]


class TestPatience:
    def test_a_run_that_no_longer_improves_ends(self, config, tmp_path):
        config = config.replace(max_steps=100, eval_every=2, patience=3)
        trainer = with_losses(start(config, tmp_path), [9, 8, 3, 7, 6, 5, 2])
        result = trainer.run()
        assert result.step == 10 and result.stopped_early and not result.interrupted
        assert result.best_step == 4
        assert resume(tmp_path).run().step == 10  # still out of it
        assert with_losses(resume(tmp_path, patience=4), [4]).run().step == 12

    def test_one_that_improves_does_not(self, config, tmp_path):
        trainer = start(config.replace(eval_every=2, patience=3), tmp_path)
        result = with_losses(trainer, [9, 8, 7, 8, 8, 6, 7]).run()
        assert result.step == 12 and not result.stopped_early

    def test_on_the_command_line(self, config, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("minigpt.training.sampled_loss", lambda *a, **k: 3.0)
        settings = config.replace(max_steps=100, eval_every=2, patience=2, sample_tokens=0)
        (tmp_path / "run.json").write_text(json.dumps(settings.to_dict()))
        words = ["train", "--quiet", "--config", str(tmp_path / "run.json")]
        assert main([*words, "--out", str(tmp_path / "run")]) == 0
        assert "stopped early: 2 evaluations without a better one" in capsys.readouterr().out

    def test_it_needs_evaluations(self, config):
        with pytest.raises(ValueError, match="patience=2 counts evaluations: set eval_every"):
            config.replace(patience=2, eval_every=0)


class TestOrder:
    @pytest.mark.parametrize("order", ["epochs", "sequential"])
    def test_a_stopped_run_resumes_at_the_exact_batch(self, config, tmp_path, order):
        config = config.replace(order=order, grad_accumulation=3)
        start(config, tmp_path / "whole").run()
        signal_after(start(config, tmp_path / "stopped"), 4).run()
        resume(tmp_path / "stopped").run()
        assert same_ending(tmp_path / "stopped", tmp_path / "whole")

    def test_no_window_of_an_epoch_comes_twice_even_if_the_batch_changes(self, config, tmp_path):
        """Its size is changed half way, and rows are counted, not steps."""
        trainer = start(config.replace(order="epochs"), tmp_path / "run")
        seen = []

        class Watch(Callback):
            def on_step(self, trainer, stats):
                seen.extend(tuple(row) for inputs, _ in trainer.batches for row in inputs.tolist())

        trainer.callbacks.append(Watch())
        signal_after(trainer, 5).run()
        Trainer.resume(
            tmp_path / "run", {"batch_size": 10, "max_steps": 16}, report=None, callbacks=[Watch()]
        ).run()
        windows = (len(trainer.train_data) - 1) // 16 - 1
        assert len(seen) == 6 * 4 + 10 * 10 < windows
        assert len(set(seen)) == len(seen)

    def test_an_unknown_order(self, config):
        with pytest.raises(ValueError, match="order='sorted' is none of random, epochs, seq"):
            config.replace(order="sorted")


class TestFreeze:
    def test_only_the_rest_is_trained(self, config, tmp_path):
        trainer = start(config.replace(freeze="*.wte.*, *.attn.*"), tmp_path)
        before = trainer.model.state_dict()
        trainer.run()
        after = GPT2LMHeadModel.from_pretrained(tmp_path).state_dict()
        changed = {name for name in before if (before[name] != after[name]).any()}
        frozen = {name for name in before if ".wte." in name or ".attn." in name}
        assert changed == set(before) - frozen and len(frozen) == 5
        assert "of them trained" in trainer.describe()

    def test_it_resumes_exactly(self, config, tmp_path):
        config = config.replace(freeze="*.bias")
        start(config, tmp_path / "whole").run()
        signal_after(start(config, tmp_path / "stopped"), 6).run()
        with pytest.raises(ValueError, match=r"started with freeze=\*\.bias and can't be resumed"):
            resume(tmp_path / "stopped", freeze="")
        resume(tmp_path / "stopped").run()
        assert same_ending(tmp_path / "stopped", tmp_path / "whole")

    @pytest.mark.parametrize(
        ("patterns", "complaint"),
        [
            ("h.0.*", r"freeze='h.0.\*' matches no parameter; their names are like tran"),
            ("*", r"freeze='\*' matches every parameter: nothing is left"),
        ],
    )
    def test_patterns_that_make_no_sense(self, config, tmp_path, patterns, complaint):
        with pytest.raises(ValueError, match=complaint):
            start(config.replace(freeze=patterns), tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestFineTuning:
    @pytest.fixture
    def base(self, config, tmp_path):
        start(config.replace(n_layer=2, n_embd=8, block_size=32), tmp_path / "base").run()
        return tmp_path / "base"

    def test_it_starts_from_the_weights_and_the_shape_of_the_folder(self, config, tmp_path, base):
        before = GPT2LMHeadModel.from_pretrained(base).state_dict()
        trainer = start(config.replace(model=str(base), lr=1e-5, min_lr=0.0), tmp_path / "fine")
        assert trainer.model.config.n_layer == 2 and trainer.model.config.n_positions == 32
        assert trainer.config.block_size == 16  # less than the model has room for
        for name, values in trainer.model.state_dict().items():
            assert (values == before[name]).all()
        trainer.run()
        assert weights(tmp_path / "fine") != weights(base)
        assert told(tmp_path / "fine")[1].split(",")[0] == "0"

    def test_it_resumes_exactly_and_needs_the_folder_no_more(self, config, tmp_path, base):
        config = config.replace(model=str(base))
        start(config, tmp_path / "whole").run()
        signal_after(start(config, tmp_path / "stopped"), 6).run()
        base.rename(tmp_path / "moved")
        resume(tmp_path / "stopped").run()
        assert same_ending(tmp_path / "stopped", tmp_path / "whole")

    def test_on_the_command_line(self, config, tmp_path, base, capsys):
        words = ["train", "--quiet", "--data", config.data, "--model", str(base)]
        words += ["--out", str(tmp_path / "fine"), "--set", "sample_tokens=0"]
        assert main([*words, "--set", "max_steps=2", "--set", "block_size=20"]) == 0
        capsys.readouterr()
        assert main([*words, "--set", "n_layer=3"]) == 2
        error = capsys.readouterr().err
        assert "n_layer=3 was asked for, but the model" in error and error.count("\n") == 1
        assert main([*words, "--set", "block_size=64"]) == 2
        assert "block_size=64 was asked for, but" in capsys.readouterr().err

    def test_a_tokenizer_that_is_too_large(self, config, tmp_path, base):
        from minigpt.run_setup import byte_tokenizer

        byte_tokenizer().save_pretrained(tmp_path / "bytes")
        config = config.replace(model=str(base), tokenizer=str(tmp_path / "bytes"))
        with pytest.raises(ValueError, match="has 257 tokens and the model .* only 19: they don't"):
            start(config, tmp_path / "run")


class TestCallbacks:
    def test_every_occasion_in_its_order(self, config, tmp_path):
        seen = []

        class Watch(Callback):
            def on_start(self, trainer):
                seen.append("start")

            def on_gradients(self, trainer):
                norms = [float((p.grad.numpy() ** 2).sum()) for p in trainer.model.parameters()]
                seen.append(("gradients", trainer.step, sum(norms) ** 0.5))

            def on_step(self, trainer, stats):
                seen.append(("step", trainer.step, stats.grad_norm))

            def on_evaluation(self, trainer, loss):
                seen.append(("evaluation", trainer.step))

            def on_checkpoint(self, trainer, folder):
                verify_checkpoint(folder)
                seen.append(("checkpoint", trainer.step))

            def on_end(self, trainer, result):
                seen.append(("end", result.step))

        config = config.replace(max_steps=2, eval_every=2, checkpoint_every=0, grad_clip=1e-3)
        start(config, tmp_path, callbacks=[Watch()]).run()
        assert seen[:2] == ["start", ("evaluation", 0)]
        gradients, steps = seen[2:6:2], seen[3:6:2]
        assert [entry[:2] for entry in gradients] == [("gradients", 0), ("gradients", 1)]
        for (_, _, norm), (_, _, shown) in zip(gradients, steps):
            assert norm == pytest.approx(shown, rel=1e-4)  # not clipped yet
        assert seen[6:] == [("evaluation", 2), ("checkpoint", 2), ("end", 2)]

    def test_the_end_comes_after_an_error_too(self, config, tmp_path):
        ends = []

        class Failing(Callback):
            def on_step(self, trainer, stats):
                raise RuntimeError("a bug in a callback")

            def on_end(self, trainer, result):
                ends.append(result)

        with pytest.raises(RuntimeError):
            start(config, tmp_path, callbacks=[Failing()]).run()
        assert ends == [None]

    def test_samples(self, config, tmp_path):
        start(config.replace(sample_every=5), tmp_path / "with").run()
        start(config, tmp_path / "without").run()
        texts = sorted((tmp_path / "with" / "samples").iterdir())
        assert [path.name for path in texts] == ["step-000005.txt", "step-000010.txt"]
        assert all(len(path.read_text()) == 42 for path in texts)
        assert weights(tmp_path / "with") == weights(tmp_path / "without")  # they change nothing
        RunFolder(tmp_path / "with").clear()
        assert list((tmp_path / "with" / "samples").iterdir()) == []


def test_out_of_memory_says_what_to_lower(config, tmp_path, monkeypatch, capsys):
    def too_large(model, batch):
        raise MemoryError("Unable to allocate 5.0 GiB")

    monkeypatch.setattr("minigpt.train_step.batch_loss", too_large)
    for batch_size, advice in ((4, "batch_size=2 with grad_accumulation=2"), (1, "lower block")):
        trainer = start(config.replace(batch_size=batch_size), tmp_path / f"{batch_size}")
        with pytest.raises(MemoryError, match=rf"step 1, .* x 16 tokens .*5.0 GiB\): .*{advice}"):
            trainer.train_step()
    words = [f"--set={key}={value}" for key, value in config.to_dict().items() if value is not None]
    assert main(["train", "--quiet", "--out", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("minigpt: error: out of memory: step 1") and error.count("\n") == 1


def test_masked_targets_are_weighed_by_their_number(config, tmp_path):
    """Micro-batches with unequal numbers of targets: the gradient is that of all targets."""
    trainer = start(config.replace(dropout=0.0, grad_accumulation=2, batch_size=2), tmp_path)
    ids = np.arange(64).reshape(4, 16) % 19  # (B, T)
    targets = np.roll(ids, -1, axis=1)
    targets[0, 3:] = -100

    class Masked:
        def random_batch(self, batch_size, block_size, *, seed, step, micro_batch=0):
            rows = slice(2 * micro_batch, 2 * micro_batch + batch_size)
            return {"input_ids": ids[rows], "labels": ids[rows], "shift_labels": targets[rows],
                    "use_cache": False}  # fmt: skip

    trainer.train_data = Masked()
    found = trainer.train_step().loss
    whole = start(config.replace(dropout=0.0, batch_size=4), tmp_path)
    whole.train_data = Masked()
    assert found == pytest.approx(whole.train_step().loss, abs=1e-6)
    for one, other in zip(trainer.model.parameters(), whole.model.parameters()):
        assert np.abs(one.grad.numpy() - other.grad.numpy()).max() < 1e-6
