"""generate beside transformers': greedy ids, what each option changes, and how samples fall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.tolerances import OUTPUT_FLOAT32
from tensor import random
from tests.minigpt.parity_helpers import Pair, draw_batch, make_pair, reference_only, to_torch

pytestmark = reference_only

CONFIGS = {
    "default": {},
    "untied": {"tie_word_embeddings": False, "activation_function": "gelu"},
    "by_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "upcast": {"reorder_and_upcast_attn": True, "n_head": 2, "n_inner": 20},
}


def their_ids(pair: Pair, prompt: np.ndarray, mask: np.ndarray | None = None, **options):
    """What transformers generates, (B, T + new), and its logits before each new token."""
    out = pair.theirs.generate(
        to_torch(prompt),
        attention_mask=to_torch(mask),
        return_dict_in_generate=True,
        output_scores=True,
        **({"do_sample": False} | options),
    )
    return out.sequences.numpy(), [scores.numpy() for scores in out.scores]


def assert_greedy(pair: Pair, prompt: np.ndarray, mask: np.ndarray | None = None, **options):
    """Equal ids. Where a row differs, the two tokens must have been a tie to within rounding; the
    rest of that row then says nothing. Returns transformers' ids."""
    ids = pair.ours.generate(prompt, attention_mask=mask, **options)
    wanted, scores = their_ids(pair, prompt, mask, **options)
    assert ids.dtype == np.int64 and ids.shape[0] == wanted.shape[0]
    assert np.array_equal(ids[:, : prompt.shape[1]], prompt)
    tied = False
    for row, (ours, theirs) in enumerate(zip(ids, wanted)):
        width = min(len(ours), len(theirs))
        different = np.flatnonzero(ours[:width] != theirs[:width])
        if different.size:
            first = different[0]
            candidates = scores[first - prompt.shape[1]][row]
            lead = abs(candidates[theirs[first]] - candidates[ours[first]])
            assert lead <= OUTPUT_FLOAT32, f"row {row}, position {first}: {ours} for {theirs}"
            tied = True
    assert tied or ids.shape == wanted.shape, f"{ids.shape} for {wanted.shape}"
    return wanted


def prompts(pair: Pair, B: int = 3, T: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, pair.config.vocab_size, (B, T))


# transformers upcasts to float32, whatever the model's dtype: in float64 that loses digits.
@pytest.mark.parametrize(
    ("config", "dtype"),
    [(name, "float32") for name in CONFIGS] + [(n, "float64") for n in CONFIGS if n != "upcast"],
)
def test_greedy(config, dtype):
    pair = make_pair(CONFIGS[config], seed=1, dtype=dtype)
    assert_greedy(pair, prompts(pair), max_new_tokens=15, eos_token_id=None)


