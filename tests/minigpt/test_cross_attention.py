"""Cross-attention: what it may be given, and what stays in the cache."""

from __future__ import annotations

import numpy as np
import pytest

import tensor
from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.cache import KVCache

CONFIG = dict(vocab_size=31, n_positions=12, n_embd=16, n_layer=2, n_head=4)
IDS = np.random.default_rng(0).integers(0, 31, (2, 6))
STATES = np.random.default_rng(1).normal(size=(2, 5, 16)).astype(np.float32)


@pytest.fixture
def model():
    tensor.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(**CONFIG, add_cross_attention=True)).eval()


def test_by_hand(model):
    """One head at a time, with NumPy: softmax(q k^T / sqrt(D)) v over the encoder's positions."""
    block = model.transformer.h[0]
    x = np.random.default_rng(2).normal(size=(2, 6, 16))
    model.astype("float64")
    q_attn, c_attn, c_proj = (
        (m.weight.numpy(), m.bias.numpy())
        for m in (block.crossattention.q_attn, block.crossattention.c_attn,
                  block.crossattention.c_proj)
    )  # fmt: skip
    states = STATES.astype(np.float64)
    q = x @ q_attn[0] + q_attn[1]
    k, v = np.split(states @ c_attn[0] + c_attn[1], 2, axis=-1)
    y = np.empty_like(x)
    for b in range(2):
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            e = np.exp(q[b, :, part] @ k[b, :, part].T / 2)
            y[b, :, part] = e / e.sum(-1, keepdims=True) @ v[b, :, part]
    wanted = y @ c_proj[0] + c_proj[1]
    encoded = type("Encoded", (), {"states": tensor.Tensor(states), "bias": None})
    found, weights = block.crossattention(tensor.Tensor(x), encoded, None, None, True)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)
    assert weights.shape == (2, 4, 6, 5)


def test_keys_and_values_of_the_encoder_are_computed_once(model):
    whole = model(IDS, encoder_hidden_states=STATES).logits.numpy()
    out = model(IDS[:, :4], encoder_hidden_states=STATES, use_cache=True)
    cache = out.past_key_values
    shapes = [tuple(x.shape for x in layer) for layer in cache]
    assert shapes == [((2, 4, 4, 4), (2, 4, 4, 4), (2, 4, 5, 4), (2, 4, 5, 4))] * 2
    rest = model(IDS[:, 4:], encoder_hidden_states=STATES * 0, past_key_values=cache)
    np.testing.assert_allclose(rest.logits.numpy(), whole[:, 4:], atol=1e-5)


def test_a_cache_of_four_arrays_reads_and_selects(model):
    cache = model(IDS[:, :4], encoder_hidden_states=STATES).past_key_values
    arrays = tuple(tuple(x.numpy() for x in layer) for layer in cache)
    swapped = KVCache(arrays)
    swapped.select([1, 0])
    a = model(IDS[:, 4:], encoder_hidden_states=STATES, past_key_values=arrays).logits.numpy()
    b = model(IDS[::-1, 4:], encoder_hidden_states=STATES, past_key_values=swapped).logits.numpy()
    np.testing.assert_allclose(a, b[::-1], atol=1e-6)
    assert len(cache[-1]) == 4


def test_without_encoder_states_the_layers_are_skipped(model):
    plain = GPT2LMHeadModel(GPT2Config(**CONFIG)).eval()
    own = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if name in own:
            own[name].copy_(parameter)
    out = model(IDS, output_attentions=True)
    assert np.array_equal(out.logits.numpy(), plain(IDS).logits.numpy())
    assert out.cross_attentions is None and len(out.attentions) == 2


def test_gradients_reach_the_encoder(model):
    model.astype("float64")
    model.train(False)

    def loss(states):
        return model(IDS, labels=IDS, encoder_hidden_states=states).loss

    tensor.gradcheck(loss, tensor.Tensor(STATES.astype(np.float64), requires_grad=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(encoder_hidden_states=STATES[:1]), r"\(1, 5, 16\) must be \(B, S, C\) with B = 2"),
        (dict(encoder_hidden_states=STATES[..., :8]), r"\(2, 5, 8\) must be"),
        (dict(encoder_hidden_states=STATES[:, :0]), r"\(2, 0, 16\) must be"),
        (
            dict(encoder_hidden_states=STATES, encoder_attention_mask=np.ones((2, 6))),
            r"encoder_attention_mask \(2, 6\) must be \(B, S\) = \(2, 5\)",
        ),
        (
            dict(encoder_hidden_states=STATES, encoder_attention_mask=np.full((2, 5), 0.5)),
            "must hold 1 for what is seen and 0",
        ),
    ],
)
def test_wrong_arguments_are_named(model, arguments, words):
    with pytest.raises(ValueError, match=words):
        model(IDS, **arguments)


def test_encoder_states_are_needed_on_every_call(model):
    """transformers would skip cross-attention, and give other numbers, without a word."""
    cache = model(IDS[:, :4], encoder_hidden_states=STATES).past_key_values
    with pytest.raises(ValueError, match="encoder_hidden_states was not given"):
        model(IDS[:, 4:], past_key_values=cache)
