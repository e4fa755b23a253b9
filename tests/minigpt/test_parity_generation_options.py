"""Any options of generate, drawn by hypothesis, beside transformers': the same ids and scores."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt.bpe_training import train_bpe
from minigpt.generation_config import GenerationConfig
from tests.minigpt.parity_helpers import Pair, draw_batch, make_pair, reference_only, to_torch

pytestmark = reference_only

V = 53


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


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_every_output(options):
    """Per step: attentions and hidden states; and the cache, but for the order that beams have."""
    pair = pair_of(0, "float64")
    ids = draw_batch(pair.config, np.random.default_rng(1), 2, 5)["input_ids"]
    wanted = {"output_attentions": True, "output_hidden_states": True, "max_new_tokens": 4}
    ours, theirs = run_both(pair, ids, np.ones_like(ids), wanted | options)
    assert ours.keys() == list(theirs.keys())
    assert_same_generation(ours, theirs)
    for name in ("attentions", "hidden_states"):
        for step, reference in zip(ours[name], theirs[name], strict=True):
            for a, b in zip(step, reference, strict=True):
                np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-9)
    if not options:
        for layer, reference in zip(ours.past_key_values, theirs.past_key_values.to_legacy_cache()):
            for a, b in zip(layer, reference):
                np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"top_k": 4}, {"temperature": 3.0, "top_p": 0.9}], ids=str)
def test_sampled_beams_follow_transformers_distribution(options):
    """The sequences that 4,000 runs of two beams end with: as often here as there."""
    import torch

    pair = make_pair({"vocab_size": 6, "n_positions": 24, "eos_token_id": None}, seed=3)
    ids = np.repeat(np.array([[1, 2, 3]]), 4000, axis=0)
    options = {
        "do_sample": True, "num_beams": 2, "max_new_tokens": 2, "eos_token_id": 5,
        "pad_token_id": 0, "top_k": 0, **options,
    }  # fmt: skip
    torch.manual_seed(0)
    theirs = pair.theirs.generate(to_torch(ids), attention_mask=to_torch(ids * 0 + 1), **options)
    ours = pair.ours.generate(ids, attention_mask=ids * 0 + 1, seed=0, **options)
    kinds, where = np.unique(np.concatenate([ours, theirs.numpy()]), axis=0, return_inverse=True)
    a, b = (np.bincount(part, minlength=len(kinds)) for part in np.split(where.ravel(), 2))
    # Chi-squared of two samples of one size: sum (a - b)^2 / (a + b) over the kinds seen.
    statistic, freedom = np.sum((a - b) ** 2 / (a + b)), len(kinds) - 1
    assert freedom >= 3 and statistic < freedom + 5 * np.sqrt(2 * freedom), (a, b)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """(ours, transformers') of a byte-level vocabulary of 300."""
    import transformers

    folder = tmp_path_factory.mktemp("tokenizer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = train_bpe(["the cat sat on the mat and the hat of a rat is that"] * 9, 300)
    ours.save_pretrained(folder)
    return ours, transformers.GPT2Tokenizer.from_pretrained(folder)


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_beams=st.sampled_from([1, 1, 3]),
    cuts=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=2),
)
def test_stop_strings(tokenizers, seed, num_beams, cuts):
    """Pieces of what greedy decoding writes, cut anywhere, also within tokens."""
    ours, theirs = tokenizers
    config = {"vocab_size": len(ours), "n_positions": 24, "eos_token_id": None, "n_layer": 1}
    pair = make_pair(config, seed % 5)
    letters = [i for i in range(len(ours) - 1) if ours.decode([i]).isascii()]
    ids = np.random.default_rng(seed).choice(letters, (2, 4))
    only_letters = [i for i in range(len(ours)) if i not in letters]
    options = {"max_new_tokens": 12, "suppress_tokens": only_letters, "no_repeat_ngram_size": 2}
    text = ours.decode(pair.ours.generate(ids, **options)[0])
    stops = [text[start : start + length] for start, length in cuts if text[start:]]
    if not stops:
        return
    options |= {"pad_token_id": letters[0], "eos_token_id": letters[1], "num_beams": num_beams}
    mask = np.ones_like(ids)
    found = pair.ours.generate(
        ids, attention_mask=mask, stop_strings=stops, tokenizer=ours, **options
    )
    wanted = pair.theirs.generate(
        to_torch(ids), attention_mask=to_torch(mask), stop_strings=stops, tokenizer=theirs,
        **options,
    )  # fmt: skip
    np.testing.assert_array_equal(found, wanted.numpy())


def test_generation_configs_go_both_ways(tmp_path):
    import transformers

    values = {
        "num_beams": 3, "max_new_tokens": 5, "early_stopping": "never", "length_penalty": 0.5,
        "eos_token_id": [3, 4, 5], "pad_token_id": 2, "no_repeat_ngram_size": 2,
        "bad_words_ids": [[7], [8, 9]], "sequence_bias": [[[4], 0.5]],
    }  # fmt: skip
    pair = pair_of(1, "float32")
    for name in ("theirs", "ours"):
        pair.theirs.save_pretrained(tmp_path / name)
    transformers.GenerationConfig(**values).save_pretrained(tmp_path / "theirs")
    GenerationConfig(**values).save_pretrained(tmp_path / "ours")
    load = transformers.GenerationConfig.from_pretrained
    assert load(tmp_path / "ours").to_dict() == load(tmp_path / "theirs").to_dict()
    ids = draw_batch(pair.config, np.random.default_rng(4), 2, 5)["input_ids"]
    mask = np.ones_like(ids)
    theirs = type(pair.theirs).from_pretrained(tmp_path / "theirs", attn_implementation="eager")
    wanted = theirs.generate(to_torch(ids), attention_mask=to_torch(mask)).numpy()
    for name in ("theirs", "ours"):
        ours = type(pair.ours).from_pretrained(tmp_path / name)
        np.testing.assert_array_equal(ours.generate(ids, attention_mask=mask), wanted)
        changed = {"num_beams": 2, "early_stopping": True}
        np.testing.assert_array_equal(
            ours.generate(ids, attention_mask=mask, **changed),
            theirs.generate(to_torch(ids), attention_mask=to_torch(mask), **changed).numpy(),
        )


def test_the_golden_generation_is_what_its_script_makes(tmp_path):
    script = Path(__file__).parents[1] / "golden" / "make_generation.py"
    subprocess.run(
        [sys.executable, script, "--out", tmp_path / "made.json"], check=True, timeout=200
    )
    made = json.loads((tmp_path / "made.json").read_text())
    kept = json.loads((script.parent / "generation.json").read_text())
    for new, old in zip(made, kept, strict=True):
        scores = new.pop("sequences_scores", []), old.pop("sequences_scores", [])
        assert new == old
        np.testing.assert_allclose(*scores, rtol=1e-5)
