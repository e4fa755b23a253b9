"""GPT2Config: names and defaults of transformers, files that both read, and wrong values."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.activations import ACTIVATIONS
from minigpt.config import ALIASES, GPT2Config
from tensor import Tensor

# config.json of `gpt2` on the Hub, with the fields of its time: n_ctx is no field any more, and
# what came later is missing.
HUB_GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
    "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}


def test_defaults_are_the_124m_model():
    config = GPT2Config()
    assert (config.vocab_size, config.n_positions, config.n_embd) == (50257, 1024, 768)
    assert (config.n_layer, config.n_head, config.n_inner) == (12, 12, None)
    assert (config.activation_function, config.layer_norm_epsilon) == ("gelu_new", 1e-5)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50256, 50256, None)
    assert config.tie_word_embeddings and config.use_cache and config.model_type == "gpt2"
    assert repr(config) == "GPT2Config()"


def test_the_hubs_own_file_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUB_GPT2))
    config = GPT2Config.from_pretrained(tmp_path)
    wanted = GPT2Config(architectures=["GPT2LMHeadModel"], n_ctx=1024,
                        task_specific_params=HUB_GPT2["task_specific_params"])
    assert config == wanted and config.n_ctx == 1024


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_the_field(alias, name):
    config = GPT2Config(**{alias: 24})
    assert getattr(config, name) == getattr(config, alias) == 24
    setattr(config, alias, 36)
    assert getattr(config, name) == 36
    setattr(config, name, 48)
    assert getattr(config, alias) == 48
    assert alias not in config.to_dict() and config == GPT2Config(**{name: 48})
    assert GPT2Config(**{alias: 24, name: 24}) == GPT2Config(**{name: 24})
    with pytest.raises(TypeError, match=f"{name}=768 and {alias}=24"):
        GPT2Config(**{alias: 24, name: 768})


def test_labels_follow_their_number_and_the_other_way_round():
    assert GPT2Config().num_labels == 2
    config = GPT2Config(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config = GPT2Config(id2label={"0": "no", "1": "yes", "2": "maybe"})
    assert config.num_labels == 3 and config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert GPT2Config(label2id={"no": 0, "yes": 1, "maybe": 2}) == config
    config.num_labels = 3
    assert config.id2label[2] == "maybe"
    config.num_labels = 1
    assert config.id2label == {0: "LABEL_0"} and config.label2id == {"LABEL_0": 0}
    with pytest.raises(ValueError, match="num_labels=4, but id2label has 2"):
        GPT2Config(num_labels=4, id2label={0: "a", 1: "b"})
    with pytest.raises(ValueError, match="num_labels must be at most 1,000,000, got 1000000000"):
        GPT2Config(num_labels=10**9)


def test_unknown_keys_are_kept_and_written_back(tmp_path):
    config = GPT2Config(n_ctx=512, rope={"theta": [1, 2]}, **{"not-a-name": None, "self": 3})
    config.added_later = "yes"
    assert config.rope == {"theta": [1, 2]}
    config.save_pretrained(tmp_path)
    again = GPT2Config.from_pretrained(tmp_path)
    assert again == config and again.added_later == "yes" and getattr(again, "not-a-name") is None
    assert vars(again)["self"] == 3


def test_a_misspelt_field_is_pointed_out():
    with pytest.warns(UserWarning, match="no field 'n_layers'.*did you mean 'n_layer'"):
        assert GPT2Config(n_layers=4).n_layer == 12
    GPT2Config(summary_last_dropout=0.1, classifier_dropout=0.2)    # rare, but no mistakes


def test_from_pretrained_replaces_what_it_is_told(tmp_path):
    GPT2Config(n_layer=2, id2label={0: "no", 1: "yes"}, n_ctx=8).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = GPT2Config.from_pretrained(file, num_hidden_layers=3, pad_token_id=0, n_ctx=9,
                                        classifier_dropout=0.5, problem_type="regression")
    assert (config.n_layer, config.pad_token_id, config.n_ctx) == (3, 0, 9)
    assert (config.classifier_dropout, config.problem_type) == (0.5, "regression")
    assert GPT2Config.from_pretrained(tmp_path, num_labels=2).label2id == {"no": 0, "yes": 1}
    assert GPT2Config.from_pretrained(tmp_path, num_labels=3).label2id["LABEL_2"] == 2
    assert GPT2Config.from_pretrained(tmp_path, id2label={0: "x"}).label2id == {"x": 0}
    with pytest.raises(TypeError, match="no field 'n_layers' to replace; did you mean 'n_layer'"):
        GPT2Config.from_pretrained(tmp_path, n_layers=3)
    with pytest.raises(ValueError, match="n_embd=768 is not divisible by n_head=7"):
        GPT2Config.from_pretrained(tmp_path, n_head=7)


def test_copies_are_equal_and_independent():
    config = GPT2Config(n_layer=2, eos_token_id=[1, 2], pruned_heads={1: [0]}, extra=[1])
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)),
                  GPT2Config.from_dict(config.to_dict()), GPT2Config(**config.to_dict()),
                  GPT2Config.from_dict(json.loads(config.to_json_string())),
                  eval(repr(config), {"GPT2Config": GPT2Config})):
        assert other == config and other is not config
        other.n_layer = 3
        assert other != config
    config.to_dict()["extra"].append(2)
    assert config.extra == [1]
    assert config != "GPT2Config()"


def test_only_what_differs_of_the_common_fields_is_written():
    written = json.loads(GPT2Config().to_json_string())
    assert written["model_type"] == "gpt2" and written["n_embd"] == 768
    assert "id2label" not in written and "output_attentions" not in written
    written = json.loads(GPT2Config(output_attentions=True, num_labels=1).to_json_string())
    assert written["output_attentions"] is True and written["id2label"] == {"0": "LABEL_0"}


def test_numpy_numbers_become_pythons():
    config = GPT2Config(vocab_size=np.int64(65), resid_pdrop=np.float32(0.5))
    assert type(config.vocab_size) is int and '"vocab_size": 65' in config.to_json_string()
    assert config.resid_pdrop == 0.5


WRONG = [
    ({"vocab_size": -1}, "vocab_size must be an integer of at least 1, got -1"),
    ({"n_layer": 0}, "n_layer must be"),
    ({"n_embd": 768.0}, "n_embd must be"),
    ({"n_head": "12"}, "n_head must be"),
    ({"n_positions": True}, "n_positions must be"),
    ({"n_inner": 0}, "n_inner must be"),
    ({"n_embd": 100}, "n_embd=100 is not divisible by n_head=12"),
    ({"attn_pdrop": 1.5}, "attn_pdrop must be a number from 0 to 1, got 1.5"),
    ({"resid_pdrop": -0.1}, "resid_pdrop must be"),
    ({"embd_pdrop": math.nan}, "embd_pdrop must be"),
    ({"classifier_dropout": 2}, "classifier_dropout must be"),
    ({"layer_norm_epsilon": math.inf}, "layer_norm_epsilon must be"),
    ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon must be"),
    ({"initializer_range": "0.02"}, "initializer_range must be"),
    ({"activation_function": "gleu"}, "activation_function must be one of 'gelu_new'"),
    ({"activation_function": ["gelu"]}, "activation_function must be one of"),
    ({"summary_type": "median"}, "summary_type must be one of 'last', 'first', 'mean'"),
    ({"summary_activation": "tan"}, "summary_activation must be"),
    ({"problem_type": "ranking"}, "problem_type must be"),
    ({"dtype": "float31"}, "dtype must be"),
    ({"use_cache": 1}, "use_cache must be true or false, got 1"),
    ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false"),
    ({"eos_token_id": "end"}, "eos_token_id must be an integer, got 'end'"),
    ({"eos_token_id": [1, None]}, "eos_token_id must be an integer, got None"),
    ({"pad_token_id": 0.5}, "pad_token_id must be"),
    ({"num_labels": 0}, "num_labels must be"),
    ({"num_labels": 2.5}, "num_labels must be"),
    ({"id2label": ["a", "b"]}, "id2label must be a dict"),
    ({"id2label": {"a": "b"}}, "id2label: every key must be an integer"),
    ({"id2label": {"0": ["b"]}}, "id2label: every label must be a string"),
    ({"label2id": ["a"]}, "label2id must be a dict"),
    ({"label2id": {"a": "b"}}, r"label2id\['a'\] must be an integer"),
    ({"pruned_heads": {"12": [0]}}, r"pruned_heads\[12\]"),
    ({"pruned_heads": {"0": [12]}}, r"pruned_heads\[0\]"),
    ({"pruned_heads": {"0": 1}}, r"pruned_heads\[0\]"),
    ({"pruned_heads": [0]}, "pruned_heads must be a dict"),
    ({"architectures": "GPT2LMHeadModel"}, "architectures must be a list"),
    ({"model_type": "bert"}, "model_type is 'bert'"),
    ({"to_dict": 1}, "'to_dict' cannot be a key"),
    ({"__class__": 1}, "'__class__' cannot be a key"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_value_is_named(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        GPT2Config(**values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as caught:
        GPT2Config.from_pretrained(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_value_changed_to_a_wrong_one_is_not_saved(tmp_path):
    config = GPT2Config()
    config.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    config.n_head = 7
    with pytest.raises(ValueError, match="n_head=7"):
        config.save_pretrained(tmp_path)
    config.n_head, config.callback = 12, print
    with pytest.raises(TypeError, match="callback=.*cannot be written as JSON"):
        config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        GPT2Config.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"n_embd": 768,')
    with pytest.raises(ValueError, match="config.json: not valid JSON.*line 1"):
        GPT2Config.from_pretrained(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=3), max_leaves=4)


@pytest.mark.filterwarnings("ignore:GPT2Config has no field")
@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(GPT2Config().to_dict())) | st.text(max_size=8),
                       JSON_VALUES, max_size=4))
def test_whatever_a_file_holds_it_is_a_configuration_or_a_value_error(tmp_path_factory, values):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(values))
    try:
        config = GPT2Config.from_pretrained(file)
    except ValueError as error:
        assert str(error).startswith(str(file))
    else:
        assert GPT2Config.from_dict(json.loads(config.to_json_string())).to_json_string() == \
            config.to_json_string()


# ---- against transformers ----------------------------------------------------------------------


@pytest.fixture
def theirs():
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != "4.56.2":
        pytest.skip(f"compares with transformers 4.56.2; here is {transformers.__version__}")
    return transformers.GPT2Config


# What transformers' dict has beside ours: the defaults of generate, which it keeps elsewhere today,
# switches for TensorFlow, and where a file came from.
def fields_of(config) -> dict:
    values = config.to_dict()
    for key in {*config._get_global_generation_defaults(), "tf_legacy_loss", "use_bfloat16",
                "transformers_version", "_name_or_path"}:
        values.pop(key)
    return values


EXAMPLES = [
    {},
    {"n_layer": 2, "n_embd": 60, "n_head": 5, "n_inner": 7, "vocab_size": 11, "n_positions": 9},
    {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
     "max_position_embeddings": 64},
    {"num_labels": 5, "problem_type": "single_label_classification", "pad_token_id": 3},
    {"id2label": {0: "no", 1: "yes", 2: "?"}, "label2id": {"no": 0, "yes": 1, "?": 2}},
    {"activation_function": "gelu", "resid_pdrop": 0.0, "layer_norm_epsilon": 1e-6,
     "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    {"add_cross_attention": True, "tie_word_embeddings": False, "output_hidden_states": True,
     "output_attentions": True, "return_dict": False, "use_cache": False},
    {"dtype": "float64", "architectures": ["GPT2LMHeadModel"], "pruned_heads": {0: [1, 2]}},
    {"torch_dtype": "float16", "eos_token_id": [1, 2], "bos_token_id": None, "prefix": "<"},
    {"n_ctx": 1024, "something": {"new": [1, None, "é"]}, "classifier_dropout": 0.25},
]


@pytest.mark.reference
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda v: ",".join(v)[:40] or "default")
def test_fields_are_those_of_transformers(theirs, values):
    ours = GPT2Config(**values).to_dict()
    assert ours == fields_of(theirs(**values))


@pytest.mark.reference
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda v: ",".join(v)[:40] or "default")
def test_each_reads_the_others_file(theirs, values, tmp_path):
    theirs(**values).save_pretrained(tmp_path / "theirs")
    assert GPT2Config.from_pretrained(tmp_path / "theirs") == GPT2Config(**values)
    GPT2Config(**values).save_pretrained(tmp_path / "ours")
    loaded = theirs.from_pretrained(tmp_path / "ours")
    assert fields_of(loaded) == fields_of(theirs(**values))
    # The two files differ in the version of the writer alone.
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert written.pop("transformers_version") == "4.56.2"
    assert json.loads((tmp_path / "ours" / "config.json").read_text()) == written


@pytest.mark.reference
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_transformers(theirs, name):
    import torch
    from transformers.activations import ACT2FN

    for dtype, atol in (("float64", 1e-10), ("float32", 2e-6)):
        # gelu_fast writes sqrt(2 / pi) with ten digits.
        array = np.concatenate([np.linspace(-6.1, 6.2, 1001), [-90, -20, 20, 90]]).astype(dtype)
        ours, reference = Tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
        y, wanted = ACTIVATIONS[name](ours), ACT2FN[name](reference)
        np.testing.assert_allclose(y.numpy(), wanted.detach().numpy(), rtol=5 * atol, atol=atol)
        y.sum().backward()
        wanted.sum().backward()
        np.testing.assert_allclose(ours.grad.numpy(), reference.grad.numpy(), atol=10 * atol)
