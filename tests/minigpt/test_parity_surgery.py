"""Folders read across classes, pruned heads, other vocabularies, shards: beside transformers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file

import minigpt
from tests.minigpt.parity_helpers import (
    Pair,
    assert_same_gradients,
    assert_same_outputs,
    make_pair,
    make_theirs,
    reference_only,
    run_theirs,
)
from tests.minigpt.test_parity_heads import HEADS

pytestmark = reference_only

IDS = np.random.default_rng(0).integers(1, 40, (2, 9))
CONFIG = {"pad_token_id": 0, "num_labels": 3}


def load_both(name: str, folder, **overrides) -> tuple[Pair, set[str], set[str]]:
    """A class read from a folder by both, and the parameters that each of them started anew."""
    import transformers

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = getattr(minigpt, name).from_pretrained(folder, **overrides)
    theirs, info = getattr(transformers, name).from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, **overrides
    )
    text = " ".join(str(warning.message) for warning in caught)
    new = {key for key, _ in ours.named_parameters() if key in text.replace(",", " ").split(" ")
           or key + ":" in text.split(" ")}  # fmt: skip
    return Pair(ours, theirs), new, set(info["missing_keys"])


@pytest.mark.parametrize("reader", HEADS)
@pytest.mark.parametrize("writer", HEADS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_class_reads_every_class(writer, reader, tied, tmp_path):
    make_theirs(CONFIG | {"tie_word_embeddings": tied}, seed=1, name=writer).save_pretrained(
        tmp_path
    )
    pair, new, missing = load_both(reader, tmp_path)
    assert new == missing
    ours = dict(pair.ours.named_parameters())
    theirs = dict(pair.theirs.named_parameters())
    assert list(ours) == list(theirs)
    for key in ours.keys() - new:
        np.testing.assert_array_equal(ours[key].numpy(), theirs[key].detach().numpy(), err_msg=key)
    if not new:
        assert_same_outputs(pair.ours(IDS), run_theirs(pair.theirs, input_ids=IDS))


@pytest.mark.parametrize("name", HEADS)
def test_transformers_reads_every_class_that_we_save(name, tmp_path):
    pair = make_pair(CONFIG, seed=2, name=name)
    pair.ours.save_pretrained(tmp_path / "ours")
    pair.theirs.save_pretrained(tmp_path / "theirs")
    a, b = (load_file(tmp_path / f / "model.safetensors") for f in ("ours", "theirs"))
    assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    read, new, missing = load_both(name, tmp_path / "ours")
    assert not new and not missing
    assert_same_outputs(pair.ours(IDS), run_theirs(read.theirs, input_ids=IDS))


def test_cross_attention_that_a_file_lacks_is_new(tmp_path):
    make_theirs({}, seed=3).save_pretrained(tmp_path)
    pair, new, missing = load_both("GPT2LMHeadModel", tmp_path, add_cross_attention=True)
    assert new == missing and any("q_attn" in key for key in new)
    assert_same_outputs(pair.ours(IDS), run_theirs(pair.theirs, input_ids=IDS))


def test_pruned_heads(tmp_path):
    pair = make_pair({}, seed=4)
    for heads in ({0: [1, 3]}, {0: [0, 1], 1: [2]}):
        pair.ours.prune_heads(heads)
        pair.theirs.prune_heads(heads)
    assert pair.ours.config.pruned_heads == pair.config.pruned_heads
    options = {"labels": IDS, "output_attentions": True}
    out, reference = pair.ours(IDS, **options), run_theirs(pair.theirs, input_ids=IDS, **options)
    assert_same_outputs(out, reference)
    assert_same_gradients(pair, out.loss, reference.loss)
    pair.ours.save_pretrained(tmp_path / "ours")
    pair.theirs.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        read, new, missing = load_both("GPT2LMHeadModel", tmp_path / folder)
        assert not new and not missing
        assert_same_outputs(read.ours(IDS), run_theirs(read.theirs, input_ids=IDS))
        assert_same_outputs(read.ours(IDS), run_theirs(pair.theirs, input_ids=IDS))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("size", [53, 70, 31])
def test_another_vocabulary(size, tied, tmp_path):
    pair = make_pair({"tie_word_embeddings": tied}, seed=5)
    ours, theirs = (
        pair.ours.resize_token_embeddings(size),
        pair.theirs.resize_token_embeddings(size),
    )
    assert pair.ours.config.vocab_size == pair.config.vocab_size == size
    # transformers draws new rows around the mean, with a deviation of about 3e-5 of the old ones'.
    np.testing.assert_allclose(ours.weight.numpy(), theirs.weight.detach().numpy(), atol=2e-4)
    kept = min(size, 53)
    assert np.array_equal(ours.weight.numpy()[:kept], theirs.weight.detach().numpy()[:kept])
    ids = IDS % kept
    out = pair.ours(ids, labels=ids)
    assert out.logits.shape == (2, 9, size)
    reference = run_theirs(pair.theirs, input_ids=ids, labels=ids)
    np.testing.assert_allclose(
        out.logits.numpy()[..., :kept], reference.logits.detach().numpy()[..., :kept], atol=1e-5
    )
    pair.ours.save_pretrained(tmp_path)
    read, new, missing = load_both("GPT2LMHeadModel", tmp_path)
    assert not new and not missing
    assert_same_outputs(pair.ours(ids), run_theirs(read.theirs, input_ids=ids))


@pytest.mark.parametrize("name", HEADS)
def test_numbers_of_parameters(name):
    pair = make_pair(CONFIG, seed=6, name=name)
    for options in ({}, {"only_trainable": True}, {"exclude_embeddings": True}):
        assert pair.ours.num_parameters(**options) == pair.theirs.num_parameters(**options)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_shards(dtype, tmp_path):
    theirs = make_theirs({"tie_word_embeddings": False}, seed=7, dtype=dtype)
    theirs.save_pretrained(tmp_path, max_shard_size="5KB")
    assert not (tmp_path / "model.safetensors").exists()
    read, new, missing = load_both("GPT2LMHeadModel", tmp_path)
    assert not new and not missing
    assert_same_outputs(read.ours(IDS), run_theirs(read.theirs.float(), input_ids=IDS))
