"""The training loop: what a step does, when it evaluates and saves, and how a run goes on.

    trainer = Trainer.start(PRESETS["tiny"].replace(max_steps=100), "runs/mine")
    trainer.callbacks.append(LiveFigure())      # in a notebook
    result = trainer.run()
    trainer.model.generate(...)
"""

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigpt.callbacks import Callback
from minigpt.data import Batch, Examples
from minigpt.diagnosis import out_of_memory, require_finite
from minigpt.distributed import (
    Alone,
    Group,
    any_of,
    require_equal_weights,
    total,
)
from minigpt.evaluation import sampled_loss, split_loss, token_count
from minigpt.files import FolderLock, remove_leftovers
from minigpt.freezing import freeze
from minigpt.heads import GPT2LMHeadModel
from minigpt.plots import plot_run
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.progress import Progress, Report, StopOnSignal, tell
from minigpt.run_folder import NoLog, RunFolder, RunLog
from minigpt.run_parts import callbacks_for, new_parts, refuse_to_overwrite, saved_parts
from minigpt.run_report import TrainResult, describe_run, step_line
from minigpt.run_setup import Tokenizer
from minigpt.run_state import save_model, saved_config, write_checkpoint
from minigpt.sampling import generate_beyond_context
from minigpt.sharded_optimizer import ShardedAdamW
from minigpt.tasks import score
from minigpt.train_step import (
    LEARNING_RATE,
    StepStats,
    begin_step,
    draw_batches,
    gradients_of,
    make_optimizer,
)
from tensor import optim, random
from tensor.devices import get_backend
from tensor.precision import matmul_precision


