"""GPT-2 against frozen results of transformers 4.56.2: the files of tests/golden, made by the
script there, which also says what each scenario is. Needs neither torch nor transformers.

Everything is compared on the CPU and, in the slow tier, on a device: see tests/kernels/devices.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from minigpt import GPT2LMHeadModel, GPT2Model, tolerances
from tensor import Tensor, no_grad, optim
from tests.kernels.devices import needs_device, on_each_device

GOLDEN = Path(__file__).parents[1] / "golden"
LM_CASES = ["default", "float64", "gelu_inner", "relu_untied", "silu_scaled_by_layer", "upcast"]
BASE_CASES = ["base"]



def saved_dtype(case: str) -> str:
    return json.loads((GOLDEN / case / "config.json").read_text())["dtype"]


every_lm_case = on_each_device(LM_CASES, lambda case: saved_dtype(case) == "float32")


def test_every_folder_is_tested():
    folders = {path.name for path in GOLDEN.iterdir() if (path / "config.json").exists()}
    assert folders == {*LM_CASES, *BASE_CASES}


def load(case: str, device: str = "cpu"):
    """(model, expected arrays, inputs) of one folder."""
    if device != "cpu":
        needs_device()
    model_class = GPT2Model if case in BASE_CASES else GPT2LMHeadModel
    model = model_class.from_pretrained(GOLDEN / case, device, saved_dtype(case))
    expected = load_file(GOLDEN / case / "expected.safetensors")
    return model, expected, under(expected, "inputs/")


def under(arrays: dict, prefix: str) -> dict:
    """The arrays whose names start with `prefix`, without it."""
    found = {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}
    assert found, f"nothing under {prefix}: the golden file and the test do not match"
    return found


def assert_output(name: str, ours: Tensor, reference: np.ndarray, valid=None) -> None:
    """Same dtype, shape and, where `valid`, values to the tolerance of outputs."""
    array = ours.numpy()
    assert array.dtype == reference.dtype, name
    if valid is not None:
        assert array.shape == reference.shape, name
        array, reference = array[valid], reference[valid]
    result = tolerances.compare_output(name, array, reference)
    assert result.ok, str(result)


def assert_gradients(model, expected: dict) -> None:
    ours = {name: p.grad.numpy() for name, p in model.named_parameters()}
    results = tolerances.compare_gradients(ours, expected)
    assert results[0].ok, "\n".join(str(r) for r in results if not r.ok)


def assert_inner_outputs(out, expected: dict) -> None:
    """Hidden states, attentions, cached keys and values."""
    for field in ("hidden_states", "attentions"):
        wanted = under(expected, f"{field}/")
        assert len(getattr(out, field)) == len(wanted)
        for i, ours in enumerate(getattr(out, field)):
            assert_output(f"{field}[{i}]", ours, wanted[str(i)])
    wanted = under(expected, "past_key_values/")
    layers = list(out.past_key_values)
    assert len(layers) == len(wanted) // 2
    for i, (k, v) in enumerate(layers):
        assert_output(f"past_key_values[{i}] k", k, wanted[f"{i}/k"])
        assert_output(f"past_key_values[{i}] v", v, wanted[f"{i}/v"])


@every_lm_case
def test_outputs_and_gradients(case, device):
    model, expected, inputs = load(case, device)
    out = model(
        inputs["input_ids"],
        labels=inputs["labels"],
        output_hidden_states=True,
        output_attentions=True,
    )
    plain = under(expected, "plain/")
    assert_output("logits", out.logits, plain["logits"])
    assert_output("loss", out.loss, plain["loss"])
    assert_inner_outputs(out, plain)
    out.loss.backward()
    assert_gradients(model, under(plain, "gradients/"))


@on_each_device(BASE_CASES)
def test_outputs_and_gradients_of_the_base_model(case, device):
    model, expected, inputs = load(case, device)
    out = model(inputs["input_ids"], output_hidden_states=True, output_attentions=True)
    plain = under(expected, "plain/")
    assert_output("last_hidden_state", out.last_hidden_state, plain["last_hidden_state"])
    assert_inner_outputs(out, plain)
    loss = (out.last_hidden_state * Tensor(inputs["cotangent"], device=device)).sum()
    assert_output("loss", loss, plain["loss"])
    loss.backward()
    assert_gradients(model, under(plain, "gradients/"))


@every_lm_case
def test_the_same_without_attentions_and_cache(case, device):
    """Attention has one path that keeps its weights and one that does not."""
    model, expected, inputs = load(case, device)
    out = model(inputs["input_ids"], labels=inputs["labels"], use_cache=False)
    assert out.attentions is None and out.hidden_states is None and out.past_key_values is None
    assert_output("logits", out.logits, expected["plain/logits"])
    out.loss.backward()
    assert_gradients(model, under(expected, "plain/gradients/"))


@every_lm_case
def test_right_padding(case, device):
    model, expected, inputs = load(case, device)
    mask = inputs["right_mask"]
    out = model(inputs["input_ids"], attention_mask=mask, labels=inputs["right_labels"])
    assert_output("logits", out.logits, expected["right_padded/logits"], valid=mask == 1)
    assert_output("loss", out.loss, expected["right_padded/loss"])


@every_lm_case
def test_left_padding(case, device):
    model, expected, inputs = load(case, device)
    mask = inputs["left_mask"]
    out = model(
        inputs["input_ids"],
        attention_mask=mask,
        position_ids=inputs["left_position_ids"],
        labels=inputs["left_labels"],
    )
    # A pad attends to nothing at all: what comes out there means nothing, but must be finite.
    assert np.isfinite(out.logits.numpy()).all()
    assert_output("logits", out.logits, expected["left_padded/logits"], valid=mask == 1)
    assert_output("loss", out.loss, expected["left_padded/loss"])
    out.loss.backward()
    assert_gradients(model, under(expected, "left_padded/gradients/"))


@every_lm_case
def test_inputs_embeds(case, device):
    model, expected, inputs = load(case, device)
    embeds = Tensor(inputs["inputs_embeds"], requires_grad=True, device=device)
    out = model(inputs_embeds=embeds, labels=inputs["labels"])
    assert_output("logits", out.logits, expected["embeds/logits"])
    assert_output("loss", out.loss, expected["embeds/loss"])
    out.loss.backward()
    wanted = {"inputs_embeds": expected["embeds/gradients/inputs_embeds"]}
    (result,) = tolerances.compare_gradients({"inputs_embeds": embeds.grad.numpy()}, wanted)
    assert result.ok, str(result)


@every_lm_case
@pytest.mark.parametrize("lengths", [(12,), (11, 1), (1, 11), (5, 4, 3), (1,) * 12], ids=str)
def test_any_split_through_the_cache(case, device, lengths):
    model, expected, inputs = load(case, device)
    cache, pieces, start = None, [], 0
    with no_grad():
        for length in lengths:
            ids = inputs["input_ids"][:, start : start + length]
            out = model(ids, past_key_values=cache, use_cache=True)
            cache, start = out.past_key_values, start + length
            pieces.append(out.logits.numpy())
    result = tolerances.compare_output(
        "logits", np.concatenate(pieces, axis=1), expected["plain/logits"]
    )
    assert result.ok, str(result)


@every_lm_case
def test_ten_adamw_steps(case, device):
    model, expected, inputs = load(case, device)
    model.train()  # dropout is 0 in every case: training must not change a number
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(inputs["input_ids"], labels=inputs["labels"]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    result = tolerances.compare(
        "losses", np.array(losses), expected["adamw/losses"], tolerances.TRAINING_LOSS
    )
    assert result.ok, str(result)
    assert losses[-1] < losses[0]


@every_lm_case
def test_greedy_ids(case, device):
    model, expected, _ = load(case, device)
    ids = model.generate(expected["greedy/prompt"], max_new_tokens=10, eos_token_id=None)
    np.testing.assert_array_equal(ids, expected["greedy/ids"])


@every_lm_case
def test_greedy_ids_with_end_tokens(case, device):
    model, expected, _ = load(case, device)
    prompt = expected["greedy/prompt"]
    ids = model.generate(
        prompt,
        attention_mask=np.ones_like(prompt),  # else a pad token in a prompt would mean padding
        max_new_tokens=10,
        eos_token_id=expected["greedy_stop/eos_token_id"].tolist(),
        pad_token_id=59,
    )
    np.testing.assert_array_equal(ids, expected["greedy_stop/ids"])


@every_lm_case
def test_greedy_ids_of_a_left_padded_batch(case, device):
    model, expected, _ = load(case, device)
    prompt = expected["greedy_left_padded/prompt"]
    mask = expected["greedy_left_padded/attention_mask"]
    ids = model.generate(
        prompt, attention_mask=mask, max_new_tokens=10, eos_token_id=None, pad_token_id=0
    )
    np.testing.assert_array_equal(ids, expected["greedy_left_padded/ids"])


@pytest.mark.parametrize("case", [*LM_CASES, *BASE_CASES])
def test_saved_as_transformers_saves(case, tmp_path):
    """The file written here holds the same names, dtypes and bits as the one it was read from."""
    load(case)[0].save_pretrained(tmp_path)
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path, GOLDEN / case))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses a file without it

    config, wanted = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path, GOLDEN / case)
    )
    wanted.pop("transformers_version")
    assert {key: config.get(key) for key in wanted} == wanted


def test_the_layout_of_the_official_files(tmp_path):
    """The Hub's gpt2 has bare names, no lm_head, and the causal masks as buffers."""
    model, expected, inputs = load("default")
    n = model.config.n_positions
    weights = load_file(GOLDEN / "default" / "model.safetensors")
    official = {name.removeprefix("transformer."): array for name, array in weights.items()}
    for layer in range(model.config.n_layer):
        official[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, n, n), np.float32))
        official[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    save_file(official, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((GOLDEN / "default" / "config.json").read_text())
    for model_class in (GPT2LMHeadModel, GPT2Model):
        read = dict(model_class.from_pretrained(tmp_path).named_parameters())
        assert len(read) == len(weights)
        for name, parameter in read.items():
            wanted = official[name.removeprefix("transformer.")]
            np.testing.assert_array_equal(parameter.numpy(), wanted, err_msg=name)
    logits = GPT2LMHeadModel.from_pretrained(tmp_path)(inputs["input_ids"]).logits
    assert_output("logits", logits, expected["plain/logits"])
