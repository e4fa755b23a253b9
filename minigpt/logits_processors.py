"""What happens to the scores of the next token before it is chosen.

Each function takes scores (N, V), logits or log-probabilities in float32, and returns new ones;
-inf takes a token out of the choice. Where a function looks back, it takes the ids (N, T) so far,
prompts and padding included. `processors` lines up those that the options ask for, in
transformers' order; what is off is not in the line, and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from minigpt.generation_config import GenerationConfig, as_ids, bad_words, bias_pairs

Processor = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(ids (N, T), scores (N, V)) -> scores (N, V), as a user's own `logits_processor` is called."""


def processors(
    options: GenerationConfig,
    vocab_size: int,
    prompt_length: int,
    final_length: int,
    own: Iterable[Processor] = (),
) -> list[Processor]:
    """All that the options ask for, in order: score changes, the user's own, sampling filters."""
    ends = as_ids("eos_token_id", options.eos_token_id)
    possible = [end for end in ends if 0 <= end < vocab_size]
    line = _score_changes(options, possible, prompt_length, final_length)
    line += [_checked(processor) for processor in own]
    if options.do_sample:
        # With beams something must be left to go on with when all end tokens are chosen.
        at_least = max(2, 1 + len(ends)) if options.num_beams > 1 else 1
        line += _sampling_filters(options, at_least)
    if options.renormalize_logits:
        line.append(lambda ids, scores: log_softmax(scores))
    return line


