"""Pruned heads, other vocabularies, sharded folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import tensor
from minigpt import GPT2Config, GPT2ForTokenClassification, GPT2LMHeadModel, GPT2Model
from minigpt.checkpoints.formats import open_checkpoint
from tensor import optim

CONFIG = dict(vocab_size=31, n_positions=12, n_embd=16, n_layer=2, n_head=4)
IDS = np.random.default_rng(0).integers(0, 31, (2, 9))


def make(**changes):
    tensor.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(**CONFIG | changes)).eval()


# --- heads


def test_a_pruned_head_is_a_masked_one():
    """A head that is gone gives what one gives whose weights are multiplied by 0."""
    model = make()
    mask = np.ones((2, 4), np.float32)
    mask[0, [1, 3]] = mask[1, 2] = 0
    wanted = model(IDS, head_mask=mask).logits.numpy()
    before = model.num_parameters()
    model.prune_heads({0: [3, 1], 1: {2}})
    np.testing.assert_allclose(model(IDS).logits.numpy(), wanted, atol=1e-6)
    # q, k, v and the output projection of three heads of 4, and the biases of q, k, v
    assert before - model.num_parameters() == 3 * 4 * (4 * 16 + 3)
    assert model.config.pruned_heads == {0: [1, 3], 1: [2]}


def test_heads_are_counted_as_before_any_pruning():
    a, b = make(), make()
    a.prune_heads({0: [1, 3]})
    b.prune_heads({0: [1]})
    b.prune_heads({0: [1, 3]})
    assert np.array_equal(a(IDS).logits.numpy(), b(IDS).logits.numpy())
    assert a.config == b.config


def test_a_pruned_model_trains_saves_and_generates(tmp_path):
    model = make()
    model.prune_heads({0: [0, 1, 2], 1: [3]})
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert np.array_equal(again(IDS).logits.numpy(), model(IDS).logits.numpy())
    ids = model.generate(IDS[:, :3], max_new_tokens=4, eos_token_id=None)
    assert np.array_equal(again.generate(IDS[:, :3], max_new_tokens=4, eos_token_id=None), ids)
    whole = GPT2LMHeadModel(GPT2Config(**CONFIG, pruned_heads={0: [0, 1, 2], 1: [3]}))
    assert whole.num_parameters() == model.num_parameters()


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ({2: [0]}, "layer 2"), ({0: [4]}, r"heads \[4\]: there are layers 0 … 1 with heads 0 … 3"),
        ({1: [0], 0: [0, 1, 2, 3]}, "layer 0 would have no head left"),
    ],
)  # fmt: skip
def test_wrong_heads_change_nothing(heads, words):
    model = make()
    before = model(IDS).logits.numpy()
    with pytest.raises(ValueError, match=words):
        model.prune_heads(heads)
    assert np.array_equal(model(IDS).logits.numpy(), before) and model.config.pruned_heads == {}


@pytest.mark.parametrize(
    "heads", [{0: 3}, {0: [1.5]}, {0: ["a"]}, {"x": [1]}, {0.5: [1]}, {True: [1]}, [0, 1], None]
)
def test_heads_that_are_no_numbers_change_nothing(heads):
    model = make()
    before = model(IDS).logits.numpy()
    with pytest.raises(TypeError, match="prune_heads"):
        model.prune_heads(heads)
    assert np.array_equal(model(IDS).logits.numpy(), before) and model.config.pruned_heads == {}


def test_a_mask_of_heads_that_are_gone():
    model = make()
    model.prune_heads({0: [1]})
    with pytest.raises(ValueError, match="head_mask with pruned_heads="):
        model(IDS, head_mask=np.ones(4))


# --- vocabularies


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_the_mean_of_the_old_ones(tied):
    model = make(tie_word_embeddings=tied)
    old = model.transformer.wte.weight.numpy()
    before = model(IDS).logits.numpy()
    embedding = model.resize_token_embeddings(40)
    assert embedding is model.transformer.wte and embedding.weight.shape == (40, 16)
    new = embedding.weight.numpy()[31:]
    np.testing.assert_allclose(new, np.tile(old.mean(0), (9, 1)), atol=1e-8)
    after = model(IDS).logits.numpy()
    assert after.shape == (2, 9, 40)
    np.testing.assert_allclose(after[..., :31], before, atol=1e-6)
    assert (model.output_matrix() is embedding.weight) == tied
    loss = model(IDS + 9, labels=IDS + 9).loss
    loss.backward()
    assert embedding.weight.grad.shape == (40, 16)


def test_fewer_rows_and_multiples():
    model = make()
    before = model(IDS % 8).logits.numpy()
    model.resize_token_embeddings(8)
    np.testing.assert_allclose(model(IDS % 8).logits.numpy(), before[..., :8], atol=1e-6)
    model.resize_token_embeddings(9, pad_to_multiple_of=16, mean_resizing=False)
    assert model.config.vocab_size == 16
    assert model.resize_token_embeddings(pad_to_multiple_of=5).weight.shape == (20, 16)
    with pytest.raises(IndexError, match="outside 0 … 19"):
        model([[20]])


def test_an_optimizer_from_before_is_refused():
    model = make()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    model.resize_token_embeddings(40)
    model(IDS, labels=IDS).loss.backward()
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"is \(40, 16\), but its m is \(31, 16\)"):
        optimizer.step()
    assert all(np.array_equal(before[name], x) for name, x in model.state_dict().items())


@pytest.mark.parametrize("number", [0, -1, 2.5, True, "9"])
def test_wrong_sizes_are_refused(number):
    with pytest.raises(ValueError, match="new_num_tokens"):
        make().resize_token_embeddings(number)


def test_numbers_of_parameters():
    model = make()
    embeddings = (31 + 12) * 16
    assert model.num_parameters() - model.num_parameters(exclude_embeddings=True) == embeddings
    model.transformer.wpe.weight.requires_grad = False
    assert model.num_parameters() - model.num_parameters(only_trainable=True) == 12 * 16


# --- shards


@pytest.fixture
def shards(tmp_path):
    """A folder with the weights in two files, as transformers writes large models."""
    model = make()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = model.state_dict()
    names, weight_map = sorted(state), {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_index(tmp_path, weight_map)
    return tmp_path


def write_index(folder, weight_map) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_map(folder) -> dict:
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_shards_are_one_model(shards):
    model = GPT2LMHeadModel.from_pretrained(shards)
    assert np.array_equal(model(IDS).logits.numpy(), make()(IDS).logits.numpy())
    assert GPT2Model.from_pretrained(shards).num_parameters() == model.num_parameters()
    with pytest.warns(UserWarning, match="and 1 more has no classifier.weight, classifier.bias"):
        GPT2ForTokenClassification.from_pretrained(shards)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x"])
def test_a_shard_lies_beside_its_index(shards, name):
    weight_map = read_map(shards)
    write_index(shards, weight_map | {"transformer.wte.weight": name})
    with pytest.raises(ValueError, match="is not the name of a file of weights beside it"):
        GPT2LMHeadModel.from_pretrained(shards)


def test_an_index_that_does_not_fit_its_shards(shards):
    weight_map = read_map(shards)
    index = shards / "model.safetensors.index.json"
    first, second = sorted(set(weight_map.values()))
    write_index(shards, weight_map | {"extra": first})
    with pytest.raises(ValueError, match="does not hold 'extra'"):
        open_checkpoint(index)
    write_index(shards, {name: file for name, file in weight_map.items() if "wte" not in name})
    with pytest.raises(ValueError, match=r"holds 'transformer.wte.weight', which .* has in None"):
        open_checkpoint(index)
    write_index(shards, [first])
    with pytest.raises(ValueError, match="weight_map must be an object"):
        open_checkpoint(index)
    write_index(shards, weight_map)
    (shards / second).unlink()
    with pytest.raises(FileNotFoundError, match="no such file, but model.safetensors.index.json"):
        open_checkpoint(index)


def test_a_weight_under_both_its_names_is_refused(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    state["wte.weight"] = state["transformer.wte.weight"] * 2
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="twice: transformer.wte.weight|twice: wte.weight"):
        GPT2LMHeadModel.from_pretrained(tmp_path)
