"""How good a language model is: its mean loss over a text."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np

from minigpt.data import Batch, Examples
from minigpt.distributed import Alone, Group, total
from minigpt.heads import GPT2LMHeadModel
from minigpt.losses import IGNORED
from minigpt.places import VALIDATION_STREAM
from tensor import Tensor, cross_entropy, no_grad
from tensor.nn import Module

Ids = np.ndarray | Tensor


def window_loss(model: GPT2LMHeadModel, inputs: Ids, targets: Ids) -> Tensor:
    """The mean cross-entropy of predicting ``targets[b, t]`` from ``inputs[b, :t + 1]``, in nats.

    ``inputs`` and ``targets`` are integers (B, T). The model's own ``labels`` would leave the last
    position of a window without a target; here all B * T positions have one.
    """
    logits = model(inputs, use_cache=False).logits  # (B, T, V)
    return cross_entropy(logits, targets)


def batch_loss(model: Module, batch: Batch) -> Tensor:
    """The mean loss of a batch: of windows of text, or of a head's examples with their labels."""
    if isinstance(batch, tuple):
        return window_loss(cast(GPT2LMHeadModel, model), *batch)
    output = model(**batch)
    return output.mc_loss if "mc_labels" in batch else output.loss


def target_count(batch: Batch) -> int:
    """How many targets the loss of a batch is the mean of: by it, batches are weighed."""
    if isinstance(batch, tuple):
        return batch[1].size
    labels = batch.get("shift_labels", batch.get("labels"))
    if labels is not None and labels.shape == batch["input_ids"].shape:
        return int((labels != IGNORED).sum())
    return len(batch["input_ids"])


def token_count(batch: Batch) -> int:
    """How many tokens a batch has, those that fill up short rows included."""
    return (batch[0] if isinstance(batch, tuple) else batch["input_ids"]).size


@contextmanager
def evaluation_mode(model: Module) -> Iterator[None]:
    """Without dropout and without a graph; afterwards the model is in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        if was_training:
            model.train()


def split_loss(
    model: Module,
    data: Examples,
    *,
    batch_size: int,
    block_size: int,
    processes: Group | None = None,
) -> float:
    """The loss over a whole split, in nats per token: each token but the first is predicted once,
    from what precedes it in its window of ``block_size``; windows don't overlap.

    processes: those that share the work, this one alone unless given.

    Of a labelled file it is the mean over its targets. ValueError for fewer than two tokens.
    """
    group = processes or Alone()
    losses, counts = [], []
    with evaluation_mode(model):
        for number, batch in enumerate(data.windows(batch_size, block_size)):
            if number % group.size == group.rank:
                losses.append(batch_loss(model, batch).item())
                counts.append(target_count(batch))
    loss = math.fsum(loss * count for loss, count in zip(losses, counts))
    return total(group, loss) / total(group, sum(counts))


def sampled_loss(
    model: Module,
    data: Examples,
    *,
    batches: int,
    batch_size: int,
    block_size: int,
    seed: int,
    processes: Group | None = None,
) -> float:
    """An estimate of ``split_loss`` from random windows, the same ones at each call with a seed; or
    that loss itself, where the split has no more tokens, or examples, than rows would be drawn.
    """
    if len(data) <= batches * batch_size:
        return split_loss(
            model, data, batch_size=batch_size, block_size=block_size, processes=processes
        )
    group = processes or Alone()
    losses = []
    with evaluation_mode(model):
        for number in range(group.rank, batches, group.size):
            batch = data.random_batch(
                batch_size, block_size, seed=seed, step=number, stream=VALIDATION_STREAM
            )
            losses.append(batch_loss(model, batch).item())
    return total(group, math.fsum(losses)) / batches
