"""The older and rarer forms of input and output, against the plain ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tensor
from minigpt import (
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)
from minigpt.legacy import packed_mask

CONFIG = dict(vocab_size=31, n_positions=12, n_embd=16, n_layer=2, n_head=4, num_labels=3)
IDS = np.random.default_rng(0).integers(0, 31, (2, 9))
CHOICES = np.random.default_rng(1).integers(0, 31, (2, 3, 5))
LOWEST = np.finfo(np.float32).min


def make(model_class, **changes):
    tensor.manual_seed(1)
    return model_class(GPT2Config(**CONFIG | changes)).eval()


def test_choices_are_rows_and_only_the_last_hidden_state_keeps_their_axis():
    model = make(GPT2Model)
    mask = np.random.default_rng(2).integers(0, 2, (2, 3, 5))
    mask[..., 0] = 1
    options = {"output_hidden_states": True, "output_attentions": True}
    out = model(CHOICES, attention_mask=mask, token_type_ids=CHOICES, **options)
    flat = model(
        CHOICES.reshape(6, 5),
        attention_mask=mask.reshape(6, 5),
        token_type_ids=CHOICES.reshape(6, 5),
        **options,
    )
    assert out.last_hidden_state.shape == (2, 3, 5, 16)
    wanted = flat.last_hidden_state.numpy().reshape(2, 3, 5, 16)
    assert np.array_equal(out.last_hidden_state.numpy(), wanted)
    assert [h.shape for h in out.hidden_states] == [(6, 5, 16)] * 2 + [(2, 3, 5, 16)]
    assert out.attentions[0].shape == (6, 4, 5, 5)
    assert out.past_key_values[0][0].shape == (6, 4, 5, 4)


def test_a_mask_with_four_axes_is_added_to_the_scores():
    model = make(GPT2LMHeadModel)
    mask = np.array([[1] * 9, [1] * 6 + [0] * 3])
    four = np.where(mask, 0, LOWEST)[:, None, None, :].astype(np.float32)
    a = model(IDS, attention_mask=mask).logits.numpy()
    b = model(IDS, attention_mask=four).logits.numpy()
    assert np.array_equal(a, b)
    c = model(IDS, attention_mask=np.broadcast_to(four, (2, 4, 9, 9))).logits.numpy()
    assert np.array_equal(a, c)
    for lowest in (-np.inf, np.finfo(np.float64).min):  # lower than float32 has
        d = model(IDS, attention_mask=np.where(four < 0, lowest, 0.0)).logits.numpy()
        assert np.array_equal(a, d)
    # It may hold any number, and stays on top of the causal mask.
    soft = np.random.default_rng(3).normal(size=(1, 4, 9, 9)).astype(np.float32)
    weights = model(IDS, attention_mask=soft, output_attentions=True).attentions[0].numpy()
    assert not np.triu(weights, 1).any() and np.allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 9), (1, 9)])
def test_packed_texts_see_themselves_alone(shape):
    model = make(GPT2LMHeadModel)
    positions = np.broadcast_to([0, 1, 2, 3, 0, 1, 0, 1, 2], shape)
    packed = model(IDS, position_ids=positions, use_cache=False).logits.numpy()
    for start, stop in ((0, 4), (4, 6), (6, 9)):
        alone = model(IDS[:, start:stop]).logits.numpy()
        np.testing.assert_allclose(packed[:, start:stop], alone, atol=1e-6)
    # As in transformers not with a cache, nor with a mask, which say what is seen.
    for options in ({}, {"use_cache": False, "attention_mask": np.ones_like(IDS)}):
        other = model(IDS, position_ids=positions, **options).logits.numpy()
        assert not np.allclose(other[:, 6:], packed[:, 6:], atol=1e-3)


def test_positions_that_count_on_need_no_mask():
    assert packed_mask(np.arange(3, 9)[None]) is None
    assert packed_mask(np.array([[5]])) is None
    mask = packed_mask(np.array([[0, 1, 5], [0, 0, 1]]))
    assert mask.shape == (2, 1, 3, 3)
    assert mask[:, 0].tolist() == [
        [[True, True, False], [True, True, False], [False, False, True]],
        [[True, False, False], [False, True, True], [False, True, True]],
    ]


@pytest.mark.parametrize("model_class", [GPT2ForTokenClassification, GPT2ForQuestionAnswering])
def test_these_heads_lose_the_second_entry_of_the_body_s_tuple(model_class):
    """Whatever it is: the cache, or without one the hidden states."""
    own = 1 if model_class is GPT2ForTokenClassification else 2
    for cache, hidden, weights in itertools.product([True, False], repeat=3):
        model = make(model_class, use_cache=cache)
        options = {"output_hidden_states": hidden, "output_attentions": weights}
        entries = model(IDS, **options, return_dict=False)
        body = 1 + cache + hidden + weights
        assert type(entries) is tuple and len(entries) == own + max(0, body - 2)
        out = model(IDS, **options)
        assert (out.hidden_states is not None) == hidden
        assert (out.attentions is not None) == weights
        assert "past_key_values" not in out


def test_the_configuration_may_ask_for_tuples():
    model = make(GPT2LMHeadModel, return_dict=False)
    loss, logits, cache = model(IDS, labels=IDS)
    assert loss.shape == () and logits.shape == (2, 9, 31) and len(cache) == 2
    assert model(IDS, return_dict=True).logits.shape == (2, 9, 31)
