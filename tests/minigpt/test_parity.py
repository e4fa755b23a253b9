"""GPT2Model and GPT2LMHeadModel beside transformers' on random tiny configurations: outputs,
losses, every gradient, caches, and the options of the forward pass."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import tolerances
from tensor import Tensor, no_grad, optim
from tests.minigpt.parity_helpers import (
    Pair,
    assert_same,
    assert_same_gradients,
    assert_same_outputs,
    configs,
    draw_batch,
    flatten,
    loss_of,
    make_pair,
    reference_only,
    run_theirs,
)

pytestmark = reference_only

# Each field of the configuration that changes the arithmetic, at least once.
CONFIGS = {
    "default": {},
    "one_head": {"n_head": 1, "n_layer": 1},
    "heads_of_one": {"n_embd": 6, "n_head": 6},
    "odd_sizes": {"vocab_size": 37, "n_positions": 13, "n_embd": 15, "n_head": 3, "n_inner": 7},
    "deep": {"n_layer": 6, "n_embd": 8, "n_head": 2},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "tanh": {"activation_function": "tanh"},
    "epsilon": {"layer_norm_epsilon": 1e-2},
    "unscaled": {"scale_attn_weights": False},
    "by_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "upcast": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "upcast_unscaled": {"reorder_and_upcast_attn": True, "scale_attn_weights": False},
    "untied": {"tie_word_embeddings": False},
}
# transformers upcasts to float32, whatever the model's dtype: in float64 that loses digits.
FLOAT64 = [name for name in CONFIGS if "upcast" not in name]
CASES = [(name, "float32") for name in CONFIGS] + [(name, "float64") for name in FLOAT64]
PADDINGS = ["none", "right", "left", "holes"]


def compare_everything(pair: Pair, batch: dict, **options) -> None:
    """All fields of the output, the loss and every gradient."""
    batch = dict(batch)
    where = batch.pop("where")
    options = {"output_hidden_states": True, "output_attentions": True} | options
    out = pair.ours(**batch, **options)
    reference = run_theirs(pair.theirs, **batch, **options)
    reference.loss = loss_of(reference, batch["labels"])
    assert_same_outputs(out, reference, where)
    assert_same_gradients(pair, out.loss, reference.loss)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("config", "dtype"), CASES)
def test_outputs_and_gradients(config, dtype, padding):
    pair = make_pair(CONFIGS[config], seed=len(config), dtype=dtype)
    batch = draw_batch(pair.config, np.random.default_rng(1), B=3, T=11, padding=padding)
    compare_everything(pair, batch)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    config=configs(),
    seed=st.integers(0, 2**32 - 1),
    padding=st.sampled_from(PADDINGS),
    float64=st.booleans(),
    use_cache=st.booleans(),
    data=st.data(),
)
def test_any_configuration_and_batch(config, seed, padding, float64, use_cache, data):
    dtype = "float64" if float64 and not config["reorder_and_upcast_attn"] else "float32"
    pair = make_pair(config, seed, dtype)
    B = data.draw(st.integers(1, 4), label="B")
    T = data.draw(st.integers(2, config["n_positions"]), label="T")
    batch = draw_batch(pair.config, np.random.default_rng(seed), B, T, padding)
    compare_everything(pair, batch, use_cache=use_cache)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("config", "dtype"), [("default", "float32"), ("odd_sizes", "float64")])
def test_base_model(config, dtype, padding):
    pair = make_pair(CONFIGS[config], seed=3, dtype=dtype, base=True)
    rng = np.random.default_rng(4)
    batch = draw_batch(pair.config, rng, B=2, T=9, padding=padding)
    where = batch.pop("where")
    del batch["labels"]
    options = {"output_hidden_states": True, "output_attentions": True}
    out = pair.ours(**batch, **options)
    reference = run_theirs(pair.theirs, **batch, **options)
    assert_same_outputs(out, reference, where)

    weights = rng.normal(size=(2, 9, pair.config.n_embd)).astype(dtype) * where[..., None]
    loss = (out.last_hidden_state * Tensor(weights)).sum()
    reference_loss = (reference.last_hidden_state * reference.last_hidden_state.new(weights)).sum()
    assert_same_gradients(pair, loss, reference_loss)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_embeds_and_their_gradient(dtype):
    import torch

    pair = make_pair({}, seed=5, dtype=dtype)
    rng = np.random.default_rng(6)
    array = rng.normal(size=(2, 8, pair.config.n_embd)).astype(dtype)
    labels = rng.integers(0, pair.config.vocab_size, (2, 8))
    ours, theirs = Tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
    out = pair.ours(inputs_embeds=ours, labels=labels)
    reference = run_theirs(pair.theirs, inputs_embeds=theirs, labels=labels)
    reference.loss = loss_of(reference, labels)
    assert_same_outputs(out, reference)
    out.loss.backward()
    reference.loss.backward()
    (result,) = tolerances.compare_gradients(
        {"embeds": ours.grad.numpy()}, {"embeds": theirs.grad.numpy()}
    )
    assert result.ok, str(result)


@pytest.mark.parametrize("shape", [(1, 8), (3, 8)])
def test_position_ids(shape):
    pair = make_pair({}, seed=7)
    rng = np.random.default_rng(8)
    batch = draw_batch(pair.config, rng, B=3, T=8)
    batch["position_ids"] = rng.integers(0, pair.config.n_positions, shape)
    compare_everything(pair, batch)


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float32"])
def test_attention_mask_of_any_dtype(dtype):
    pair = make_pair({}, seed=9)
    batch = draw_batch(pair.config, np.random.default_rng(10), B=3, T=8, padding="right")
    batch["attention_mask"] = batch["attention_mask"].astype(dtype)
    compare_everything(pair, batch)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_ids_of_any_integer_dtype(dtype):
    pair = make_pair({}, seed=9)
    batch = draw_batch(pair.config, np.random.default_rng(10), B=3, T=8)
    ids = batch["input_ids"]
    expected = run_theirs(pair.theirs, input_ids=ids).logits
    assert_same("logits", pair.ours(ids.astype(dtype)).logits, expected)
    assert_same("logits of lists", pair.ours(ids.tolist()).logits, expected)


@pytest.mark.parametrize(
    "config",
    [{"use_cache": False}, {"output_hidden_states": True}, {"output_attentions": True}],
    ids=lambda config: next(iter(config)),
)
def test_defaults_come_from_the_configuration(config):
    pair = make_pair(config, seed=11)
    ids = draw_batch(pair.config, np.random.default_rng(12), B=2, T=5)["input_ids"]
    assert_same_outputs(pair.ours(ids), run_theirs(pair.theirs, input_ids=ids))


@pytest.mark.parametrize(
    "keep",
    [0, 1, 3, 8, 11, np.array([7]), np.array([0, 2, 5]), np.array([5, 5, 1]), np.array([-1, 0])],
    ids=str,
)
def test_logits_to_keep(keep):
    pair = make_pair({}, seed=13)
    ids = draw_batch(pair.config, np.random.default_rng(14), B=2, T=8)["input_ids"]
    out = pair.ours(ids, logits_to_keep=keep)
    reference = run_theirs(pair.theirs, input_ids=ids, logits_to_keep=keep)
    assert_same("logits", out.logits, reference.logits)


@pytest.mark.parametrize("base", [False, True], ids=["head", "base"])
def test_tuples_hold_the_same_in_the_same_order(base):
    pair = make_pair({}, seed=15, base=base)
    batch = draw_batch(pair.config, np.random.default_rng(16), B=2, T=6)
    ids, labels = batch["input_ids"], batch["labels"]
    names = ("use_cache", "output_hidden_states", "output_attentions")
    for flags in itertools.product([False, True], repeat=3):
        options = dict(zip(names, flags))
        for extra in [{}] if base else [{}, {"labels": labels}]:
            inputs = {"input_ids": ids} | extra | options
            found = pair.ours(**inputs, return_dict=False)
            wanted = run_theirs(pair.theirs, **inputs, return_dict=False)
            assert type(found) is tuple and len(found) == len(wanted), inputs
            for i, (ours, reference) in enumerate(zip(found, wanted)):
                assert_same(f"entry {i} with {options}", ours, reference)
            # Indexing the dataclass skips what is None, as transformers' outputs do.
            out = pair.ours(**inputs)
            for i, reference in enumerate(wanted):
                assert_same(f"out[{i}]", out[i], reference)
                assert_same(f"out[:{i + 1}]", out[: i + 1], wanted[: i + 1])


def test_labels_ignored():
    pair = make_pair({}, seed=17)
    batch = draw_batch(pair.config, np.random.default_rng(18), B=2, T=6)
    ids = batch["input_ids"]
    labels = np.full_like(ids, -100)
    labels[1, 4] = 3
    assert_same(
        "loss of one label",
        pair.ours(ids, labels=labels).loss,
        run_theirs(pair.theirs, input_ids=ids, labels=labels).loss,
    )
    labels[1, 4] = -100
    labels[:, 0] = ids[:, 0]  # the first position is predicted from nothing: ignored as well
    ours = pair.ours(ids, labels=labels).loss
    assert np.isnan(ours.item())
    assert_same("loss of none", ours, run_theirs(pair.theirs, input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("config", ["default", "untied", "silu", "by_layer"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ten_adamw_steps(config, dtype):
    import torch

    pair = make_pair(CONFIGS[config], seed=19, dtype=dtype)
    batch = draw_batch(pair.config, np.random.default_rng(20), B=4, T=12, padding="right")
    del batch["where"]
    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    ours_optimizer = optim.AdamW(pair.ours.train().parameters(), **settings)
    theirs_optimizer = torch.optim.AdamW(pair.theirs.train().parameters(), **settings)
    losses, wanted = [], []
    for _ in range(10):
        ours_optimizer.zero_grad()
        loss = pair.ours(**batch).loss
        loss.backward()
        ours_optimizer.step()
        losses.append(loss.item())

        theirs_optimizer.zero_grad()
        reference = loss_of(run_theirs(pair.theirs, **batch), batch["labels"])
        reference.backward()
        theirs_optimizer.step()
        wanted.append(reference.item())
    result = tolerances.compare(
        "losses", np.array(losses), np.array(wanted), tolerances.TRAINING_LOSS
    )
    assert result.ok, str(result)


def run_in_pieces(model, batch: dict, lengths: list[int], run) -> tuple[list, object]:
    """The logits of consecutive pieces of a batch, each on the cache of those before."""
    cache, pieces, start = None, [], 0
    for length in lengths:
        end = start + length
        inputs = {"input_ids": batch["input_ids"][:, start:end]}
        if "attention_mask" in batch:
            inputs["attention_mask"] = batch["attention_mask"][:, :end]  # past and new
        if "position_ids" in batch:
            inputs["position_ids"] = batch["position_ids"][:, start:end]
        out = run(model, **inputs, past_key_values=cache, use_cache=True)
        cache, start = out.past_key_values, end
        pieces.extend(flatten(out.logits))
    return pieces, cache


@st.composite
def splits(draw, total: int) -> list[int]:
    """`total` tokens in any number of pieces."""
    cuts = draw(st.sets(st.integers(1, total - 1), max_size=total - 1))
    edges = [0, *sorted(cuts), total]
    return [b - a for a, b in itertools.pairwise(edges)]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    config=st.sampled_from(sorted(CONFIGS)),
    padding=st.sampled_from(PADDINGS),
    seed=st.integers(0, 2**32 - 1),
    lengths=splits(total=12),
)
def test_any_split_through_the_cache(config, padding, seed, lengths):
    pair = make_pair(CONFIGS[config], seed)
    batch = draw_batch(pair.config, np.random.default_rng(seed), B=3, T=12, padding=padding)
    where = batch["where"]
    del batch["labels"], batch["where"]
    with no_grad():
        pieces, cache = run_in_pieces(pair.ours, batch, lengths, lambda m, **kw: m(**kw))
        whole = pair.ours(**batch)
    wanted_pieces, wanted_cache = run_in_pieces(pair.theirs, batch, lengths, run_theirs)

    logits = np.concatenate(pieces, axis=1)
    assert_same("cached against uncached", logits, whole.logits, where)
    assert_same("against transformers", logits, np.concatenate(wanted_pieces, axis=1), where)
    assert_same("cache", cache, wanted_cache, where)
    assert cache.get_seq_length() == wanted_cache.get_seq_length() == 12


@pytest.mark.parametrize("as_pairs", [False, True], ids=["cache", "pairs"])
def test_gradients_on_a_cache(as_pairs):
    """What is cached counts as constant: in torch, too, where it was made without gradients."""
    import torch

    pair = make_pair({}, seed=21)
    batch = draw_batch(pair.config, np.random.default_rng(22), B=2, T=10)
    start, end = batch["input_ids"][:, :6], batch["input_ids"][:, 6:]
    cache = pair.ours(start).past_key_values
    if as_pairs:
        cache = tuple((k.numpy(), v.numpy()) for k, v in cache)
    with torch.no_grad():
        reference_cache = run_theirs(pair.theirs, input_ids=start).past_key_values
    out = pair.ours(end, past_key_values=cache, labels=end)
    reference = run_theirs(pair.theirs, input_ids=end, past_key_values=reference_cache, labels=end)
    assert_same_outputs(out, reference)
    assert_same_gradients(pair, out.loss, reference.loss)
