"""Beam search: the num_beams most probable continuations of each prompt, kept side by side.

Shapes: B prompts, N beams each, K candidates a step, V tokens, T tokens so far. The rows of a
prompt's beams lie together: beam n of prompt b is row b * N + n of (B * N, ...).
"""

from __future__ import annotations

import numpy as np

from minigpt.generation_config import GenerationConfig
from minigpt.logits_processors import Processor, log_softmax
from minigpt.next_logits import NextLogits
from minigpt.outputs import GenerateOutput
from minigpt.stopping import Stopping
from tensor import Tensor
from tensor.random import Generator

NEVER = np.float32(-1e9)
"""Added to a score, it puts it behind every other; float32 has no digits left for the score
itself, so that all that are put behind are equal.
"""


class FinishedBeams:
    """The N best sequences of each prompt that have ended, the best one first.

    scores: (B, N) float32, NEVER where there is none yet: bool is_there (B, N).
    ids: (B, N, final length), filled up with pads; origins: (B, N, final length - prompt), the row
    that each new token was added to, filled up with -1.
    """

    def __init__(self, ids: np.ndarray, B: int, length: int, pad: int) -> None:
        N, T = len(ids) // B, ids.shape[1]
        self.pad = pad
        self.ids = _filled_up(ids.reshape(B, N, T), length, self.pad)
        self.origins = np.full((B, N, length - T), -1)
        self.scores = np.full((B, N), NEVER)
        self.is_there = np.zeros((B, N), bool)

    def add(
        self, ids: np.ndarray, origins: np.ndarray, scores: np.ndarray, ended: np.ndarray
    ) -> None:
        """Take in those of the candidates that have ended, bool (B, K), and beat what is there.

        ids: (B, K, T), origins: (B, K, T - prompt), scores: (B, K), with the length penalty.
        """
        ids = _filled_up(ids, self.ids.shape[2], self.pad)
        origins = _filled_up(origins, self.origins.shape[2], -1)
        # The new ones first: of equals a candidate is taken, and not what was there from the start.
        scores = np.concatenate([scores + np.where(ended, 0, NEVER), self.scores], axis=1)
        best = (np.arange(len(ids))[:, None], best_first(scores, self.scores.shape[1]))  # (B, N)
        self.ids = np.concatenate([ids, self.ids], axis=1)[best]
        self.origins = np.concatenate([origins, self.origins], axis=1)[best]
        self.is_there = np.concatenate([ended, self.is_there], axis=1)[best]
        self.scores = scores[best]


def beam_search(
    next_logits: NextLogits,
    ids: np.ndarray,
    config: GenerationConfig,
    change: list[Processor],
    stopping: Stopping,
    pad: int | None,
    generator: Generator,
) -> GenerateOutput:
    """Continue the rows ids (B * N, T); num_return_sequences of the N beams come out for each B.

    A candidate's score is the sum of its tokens' log-probabilities, after `change`; that of an
    ended sequence is divided by (new tokens) ** length_penalty. Each step keeps the K best
    candidates: enough for N that have not ended, even if all end tokens are among the best.
    With do_sample the candidates are drawn and not the best ones.
    """
    N, prompt_length = config.num_beams, ids.shape[1]
    B = len(ids) // N
    prompt = np.arange(B)[:, None]  # (B, 1)
    # As in transformers a pad token of 0 counts as none here.
    fill = (pad or stopping.ends[0]) if stopping.ends else pad
    finished = FinishedBeams(ids, B, stopping.final_length, -1 if fill is None else fill)
    origins = np.zeros((B * N, 0), np.int64)
    # All beams start equal: only the first one's candidates count.
    totals = np.where(np.arange(N) == 0, 0, NEVER).astype(np.float32)[None].repeat(B, 0)  # (B, N)
    open_ = np.ones(B, bool)  # whether a prompt's beams can still beat what has ended
    all_scores: list[np.ndarray] | None = [] if config.output_scores else None
    K = max(2, 1 + len(stopping.ends)) * N
    while True:
        scores = log_softmax(next_logits(ids))  # (B * N, V)
        for processor in change:
            scores = processor(ids, scores)
        if all_scores is not None:
            all_scores.append(scores)
        row, token, sums = _candidates(
            scores, totals, K, generator if config.do_sample else None
        )  # (B, K) each
        _require_a_choice(sums, open_)
        new_ids = np.concatenate([ids[row], token[:, :, None]], axis=2)  # (B, K, T + 1)
        new_origins = np.concatenate([origins[row], row[:, :, None]], axis=2)
        ended = stopping(new_ids.reshape(row.size, -1), all_scores).reshape(row.shape)

        # Only what is among the N best counts as an end.
        full = finished.is_there.all(axis=1) & (config.early_stopping is True)
        is_end = ended & (np.arange(row.shape[1]) < N) & (open_ & ~full)[:, None]
        steps = new_ids.shape[2] - prompt_length
        if is_end.any():
            penalized = sums / np.float32(steps**config.length_penalty)
            finished.add(new_ids, new_origins, penalized, is_end)

        running = sums + np.where(ended, NEVER, 0)
        keep = (prompt, best_first(running, N))  # (B, N)
        totals = running[keep]
        ids = new_ids[keep].reshape(B * N, -1)
        origins = new_origins[keep].reshape(B * N, -1)
        most_steps = stopping.final_length - prompt_length
        open_ &= _can_improve(totals, finished, steps, most_steps, config)
        all_full = finished.is_there.all() and config.early_stopping is True
        if not open_.any() or all_full or ended.all():
            return _output(next_logits, finished, prompt_length, all_scores, config)
        next_logits.select(row[keep].ravel())


