"""Each logits processor beside transformers' own, on random scores."""

from __future__ import annotations

import numpy as np
import pytest

from minigpt import logits_processors as ours
from tests.minigpt.parity_helpers import reference_only, to_torch

pytestmark = reference_only

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
at_least = pytest.mark.parametrize("at_least", [1, 3])


def theirs(name: str, scores: np.ndarray, *arguments, ids: np.ndarray | None = None, **options):
    """Scores (N, V) after one of transformers' processors."""
    from transformers.generation import logits_process

    processor = getattr(logits_process, name)(*arguments, **options)
    return processor(to_torch(ids), to_torch(scores.copy())).numpy()


def draw_scores(seed: int, dtype: str = "float32", some_out: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=3, size=(40, 100)).astype(dtype)
    if some_out:
        scores[20:][rng.random((20, 100)) < 0.9] = -np.inf
        scores[20:, 0] = 1.0  # one at least is left
    return scores


def draw_ids(seed: int, V: int = 100, T: int = 25) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, (40, T))  # some tokens twice


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@every_dtype
@pytest.mark.parametrize("k", [1, 2, 50, 99, 100, 1000])
def test_top_k(k, dtype):
    scores = draw_scores(16, dtype)
    scores[:20] = scores[:20].round()  # ties: all that equal the k-th largest stay
    assert_same(ours.keep_top_k(scores, k), theirs("TopKLogitsWarper", scores, k))


@every_dtype
@at_least
@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p(p, at_least, dtype):
    scores = draw_scores(17, dtype)
    found = ours.keep_top_p(scores, p, at_least)
    wanted = theirs("TopPLogitsWarper", scores, p, min_tokens_to_keep=at_least)
    assert_same(found, wanted)
    assert np.isfinite(found).any(axis=1).all()


@every_dtype
@at_least
@pytest.mark.parametrize("p", [0.0, 0.01, 0.2, 0.9, 1.0])
def test_min_p(p, at_least, dtype):
    scores = draw_scores(18, dtype)
    wanted = theirs("MinPLogitsWarper", scores, p, min_tokens_to_keep=at_least)
    assert_same(ours.keep_min_p(scores, p, at_least), wanted)


@every_dtype
@at_least
@pytest.mark.parametrize("mass", [0.01, 0.2, 0.5, 0.95])
def test_typical(mass, at_least, dtype):
    scores = draw_scores(19, dtype)
    wanted = theirs("TypicalLogitsWarper", scores, mass, min_tokens_to_keep=at_least)
    assert_same(ours.keep_typical(scores, mass, at_least), wanted)


@every_dtype
@at_least
@pytest.mark.parametrize("epsilon", [1e-4, 0.01, 0.1, 0.9])
def test_epsilon_and_eta(epsilon, at_least, dtype):
    scores = draw_scores(20, dtype)
    wanted = theirs("EpsilonLogitsWarper", scores, epsilon, min_tokens_to_keep=at_least)
    assert_same(ours.keep_above_epsilon(scores, epsilon, at_least), wanted)
    wanted = theirs("EtaLogitsWarper", scores, epsilon, min_tokens_to_keep=at_least)
    assert_same(ours.keep_above_eta(scores, epsilon, at_least), wanted)


@every_dtype
@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.3, 40.0])
def test_temperature(temperature, dtype):
    scores = draw_scores(21, dtype)
    wanted = theirs("TemperatureLogitsWarper", scores, temperature)
    found = ours.divide_by_temperature(scores, temperature)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@every_dtype
@pytest.mark.parametrize("penalty", [0.3, 1.0, 1.7])
def test_repetition_penalty(penalty, dtype):
    scores, ids = draw_scores(22, dtype), draw_ids(23)
    wanted = theirs("RepetitionPenaltyLogitsProcessor", scores, penalty, ids=ids)
    assert_same(ours.penalize_repetition(scores, ids, penalty), wanted)


@pytest.mark.parametrize("T", [1, 2, 3, 25])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_no_repeat_ngram(n, T):
    scores, ids = draw_scores(24, some_out=False)[:, :4], draw_ids(25, V=4, T=T)
    wanted = theirs("NoRepeatNGramLogitsProcessor", scores, n, ids=ids)
    assert_same(ours.ban_repeated_ngrams(scores, ids, n), wanted)


@pytest.mark.parametrize("T", [1, 2, 3, 25])
def test_bad_words(T):
    scores, ids = draw_scores(26, some_out=False)[:, :4], draw_ids(27, V=4, T=T)
    words = [[0], [1, 2], [2, 2], [3, 1], [1, 0, 3], [2, 3, 3, 1]]
    wanted = theirs("NoBadWordsLogitsProcessor", scores, words, ids=ids)
    assert_same(ours.ban_sequences(scores, ids, words), wanted)


@pytest.mark.parametrize("T", [1, 2, 3, 25])
def test_sequence_bias(T):
    scores, ids = draw_scores(28, some_out=False)[:, :4], draw_ids(29, V=4, T=T)
    bias = {(0,): 1.5, (1, 2): -3.0, (3, 2): 0.25, (1, 0, 3): 2.0, (2,): float("-inf")}
    wanted = theirs("SequenceBiasLogitsProcessor", scores, bias, ids=ids)
    assert_same(ours.add_sequence_bias(scores, ids, bias.items()), wanted)


def test_forced_suppressed_and_raised():
    scores, ids = draw_scores(30, some_out=False), draw_ids(31)
    wanted = theirs("SuppressTokensLogitsProcessor", scores, [3, 77], ids=ids)
    assert_same(ours.ban(scores, [3, 77]), wanted)
    wanted = theirs("ForcedEOSTokenLogitsProcessor", scores, 26, [3, 77], ids=ids)
    assert_same(ours.force(scores, [3, 77]), wanted)
    for start in (10, 22, 23, 24):
        wanted = theirs("ExponentialDecayLengthPenalty", scores, (start, 1.2), [3, 77], 2, ids=ids)
        found = ours.raise_ends(scores, [3, 77], 1.2, 25 - start - 2)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@every_dtype
def test_normalization(dtype):
    scores = draw_scores(32, dtype)
    wanted = theirs("LogitNormalization", scores)
    np.testing.assert_allclose(ours.log_softmax(scores), wanted, rtol=1e-5)