@pytest.mark.parametrize("config", CONFIGS)
def test_greedy_of_a_left_padded_batch(config):
    pair = make_pair(CONFIGS[config], seed=2)
    batch = draw_batch(pair.config, np.random.default_rng(3), B=4, T=8, padding="left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    options = {"max_new_tokens": 10, "eos_token_id": None, "pad_token_id": 0}
    together = assert_greedy(pair, ids, mask, **options)
    for row in range(4):
        start = 8 - mask[row].sum()
        alone = pair.ours.generate(ids[row : row + 1, start:], **options)
        np.testing.assert_array_equal(alone[0], together[row, start:])


LENGTHS = {
    "the default, 20 tokens": ({}, 20),
    "the default, capped at n_positions": ({"n_positions": 11}, 6),
    "max_length": ({}, {"max_length": 9}),
    "max_new_tokens wins": ({}, {"max_length": 7, "max_new_tokens": 3}),
    "one token": ({}, {"max_new_tokens": 1}),
    "up to n_positions": ({"n_positions": 12}, {"max_new_tokens": 7}),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_length(name):
    config, options = LENGTHS[name]
    if isinstance(options, int):
        new, options = options, {}
    else:
        new = options.get("max_new_tokens", options.get("max_length", 0) - 5)
    pair = make_pair({"n_positions": 40} | config, seed=4)
    ids = assert_greedy(pair, prompts(pair), eos_token_id=None, **options)
    assert ids.shape == (3, 5 + new)


def produced(pair: Pair, prompt: np.ndarray, row: int, step: int) -> int:
    """A token that greedy decoding meets: what the row produces at the step."""
    ids, _ = their_ids(pair, prompt, max_new_tokens=step + 1, eos_token_id=None)
    return int(ids[row, prompt.shape[1] + step])


@pytest.mark.parametrize("pad", [None, 7])
@pytest.mark.parametrize("steps", [[(0, 0)], [(1, 4)], [(0, 3), (2, 6)], [(0, 1), (1, 1), (2, 2)]])
def test_end_tokens(steps, pad):
    pair = make_pair({}, seed=5)
    prompt = prompts(pair)
    ends = [produced(pair, prompt, row, step) for row, step in steps]
    options = {"max_new_tokens": 12, "pad_token_id": pad}
    ids = assert_greedy(pair, prompt, eos_token_id=ends, **options)
    rows = [row for row, _ in steps]
    assert np.isin(ids[rows, 5:], ends).any(axis=1).all()
    if len(ends) == 1:
        assert_greedy(pair, prompt, eos_token_id=ends[0], **options)


def test_end_and_pad_tokens_of_the_configuration():
    plain = make_pair({}, seed=6)
    prompt = prompts(plain)
    end = produced(plain, prompt, row=1, step=3)
    pair = make_pair({"eos_token_id": end, "pad_token_id": 11}, seed=6)
    ids = assert_greedy(pair, prompt, max_new_tokens=12)
    assert end in ids[1, 5:] and ids[1, -1] in (end, 11)
    full = assert_greedy(pair, prompt, max_new_tokens=12, eos_token_id=None)
    assert full.shape == (3, 17)


def test_a_prompt_that_holds_the_pad_token_is_masked_there():
    """Without a mask, pads in the ids are taken for padding, unless pad is also the end token."""
    pair = make_pair({}, seed=7)
    prompt = prompts(pair)
    prompt[0, :2], prompt[1, :1] = 9, 9
    padded = assert_greedy(pair, prompt, max_new_tokens=8, eos_token_id=None, pad_token_id=9)
    plain = assert_greedy(pair, prompt, max_new_tokens=8, eos_token_id=[9], pad_token_id=9)
    assert not np.array_equal(padded, plain)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 5.0])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_repetition_penalty(penalty, padding):
    pair = make_pair({}, seed=8)
    batch = draw_batch(pair.config, np.random.default_rng(9), B=3, T=6, padding=padding)
    assert_greedy(
        pair,
        batch["input_ids"],
        batch.get("attention_mask"),
        max_new_tokens=12,
        eos_token_id=None,
        pad_token_id=0,
        repetition_penalty=penalty,
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    B=st.integers(1, 4),
    T=st.integers(1, 10),
    padding=st.sampled_from(["none", "left"]),
    new=st.integers(1, 10),
    penalty=st.sampled_from([1.0, 1.0, 1.2, 0.8]),
    ends=st.none() | st.lists(st.integers(0, 52), min_size=1, max_size=8),
    pad=st.integers(0, 52),
)
def test_any_greedy_call(seed, B, T, padding, new, penalty, ends, pad):
    pair = make_pair({"vocab_size": 53, "n_positions": 20}, seed)
    batch = draw_batch(pair.config, np.random.default_rng(seed), B, T, padding)
    assert_greedy(
        pair,
        batch["input_ids"],
        batch.get("attention_mask", np.ones((B, T), np.int64)),
        max_new_tokens=new,
        repetition_penalty=penalty,
        eos_token_id=ends,
        pad_token_id=pad,
    )


