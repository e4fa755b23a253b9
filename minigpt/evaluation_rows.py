"""Rows of tokens, and how likely a model finds the end of each: what every evaluation is made of.

A window of a long text, a passage and its last word, a question and one of its answers: each is a
row of ids, of which the tokens from `start` on are scored, given all those before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minigpt.evaluation import evaluation_mode
from minigpt.heads import GPT2LMHeadModel
from minigpt.progress import Meter, Report
from tensor.dtypes import name_of

# Logits of so many numbers are made at a time: 64 MB in float32, however long the rows are.
_SLAB = 1 << 24


class Row(NamedTuple):
    """ids (n,), of which those from `start` on, 1 <= start < n, are scored."""

    ids: Sequence[int] | np.ndarray
    start: int


class RowScore(NamedTuple):
    """loss: the sum of -log p over the scored tokens, in nats; tokens: how many those are; greedy:
    whether each of them was the likeliest, so that greedy decoding would have written them.
    """

    loss: float
    tokens: int
    greedy: bool


def score_rows(
    model: GPT2LMHeadModel,
    rows: Sequence[Row],
    *,
    batch_size: int = 8,
    report: Report | None = None,
    unit: str = "rows",
) -> list[RowScore]:
    """Score rows, `batch_size` at a time, those of like length together; results in their order.

    The rows of a batch are filled up on the right, where the causal mask keeps the filling out of
    sight, so a row's score depends on its batch by rounding alone.

    ValueError for a row without a token to score, or with more than n_positions + 1 tokens (the
    last one is predicted, but not read); IndexError for ids outside the vocabulary;
    FloatingPointError for logits that are no numbers.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: at least one row at a time is needed")
    for number, row in enumerate(rows):
        _check(model, row, f"row {number}")
    # The longest first: what does not fit into memory shows at once, not after an hour.
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number].ids))
    scores: dict[int, RowScore] = {}
    with evaluation_mode(model), Meter(unit, len(rows), unit, report) as meter:
        for first in range(0, len(order), batch_size):
            numbers = order[first : first + batch_size]
            batch = [rows[number] for number in numbers]
            scores.update(zip(numbers, _score_batch(model, batch)))
            meter.advance(len(batch))
    return [scores[number] for number in range(len(rows))]


def _check(model: GPT2LMHeadModel, row: Row, name: str) -> None:
    length, limit = len(row.ids), model.config.n_positions + 1
    if not 1 <= row.start < length:
        raise ValueError(
            f"{name}: of {length} tokens none from {row.start} on can be scored: there must be "
            "one, and one before it"
        )
    if length > limit:
        raise ValueError(f"{name}: {length} tokens, and the model can score rows of {limit}")
    vocab_size, ids = model.config.vocab_size, np.asarray(row.ids)
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise IndexError(f"{name}: token {wrong} is outside the model's vocabulary of {vocab_size}")


def _score_batch(model: GPT2LMHeadModel, batch: Sequence[Row]) -> list[RowScore]:
    B, T = len(batch), max(len(row.ids) for row in batch) - 1
    inputs, targets = np.zeros((B, T), np.int64), np.zeros((B, T), np.int64)
    scored = np.zeros((B, T), bool)                     # targets[b, t] follows inputs[b, t]
    for b, row in enumerate(batch):
        length = len(row.ids) - 1
        inputs[b, :length], targets[b, :length] = row.ids[:-1], row.ids[1:]
        scored[b, row.start - 1 : length] = True
    hidden = model.transformer(inputs, use_cache=False).last_hidden_state       # (B, T, C)
    losses, likeliest = np.zeros((B, T)), np.ones((B, T), bool)
    step = max(1, _SLAB // (B * model.config.vocab_size))
    for first in range(min(row.start for row in batch) - 1, T, step):
        slab = np.s_[:, first : first + step]
        logits = model.logits(hidden[slab], 0).numpy()                          # (B, t, V)
        losses[slab], likeliest[slab] = _token_losses(logits, targets[slab])
    if np.isnan(losses).any():
        raise FloatingPointError(
            "the model's logits are NaN or infinite: its weights are damaged, or too large for "
            f"{name_of(model.dtype)}"
        )
    return [
        RowScore(float(losses[b, s].sum()), int(s.sum()), bool(likeliest[b, s].all()))
        for b, s in enumerate(scored)
    ]


def _token_losses(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-log softmax(logits)[target], float64, and whether the target's logit is the largest.

    logits (B, T, V), which are overwritten; targets (B, T). Of equal largest logits the first one
    counts, as in greedy decoding.
    """
    index = targets[..., None]                                                  # (B, T, 1)
    likeliest = logits.argmax(axis=-1)
    largest = np.take_along_axis(logits, likeliest[..., None], axis=-1)
    logits -= largest
    of_target = np.take_along_axis(logits, index, axis=-1)[..., 0].astype(np.float64)
    np.exp(logits, out=logits)
    return np.log(logits.sum(axis=-1, dtype=np.float64)) - of_target, likeliest == targets