class Trainer:
    """A model, its data, its optimizer, and the number of steps done.

    ``Trainer.start(config, out)`` makes a new run and ``Trainer.resume(out)`` takes one up again;
    ``run()`` does the work. The steps can be had one by one, too: ``train_step()``.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        train_data: Examples,
        validation_data: Examples,
        out: str | os.PathLike[str],
        *,
        report: Report | None = print,
        overwrite: bool = False,
        callbacks: Iterable[Callback] = (),
        processes: Group | None = None,
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
            callbacks: what looks on, see `minigpt.callbacks`; those that the configuration asks for
                are added.
            processes: those that share each step; this one alone unless given.

        ValueError, too, where ``config.freeze`` names no parameter, or all.
        """
        train_data.require_window(config.block_size)
        validation_data.require_window(config.block_size)
        freeze(model, config.freeze)
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.train_data = train_data
        self.validation_data = validation_data
        self.folder = RunFolder(out)
        self.overwrite = overwrite
        self.processes: Group = processes or Alone()
        self.processes.timeout = config.rank_timeout
        self.writes = self.processes.rank == 0
        self.report = report if self.writes else None
        self.callbacks = [*callbacks, *callbacks_for(config)] if self.writes else []
        self.interrupted = False  # by a signal, to any of the processes
        self.step = 0
        self.rows = 0  # windows that were trained on so far, by all processes together
        self.batches: list[Batch] = []  # the micro-batches of the step at hand, or of the last one
        self.saved_step = -1  # so that a run that is stopped before its first step is saved, too
        self.first_validation_loss = math.nan
        self.validation_loss = math.nan
        self.best_step, self.best_validation_loss = 0, math.inf
        self.optimizer = make_optimizer(model, config, self.processes)
        self.add_gradients = gradients_of(model, config, self.processes)
        if config.recompute:
            model.gradient_checkpointing_enable()

    # ---- making one ----------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        config: TrainConfig,
        out: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        report: Report | None = print,
        **options: Any,
    ) -> "Trainer":
        """A new run: read the data, make the tokenizer, and a model with fresh weights, or those
        of the folder ``config.model``, whose shape and tokenizer then count.

        FileExistsError if ``out`` holds a run or a model and ``overwrite`` is not set. Else the
        errors of `run_parts.new_parts`, and ValueError for a text shorter than the context.
        """
        refuse_to_overwrite(RunFolder(out), overwrite)
        parts = new_parts(config, report)
        return cls(
            parts.config, parts.model, parts.tokenizer, parts.train, parts.validation, out,
            report=report, overwrite=overwrite, **options,
        )  # fmt: skip

    @classmethod
    def resume(
        cls,
        out: str | os.PathLike[str],
        changes: Mapping[str, object] | None = None,
        *,
        report: Report | None = print,
        **options: Any,
    ) -> "Trainer":
        """The run in ``out`` as its newest good checkpoint left it.

        ``changes`` are settings to differ from the saved ones from here on, ``max_steps`` above
        all; ValueError for one of FIXED_FIELDS. FileNotFoundError where there is no checkpoint;
        ValueError where the text is not the one the run started on.
        """
        parts, state, moments = saved_parts(RunFolder(out), changes or {}, report)
        trainer = cls(
            parts.config, parts.model, parts.tokenizer, parts.train, parts.validation, out,
            report=report, **options,
        )  # fmt: skip
        trainer.optimizer.load_state_dict(moments)
        trainer.step = trainer.saved_step = state["step"]
        trainer.rows = state["rows"]
        trainer.first_validation_loss = state["first_validation_loss"]
        trainer.validation_loss = state["validation_loss"]
        trainer.best_step = state["best_step"]
        trainer.best_validation_loss = state["best_validation_loss"]
        random.default_generator().set_state(state["random_state"])
        return trainer

    # ---- the loop ------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        """Train up to ``max_steps``, or until a signal asks to stop; then save.

        Writes ``log.csv``, ``loss.png``, checkpoints and the model into the run's folder, which
        is locked meanwhile (OSError if another run has it). FloatingPointError when a loss or a
        gradient is no longer finite: nothing is saved then.
        """
        require_equal_weights(self.processes, self.model)
        result = None
        with self._folder_to_write():
            for callback in self.callbacks:
                callback.on_start(self)
            try:
                # What overflows is found by require_finite, which says more than NumPy's warnings.
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                    self._train()
                    result = self._result()
            finally:
                for callback in self.callbacks:
                    callback.on_end(self, result)
        return result

    @contextmanager
    def _folder_to_write(self) -> Iterator[None]:
        """The run's folder, made ready and locked, in the process that writes."""
        if not self.writes:
            yield
            return
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with FolderLock(self.folder.path):
            self._prepare_folder()
            yield

    def _train(self) -> None:
        """The loop with its log and its bar, and the last checkpoint."""
        with (
            StopOnSignal() as stop,
            RunLog(self.folder.log_path, self.step) if self.writes else NoLog() as log,
            Progress(self.step, self.config.max_steps, self.report) as progress,
        ):
            self.processes.stop_requested = lambda: stop.requested
            try:
                self._loop(stop, log, progress)
            except BrokenPipeError:  # nobody reads our lines any more (`| head`)
                self._save_what_is_new()
                raise
            self.interrupted = any_of(self.processes, stop.requested)
            self._save_what_is_new()

    def _loop(self, stop: StopOnSignal, log: RunLog | NoLog, progress: Progress) -> None:
        config = self.config
        if self.step == 0:
            self.first_validation_loss = self.evaluate()
            log.write(0, val_loss=self.validation_loss)
            progress.line(0, f"validation {self.validation_loss:.4f}", keep=True)
        seconds, tokens = 0.0, 0
        while self.step < config.max_steps and not self.out_of_patience:
            if any_of(self.processes, stop.requested):
                break
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
            improved = evaluated and self.best_step == self.step and config.checkpoint_every > 0
            if improved or self._due(config.checkpoint_every):
                self.save()

    def describe(self) -> str:
        """What is going to happen, in a few lines."""
        return describe_run(self)

    @property
    def tokens_per_step(self) -> int:
        """How many tokens the last optimizer step was trained on, or the first one will be."""
        if self.batches:
            return sum(map(token_count, self.batches))
        return self.config.grad_accumulation * self.config.batch_size * self.config.block_size

    @property
    def out_of_patience(self) -> bool:
        """Whether the last ``patience`` evaluations were all worse than the best one."""
        patience = self.config.patience * self.config.eval_every
        return 0 < patience <= self.step - self.best_step

    def train_step(self) -> StepStats:
        """One optimizer step, on ``grad_accumulation`` micro-batches: the gradient is that of all
        of them as one batch. MemoryError with the settings to lower where they don't fit.
        """
        config, processes = self.config, self.processes
        started, launches = time.perf_counter(), get_backend(self.model.device).launches
        self.optimizer.zero_grad()
        begin_step(processes, config.seed, self.step)
        self.batches = draw_batches(self.train_data, config, self.step, self.rows)
        try:
            with matmul_precision(config.precision):
                step_loss = self.add_gradients(self.batches, self.step)
        except MemoryError as error:
            raise out_of_memory(self.step + 1, config, error) from error
        processes.sum_gradients(self.model.parameters())
        for callback in self.callbacks:
            callback.on_gradients(self)
        grad_norm = optim.clip_grad_norm(self.model.parameters(), config.grad_clip or math.inf)
        require_finite(grad_norm, "norm of the gradients", self.step + 1, self.model)
        lr = LEARNING_RATE[config.schedule](
            self.step, config.lr, config.warmup_steps, config.max_steps, config.min_lr
        )
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        self.step += 1
        self.rows += config.grad_accumulation * config.batch_size
        stats = StepStats(
            total(processes, step_loss), grad_norm, lr, time.perf_counter() - started,
            get_backend(self.model.device).launches - launches,
        )  # fmt: skip
        for callback in self.callbacks:
            callback.on_step(self, stats)
        return stats

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
            processes=self.processes,
        )
        require_finite(loss, "validation loss", self.step, self.model)
        self.validation_loss = loss
        if loss < self.best_validation_loss:
            self.best_step, self.best_validation_loss = self.step, loss
        for callback in self.callbacks:
            callback.on_evaluation(self, loss)
        return loss

    def sample(self) -> str:
        """Text that the model writes after `prompt_ids()`; "" where it is no writing model."""
        prompt = self.prompt_ids()
        if not prompt or not isinstance(self.model, GPT2LMHeadModel):
            return ""
        ids = generate_beyond_context(
            self.model,
            prompt,
            self.config.sample_tokens,
            do_sample=True,
            top_k=50,
            temperature=0.8,
            seed=self.config.seed,
        )
        return self.tokenizer.decode(ids)

    def prompt_ids(self) -> list[int]:
        """What a sample begins with, from the validation split."""
        return self.validation_data.prompt_ids(self.tokenizer, self.model.config.n_positions)

    # ---- saving --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the newest model into the run's folder, a checkpoint, and the picture."""
        sharded = isinstance(self.optimizer, ShardedAdamW)
        moments = self.optimizer.state_dict() if self.writes or sharded else {}
        if not self.writes:
            self.saved_step = self.step
            return
        # In this order: what a full disk cuts short after the checkpoint, no resumed run would do.
        state = self._state()
        save_model(self.folder.path, self.model, self.tokenizer, state["config"]["model"])
        keep = self.config.keep_checkpoints
        with self.folder.new_checkpoint(self.step, keep, best=self.best_step) as checkpoint:
            write_checkpoint(checkpoint, self.model, self.tokenizer, moments, state)
        self.saved_step = self.step
        try:
            plot_run(self.folder.log_path, title=self.folder.path.name)
        except (OSError, ValueError) as error:  # a picture is not worth a run
            tell(self.report, f"no picture was drawn: {error}")
        for callback in self.callbacks:
            callback.on_checkpoint(self, self.folder.checkpoint(self.step))

    def _state(self) -> dict[str, Any]:
        splits = (self.train_data, self.validation_data)
        return {
            "step": self.step,
            "rows": self.rows,
            "first_validation_loss": self.first_validation_loss,
            "validation_loss": self.validation_loss,
            "best_step": self.best_step,
            "best_validation_loss": self.best_validation_loss,
            "random_state": random.default_generator().get_state(),
            "data": {data.name: data.fingerprint() for data in splits},
            "config": saved_config(self.config),
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
        self,
        log: RunLog | NoLog,
        progress: Progress,
        stats: StepStats,
        speed: float,
        evaluated: bool,
    ) -> None:
        log.write(
            self.step,
            train_loss=stats.loss,
            val_loss=self.validation_loss if evaluated else None,
            lr=stats.lr,
            grad_norm=stats.grad_norm,
            tokens_per_s=speed,
        )
        text = step_line(stats, speed, progress.time_left(self.step))
        if evaluated:
            text += f"  validation {self.validation_loss:.4f}"
        progress.line(self.step, text, keep=evaluated)

    def _result(self) -> TrainResult:
        losses = (self.first_validation_loss, self.validation_loss)
        if self.interrupted:
            return TrainResult(self.step, True, *losses)
        tell(self.report, f"saved in {self.folder.path}; evaluating the whole validation split")
        whole = split_loss(
            self.model,
            self.validation_data,
            batch_size=self.config.batch_size,
            block_size=self.config.block_size,
            processes=self.processes,
        )
        sample = self.sample() if self.config.sample_tokens and self.writes else ""
        return TrainResult(
            self.step, False, *losses, whole, sample or None,
            stopped_early=self.step < self.config.max_steps,
            best_step=self.best_step, best_validation_loss=self.best_validation_loss,
            score=score(
                self.model, self.validation_data, self.config.task, self.config.batch_size
            ) if self.writes else None,
        )  # fmt: skip