def assert_drawn_from(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Pearson's chi-squared over all tokens that are expected at least five times, the others in
    one bin; at most its mean plus five standard deviations. Impossible tokens never come."""
    assert not counts[probabilities == 0].any()
    expected = counts.sum() * probabilities
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    used = expected > 0
    statistic = np.sum((observed[used] - expected[used]) ** 2 / expected[used])
    freedom = used.sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom), (statistic, freedom)


SAMPLING = {
    "plain": {"top_k": 0},
    "the default top_k": {},
    "temperature": {"temperature": 0.6, "top_k": 0},
    "hot": {"temperature": 2.5, "top_k": 0},
    "top_k": {"top_k": 5},
    "top_p": {"top_k": 0, "top_p": 0.7},
    "all": {"temperature": 1.4, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.5},
}


@pytest.mark.parametrize("name", SAMPLING)
def test_samples_follow_transformers_distribution(name):
    """The first new token of 20,000 equal prompts, against transformers' processed scores."""
    pair = make_pair({"vocab_size": 90}, seed=10)
    prompt, rows = prompts(pair, B=1), 20_000
    options = SAMPLING[name] | {"do_sample": True, "max_new_tokens": 1, "eos_token_id": None}
    _, scores = their_ids(pair, prompt, **options)
    probabilities = np.exp(scores[0][0].astype(np.float64))
    probabilities /= probabilities.sum()
    ids = pair.ours.generate(np.repeat(prompt, rows, axis=0), seed=11, **options)
    counts = np.bincount(ids[:, -1], minlength=90)
    assert_drawn_from(counts, probabilities)


def test_later_tokens_are_independent_draws():
    """The second token, given the first: the random bits of one step must not serve the next."""
    pair = make_pair({"vocab_size": 12}, seed=12)
    prompt, rows = prompts(pair, B=1), 20_000
    options = {"do_sample": True, "top_k": 0, "eos_token_id": None}
    ids = pair.ours.generate(np.repeat(prompt, rows, axis=0), seed=13, max_new_tokens=2, **options)
    first = np.bincount(ids[:, -2]).argmax()
    longer = np.append(prompt, [[first]], axis=1)
    _, scores = their_ids(pair, longer, max_new_tokens=1, **options)
    probabilities = np.exp(scores[0][0].astype(np.float64))
    counts = np.bincount(ids[ids[:, -2] == first, -1], minlength=12)
    assert_drawn_from(counts, probabilities / probabilities.sum())


def test_the_seed_decides():
    pair = make_pair({}, seed=14)
    prompt = np.repeat(prompts(pair, B=1), 4, axis=0)
    options = {"do_sample": True, "max_new_tokens": 12, "eos_token_id": None}
    first, again, other = (pair.ours.generate(prompt, seed=s, **options) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({row.tobytes() for row in first}) == 4  # equal prompts, different rows
    random.manual_seed(5)
    drawn = [pair.ours.generate(prompt, **options) for _ in range(2)]
    random.manual_seed(5)
    np.testing.assert_array_equal(drawn[0], pair.ours.generate(prompt, **options))
    assert not np.array_equal(*drawn)


class Recorder:
    """What a streamer is told."""

    def __init__(self):
        self.put_arrays, self.ends = [], 0

    def put(self, value):
        assert not self.ends
        self.put_arrays.append(value if isinstance(value, np.ndarray) else value.numpy())

    def end(self):
        self.ends += 1


@pytest.mark.parametrize("B", [1, 3])
def test_streamer(B):
    pair = make_pair({}, seed=15)
    prompt = prompts(pair, B=B)
    recorder, wanted = Recorder(), Recorder()
    options = {"max_new_tokens": 6, "eos_token_id": None}
    ids = pair.ours.generate(prompt, streamer=recorder, **options)
    their_ids(pair, prompt, streamer=wanted, **options)
    assert recorder.ends == wanted.ends == 1
    assert len(recorder.put_arrays) == len(wanted.put_arrays) == 7
    for ours, theirs in zip(recorder.put_arrays, wanted.put_arrays):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.stack(recorder.put_arrays[1:], axis=1), ids[:, 5:])