def _candidates(
    scores: np.ndarray, totals: np.ndarray, K: int, generator: Generator | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The K best continuations of each prompt, or K that are drawn without replacement.

    scores: (B * N, V) of the next token, totals: (B, N) of the beams so far. Returns the row that
    each continues, its token, and the sum of the two scores, (B, K) each.

    The largest scores, each with a draw of Gumbel's distribution added to it, are a sample without
    replacement of their softmax, in the order of drawing (Kool et al. 2019, section 3).
    """
    B, N = totals.shape
    V = scores.shape[1]
    sums = (scores.reshape(B, N, V) + totals[:, :, None]).reshape(B, N * V)
    keys = sums if generator is None else sums + generator.numpy().gumbel(size=sums.shape)
    K = min(K, N * V)
    prompt = np.arange(B)[:, None]
    some = np.sort(np.argpartition(keys, -K, axis=1)[:, -K:], axis=1)  # a sort of all is slow
    chosen = some[prompt, best_first(keys[prompt, some], K)]
    return prompt * N + chosen // V, chosen % V, sums[prompt, chosen]


def best_first(scores: np.ndarray, k: int) -> np.ndarray:
    """Where the k largest of each row (B, M) are, in order, of equals the first: (B, k)."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _can_improve(
    totals: np.ndarray,
    finished: FinishedBeams,
    steps: int,
    most_steps: int,
    config: GenerationConfig,
) -> np.ndarray:
    """Whether the best beam of each prompt could still beat the worst that has ended: bool (B,).

    With early_stopping "never" the length penalty may still grow in the beam's favour. Otherwise
    the beam counts as if it ended now, which is not certain, but how transformers decides.
    """
    if config.early_stopping == "never" and config.length_penalty > 0:
        steps = most_steps
    possible = totals[:, 0] / np.float32(steps**config.length_penalty)
    worst = np.where(finished.is_there.all(axis=1), finished.scores.min(axis=1), NEVER)
    return possible > worst


def _require_a_choice(sums: np.ndarray, open_: np.ndarray) -> None:
    """ValueError where every continuation of a prompt is out of the choice."""
    stuck = open_ & ~np.isfinite(sums.max(axis=1))
    if stuck.any():
        raise ValueError(
            f"generate: prompt {int(stuck.argmax())} has no token left to choose: the options or a "
            "logits_processor take all of them out"
        )


def _output(
    next_logits: NextLogits,
    finished: FinishedBeams,
    prompt_length: int,
    all_scores: list[np.ndarray] | None,
    config: GenerationConfig,
) -> GenerateOutput:
    """The best num_return_sequences of each prompt, together, cut to the longest of them."""
    R = config.num_return_sequences
    origins = finished.origins[:, :R].reshape(-1, finished.origins.shape[2])
    new = int((origins >= 0).sum(axis=1).max())
    sequences = finished.ids[:, :R].reshape(len(origins), -1)
    return next_logits.output(
        sequences[:, : prompt_length + new],
        all_scores,
        sequences_scores=None if all_scores is None else Tensor(finished.scores[:, :R].ravel()),
        beam_indices=origins[:, :new],
    )


def _filled_up(rows: np.ndarray, length: int, value: int) -> np.ndarray:
    """(B, M, T) made (B, M, length)."""
    result = np.full((*rows.shape[:2], length), value)
    result[:, :, : rows.shape[2]] = rows
    return result
