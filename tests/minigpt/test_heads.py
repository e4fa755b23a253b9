"""What the classes promise beyond parity: wrong arguments are named, corners are safe."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tensor
from minigpt import (
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)
from tensor import Tensor

CONFIG = dict(
    vocab_size=31, n_positions=12, n_embd=16, n_layer=2, n_head=4, num_labels=3, pad_token_id=0
)
IDS = np.random.default_rng(0).integers(1, 31, (2, 9))
CHOICES = np.random.default_rng(1).integers(1, 31, (2, 3, 5))
CLASSES = [
    GPT2Model,
    GPT2LMHeadModel,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2ForQuestionAnswering,
]


def make(model_class, **changes):
    tensor.manual_seed(1)
    return model_class(GPT2Config(**CONFIG | changes)).eval()


every_class = pytest.mark.parametrize("model_class", CLASSES)


# --- wrong arguments

SEQUENCE, TOKENS, SPAN = CLASSES[3:]
WRONG = [
    (GPT2Model, dict(head_mask=np.ones(3)), ValueError, r"head_mask \(3,\) must be \(H,\) = \(4,"),
    (GPT2Model, dict(head_mask=np.ones((4, 2))), ValueError, r"head_mask \(4, 2\)"),
    (GPT2Model, dict(head_mask=["a"]), TypeError, "head_mask must hold numbers"),
    (GPT2Model, dict(head_mask=Tensor(np.ones(4))), TypeError, "head_mask is float64, the model"),
    (GPT2Model, dict(token_type_ids=IDS[:, 1:]), ValueError, r"token_type_ids \(2, 8\) must be"),
    (GPT2Model, dict(token_type_ids=IDS + 31), IndexError, "token_type_ids from 3. to .. are not"),
    (GPT2Model, dict(token_type_ids=IDS * 0.5), TypeError, "token_type_ids must be integers"),
    (GPT2Model, dict(use_cache=np.ones(2)), TypeError, "use_cache must be True or False"),
    (GPT2Model, dict(output_attentions="no"), TypeError, "output_attentions must be True or"),
    (GPT2Model, dict(return_dict=IDS), TypeError, "return_dict must be True or False, not nd"),
    (TOKENS, dict(return_dict=IDS), TypeError, "return_dict must be True or False, not nd"),
    (GPT2Model, dict(cache_position=[[1], [2, 3]]), ValueError, "cache_position: rows of"),
    (GPT2Model, dict(cache_position=np.arange(1, 10)), ValueError, "it can only be 0 … 8"),
    (GPT2Model, dict(attention_mask=np.ones((2, 10))), ValueError, r"must be \(B, S\) = \(2, 9\)"),
    (GPT2Model, dict(attention_mask=np.ones((2, 9, 9))), ValueError, r"must be \(B, S\)"),
    (GPT2Model, dict(attention_mask=np.ones((2, 1, 9, 9), int)), TypeError, "so it holds floats"),
    (GPT2Model, dict(attention_mask=np.zeros((2, 1, 8, 9))), ValueError, r"does not broadcast to"),
    (GPT2Model, dict(attention_mask=[[1] * 9, [1]]), ValueError, "attention_mask: rows of differ"),
    (GPT2Model, dict(attention_mask=["yes"]), TypeError, "attention_mask must hold numbers, not"),
    (GPT2Model, dict(head_mask=[[1], [1, 2]]), ValueError, "head_mask: rows of different"),
    (
        GPT2Model,
        dict(attention_mask=np.full((2, 1, 9, 9), np.nan)),
        ValueError,
        "must not hold NaN or infinity",
    ),
    (
        GPT2Model,
        dict(encoder_hidden_states=np.zeros((2, 5, 16))),
        ValueError,
        "no cross-attention layers; make it with",
    ),
    (
        GPT2Model,
        dict(encoder_attention_mask=np.ones((2, 5))),
        ValueError,
        "without encoder_hidden_states",
    ),
    (GPT2Model, dict(past_key_values=3), TypeError, "got int"),
    (GPT2Model, dict(past_key_values=[1, 2]), TypeError, "got int"),
    (GPT2Model, dict(past_key_values=[(1, 2), (1, 2, 3, 4)]), ValueError, r"hold \[2, 4\] arrays"),
    (GPT2Model, dict(past_key_values=[(1, 2)] * 2), ValueError, r"layer 0 has \[\(\), \(\)\]"),
    (
        GPT2Model,
        dict(past_key_values=[(np.zeros((2, 4, 3, 4)),) * 3] * 2),
        ValueError,
        "layer 0 has",
    ),
    (
        GPT2LMHeadModel,
        dict(labels=IDS, shift_labels=IDS[:, 1:]),
        ValueError,
        r"shift_labels \(2, 8\) must be",
    ),
    (GPT2LMHeadModel, dict(shift_labels=IDS), ValueError, "need labels"),
    (GPT2LMHeadModel, dict(labels=IDS + 31), IndexError, "labels: .* is neither in 0 … 30 nor"),
    (
        GPT2LMHeadModel,
        dict(labels=IDS, shift_labels=IDS * 0 - 1),
        IndexError,
        "shift_labels: -1 is neither",
    ),
    (GPT2LMHeadModel, dict(logits_to_keep=[[1], [2, 3]]), ValueError, "logits_to_keep: rows of"),
    (GPT2LMHeadModel, dict(logits_to_keep=True), ValueError, r"logits_to_keep of shape \(\), bool"),
    (GPT2LMHeadModel, dict(logits_to_keep=[0.5]), ValueError, r"of shape \(1,\), float64"),
    (GPT2LMHeadModel, dict(logits_to_keep=[0, 99]), IndexError, "logits_to_keep from 0 to 99"),
    (GPT2LMHeadModel, dict(labels=IDS, num_items_in_batch=0), ValueError, "= 0 must be a number"),
    (SEQUENCE, dict(labels=[[1], [2], [0]]), ValueError, r"labels \(3, 1\) must be \(2,\)"),
    (GPT2LMHeadModel, dict(labels=IDS, num_items_in_batch=[1, 2]), ValueError, "must be a number"),
    (SEQUENCE, dict(labels=[[1], [2, 0]]), ValueError, "labels: rows of different lengths"),
    (SEQUENCE, dict(labels=["a", "b"]), TypeError, "labels must hold numbers"),
    (SEQUENCE, dict(labels=[1, 3]), IndexError, r"labels: 3 is neither in 0 … 2"),
    (SEQUENCE, dict(labels=[1.0, 0.0]), ValueError, r"labels \(2,\) must be \(2, 3\).*multi_label"),
    (TOKENS, dict(labels=IDS[:, 1:] % 3), ValueError, r"labels \(2, 8\) must be \(2, 9\)"),
    (TOKENS, dict(labels=IDS % 3 + 1), IndexError, "labels: 3 is neither"),
    (TOKENS, dict(labels=IDS * 0.1), TypeError, "labels must be integers"),
    (
        SPAN,
        dict(start_positions=[1, 2, 3], end_positions=[1, 2]),
        ValueError,
        r"start_positions \(3,\) must be \(B,\) = \(2,\)",
    ),
    (SPAN, dict(start_positions=[1, 2], end_positions=[0.5, 2]), TypeError, "end_positions must"),
]


@pytest.mark.parametrize(("model_class", "arguments", "error", "words"), WRONG)
def test_wrong_arguments_are_named(model_class, arguments, error, words):
    with pytest.raises(error, match=words):
        make(model_class)(IDS, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(mc_token_ids=[[1, 2], [3, 4]]), ValueError, r"mc_token_ids \(2, 2\) must be \(2, 3"),
        (dict(mc_token_ids=np.full((2, 3), 5)), IndexError, "mc_token_ids from 5 to 5 are not"),
        (dict(mc_token_ids=np.full((2, 3), -1)), IndexError, "mc_token_ids from -1 to -1"),
        (dict(mc_labels=[0, 3]), IndexError, "mc_labels: 3 is neither in 0 … 2"),
        (dict(mc_labels=[0]), ValueError, r"mc_labels \(1,\) must be \(2,\)"),
        (dict(labels=CHOICES[0]), ValueError, r"labels \(3, 5\) must be \(B, T\) = \(2, 3, 5\)"),
        (dict(attention_mask=np.ones((2, 5))), ValueError, r"must be \(B, S\) = \(6, 5\)"),
    ],
)
def test_wrong_arguments_of_choices_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        make(GPT2DoubleHeadsModel)(CHOICES, **arguments)


@every_class
def test_an_argument_that_does_not_exist_is_refused(model_class):
    with pytest.raises(TypeError, match="atention_mask"):
        make(model_class)(IDS, atention_mask=np.ones((2, 9)))


@every_class
def test_empty_batches_are_refused_and_the_shortest_and_longest_work(model_class):
    model = make(model_class)
    for shape in ((0, 4), (2, 0), (2, 0, 3)):
        with pytest.raises(ValueError, match="not empty"):
            model(np.zeros(shape, int))
    for length in (1, 12):
        assert np.isfinite(model(np.ones((2, length), int))[0].numpy()).all()
    with pytest.raises(IndexError, match="n_positions is 12"):
        model(np.ones((2, 13), int))


def test_several_rows_without_a_padding_token():
    model = make(GPT2ForSequenceClassification, pad_token_id=None)
    assert model(IDS[:1]).logits.shape == (1, 3)
    with pytest.raises(ValueError, match="2 rows, but config.pad_token_id is None"):
        model(IDS)


def test_rows_of_choices_are_not_classified():
    with pytest.raises(ValueError, match=r"input_ids \(2, 3, 5\) must be \(B, T\)"):
        make(GPT2ForSequenceClassification)(CHOICES)


def test_a_float_label_for_a_single_label():
    model = make(GPT2ForSequenceClassification, problem_type="single_label_classification")
    with pytest.raises(TypeError, match="labels are float64; a single label a row is an integer"):
        model(IDS, labels=np.array([1.0, 2.0]))


def test_one_position_makes_no_loss():
    model = make(GPT2ForQuestionAnswering)
    assert model(IDS, start_positions=[1, 2]).loss is None


def test_an_attention_summary_is_refused():
    with pytest.raises(NotImplementedError, match="summary_type"):
        make(GPT2DoubleHeadsModel, summary_type="attn")


def test_learned_activations_are_refused():
    with pytest.raises(ValueError, match="'prelu' has parameters of its own"):
        GPT2Config(activation_function="prelu")


# --- corners


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_class
def test_results_have_the_model_s_dtype(model_class, dtype):
    model = make(model_class).astype(dtype)
    embeds = np.random.default_rng(2).normal(size=(2, 4, 16))
    for arguments in ({"input_ids": IDS}, {"inputs_embeds": embeds}):
        out = model(**arguments, head_mask=[1, 0, 1, 1], output_attentions=True)
        assert out[0].dtype == dtype and out.attentions[0].dtype == dtype


def test_a_head_that_is_masked_gets_no_gradient_and_its_mask_does():
    model = make(GPT2LMHeadModel)
    mask = Tensor(np.array([[1, 0, 1, 1], [1, 1, 1, 1]], np.float32), requires_grad=True)
    model(IDS, labels=IDS, head_mask=mask).loss.backward()
    values = model.transformer.h[0].attn.c_attn.weight.grad.numpy()[:, 2 * 16 + 4 : 2 * 16 + 8]
    assert not values.any()  # the values of head 1 in layer 0 reach nothing
    assert mask.grad.shape == (2, 4) and mask.grad.numpy().all()


def test_head_masks_of_ones_change_nothing():
    model = make(GPT2LMHeadModel)
    cache = model(IDS[:, :4]).past_key_values
    plain = model(IDS[:, 4:], past_key_values=cache)
    cache = model(IDS[:, :4]).past_key_values
    masked = model(IDS[:, 4:], past_key_values=cache, head_mask=np.ones((2, 4)))
    np.testing.assert_allclose(masked.logits.numpy(), plain.logits.numpy(), atol=1e-6)


def test_losses_of_parts_add_up_to_that_of_the_whole():
    model = make(GPT2LMHeadModel).astype("float64")
    labels = np.where(np.arange(9) < 4, -100, IDS)
    whole = model(IDS, labels=labels).loss.item()
    count = int((labels[:, 1:] != -100).sum())
    parts = [
        model(IDS[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=count).loss.item()
        for i in range(2)
    ]
    assert sum(parts) == pytest.approx(whole, abs=1e-12)
    shifted = np.concatenate([labels[:, 1:], np.full((2, 1), -100)], axis=1)
    again = model(IDS, labels=labels, shift_labels=shifted).loss.item()
    assert again == pytest.approx(whole, abs=1e-12)


def test_choices_are_scored_where_they_are_asked_to_be():
    model = make(GPT2DoubleHeadsModel)
    assert model.config.num_labels == 1
    whole = model(CHOICES).mc_logits.numpy()
    last = model(CHOICES, mc_token_ids=np.full((2, 3), 4)).mc_logits.numpy()
    assert whole.shape == (2, 3) and np.array_equal(whole, last)
    cut = model(CHOICES[..., :3]).mc_logits.numpy()
    early = model(CHOICES, mc_token_ids=np.full((2, 3), 2)).mc_logits.numpy()
    np.testing.assert_allclose(early, cut, atol=1e-6)


def test_the_double_heads_model_generates():
    double, plain = make(GPT2DoubleHeadsModel), make(GPT2LMHeadModel)
    plain.transformer.load_state_dict(double.transformer.state_dict())
    ids = double.generate(IDS[:1, :4], max_new_tokens=4, eos_token_id=None)
    assert np.array_equal(ids, plain.generate(IDS[:1, :4], max_new_tokens=4, eos_token_id=None))


@every_class
def test_all_dropout_is_off_in_evaluation_and_seeded_in_training(model_class):
    model = make(model_class)
    first = model(IDS)[0].numpy()
    assert np.array_equal(first, model(IDS)[0].numpy())
    model.train()
    tensor.manual_seed(3)
    a, b = model(IDS)[0].numpy(), model(IDS)[0].numpy()
    tensor.manual_seed(3)
    assert np.array_equal(a, model(IDS)[0].numpy())
    assert not np.array_equal(a, b) and not np.array_equal(a, first)


def test_the_dropout_of_token_classification_has_three_sources():
    for changes, p in [
        ({}, 0.1), ({"hidden_dropout": 0.3}, 0.3),
        ({"hidden_dropout": 0.3, "classifier_dropout": 0.0}, 0.0), ({"resid_pdrop": 0.5}, 0.1),
    ]:  # fmt: skip
        assert make(GPT2ForTokenClassification, **changes).dropout.p == p


@every_class
def test_every_class_has_a_folder_of_its_own(model_class, tmp_path):
    model = make(model_class)
    model.save_pretrained(tmp_path)
    assert GPT2Config.from_pretrained(tmp_path).architectures == [model_class.__name__]
    again = model_class.from_pretrained(tmp_path)
    assert not again.training
    assert np.array_equal(again(IDS)[0].numpy(), model(IDS)[0].numpy())


# --- anything at all

ODD = [
    0, -1, 2.5, "x", b"x", [], [[]], {}, object(), np.nan, np.inf, np.array(3), (1, 2),
    np.zeros((2, 9), complex), np.zeros((0, 9)), np.full((2, 9), 10**6), np.array(["a"]),
    [[1, 2], [3]], Tensor(np.zeros((2, 9))), np.zeros((2, 9), object), np.ones((1, 1, 9, 9)),
    np.full((2, 9), 2**63, np.uint64), IDS.T, len,
]  # fmt: skip


@pytest.mark.parametrize("cross", [False, True])
@every_class
def test_whatever_an_argument_is_an_error_names_it(model_class, cross):
    """Either it is taken, or the error is of an expected kind and says which argument is wrong."""
    model = make(model_class, add_cross_attention=cross)
    for name in list(inspect.signature(model_class.forward).parameters)[1:]:
        for value in ODD:
            arguments = {"input_ids": IDS[:, :9], name: value}
            if name == "inputs_embeds":
                del arguments["input_ids"]
            if name in ("shift_labels", "num_items_in_batch"):
                arguments["labels"] = IDS
            for one, other in (("start", "end"), ("end", "start")):
                if name == f"{one}_positions":
                    arguments[f"{other}_positions"] = [1, 2]
            model.config.problem_type = None
            try:
                model(**arguments)
            except (ValueError, TypeError, IndexError) as error:
                assert name in str(error) or (name == "input_ids" and "id" in str(error)), (
                    f"{name}={value!r}: {error}"
                )
