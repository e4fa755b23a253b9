"""The parts of one optimizer step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from minigpt.data import Batch, Examples
from minigpt.diagnosis import require_finite
from minigpt.distributed import Group, own_rows, step_seed
from minigpt.evaluation import batch_loss, target_count, window_loss
from minigpt.heads import GPT2LMHeadModel
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.sharded_optimizer import ShardedAdamW
from tensor import RecordedStep, Tensor, optim, random

LEARNING_RATE = {
    "cosine": optim.warmup_cosine,
    "linear": optim.warmup_linear,
    "constant": optim.warmup_constant,
}


@dataclass(frozen=True)
class StepStats:
    """One optimizer step: its mean loss, the norm of its gradients, its rate, its duration, and on
    a device how many launches it took.
    """

    loss: float
    grad_norm: float
    lr: float
    seconds: float
    launches: int = 0


def make_optimizer(
    model: PreTrainedModel, config: TrainConfig, processes: Group
) -> optim.AdamW | ShardedAdamW:
    """AdamW for a run's parameters, its moments divided among the processes where asked for."""
    groups = optim.decay_groups(model, config.weight_decay)
    betas = (config.beta1, config.beta2)
    if config.shard_optimizer:
        return ShardedAdamW(groups, processes, lr=config.lr, betas=betas)
    return optim.AdamW(groups, lr=config.lr, betas=betas)


def draw_batches(data: Examples, config: TrainConfig, step: int, rows: int) -> list[Batch]:
    """The micro-batches of a step, the same in every process; ``rows`` were drawn before it."""
    shape, seed = (config.batch_size, config.block_size), config.seed
    if config.order == "random":
        return [
            data.random_batch(*shape, seed=seed, step=step, micro_batch=number)
            for number in range(config.grad_accumulation)
        ]
    shuffled = config.order == "epochs"
    return [
        data.epoch_batch(
            *shape, seed=seed, row=rows + number * config.batch_size, shuffled=shuffled
        )
        for number in range(config.grad_accumulation)
    ]


def begin_step(processes: Group, seed: int, step: int) -> None:
    """Let each of several processes draw numbers of its own in this step."""
    if processes.size > 1:
        random.default_generator().set_state(step_seed(processes, seed, step))


def gradients_of(
    model: PreTrainedModel, config: TrainConfig, processes: Group
) -> Callable[[Sequence[Batch], int], float]:
    """What adds the gradients of a step's batches, called with them and the steps before it."""
    if config.cuda_graph:
        return RecordedGradients(cast(GPT2LMHeadModel, model), processes)
    return partial(add_gradients, model, processes)


def add_gradients(
    model: PreTrainedModel, processes: Group, batches: Sequence[Batch], step: int
) -> float:
    """Add this process's part of the gradient of all batches as one, and return its part of their
    loss: both are sums over the processes, each of which takes its rows of every batch.

    FloatingPointError for a loss that is not finite.
    """
    part = 0.0
    for own, share in _own_parts(batches, processes):
        loss = batch_loss(model, own)
        value = loss.item()  # once: on a GPU it waits for the forward pass
        require_finite(value, "training loss", step + 1, model)
        part += value * share
        (loss * share if share < 1 else loss).backward()
    return part


def _own_parts(batches: Sequence[Batch], processes: Group) -> list[tuple[Batch, float]]:
    """This process's rows of each batch, and their share of all targets, where they have any."""
    targets = sum(target_count(batch) for batch in batches)
    own = [own_rows(processes, batch) for batch in batches]
    parts = [(rows, target_count(rows) / targets) for rows in own]
    return [(rows, share) for rows, share in parts if share > 0]


class RecordedGradients:
    """`add_gradients` for windows of text, all of one shape, with the same bits: the forward and
    backward pass of all micro-batches as one recorded step.

    What follows is not recorded: sums over processes, callbacks, clipping, and the optimizer, which
    together are a dozen launches. So a loss or a norm that is not finite is found before the
    weights change, and rates are ordinary arguments.

    ValueError on the CPU.
    """

    def __init__(self, model: GPT2LMHeadModel, processes: Group) -> None:
        self._model, self._processes = model, processes
        trained = [p for p in model.parameters() if p.requires_grad]
        self._step = RecordedStep(self._losses, model.device, trained)
        self._shares: list[float] = []

    def __call__(self, batches: Sequence[Batch], step: int) -> float:
        parts = _own_parts(batches, self._processes)
        self._shares = [share for _, share in parts]  # of batches of one size: always the same
        windows = [cast(tuple[np.ndarray, np.ndarray], own) for own, _ in parts]
        losses = self._step(*[ids for pair in windows for ids in pair])
        part = 0.0
        for loss, share in zip(losses, self._shares, strict=True):
            value = loss.item()
            require_finite(value, "training loss", step + 1, self._model)
            part += value * share
        return part

    def _losses(self, *arrays: Tensor) -> list[Tensor]:
        """The loss of each micro-batch, after its backward pass; arrays: inputs, targets, …."""
        losses = []
        for inputs, targets, share in zip(arrays[::2], arrays[1::2], self._shares, strict=True):
            loss = window_loss(self._model, inputs, targets)
            (loss * share if share < 1 else loss).backward()
            losses.append(loss.detach())
        return losses
