"""The training loop: what a step does, when it evaluates and saves, and how a run goes on."""

import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.char_tokenizer import CharTokenizer
from minigpt.checkpoints.safetensors_file import read_safetensors, write_safetensors
from minigpt.data import TokenData
from minigpt.evaluation import sampled_loss, split_loss, window_loss
from minigpt.files import FolderLock, atomic_write, remove_leftovers
from minigpt.heads import GPT2LMHeadModel
from minigpt.plots import plot_run
from minigpt.presets import TrainConfig
from minigpt.progress import Progress, Report, StopOnSignal, tell
from minigpt.run_folder import RunFolder, RunLog, read_state
from minigpt.run_setup import model_config, read_data, refuse_to_overwrite, resumed_config
from minigpt.sampling import generate_beyond_context
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer
from tensor import optim, random

LEARNING_RATE = {
    "cosine": optim.warmup_cosine,
    "linear": optim.warmup_linear,
    "constant": optim.warmup_constant,
}


@dataclass(frozen=True)
class StepStats:
    """One optimizer step: its mean loss, the norm of its gradients, its rate, its duration."""

    loss: float
    grad_norm: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. Losses are in nats per token."""

    step: int
    interrupted: bool  # by a signal: then there is no loss of the whole split, and no sample
    first_validation_loss: float  # before the first step; this and the next on the same windows
    last_validation_loss: float
    whole_validation_loss: float | None = None  # over every token of the split
    sample: str | None = None


class Trainer:
    """A model, its data, its optimizer, and the number of steps done.

    ``Trainer.start(config, out)`` makes a new run and ``Trainer.resume(out)`` takes one up again;
    ``run()`` does the work. The steps can be had one by one, too: ``train_step()``.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: GPT2LMHeadModel,
        tokenizer: GPT2Tokenizer | CharTokenizer,
        train_data: TokenData,
        validation_data: TokenData,
        out: str | os.PathLike[str],
        *,
        report: Report | None = print,
        overwrite: bool = False,
    ):
        """Put the parts together; nothing is written before ``run()``.

        Args:
            config: rates and rhythm; the shape of the model is the model's own affair.
            model: trained in place.
            tokenizer: saved beside the model, and used for the sample.
            train_data, validation_data: tokens; ValueError if one is shorter than a window.
            out: the run's folder.
            report: takes each line that is told; None tells nothing and shows no bar.
            overwrite: let ``run()`` delete an earlier run in ``out``.
        """
        train_data.require_window(config.block_size)
        validation_data.require_window(config.block_size)
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.train_data = train_data
        self.validation_data = validation_data
        self.folder = RunFolder(out)
        self.report = report
        self.overwrite = overwrite
        self.step = 0
        self.saved_step = -1  # so that a run that is stopped before its first step is saved, too
        self.first_validation_loss = math.nan
        self.validation_loss = math.nan
        self.optimizer = optim.AdamW(
            optim.decay_groups(model, config.weight_decay),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
        )

    # ---- making one ----------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        config: TrainConfig,
        out: str | os.PathLike[str],
        *,
        report: Report | None = print,
        overwrite: bool = False,
    ) -> "Trainer":
        """A new run: read the data, make the tokenizer and a model with fresh weights.

        FileExistsError if ``out`` holds a run or a model and ``overwrite`` is not set. Else the
        errors of ``read_data``, and ValueError for a text shorter than the context.
        """
        refuse_to_overwrite(RunFolder(out), overwrite)
        tokenizer, train_data, validation_data = read_data(
            config.data, config.tokenizer, report=report
        )
        random.manual_seed(config.seed)
        model = GPT2LMHeadModel(model_config(config, tokenizer)).to(config.device)
        model.train()
        return cls(
            config, model, tokenizer, train_data, validation_data, out,
            report=report, overwrite=overwrite,
        )  # fmt: skip

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        changes: Mapping[str, object] | None = None,
        *,
        report: Report | None = print,
    ) -> "Trainer":
        """The run in ``out`` as its newest good checkpoint left it.

        ``changes`` are settings to differ from the saved ones from here on, ``max_steps`` above
        all; ValueError for one of FIXED_FIELDS. FileNotFoundError where there is no checkpoint;
        ValueError where the text is not the one the run started on.
        """
        checkpoint = RunFolder(out).newest_good_checkpoint(lambda text: tell(report, text))
        if checkpoint is None:
            raise FileNotFoundError(f"{out}: no checkpoint to go on from")
        state = read_state(checkpoint)
        config = resumed_config(TrainConfig.from_dict(state["config"]), changes or {})
        if config.max_steps < state["step"]:
            raise ValueError(
                f"step {state['step']} of this run is past max_steps={config.max_steps}: raise it"
            )
        tokenizer, train_data, validation_data = read_data(
            config.data, config.tokenizer, load_tokenizer(checkpoint)
        )
        for data in (train_data, validation_data):
            if data.fingerprint() != state["data"][data.name]:
                raise ValueError(
                    f"{config.data or 'the default text'} is not the text this run was started "
                    f"on (its {data.name} differs): name that text with --data, or start anew in "
                    "another folder"
                )
        model = GPT2LMHeadModel.from_pretrained(checkpoint).to(config.device)
        model.train()
        trainer = cls(
            config, model, tokenizer, train_data, validation_data, out, report=report
        )
        trainer.optimizer.load_state_dict(read_safetensors(checkpoint / "optimizer.safetensors"))
        trainer.step = trainer.saved_step = state["step"]
        trainer.first_validation_loss = state["first_validation_loss"]
        trainer.validation_loss = state["validation_loss"]
        random.default_generator().set_state(state["random_state"])
        return trainer

    # ---- the loop ------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        """Train up to ``max_steps``, or until a signal asks to stop; then save.

        Writes ``log.csv``, ``loss.png``, checkpoints and the model into the run's folder, which
        is locked meanwhile (OSError if another run has it). FloatingPointError when a loss or a
        gradient is no longer finite: nothing is saved then.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with FolderLock(self.folder.path):
            self._prepare_folder()
            # What overflows is found by _require_finite, which says more than NumPy's warnings.
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                with (
                    StopOnSignal() as stop,
                    RunLog(self.folder.log_path, self.step) as log,
                    Progress(self.step, self.config.max_steps, self.report) as progress,
                ):
                    try:
                        self._loop(stop, log, progress)
                    except BrokenPipeError:  # nobody reads our lines any more (`| head`)
                        self._save_what_is_new()
                        raise
                    self._save_what_is_new()
                return self._finish(interrupted=stop.requested)

    def _loop(self, stop: StopOnSignal, log: RunLog, progress: Progress) -> None:
        config = self.config
        if self.step == 0:
            self.first_validation_loss = self.evaluate()
            log.write(0, val_loss=self.validation_loss)
            progress.line(0, f"validation {self.validation_loss:.4f}", keep=True)
        seconds, tokens = 0.0, 0
        while self.step < config.max_steps and not stop.requested:
            stats = self.train_step()
            seconds += stats.seconds
            tokens += self.tokens_per_step
            progress.step(stats.loss, tokens / seconds)
            evaluated = self._due(config.eval_every) or self.step == config.max_steps
            if evaluated:
                self.evaluate()
            if evaluated or self._due(config.log_every):
                self._tell(log, progress, stats, tokens / seconds, evaluated)
                seconds, tokens = 0.0, 0
            if self._due(config.checkpoint_every):
                self.save()

    def describe(self) -> str:
        """What is going to happen, in three lines."""
        shape, config = self.model.config, self.config
        return (
            f"tokens: {len(self.train_data):,} to train on, {len(self.validation_data):,} to "
            f"validate; a vocabulary of {len(self.tokenizer):,}\n"
            f"model: n_layer {shape.n_layer}, n_head {shape.n_head}, n_embd {shape.n_embd}, "
            f"context {shape.n_positions}: {self.model.num_parameters():,} parameters\n"
            f"run: step {self.step} to {config.max_steps}, {self.tokens_per_step:,} tokens each, "
            f"in {self.folder.path}"
        )

    @property
    def tokens_per_step(self) -> int:
        """How many tokens one optimizer step is trained on."""
        return self.config.grad_accumulation * self.config.batch_size * self.config.block_size

    def train_step(self) -> StepStats:
        """One optimizer step, on ``grad_accumulation`` batches whose gradients are averaged."""
        config = self.config
        started = time.perf_counter()
        self.optimizer.zero_grad()
        step_loss = 0.0
        for micro_batch in range(config.grad_accumulation):
            inputs, targets = self.train_data.random_batch(
                config.batch_size,
                config.block_size,
                seed=config.seed,
                step=self.step,
                micro_batch=micro_batch,
            )
            loss = window_loss(self.model, inputs, targets)
            self._require_finite(loss.item(), "training loss", self.step + 1)
            step_loss += loss.item() / config.grad_accumulation
            (loss / config.grad_accumulation).backward()
        grad_norm = optim.clip_grad_norm(self.model.parameters(), config.grad_clip or math.inf)
        self._require_finite(grad_norm, "norm of the gradients", self.step + 1)
        lr = LEARNING_RATE[config.schedule](
            self.step, config.lr, config.warmup_steps, config.max_steps, config.min_lr
        )
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        self.step += 1
        return StepStats(step_loss, grad_norm, lr, time.perf_counter() - started)

    def evaluate(self) -> float:
        """Estimate the validation loss, on the same ``eval_batches`` batches every time."""
        config = self.config
        loss = sampled_loss(
            self.model,
            self.validation_data,
            batches=config.eval_batches,
            batch_size=config.batch_size,
            block_size=config.block_size,
            seed=config.seed,
        )
        self._require_finite(loss, "validation loss", self.step)
        self.validation_loss = loss
        return loss

    def sample(self) -> str:
        """Text that the model writes after `prompt_ids()`."""
        ids = generate_beyond_context(
            self.model,
            self.prompt_ids(),
            self.config.sample_tokens,
            do_sample=True,
            top_k=50,
            temperature=0.8,
            seed=self.config.seed,
        )
        return self.tokenizer.decode(ids)

    def prompt_ids(self) -> list[int]:
        """The first capitalised word of the validation split, or its first token without one."""
        ids = [int(i) for i in self.validation_data.ids[:1000]]
        word = re.search(r"\b[A-Z][a-z]+\b", self.tokenizer.decode(ids))
        encoded = [] if word is None else self.tokenizer.encode(word[0])
        return encoded if 0 < len(encoded) < self.model.config.n_positions else ids[:1]

    # ---- saving --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint, the newest model into the run's folder, and the picture."""
        with self.folder.new_checkpoint(self.step, self.config.keep_checkpoints) as checkpoint:
            self._save_model(checkpoint)
            write_safetensors(checkpoint / "optimizer.safetensors", self.optimizer.state_dict())
            with atomic_write(checkpoint / "trainer_state.json", "w") as file:
                json.dump(self._state(), file, indent=2)
        self.saved_step = self.step
        self._save_model(self.folder.path)
        try:
            plot_run(self.folder.log_path, title=self.folder.path.name)
        except (OSError, ValueError) as error:  # a picture is not worth a run
            tell(self.report, f"no picture was drawn: {error}")

    def _save_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _state(self) -> dict[str, Any]:
        config = self.config.to_dict()
        if self.config.data is not None:  # so that the run can be resumed from any folder
            config["data"] = str(Path(self.config.data).absolute())
        splits = (self.train_data, self.validation_data)
        return {
            "step": self.step,
            "first_validation_loss": self.first_validation_loss,
            "validation_loss": self.validation_loss,
            "random_state": random.default_generator().get_state(),
            "data": {data.name: data.fingerprint() for data in splits},
            "config": config,
        }

    # ---- small steps of run() ------------------------------------------------------------------

    def _prepare_folder(self) -> None:
        """Make room, now that the folder is ours."""
        if self.saved_step < 0:  # a new run
            refuse_to_overwrite(self.folder, self.overwrite)
            if self.overwrite:
                self.folder.clear()
        self.folder.remove_unfinished()
        remove_leftovers(self.folder.path)

    def _save_what_is_new(self) -> None:
        if self.step > self.saved_step:
            self.save()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _tell(
        self, log: RunLog, progress: Progress, stats: StepStats, speed: float, evaluated: bool
    ) -> None:
        log.write(
            self.step,
            train_loss=stats.loss,
            val_loss=self.validation_loss if evaluated else None,
            lr=stats.lr,
            grad_norm=stats.grad_norm,
            tokens_per_s=speed,
        )
        text = (
            f"loss {stats.loss:.4f}  lr {stats.lr:.2e}  norm {stats.grad_norm:.2f}  "
            f"{speed:,.0f} tokens/s  {progress.time_left(self.step)} left"
        )
        if evaluated:
            text += f"  validation {self.validation_loss:.4f}"
        progress.line(self.step, text, keep=evaluated)

    def _finish(self, interrupted: bool) -> TrainResult:
        losses = (self.first_validation_loss, self.validation_loss)
        if interrupted:
            return TrainResult(self.step, True, *losses)
        tell(self.report, f"saved in {self.folder.path}; evaluating the whole validation split")
        whole = split_loss(
            self.model,
            self.validation_data,
            batch_size=self.config.batch_size,
            block_size=self.config.block_size,
        )
        sample = self.sample() if self.config.sample_tokens else None
        return TrainResult(self.step, False, *losses, whole, sample)

    def _require_finite(self, value: float, what: str, step: int) -> None:
        if math.isfinite(value):
            return
        raise FloatingPointError(
            f"step {step}: the {what} is {value}; {self._first_non_finite()}; stopped, "
            f"the last checkpoint is as it was: lower the learning rate (--set lr=...) or look "
            "for what the text holds there"
        )

    def _first_non_finite(self) -> str:
        """Where the trouble shows first: weights spoil the forward pass, gradients the weights."""
        for kind in ("parameter", "gradient of"):
            for name, parameter in self.model.named_parameters():
                tensor = parameter if kind == "parameter" else parameter.grad
                if tensor is not None and not np.isfinite(tensor.numpy()).all():
                    return f"the first non-finite tensor is {kind} {name} {parameter.shape}"
        return "all parameters and gradients are finite, so it arose in the forward pass"
