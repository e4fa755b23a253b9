"""The parts of one optimizer step."""

from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.data import Batch, Examples
from minigpt.diagnosis import require_finite
from minigpt.distributed import Group, own_rows, step_seed
from minigpt.evaluation import batch_loss, target_count
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.sharded_optimizer import ShardedAdamW
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


def add_gradients(
    model: PreTrainedModel, batches: Sequence[Batch], processes: Group, step: int
) -> float:
    """Add this process's part of the gradient of all batches as one, and return its part of their
    loss: both are sums over the processes, each of which takes its rows of every batch.

    FloatingPointError for a loss that is not finite.
    """
    targets = sum(target_count(batch) for batch in batches)
    part = 0.0
    for batch in batches:
        own = own_rows(processes, batch)
        share = target_count(own) / targets
        if share == 0:  # every label of these rows is ignored
            continue
        loss = batch_loss(model, own)
        value = loss.item()  # once: on a GPU it waits for the forward pass
        require_finite(value, "training loss", step + 1, model)
        part += value * share
        (loss * share if share < 1 else loss).backward()
    return part
