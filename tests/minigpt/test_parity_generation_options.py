"""Any options of generate, drawn by hypothesis, beside transformers': the same ids and scores."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.minigpt.parity_helpers import Pair, draw_batch, make_pair, reference_only, to_torch

pytestmark = reference_only

V = 53
TIE = 1e-5  # transformers adds log-probabilities in float32, whatever the model's dtype


@lru_cache(maxsize=24)
def pair_of(seed: int, dtype: str) -> Pair:
    return make_pair({"vocab_size": V, "n_positions": 24, "eos_token_id": None}, seed, dtype)


def run_both(pair: Pair, ids: np.ndarray, mask: np.ndarray | None, options: dict):
    """(ours, transformers') outputs, with sequences and scores."""
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pair.theirs.generate(
            to_torch(ids), attention_mask=to_torch(mask), **wanted, **options
        )
        ours = pair.ours.generate(ids, attention_mask=mask, **wanted, **options)
    return ours, theirs


def assert_same_generation(ours, theirs) -> None:
    np.testing.assert_array_equal(ours.sequences, theirs.sequences.numpy())
    for name in ("scores", "logits"):
        found, wanted = getattr(ours, name), getattr(theirs, name)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-5)
    if getattr(theirs, "sequences_scores", None) is not None:
        np.testing.assert_allclose(
            ours.sequences_scores.numpy(), theirs.sequences_scores.numpy(), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_array_equal(ours.beam_indices, theirs.beam_indices.numpy())


token = st.integers(0, V - 1)
tokens = st.lists(token, min_size=1, max_size=4)
CHANGES = {
    "repetition_penalty": st.sampled_from([0.7, 1.0, 1.2, 3.0]),
    "no_repeat_ngram_size": st.integers(0, 4),
    "bad_words_ids": st.lists(st.lists(token, min_size=1, max_size=3), min_size=1, max_size=20),
    "min_length": st.integers(0, 14),
    "min_new_tokens": st.integers(0, 3),
    "forced_bos_token_id": token,
    "forced_eos_token_id": token | tokens,
    "suppress_tokens": tokens,
    "begin_suppress_tokens": tokens,
    "sequence_bias": st.dictionaries(
        st.lists(token, min_size=1, max_size=2).map(tuple), st.floats(-5, 5), min_size=1, max_size=8
    ),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 3), st.floats(1.01, 1.5)),
    "renormalize_logits": st.booleans(),
}
TAKES_OUT = {
    "no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens", "forced_bos_token_id",
    "forced_eos_token_id",
}  # fmt: skip
GREEDY = st.just({})
BEAMS = st.fixed_dictionaries(
    {"num_beams": st.integers(2, 5)},
    optional={
        "length_penalty": st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "num_return_sequences": st.integers(1, 2),
    },
)


@settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.integers(0, 7),
    dtype=st.sampled_from(["float32", "float64"]),
    B=st.integers(1, 3),
    T=st.integers(1, 9),
    padding=st.sampled_from(["none", "left"]),
    new=st.integers(3, 12),
    ends=st.none() | token | st.lists(token, min_size=1, max_size=12),
    pad=token,
    strategy=GREEDY | BEAMS,
    changes=st.fixed_dictionaries({}, optional=CHANGES),
    use_cache=st.booleans(),
)
def test_any_options(
    seed, weights, dtype, B, T, padding, new, ends, pad, strategy, changes, use_cache
):
    if ends is None or not TAKES_OUT.isdisjoint(changes):
        # It needs an end token; one at -inf becomes NaN in transformers, and stays -inf in ours.
        changes.pop("exponential_decay_length_penalty", None)
    banned = changes.get("bad_words_ids")
    if banned and all(len(word) == 1 and word[0] in np.atleast_1d(ends) for word in banned):
        del changes["bad_words_ids"]  # refused by both
    if strategy and isinstance(changes.get("forced_eos_token_id"), list):
        changes["forced_eos_token_id"] = changes["forced_eos_token_id"][0]  # several are a tie
    if "min_length" in changes:
        changes["min_length"] = min(changes["min_length"], T + new)  # ours refuses more
    pair = pair_of(weights, dtype)
    batch = draw_batch(pair.config, np.random.default_rng(seed), B, T, padding)
    mask = batch.get("attention_mask", np.ones((B, T), np.int64))
    options = {
        "max_new_tokens": new, "eos_token_id": ends, "pad_token_id": pad, "use_cache": use_cache,
        **strategy, **changes,
    }  # fmt: skip
    try:
        ours, theirs = run_both(pair, batch["input_ids"], mask, options)
    except ValueError as error:  # transformers goes on with token 0
        assert "no token left to choose" in str(error)
        return
    assert_same_generation(ours, theirs)


FILTERS = {
    "temperature": st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    "top_k": st.sampled_from([0, 1, 5, 50, 1000]),
    "top_p": st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    "min_p": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    "typical_p": st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    "epsilon_cutoff": st.sampled_from([0.0, 0.01, 0.1]),
    "eta_cutoff": st.sampled_from([0.0, 0.01, 0.2]),
    "renormalize_logits": st.booleans(),
    "repetition_penalty": st.sampled_from([0.7, 1.3]),
    "bad_words_ids": st.lists(st.lists(token, min_size=1, max_size=2), min_size=1, max_size=5),
    "suppress_tokens": tokens,
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.integers(0, 7),
    num_beams=st.integers(1, 3),
    ends=st.none() | st.lists(token, min_size=1, max_size=3),
    filters=st.fixed_dictionaries({}, optional=FILTERS),
)
def test_what_sampling_draws_from(seed, weights, num_beams, ends, filters):
    """The scores of the first step, after all processors: the same tokens left, the same values."""
    if ends and "bad_words_ids" in filters:
        del filters["bad_words_ids"]
    pair = pair_of(weights, "float64")
    ids = draw_batch(pair.config, np.random.default_rng(seed), 2, 6)["input_ids"]
    options = {
        "do_sample": True, "max_new_tokens": 1, "num_beams": num_beams, "eos_token_id": ends,
        "pad_token_id": 1, **filters,
    }  # fmt: skip
    ours, theirs = run_both(pair, ids, np.ones_like(ids), options)
    found, wanted = ours.scores[0].numpy(), theirs.scores[0].numpy()
    np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