def _checked(processor: Processor) -> Processor:
    """A user's own processor, which gets a copy; ValueError if it returns another shape."""

    def call(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        result = np.asarray(processor(ids, scores.copy()))
        if result.shape != scores.shape or result.dtype.kind != "f":
            raise ValueError(
                f"logits_processor {processor!r} returned {result.dtype} {result.shape} for scores "
                f"of shape {scores.shape}: it must return new ones"
            )
        return result

    return call


def _score_changes(
    options: GenerationConfig, ends: list[int], prompt_length: int, final_length: int
) -> list[Processor]:
    o = options
    line: list[Processor] = []
    if o.sequence_bias is not None:
        pairs = bias_pairs(o.sequence_bias)
        line.append(lambda ids, scores: add_sequence_bias(scores, ids, pairs))
    if o.repetition_penalty not in (None, 1):
        penalty = float(o.repetition_penalty)
        line.append(lambda ids, scores: penalize_repetition(scores, ids, penalty))
    if o.no_repeat_ngram_size:
        n = o.no_repeat_ngram_size
        line.append(lambda ids, scores: ban_repeated_ngrams(scores, ids, n))
    if o.bad_words_ids is not None:
        # An end token alone can't be a bad word.
        words = [word for word in bad_words(o.bad_words_ids) if word not in [[e] for e in ends]]
        line.append(lambda ids, scores: ban_sequences(scores, ids, words))
    shortest = o.min_length or 0
    if o.min_new_tokens is not None:
        shortest = prompt_length + o.min_new_tokens
    if shortest > prompt_length and ends:
        line.append(lambda ids, scores: ban(scores, ends) if ids.shape[1] < shortest else scores)
    if o.forced_bos_token_id is not None:
        first = [o.forced_bos_token_id]
        line.append(lambda ids, scores: force(scores, first) if ids.shape[1] == 1 else scores)
    if o.forced_eos_token_id is not None:
        last = as_ids("forced_eos_token_id", o.forced_eos_token_id)
        line.append(
            lambda ids, scores: force(scores, last) if ids.shape[1] == final_length - 1 else scores
        )
    if o.exponential_decay_length_penalty is not None:
        start, factor = o.exponential_decay_length_penalty
        start += prompt_length
        line.append(lambda ids, scores: raise_ends(scores, ends, factor, ids.shape[1] - start))
    if o.suppress_tokens is not None:
        never = as_ids("suppress_tokens", o.suppress_tokens)
        line.append(lambda ids, scores: ban(scores, never))
    if o.begin_suppress_tokens is not None:
        not_first = as_ids("begin_suppress_tokens", o.begin_suppress_tokens)
        # A forced first token does not count as the beginning.
        begin = prompt_length + (prompt_length == 1 and o.forced_bos_token_id is not None)
        line.append(lambda ids, scores: ban(scores, not_first) if ids.shape[1] == begin else scores)
    return line


def _sampling_filters(options: GenerationConfig, at_least: int) -> list[Processor]:
    """at_least: how many tokens stay in any case."""
    o = options
    line: list[Processor] = []
    if o.temperature not in (None, 1):
        temperature = float(o.temperature)
        line.append(lambda ids, scores: divide_by_temperature(scores, temperature))
    if o.top_k:
        k = max(o.top_k, at_least)
        line.append(lambda ids, scores: keep_top_k(scores, k))
    if o.top_p is not None and o.top_p < 1:
        p = float(o.top_p)
        line.append(lambda ids, scores: keep_top_p(scores, p, at_least))
    if o.min_p is not None:
        share = float(o.min_p)
        line.append(lambda ids, scores: keep_min_p(scores, share, at_least))
    if o.typical_p is not None and o.typical_p < 1:
        mass = float(o.typical_p)
        line.append(lambda ids, scores: keep_typical(scores, mass, at_least))
    if o.epsilon_cutoff and o.epsilon_cutoff < 1:
        epsilon = float(o.epsilon_cutoff)
        line.append(lambda ids, scores: keep_above_epsilon(scores, epsilon, at_least))
    if o.eta_cutoff and o.eta_cutoff < 1:
        eta = float(o.eta_cutoff)
        line.append(lambda ids, scores: keep_above_eta(scores, eta, at_least))
    return line


# ---- score changes ------------------------------------------------------------------------------


def ban(scores: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """-inf for these tokens."""
    result = scores.copy()
    result[:, tokens] = -np.inf
    return result


def force(scores: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """0 for these tokens and -inf for all others."""
    result = np.full_like(scores, -np.inf)
    result[:, tokens] = 0
    return result


def add_sequence_bias(
    scores: np.ndarray, ids: np.ndarray, pairs: Iterable[tuple[Sequence[int], float]]
) -> np.ndarray:
    """Add a number to the last token of each sequence in the rows where the others came before."""
    bias = np.zeros_like(scores)
    for sequence, value in pairs:
        bias[_rows_before(sequence, ids), sequence[-1]] += value
    return scores + bias


def ban_sequences(
    scores: np.ndarray, ids: np.ndarray, sequences: Iterable[Sequence[int]]
) -> np.ndarray:
    """-inf for the last token of each sequence in the rows where the others came before."""
    result = scores.copy()
    for sequence in sequences:
        result[_rows_before(sequence, ids), sequence[-1]] = -np.inf
    return result


def _rows_before(sequence: Sequence[int], ids: np.ndarray) -> np.ndarray | slice:
    """The rows of ids (N, T) that end in all of a sequence but its last token."""
    before = sequence[:-1]
    if not before:
        return slice(None)
    if len(sequence) > ids.shape[1]:  # one more than is needed, but so it is in transformers
        return slice(0)
    return (ids[:, -len(before) :] == before).all(axis=1)


def penalize_repetition(scores: np.ndarray, ids: np.ndarray, penalty: float) -> np.ndarray:
    """Divide positive scores of the tokens in ids by the penalty, multiply negative ones.

    Keskar et al. 2019 (CTRL), section 4.1.
    """
    result = scores.copy()
    rows = np.arange(len(scores))[:, None]
    seen = scores[rows, ids]  # (N, T)
    result[rows, ids] = np.where(seen < 0, seen * penalty, seen / penalty)
    return result


def ban_repeated_ngrams(scores: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """-inf for each token with which the last n tokens would have come before."""
    N, T = ids.shape
    if T < n:
        return scores
    ngrams = np.lib.stride_tricks.sliding_window_view(ids, n, axis=1)  # (N, T - n + 1, n)
    last = ids[:, None, T - n + 1 :]  # (N, 1, n - 1)
    row, place = (ngrams[:, :, :-1] == last).all(axis=2).nonzero()
    result = scores.copy()
    result[row, ngrams[row, place, -1]] = -np.inf
    return result


def raise_ends(scores: np.ndarray, ends: Sequence[int], factor: float, steps: int) -> np.ndarray:
    """Add |score| (factor ** steps - 1) to the end tokens, once steps is above 0."""
    if steps <= 0:
        return scores
    result = scores.copy()
    old = scores[:, ends]
    result[:, ends] = np.where(np.isinf(old), old, old + np.abs(old) * (factor**steps - 1))
    return result


# ---- sampling filters ---------------------------------------------------------------------------


def divide_by_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """scores / temperature; in a row where that overflows, (scores - the best) / temperature."""
    t = max(np.float32(temperature), np.finfo(np.float32).smallest_subnormal)
    best = scores.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        if np.isfinite(best / t).all():
            return scores / t
        return (scores - best) / t


def keep_top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Only tokens whose score is at least the k-th largest of their row."""
    return np.where(scores < _kth_largest(scores, k), -np.inf, scores)


def keep_top_p(scores: np.ndarray, p: float, at_least: int = 1) -> np.ndarray:
    """Only the most probable tokens that together reach probability p.

    Nucleus sampling, Holtzman et al. 2020. From the least probable token upwards, those whose
    probabilities add up to at most 1 - p go.
    """
    order = np.argsort(scores, axis=-1, kind="stable")  # ascending
    cumulative = _cumulative(np.take_along_axis(scores, order, axis=-1))
    gone_in_order = cumulative <= 1 - p
    gone_in_order[:, -at_least:] = False
    return _without(scores, order, gone_in_order)


def keep_min_p(scores: np.ndarray, share: float, at_least: int = 1) -> np.ndarray:
    """Only tokens of at least a share of the most probable one's probability.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling".
    """
    p = softmax(scores)
    return _without_unlikely(scores, p < share * p.max(axis=-1, keepdims=True), at_least)


def keep_typical(scores: np.ndarray, mass: float, at_least: int = 1) -> np.ndarray:
    """Only tokens whose -log p is nearest to the entropy, as many as reach the probability mass.

    Meister et al. 2023, "Locally Typical Sampling".
    """
    log_p = log_softmax(scores)
    distance = np.abs(-log_p - _entropy(log_p))
    order = np.argsort(distance, axis=-1, kind="stable")
    in_order = np.take_along_axis(distance, order, axis=-1)
    cumulative = _cumulative(np.take_along_axis(scores, order, axis=-1))
    last = np.minimum((cumulative < mass).sum(axis=-1), scores.shape[-1] - 1)
    gone_in_order = in_order > np.take_along_axis(in_order, last[:, None], axis=-1)
    gone_in_order[:, :at_least] = False
    return _without(scores, order, gone_in_order)


def keep_above_epsilon(scores: np.ndarray, epsilon: float, at_least: int = 1) -> np.ndarray:
    """Only tokens of at least probability epsilon. Hewitt et al. 2022, section 4.1."""
    return _without_unlikely(scores, softmax(scores) < epsilon, at_least)


def keep_above_eta(scores: np.ndarray, epsilon: float, at_least: int = 1) -> np.ndarray:
    """Only tokens of at least probability min(epsilon, sqrt(epsilon) exp(-entropy)).

    Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 4.2.
    """
    eta = np.minimum(epsilon, math.sqrt(epsilon) * np.exp(-_entropy(log_softmax(scores))))
    return _without_unlikely(scores, softmax(scores) < eta, at_least)


def _without_unlikely(scores: np.ndarray, gone: np.ndarray, at_least: int) -> np.ndarray:
    gone = gone & (scores < _kth_largest(scores, at_least))
    return np.where(gone, -np.inf, scores)


def _without(scores: np.ndarray, order: np.ndarray, gone_in_order: np.ndarray) -> np.ndarray:
    gone = np.empty_like(gone_in_order)
    np.put_along_axis(gone, order, gone_in_order, axis=-1)
    return np.where(gone, -np.inf, scores)


def _kth_largest(scores: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest score of each row, (N, 1); the least where there are fewer."""
    k = min(k, scores.shape[-1])
    return np.partition(scores, -k, axis=-1)[:, -k, None]


# ---- probabilities ------------------------------------------------------------------------------


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of the rows, in the scores' dtype; NaN in a row where every score is -inf."""
    with np.errstate(invalid="ignore"):
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities of the rows, in the scores' dtype; NaN where every score is -inf."""
    with np.errstate(invalid="ignore"):
        distance = scores - scores.max(axis=-1, keepdims=True)
        return distance - np.log(np.exp(distance).sum(axis=-1, keepdims=True))


def _cumulative(scores: np.ndarray) -> np.ndarray:
    """Probabilities added up along the rows: in float64, or 50,000 float32 sums would drift."""
    return np.cumsum(softmax(scores), axis=-1, dtype=np.float64).astype(scores.dtype)


def _entropy(log_p: np.ndarray) -> np.ndarray:
    """- sum p log p of each row, (N, 1); p log p is 0 where p is 0."""
    possible = np.where(np.isinf(log_p), 0, log_p)
    return -(np.exp(log_p) * possible).sum(axis=-1, keepdims=True)
