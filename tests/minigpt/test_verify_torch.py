"""`minigpt verify --against torch`: a good model passes, and each planted mistake is found where it
was planted."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minigpt import GPT2LMHeadModel, model
from minigpt.activations import ACTIVATIONS
from minigpt.cli import main
from minigpt.verify import architecture
from minigpt.verify_official import training_losses
from minigpt.verify_torch import compare_with_transformers
from tensor.ops import fused
from tests.kernels.devices import NAME, needs_device
from tests.minigpt.parity_helpers import make_pair, make_theirs, reference_only

pytestmark = reference_only

CONFIG = {"n_layer": 4, "n_inner": 16}      # square, so that mlp.c_proj can be transposed, too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_theirs(CONFIG, seed=1).save_pretrained(folder)
    return folder


# ---- mistakes: each takes our loaded model, or a monkeypatch, and a layer -----------------------


def exact_gelu(ours, patch, layer):
    ours.transformer.h[layer].mlp.act = ACTIVATIONS["gelu"]


def epsilon(ours, patch, layer):
    ours.transformer.h[layer].ln_2.eps = 1e-4


def transposed_attention(ours, patch, layer):
    weight = ours.transformer.h[layer].attn.c_proj.weight
    weight.copy_(weight.numpy().T.copy())


def transposed_mlp(ours, patch, layer):
    weight = ours.transformer.h[layer].mlp.c_proj.weight
    weight.copy_(weight.numpy().T.copy())


def no_scale(ours, patch, layer):
    ours.transformer.h[layer].attn.scale = 1.0


def scale_of_the_width(ours, patch, layer):
    ours.transformer.h[layer].attn.scale = 1 / math.sqrt(ours.config.n_embd)


def no_mask(ours, patch, layer):
    attention = model.attention
    block = ours.transformer.h[layer].attn
    forward = block.forward

    def open_forward(*arguments):
        patch.setattr(model, "attention", lambda *a, **n: attention(*a, **n | {"causal": False}))
        try:
            return forward(*arguments)
        finally:
            patch.setattr(model, "attention", attention)

    block.forward = open_forward


def no_residual(ours, patch, layer):
    block = ours.transformer.h[layer]

    def forward(x, bias, head_mask, encoded, cache, want_weights):
        y, weights = block.attn(block.ln_1(x), bias, head_mask, cache, want_weights)
        return y + block.mlp(block.ln_2(y)), weights, None

    block.forward = forward


def mlp_beside_attention(ours, patch, layer):
    block = ours.transformer.h[layer]

    def forward(x, bias, head_mask, encoded, cache, want_weights):
        y, weights = block.attn(block.ln_1(x), bias, head_mask, cache, want_weights)
        return x + y + block.mlp(block.ln_2(x)), weights, None

    block.forward = forward


def tiles_without_a_scale(ours, patch, layer):
    block = ours.transformer.h[layer].attn
    forward, scale = block.forward, block.scale

    def tiled(x, bias, head_mask, cache, want_weights):
        block.scale = scale if want_weights else 1.0
        return forward(x, bias, head_mask, cache, want_weights)

    block.forward = tiled


def values_before_keys(ours, patch, layer):
    block = ours.transformer.h[layer].attn
    C = ours.config.n_embd
    weight, bias = block.c_attn.weight.numpy().copy(), block.c_attn.bias.numpy().copy()
    order = np.r_[0:C, 2 * C : 3 * C, C : 2 * C]
    block.c_attn.weight.copy_(weight[:, order])
    block.c_attn.bias.copy_(bias[order])


PLANTED = [
    (exact_gelu, "mlp.act"), (epsilon, "ln_2"), (transposed_attention, "attn.c_proj"),
    (transposed_mlp, "mlp.c_proj"), (no_scale, "attn"), (scale_of_the_width, "attn"),
    (no_mask, "attn"), (no_residual, ""), (mlp_beside_attention, ""),
    (values_before_keys, "attn.c_attn"), (tiles_without_a_scale, "attn without weights"),
]


def plant(monkeypatch, mistake, layer):
    """Every model that is loaded from now on has the mistake in that layer."""
    load = GPT2LMHeadModel.from_pretrained.__func__

    def broken(cls, *arguments, **named):
        ours = load(cls, *arguments, **named)
        mistake(ours, monkeypatch, layer)
        return ours

    monkeypatch.setattr(GPT2LMHeadModel, "from_pretrained", classmethod(broken))


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize(("mistake", "part"), PLANTED, ids=lambda v: getattr(v, "__name__", None))
def test_a_mistake_is_found_in_its_layer(folder, monkeypatch, mistake, part, layer):
    plant(monkeypatch, mistake, layer)
    ours = GPT2LMHeadModel.from_pretrained(folder)
    found = compare_with_transformers(ours, folder)
    first = found.first_deviation
    assert not found.ok and first is not None
    assert (first.layer, first.name) == (layer, f"h.{layer}.{part}".rstrip("."))
    alone = {p.layer for p in found.parts if p.alone and not p.comparison.ok}
    assert alone == {layer}                     # nowhere else, though what follows is wrong, too
    through = [p.layer for p in found.parts if p.kind == "through" and not p.comparison.ok]
    if mistake is tiles_without_a_scale:        # which a call that asks for weights doesn't take
        assert through == []
    else:
        assert through == [*range(layer, 3), 4]         # and there it is in all that follows
    assert found.verdict().count(first.name) >= 1


@pytest.mark.parametrize(("mistake", "part"), PLANTED, ids=lambda v: getattr(v, "__name__", None))
def test_the_command_fails_and_names_it(folder, monkeypatch, capsys, mistake, part):
    plant(monkeypatch, mistake, 1)
    assert main(["verify", str(folder), "--against", "torch", "--json"]) == 1
    against = json.loads(capsys.readouterr().out)["against"]
    assert against["layer"] == 1
    assert against["first_deviation"] == f"h.1.{part}".rstrip(".")


def shifted(by, only_with_cache):
    read = model.read_inputs

    def read_inputs(*arguments, **named):
        inputs = read(*arguments, **named)
        if only_with_cache and named["past_key_values"] is None:
            return inputs
        limit = arguments[0].config.n_positions - 1
        positions = np.clip(inputs.positions.numpy() + by, 0, limit)
        return replace(inputs, positions=arguments[0].integers("positions", positions))

    return read_inputs


@pytest.mark.parametrize("by", [1, -1])
def test_positions_that_are_off_by_one(folder, monkeypatch, capsys, by):
    monkeypatch.setattr(model, "read_inputs", shifted(by, only_with_cache=False))
    assert main(["verify", str(folder), "--against", "torch", "--quiet"]) == 1
    assert "first deviation: embeddings (the tables agree" in capsys.readouterr().out


def test_positions_that_are_off_by_one_with_the_cache(folder, monkeypatch, capsys):
    monkeypatch.setattr(model, "read_inputs", shifted(1, only_with_cache=True))
    assert main(["verify", str(folder), "--against", "torch", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "first deviation: logits with the cache" in out
    assert [line[:11] for line in out.splitlines() if line.startswith("fail")][0] == "fail  cache"


def test_a_loss_that_predicts_the_token_itself(folder, monkeypatch, capsys):
    from minigpt import heads
    from tensor import cross_entropy

    monkeypatch.setattr(heads, "next_token_loss", lambda z, labels, *rest: cross_entropy(z, labels))
    assert main(["verify", str(folder), "--against", "torch", "--quiet"]) == 1
    assert "first deviation: loss (position t predicts token t + 1" in capsys.readouterr().out


def test_a_wrong_derivative(folder, monkeypatch, capsys):
    backward = fused.LayerNorm.backward

    def wrong(self, dy):
        dx, dw, db = backward(self, dy)
        return (None if dx is None else self.backend.mul(dx, dx)), dw, db

    monkeypatch.setattr(fused.LayerNorm, "backward", wrong)
    assert main(["verify", str(folder), "--against", "torch", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "the forward pass agrees, the gradients don't; nearest to the loss" in out
    assert "nearest to the loss transformer.h.3.mlp.c_proj" in out


# ---- good models --------------------------------------------------------------------------------

CONFIGS = [
    {}, {"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True},
    {"scale_attn_weights": False}, {"tie_word_embeddings": False}, {"n_layer": 1, "n_head": 1},
    {"add_cross_attention": True}, {"n_positions": 1}, {"layer_norm_epsilon": 1e-3},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_good_folder_passes(tmp_path, capsys, config, dtype):
    theirs = make_theirs(config, seed=2)
    theirs.save_pretrained(tmp_path)
    code = main(["verify", str(tmp_path), "--against", "torch", "--dtype", dtype, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0, found["against"]["verdict"]
    assert found["against"]["weights_from"] == "transformers"
    state = {n.removeprefix("transformer.") for n, _ in theirs.named_parameters()}
    config = GPT2LMHeadModel.from_pretrained(tmp_path).config
    assert set(architecture(config)) == state - {"lm_head.weight"}


def test_weights_that_were_read_wrong(folder, monkeypatch, capsys):
    plant(monkeypatch, transposed_attention, 2)
    assert main(["verify", str(folder), "--against", "torch", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "weights differ: transformer.h.2.attn.c_proj.weight, of 1" in out


def test_ours_handed_over_where_transformers_cannot_read(folder):
    ours = GPT2LMHeadModel.from_pretrained(folder)
    found = compare_with_transformers(ours)
    assert found.ok and found.weights_from == "minigpt"
    assert all(p.grad is None for p in ours.parameters())


@pytest.mark.parametrize("form", ["zip", "legacy", "tf"])
def test_other_formats(tmp_path, capsys, form):
    import torch

    # OpenAI's files have no place for dropout or ids of special tokens that are not theirs.
    config = {"vocab_size": 97, "bos_token_id": 96, "eos_token_id": 96}
    theirs = make_theirs(config, seed=1)
    source, target = tmp_path / "source", tmp_path / form
    theirs.save_pretrained(source if form == "tf" else target)
    if form == "tf":
        assert main(["convert", str(source), str(target), "--to", "tf", "--quiet"]) == 0
    else:
        (target / "model.safetensors").unlink()
        state = {n: p for n, p in theirs.state_dict().items() if n != "lm_head.weight"}
        torch.save(state, target / "pytorch_model.bin",
                   _use_new_zipfile_serialization=form == "zip")
    assert main(["verify", str(target), "--against", "torch", "--json"]) == 0
    against = json.loads(capsys.readouterr().out)["against"]
    assert against["weights_from"] == ("minigpt" if form == "tf" else "transformers")


@pytest.mark.slow
def test_the_kernels_of_a_device(tmp_path, capsys, monkeypatch):
    needs_device()
    make_theirs({"n_positions": 12}, seed=5).save_pretrained(tmp_path)
    arguments = ["verify", str(tmp_path), "--device", NAME, "--against", "torch", "--quiet"]
    assert main(arguments) == 0
    plant(monkeypatch, epsilon, 1)
    assert main(arguments) == 1
    assert "first deviation: h.1.ln_2 (layer norm" in capsys.readouterr().out


def test_the_table_and_the_picture(folder, tmp_path, capsys, monkeypatch):
    picture = tmp_path / "layers.png"
    arguments = ["verify", str(folder), "--against", "torch", "--picture", str(picture)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "e-0" in line][:5] == [
        "embeddings", "h.0", "h.1", "h.2", "h.3"]
    assert "!" not in out
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plant(monkeypatch, no_scale, 1)
    assert main(arguments) == 1
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "!" not in rows["h.0"] .rpartition(" ")[0].rpartition("e")[0]
    assert "!" in rows["h.1"]


def test_ten_steps_equal_torchs_adamw(tmp_path):
    import torch

    pair = make_pair({"n_positions": 64, "vocab_size": 97}, seed=3)
    ids = np.random.default_rng(4).integers(0, 97, 4 * 32 + 1)
    x, y = (torch.tensor(part).reshape(4, 32) for part in (ids[:-1], ids[1:]))
    optimizer = torch.optim.AdamW(pair.theirs.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.01)
    expected = []
    for _ in range(10):
        logits = pair.theirs(x).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 97), y.reshape(-1))
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = training_losses(pair.ours, ids.tolist(), (4, 32), 10)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_example_of_the_documentation(folder, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    shutil.copytree(folder, tmp_path / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/verify.md", "exec"), {})
    assert capsys.readouterr().out == "no part deviates\n"
