"""Every class beside transformers' on random configurations and inputs: all the arguments of the
forward passes in any combination; outputs, losses, caches, attentions and every gradient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import tolerances
from tensor import Tensor, no_grad
from tests.minigpt.parity_helpers import (
    Pair,
    assert_same,
    assert_same_gradients,
    assert_same_outputs,
    configs,
    make_pair,
    reference_only,
    run_theirs,
    to_torch,
)

pytestmark = reference_only

HEADS = [
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
]
WITH_CROSS_ATTENTION = HEADS[:2]
WITH_CHOICES = HEADS[:3]
WITH_CACHE = HEADS[:5]
FLOATS = ("inputs_embeds", "encoder_hidden_states", "head_mask")  # they have gradients, too


# --- comparing one forward pass


def as_leaves(inputs: dict) -> tuple[dict, dict]:
    """The inputs for us and for torch; floats as leaves that want a gradient."""
    ours, theirs = dict(inputs), {name: to_torch(value) for name, value in inputs.items()}
    for name in FLOATS:
        if name in inputs:
            ours[name] = Tensor(inputs[name], requires_grad=True)
            theirs[name] = theirs[name].clone().requires_grad_()
    return ours, theirs


def their_loss(name: str, reference, inputs: dict):
    """transformers' loss. That of GPT2LMHeadModel is cast to float32 there, whatever the model's
    dtype: in float64 it is torch's cross-entropy of transformers' logits instead."""
    import torch
    from torch.nn.functional import cross_entropy, pad

    if name != "GPT2LMHeadModel" or "labels" not in inputs:
        return getattr(reference, "loss", None)
    if reference.logits.dtype == torch.float32:
        return reference.loss
    shifted = pad(torch.from_numpy(inputs["labels"]), (0, 1), value=-100)[..., 1:]
    if "shift_labels" in inputs:
        shifted = torch.from_numpy(inputs["shift_labels"])
    items = inputs.get("num_items_in_batch")
    logits = reference.logits.reshape(-1, reference.logits.shape[-1])
    how = "mean" if items is None else "sum"
    loss = cross_entropy(logits, shifted.reshape(-1), ignore_index=-100, reduction=how)
    return loss if items is None else loss / items


def objectives(out, reference, rng: np.random.Generator):
    """The sum of all losses on both sides, or without any a weighted sum of the first output."""
    import torch

    pairs = [
        (getattr(out, field), getattr(reference, field))
        for field in ("loss", "mc_loss")
        if getattr(out, field, None) is not None
    ]
    if pairs:
        return sum(a for a, _ in pairs), sum(b for _, b in pairs)
    first = out[0]
    weights = rng.normal(size=first.shape).astype(first.dtype)
    return (first * Tensor(weights)).sum(), (reference[0] * torch.from_numpy(weights)).sum()


def compare(pair: Pair, inputs: dict, rng: np.random.Generator, caches=None) -> None:
    """Every output, loss, and gradient of parameters and float inputs; on a cache of each side's
    own where `caches` has them."""
    import torch

    name = type(pair.ours).__name__
    ours, theirs = as_leaves(inputs)
    if caches is not None:
        ours["past_key_values"], theirs["past_key_values"] = caches
    out, reference = pair.ours(**ours), pair.theirs(**theirs)
    if getattr(reference, "loss", None) is not None:
        reference.loss = their_loss(name, reference, inputs)
    assert_same_outputs(out, reference)
    loss, reference_loss = objectives(out, reference, rng)
    if not np.isfinite(loss.item()):
        return  # every label is ignored: NaN on both sides, compared above
    leaves = [leaf for leaf in FLOATS if leaf in inputs]
    wanted = torch.autograd.grad(
        reference_loss, [theirs[leaf] for leaf in leaves], retain_graph=True, allow_unused=True
    ) if leaves else []  # fmt: skip
    assert_same_gradients(pair, loss, reference_loss)
    for leaf, gradient in zip(leaves, wanted):
        if gradient is None:
            assert ours[leaf].grad is None or not ours[leaf].grad.numpy().any(), leaf
            continue
        (result,) = tolerances.compare_gradients(
            {leaf: ours[leaf].grad.numpy()}, {leaf: gradient.numpy()}
        )
        assert result.ok, str(result)


def compare_tuples(pair: Pair, inputs: dict) -> None:
    """return_dict=False gives the same entries in the same order."""
    import torch

    with no_grad(), torch.no_grad():
        found = pair.ours(**inputs, return_dict=False)
        wanted = run_theirs(pair.theirs, **inputs, return_dict=False)
    assert type(found) is tuple and len(found) == len(wanted)
    float64 = pair.ours.dtype == np.float64
    for i, (ours, reference) in enumerate(zip(found, wanted)):
        if i > 0 or not (float64 and "labels" in inputs):  # their loss is cast to float32
            assert_same(f"entry {i}", ours, reference)


# --- drawing configurations and inputs


@st.composite
def head_configs(draw, name: str) -> dict:
    """Any small GPT-2 with what a head reads."""
    config = draw(configs())
    # With two or three tokens and one label the model may be nearly sure: then p - 1 loses digits
    # on both sides.
    config["vocab_size"] = max(config["vocab_size"], 8)
    config["num_labels"] = draw(st.integers(1, 4))
    if name == "GPT2DoubleHeadsModel":
        config |= {
            "summary_type": draw(st.sampled_from(["cls_index", "last", "first", "mean"])),
            "summary_use_proj": draw(st.booleans()),
            "summary_proj_to_labels": draw(st.booleans()),
            "summary_activation": draw(st.sampled_from([None, "tanh", "gelu", "mish"])),
        }
    if name == "GPT2ForSequenceClassification":
        config["pad_token_id"] = draw(st.integers(0, config["vocab_size"] - 1))
        L = config["num_labels"]
        kinds = ["regression", "multi_label_classification", None]
        config["problem_type"] = draw(
            st.sampled_from(kinds + ["single_label_classification"] * (L > 1))
        )
    if name in WITH_CROSS_ATTENTION:
        config["add_cross_attention"] = draw(st.booleans())
    return config


def draw_mask(draw, rng, B: int, T: int, S: int, H: int, dtype: str) -> np.ndarray | None:
    """Padding of any kind; or a mask with four axes, whose queries see at least one key."""
    kind = draw(st.sampled_from(["none", "right", "left", "holes", "float", "four", "soft"]))
    lengths = rng.integers(1, S + 1, (B, 1))
    if kind == "none":
        return None
    if kind == "right":
        return (np.arange(S) < lengths).astype(np.int64)
    if kind == "left":
        return (np.arange(S) >= S - lengths).astype(bool)
    if kind in ("holes", "float"):
        return (rng.random((B, S)) < 0.7).astype("float32" if kind == "float" else "int32")
    rows, heads = draw(st.sampled_from([1, B])), draw(st.sampled_from([1, H]))
    if kind == "soft":
        return rng.normal(size=(rows, heads, T, S)).astype(dtype)
    seen = rng.random((rows, heads, T, S)) < 0.6
    seen[..., np.arange(T), S - T + np.arange(T)] = True
    return np.where(seen, 0, np.finfo(dtype).min).astype(dtype)


def draw_labels(draw, name: str, config: dict, rng, dtype: str, rows: tuple, T: int) -> dict:
    """Labels for the class, or none."""
    B, V, L = rows[0], config["vocab_size"], config["num_labels"]
    if name == "GPT2Model" or not draw(st.integers(0, 4), label="with labels"):
        return {}
    if name == "GPT2ForSequenceClassification":
        kind = config["problem_type"]
        if kind == "single_label_classification" or (kind is None and L > 1 and rng.random() < 0.5):
            return {"labels": rng.integers(0, L, (B, 1) if rng.random() < 0.2 else B)}
        if L == 1 and kind != "multi_label_classification" and rng.random() < 0.5:
            return {"labels": rng.normal(size=B).astype(dtype)}
        return {"labels": rng.random((B, L)).astype(dtype)}
    if name == "GPT2ForTokenClassification":
        labels = rng.integers(0, L, (*rows, T))
        return {"labels": np.where(rng.random(labels.shape) < 0.2, -100, labels)}
    if name == "GPT2ForQuestionAnswering":
        return {
            "start_positions": rng.integers(-2, T + 3, B),
            "end_positions": rng.integers(-2, T + 3, (B, 1)),
        }
    labels = rng.integers(0, V, (*rows, T))
    found = {"labels": np.where(rng.random(labels.shape) < 0.2, -100, labels)}
    if name == "GPT2DoubleHeadsModel":
        return found
    if draw(st.booleans()):
        found["num_items_in_batch"] = draw(st.integers(1, 30))
    if draw(st.booleans()):
        found["shift_labels"] = rng.integers(0, V, (*rows, T))
    return found


def draw_call(draw, name: str, config: dict, rng, dtype: str, rows: tuple, past: int, T: int):
    """The arguments of one forward pass on `past` cached positions."""
    B, V, H = int(np.prod(rows)), config["vocab_size"], config["n_head"]
    S, C = past + T, config["n_embd"]
    inputs = {}
    if len(rows) == 1 and draw(st.integers(0, 5), label="embeds") == 0:
        inputs["inputs_embeds"] = rng.normal(size=(B, T, C)).astype(dtype)
    else:
        inputs["input_ids"] = rng.integers(0, V, (*rows, T))
    mask = draw_mask(draw, rng, B, T, S, H, dtype)
    if mask is not None:
        with_choices = mask.ndim == 2 and len(rows) == 2
        inputs["attention_mask"] = mask.reshape(*rows, S) if with_choices else mask
    if draw(st.booleans()):
        inputs["token_type_ids"] = rng.integers(0, V, (*rows, T))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(B, T), (1, T)]))
        inputs["position_ids"] = rng.integers(0, config["n_positions"], shape)
        if draw(st.booleans()):  # texts in a row: 0 1 2 0 1 …
            inputs["position_ids"] = np.broadcast_to(np.arange(T) % draw(st.integers(1, T)), shape)
            inputs["position_ids"] = np.array(inputs["position_ids"])
    L = config["n_layer"]
    shape = draw(st.sampled_from([None, (H,), (L, H), (L, B, H, 1, 1)]))
    if shape is not None:
        inputs["head_mask"] = rng.choice([0.0, 0.5, 1.0, 2.0], shape).astype(dtype)
    return inputs


def draw_options(draw, name: str, crossed: bool) -> dict:
    """Flags of the outputs."""
    flag = st.sampled_from([None, True, False])
    options = {"output_hidden_states": draw(flag), "output_attentions": draw(flag)}
    if not crossed:  # transformers fails there
        options["output_attentions"] = False
    if name != "GPT2ForQuestionAnswering":
        options["use_cache"] = draw(flag)
    return {key: value for key, value in options.items() if value is not None}


def start_caches(pair: Pair, inputs: dict, as_tuple: bool) -> tuple:
    """The caches of a first call, ours and transformers', on the bodies: not every head gives
    one."""
    import torch

    with no_grad(), torch.no_grad():
        ours = pair.ours.base_model(**inputs, use_cache=True).past_key_values
        theirs = run_theirs(pair.theirs.base_model, **inputs, use_cache=True).past_key_values
    if as_tuple:
        return tuple((k.numpy(), v.numpy()) for k, v in ours), theirs.to_legacy_cache()
    return ours, theirs


@pytest.mark.parametrize("name", HEADS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), float64=st.booleans())
def test_any_configuration_and_call(name, data, seed, float64):
    draw, rng = data.draw, np.random.default_rng(seed)
    config = draw(head_configs(name))
    dtype = "float64" if float64 and not config["reorder_and_upcast_attn"] else "float32"
    pair = make_pair(config, seed, dtype, name=name)
    rows = (draw(st.integers(1, 3)),)
    if name in WITH_CHOICES and draw(st.booleans()):
        rows = (draw(st.integers(1, 2)), *rows)
    B = int(np.prod(rows))
    T = draw(st.integers(1, min(9, config["n_positions"])))
    past = draw(st.integers(0, config["n_positions"] - T)) if name in WITH_CACHE else 0

    encoder = {}
    if config.get("add_cross_attention") and draw(st.integers(0, 4)):
        S = draw(st.integers(1, 6))
        states = rng.normal(size=(B, S, config["n_embd"])).astype(dtype)
        encoder["encoder_hidden_states"] = states
        shape = draw(st.sampled_from([None, (B, S), (B, T, S)]))
        if shape is not None and not (past and len(shape) == 3):
            mask = (rng.random(shape) < 0.6).astype(np.int64)
            mask[..., 0] = 1
            encoder["encoder_attention_mask"] = mask
    inputs = draw_call(draw, name, config, rng, dtype, rows, past, T) | encoder
    inputs |= draw_labels(draw, name, config, rng, dtype, rows, T)
    if name == "GPT2DoubleHeadsModel":
        if draw(st.booleans()):
            inputs["mc_token_ids"] = rng.integers(0, T, rows)
        if config["summary_type"] == "cls_index" and draw(st.booleans()):
            scores = run_theirs(pair.theirs, input_ids=np.zeros((*rows, T), int)).mc_logits
            size = scores.numel() // scores.shape[-1]
            inputs["mc_labels"] = rng.integers(0, scores.shape[-1], size)
    crossed = bool(encoder) or not config.get("add_cross_attention")
    inputs |= draw_options(draw, name, crossed)
    caches = None
    if not past:
        compare_tuples(pair, inputs)
    else:
        first = {"input_ids": rng.integers(0, config["vocab_size"], (*rows, past))} | encoder
        plain = not config.get("add_cross_attention") and inputs.get("use_cache", True)
        as_tuple = plain and draw(st.booleans())  # else transformers takes no tuple
        caches = start_caches(pair, first, as_tuple)
    compare(pair, inputs, rng, caches)
