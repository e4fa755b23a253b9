"""gradient_checkpointing_enable: a training step with the same bits, and less memory."""

import tracemalloc

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2LMHeadModel
from tensor import manual_seed

SIZES = dict(vocab_size=50, n_positions=32, n_embd=16, n_layer=3, n_head=2)
IDS = np.random.default_rng(0).integers(0, 50, (2, 32))


def step(model, **inputs):
    """The loss, and every gradient by name, of one training step with dropout."""
    model.zero_grad()
    manual_seed(7)
    out = model(IDS, labels=IDS, **inputs)
    out.loss.backward()
    return out.loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("inputs", [
    {}, {"attention_mask": np.tri(2, 32, 20)}, {"head_mask": [1.0, 0.5]},
    {"output_hidden_states": True}, {"output_attentions": True},
])  # fmt: skip
def test_the_bits_are_those_of_training_without(inputs):
    manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(**SIZES))
    loss, gradients = step(model, **inputs)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    recomputed_loss, recomputed = step(model, **inputs)
    assert recomputed_loss == loss
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(recomputed[name], gradient, err_msg=name)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_cross_attention_and_gradients_into_the_encoder():
    from minigpt import GPT2Model
    from tensor import Tensor

    manual_seed(1)
    model = GPT2Model(GPT2Config(**SIZES, add_cross_attention=True))
    values = np.random.default_rng(1).standard_normal((2, 5, 16)).astype(np.float32)
    gradients = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        states = Tensor(values, requires_grad=True)
        manual_seed(7)
        out = model(IDS, encoder_hidden_states=states * 1.0).last_hidden_state
        (out * out).sum().backward()
        gradients.append(states.grad.numpy())
    # Three layers' parts arrive in the same order, so the sums have the same bits.
    np.testing.assert_array_equal(*gradients)
    assert np.abs(gradients[0]).max() > 0


def test_frozen_embeddings_still_train_the_blocks():
    model = GPT2LMHeadModel(GPT2Config(**SIZES))
    model.gradient_checkpointing_enable()
    for weight in (model.transformer.wte.weight, model.transformer.wpe.weight):
        weight.requires_grad = False
    model(IDS, labels=IDS).loss.backward()
    assert model.transformer.h[0].attn.c_attn.weight.grad is not None


def test_evaluation_and_caches_are_as_ever():
    model = GPT2LMHeadModel(GPT2Config(**SIZES))
    model.gradient_checkpointing_enable()
    assert model(IDS).past_key_values is None  # as in transformers: it would keep what we drop
    model.eval()
    assert model(IDS).past_key_values.get_seq_length() == 32
    assert model.generate(IDS[:, :4], max_new_tokens=3, eos_token_id=None).shape == (2, 7)


def test_memory_no_longer_grows_by_every_blocks_insides():
    def peak(enable):
        model = GPT2LMHeadModel(GPT2Config(**{**SIZES, "n_layer": 8, "n_positions": 256}))
        if enable:
            model.gradient_checkpointing_enable()
        ids = np.random.default_rng(0).integers(0, 50, (4, 256))
        tracemalloc.start()
        model(ids, labels=ids).loss.backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(True) < 0.4 * peak(False)
