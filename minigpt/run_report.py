"""What a run says of itself: before its first step, now and then, and at its end."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpt import memory
from minigpt.diagnosis import what_needs_less
from minigpt.train_step import StepStats

if TYPE_CHECKING:
    from minigpt.training import Trainer


@dataclass(frozen=True)
class TrainResult:
    """How a run ended. Losses are in nats per token, or per example of a labelled file."""

    step: int
    interrupted: bool  # by a signal: then there is no loss of the whole split, and no sample
    first_validation_loss: float  # before the first step; this and the next on the same windows
    last_validation_loss: float
    whole_validation_loss: float | None = None  # over every token of the split
    sample: str | None = None
    stopped_early: bool = False  # after `patience` evaluations without a better one
    best_step: int = 0
    best_validation_loss: float = math.nan
    score: str | None = None  # how many answers are right, where there are answers


def describe_run(trainer: "Trainer") -> str:
    """What is going to happen, in a few lines."""
    model, config = trainer.model, trainer.config
    parameters = f"{model.num_parameters():,} parameters"
    if config.freeze or config.lora_rank:
        parameters += f", {model.num_parameters(only_trainable=True):,} of them trained"
    shape, train, validation = model.config, trainer.train_data, trainer.validation_data
    return (
        f"{train.unit}: {len(train):,} to train on, {len(validation):,} to validate; a vocabulary "
        f"of {len(trainer.tokenizer):,}\n"
        f"model: n_layer {shape.n_layer}, n_head {shape.n_head}, n_embd {shape.n_embd}, "
        f"context {shape.n_positions}: {parameters}\n"
        f"memory: {_memory(trainer)}\n"
        f"run: step {trainer.step} to {config.max_steps}, {_size_of_step(trainer)} each, "
        f"in {trainer.folder.path}"
    )


def _size_of_step(trainer: "Trainer") -> str:
    if trainer.train_data.unit == "tokens":
        return f"{trainer.tokens_per_step:,} tokens"
    rows = trainer.config.batch_size * trainer.config.grad_accumulation
    return f"{rows:,} {trainer.train_data.unit}"


def _memory(trainer: "Trainer") -> str:
    estimate = memory.estimate_memory(trainer.model, trainer.config)
    free = memory.free_memory() if trainer.model.device == "cpu" else None
    if free is None or estimate.total < free:
        return str(estimate)
    less = what_needs_less(trainer.config)
    return f"{estimate}; only {memory.readable(free)} is free: {less}"


def step_line(stats: StepStats, speed: float, left: str) -> str:
    """The figures of a step; ``speed`` in tokens a second, ``left`` the time to the end."""
    launches = f"{stats.launches:,} launches  " if stats.launches else ""
    return (
        f"loss {stats.loss:.4f}  lr {stats.lr:.2e}  norm {stats.grad_norm:.2f}  "
        f"{speed:,.0f} tokens/s  {launches}{left} left"
    )
