"""Every class beside transformers': training, dropout, and what random calls leave out."""

from __future__ import annotations

import numpy as np
import pytest

from minigpt import tolerances
from tensor import no_grad, optim
from tests.minigpt.parity_helpers import (
    assert_same,
    assert_same_outputs,
    make_pair,
    reference_only,
    run_theirs,
)
from tests.minigpt.test_parity_heads import HEADS, WITH_CHOICES, objectives, their_loss

pytestmark = reference_only

BATCHES = {  # arguments of one batch for each class, given (rng, V, number of labels)
    "GPT2LMHeadModel": lambda rng, V, L: {"labels": rng.integers(0, V, (3, 8))},
    "GPT2DoubleHeadsModel": lambda rng, V, L: {
        "input_ids": rng.integers(0, V, (3, 2, 8)),
        "labels": rng.integers(0, V, (3, 2, 8)),
        "mc_token_ids": rng.integers(0, 8, (3, 2)),
        "mc_labels": rng.integers(0, 2, 3),
    },
    "GPT2ForSequenceClassification": lambda rng, V, L: {"labels": rng.integers(0, L, 3)},
    "GPT2ForTokenClassification": lambda rng, V, L: {"labels": rng.integers(0, L, (3, 8))},
    "GPT2ForQuestionAnswering": lambda rng, V, L: {
        "start_positions": rng.integers(0, 8, 3),
        "end_positions": rng.integers(0, 8, 3),
    },
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", HEADS[1:])
def test_ten_adamw_steps(name, dtype):
    import torch

    pair = make_pair({"num_labels": 3, "pad_token_id": 0}, seed=3, dtype=dtype, name=name)
    rng, V = np.random.default_rng(4), pair.config.vocab_size
    inputs = {"input_ids": rng.integers(0, V, (3, 8))} | BATCHES[name](rng, V, 3)
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    ours_optimizer = optim.AdamW(pair.ours.train().parameters(), **options)
    theirs_optimizer = torch.optim.AdamW(pair.theirs.train().parameters(), **options)
    losses, wanted = [], []
    for _ in range(10):
        out, reference = pair.ours(**inputs), run_theirs(pair.theirs, **inputs)
        reference.loss = their_loss(name, reference, inputs)
        loss, reference_loss = objectives(out, reference, rng)
        for model, optimizer, value in (
            (pair.ours, ours_optimizer, loss),
            (pair.theirs, theirs_optimizer, reference_loss),
        ):
            model.zero_grad()
            value.backward()
            optimizer.step()
        losses.append(loss.item())
        wanted.append(reference_loss.item())
    result = tolerances.compare(
        "losses", np.array(losses), np.array(wanted), tolerances.TRAINING_LOSS
    )
    assert result.ok, str(result)


@pytest.mark.parametrize("pieces", [(5, 4), (1,) * 9, (8, 1)], ids=str)
@pytest.mark.parametrize("config", [{}, {"reorder_and_upcast_attn": True}])
def test_cross_attention_through_the_cache(config, pieces):
    """Any split gives the logits of the whole; the encoder's keys are computed once."""
    pair = make_pair({"add_cross_attention": True} | config, seed=5)
    rng = np.random.default_rng(6)
    ids = rng.integers(0, pair.config.vocab_size, (2, 9))
    states = rng.normal(size=(2, 5, pair.config.n_embd)).astype(np.float32)
    encoder = {
        "encoder_hidden_states": states,
        "encoder_attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    }
    head_mask = rng.choice([0.5, 1.0], (2, 4)).astype(np.float32)
    whole = run_theirs(pair.theirs, input_ids=ids, head_mask=head_mask, **encoder)
    cache, theirs, start, logits = None, None, 0, []
    for length in pieces:
        inputs = {"input_ids": ids[:, start : start + length], "head_mask": head_mask} | encoder
        out = pair.ours(**inputs, past_key_values=cache, use_cache=True)
        reference = run_theirs(pair.theirs, **inputs, past_key_values=theirs, use_cache=True)
        assert_same_outputs(out, reference)
        cache, theirs, start = out.past_key_values, reference.past_key_values, start + length
        logits.append(out.logits.numpy())
        # Later states are ignored, on both sides.
        encoder = encoder | {"encoder_hidden_states": np.zeros_like(states)}
    assert_same("logits", np.concatenate(logits, axis=1), whole.logits)


def test_cross_attention_without_encoder_states_is_skipped():
    pair = make_pair({"add_cross_attention": True}, seed=7)
    ids = np.arange(8)[None]
    assert_same_outputs(pair.ours(ids), run_theirs(pair.theirs, input_ids=ids))


def test_the_first_labels_decide_the_problem_type():
    for L, labels, kind in [
        (1, np.array([0.5]), "regression"),
        (3, np.array([2]), "single_label_classification"),
        (3, np.array([[0.0, 1.0, 1.0]]), "multi_label_classification"),
    ]:
        pair = make_pair({"num_labels": L}, seed=8, name="GPT2ForSequenceClassification")
        labels = labels.astype(np.float32) if labels.dtype.kind == "f" else labels
        inputs = {"input_ids": np.arange(5)[None], "labels": labels}
        assert_same("loss", pair.ours(**inputs).loss, run_theirs(pair.theirs, **inputs).loss)
        assert pair.ours.config.problem_type == pair.config.problem_type == kind


def test_rows_of_padding_and_ids_after_it():
    """The last token is the rightmost that is no padding; a row of padding alone gives the
    first."""
    pair = make_pair({"pad_token_id": 7}, seed=9, name="GPT2ForSequenceClassification")
    ids = np.array([[7, 7, 7, 7], [7, 7, 1, 2], [1, 7, 2, 7], [1, 2, 3, 4]])
    assert_same_outputs(pair.ours(ids), run_theirs(pair.theirs, input_ids=ids))


@pytest.mark.parametrize("name", WITH_CHOICES[1:])
def test_losses_of_nothing(name):
    """All labels ignored: NaN, or 0 for a part of a larger batch."""
    pair = make_pair({}, seed=10, name=name)
    ids = np.arange(6)[None]
    for extra in [{}] + [{"num_items_in_batch": 3}] * (name == "GPT2LMHeadModel"):
        inputs = {"input_ids": ids, "labels": np.full_like(ids, -100)} | extra
        ours, theirs = pair.ours(**inputs).loss, run_theirs(pair.theirs, **inputs).loss
        np.testing.assert_equal(ours.item(), theirs.item())


@pytest.mark.parametrize("name", HEADS)
def test_dropout_is_where_transformers_has_it(name):
    """In training mode, averaged over many masks: the first output's mean and deviation, with one
    kind of dropout at a time."""
    import torch

    torch.manual_seed(0)
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    off |= {"summary_first_dropout": 0.0, "classifier_dropout": 0.0, "summary_last_dropout": 0.0}
    kinds = [*list(off)[:3]]
    kinds += ["summary_first_dropout", "summary_last_dropout"] * (name == "GPT2DoubleHeadsModel")
    kinds += ["classifier_dropout"] * (name == "GPT2ForTokenClassification")
    ids = np.arange(5)[None]
    many = np.repeat(ids, 4000, axis=0)
    for kind in kinds:
        config = off | {kind: 0.4, "pad_token_id": 40, "n_layer": 1}
        pair = make_pair(config, seed=11, name=name)
        with no_grad(), torch.no_grad():
            ours = pair.ours.train()(many)
            theirs = run_theirs(pair.theirs.train(), input_ids=many)
        field = "mc_logits" if kind.startswith("summary") else 0
        a, b = ours[field].numpy(), theirs[field].numpy()
        a, b = (x.reshape(4000, -1) for x in (a, b))
        error = 5 * b.std(axis=0) / np.sqrt(4000)  # five sigma of a mean, and about of a width
        assert (np.abs(a.mean(0) - b.mean(0)) <= 1.5 * error + 1e-6).all(), kind
        assert (np.abs(a.std(0) - b.std(0)) <= 1.5 * error + 1e-6).all(), kind
