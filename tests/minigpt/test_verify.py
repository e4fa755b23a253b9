"""`minigpt verify` without torch: what it finds in a good folder, and in damaged ones."""

import hashlib
import json

import numpy as np
import pytest

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.bpe_training import train_bpe
from minigpt.checkpoints import openai_bucket
from minigpt.cli import main
from minigpt.official_values import OFFICIALS, SHAKESPEARE, Continuation, Official, Published
from minigpt.verify import Subject, architecture, check_behaviour, verify, verify_training
from minigpt.verify_official import (
    check_published,
    of_that_shape,
    recognise,
    shakespeare_ids,
)
from tests.minigpt.official_data import data_file

TEXT = "To be, or not to be, that is the question:\n" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train_bpe(TEXT, 262).save_pretrained(folder)
    config = GPT2Config(vocab_size=262, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def states(checks):
    return {check.name: check.state for check in checks}


def test_a_good_folder(folder, capsys):
    assert main(["verify", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "9 passed, 0 failed, 2 skipped"
    assert "skip  official values  not the sizes of an official model" in lines
    assert main(["verify", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["official"] is None and len(found["checks"]) == 11


def test_the_architecture_is_counted_by_hand():
    """V C + P C + L (12 C^2 + 13 C) + 2 C, and four bytes each in OpenAI's data files."""
    for official, size in zip(OFFICIALS, ("124M", "355M", "774M", "1558M")):
        L, H, C = official.shape
        config = GPT2Config(n_layer=L, n_head=H, n_embd=C)
        count = sum(int(np.prod(shape)) for shape in architecture(config).values())
        assert count == 50257 * C + 1024 * C + L * (12 * C * C + 13 * C) + 2 * C
        assert count == official.parameters
        assert 4 * count == openai_bucket.SIZES[size][openai_bucket.DATA_FILE]
        assert of_that_shape(config) is official
    assert of_that_shape(GPT2Config(n_layer=6)) is None         # distilgpt2
    assert of_that_shape(GPT2Config(vocab_size=50258)) is None


def test_numbers_that_are_none(folder, tmp_path, capsys):
    model = GPT2LMHeadModel.from_pretrained(folder)
    bias = model.transformer.h[1].mlp.c_fc.bias
    values = bias.numpy().copy()
    values[3] = np.nan
    bias.copy_(values)
    model.save_pretrained(tmp_path)
    assert main(["verify", str(tmp_path), "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "no such number in transformer.h.1.mlp.c_fc.bias" in out
    assert "skip  tokenizer" in out and "there is none in the folder" in out


def test_weights_of_another_architecture_are_a_result(folder, tmp_path, capsys):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    assert main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    first, second = out.splitlines()[:2]
    assert first.startswith("fail  file") and "h.2.ln_1.weight (8,), which is missing" in first
    assert second.startswith("fail  loading") and "missing: transformer.h.2" in second


def test_a_damaged_file_is_a_result(folder, tmp_path, capsys):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["verify", str(tmp_path)]) == 1
    assert "cut off" in capsys.readouterr().out


def test_openais_files(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "tf"), "--to", "tf", "--quiet"]) == 0
    assert main(["verify", str(tmp_path / "tf"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "28 tensors of the body" in out and "9 passed, 0 failed" in out
    data = tmp_path / "tf" / "model.ckpt.data-00000-of-00001"
    changed = bytearray(data.read_bytes())
    changed[100] ^= 1
    data.write_bytes(changed)
    assert main(["verify", str(tmp_path / "tf"), "--quiet"]) == 1
    assert "fail  loading" in capsys.readouterr().out      # its checksum


def test_a_model_that_sees_the_future(folder):
    model = GPT2LMHeadModel.from_pretrained(folder)
    for block in model.transformer.h:
        forward = block.attn.forward

        def reversed_time(x, *rest, forward=forward):
            flip = slice(None, None, -1)
            y, weights = forward(x[:, flip], *rest)
            return y[:, flip], weights

        block.attn.forward = reversed_time
    assert states(check_behaviour(model))["causality"] == "fail"


def test_a_tokenizer_of_another_size(folder, tmp_path):
    config = GPT2Config(vocab_size=261, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    checks, known = verify(Subject.load(tmp_path))
    assert states(checks)["vocabulary"] == "fail" and known is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "'nowhere' is neither a folder with a model (config.json"),
        (["FOLDER", "--against", "torch", "--picture", "no/p.png"], "there is no such folder"),
        (["gpt2"], "HF_HUB_OFFLINE is set"),
        (["FOLDER", "--picture", "p.png"], "give --against torch, too"),
        (["FOLDER", "--eval", "lambada"], "expected TASK=FILE"),
        (["FOLDER", "--eval", "reading=x"], "expected TASK=FILE"),
        (["FOLDER", "--eval", "lambada:5=x"], "a stride only for text"),
        (["FOLDER", "--eval", "text:x=x"], "expected TASK=FILE or TASK:STRIDE=FILE"),
        (["FOLDER", "--eval", "lambada=nowhere"], "there is no file nowhere"),
        (["FOLDER", "--against", "jax"], "invalid choice"),
        ([], "model"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *[str(folder) if a == "FOLDER" else a for a in arguments]]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_without_torch_it_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main(["verify", str(folder), "--against", "torch", "--quiet"]) == 2
    assert 'pip install -e ".[reference]"' in capsys.readouterr().err


# ---- official models ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A small model with the official tokenizer and number of positions: (folder, what is known of
    it), the greedy texts computed by the obvious loop, the whole text anew for every token.
    """
    folder = tmp_path_factory.mktemp("official")
    for name, file in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (folder / name).write_bytes(data_file(f"gpt2/{file}").read_bytes())
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.copy_(parameter.numpy() * 8)
    model.save_pretrained(folder)
    model.eval()
    tokenizer = Subject.load(folder).tokenizer

    def greedy(prompt, count):
        ids = tokenizer.encode(prompt)
        for _ in range(count):
            ids.append(int(model([ids]).logits.numpy()[0, -1].argmax()))
        return tuple(ids[-count:])

    prompts = ("The dog", "Hello, my dog is a little")
    weights = (folder / "model.safetensors").read_bytes()
    official = Official(
        name="small", shape=(1, 2, 8), parameters=model.num_parameters(),
        sha256={hashlib.sha256(weights).hexdigest(): "model.safetensors"},
        continuations=tuple(Continuation(p, "a loop", ids=greedy(p, 6)) for p in prompts),
    )
    return folder, official


def test_an_official_model_is_recognised_and_writes_its_text(stand_in):
    folder, official = stand_in
    checks, known = verify(Subject.load(folder), officials=[official])
    assert known is official
    found = states(checks)
    assert {name: found[name] for name in (
        "tokenizer", "golden tokens", "official model", "official size", "greedy text",
        "greedy batch")} == dict.fromkeys(
        ("tokenizer", "golden tokens", "official model", "official size", "greedy text",
         "greedy batch"), "pass")


def test_other_weights_of_these_sizes_are_skipped_and_said_to_be(stand_in, tmp_path):
    folder, official = stand_in
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = GPT2LMHeadModel.from_pretrained(folder)
    model.transformer.h[0].mlp.c_fc.bias.copy_(np.ones(32, np.float32))
    model.save_pretrained(tmp_path)
    checks, known = verify(Subject.load(tmp_path), officials=[official])
    assert known is None and states(checks)["official values"] == "skip"
    assert "no file with a sha256 that is known" in checks[-1].found
    checks, known = verify(Subject.load(tmp_path), officials=[official], official=True)
    assert known is official and states(checks)["greedy text"] == "fail"
    wrong = next(check for check in checks if check.state == "fail")
    assert "of 6 is another" in wrong.expected
    assert recognise(official, folder)[0] and not recognise(official, tmp_path)[0]


def test_ten_losses_that_are_not_the_known_ones(stand_in):
    folder, official = stand_in
    from dataclasses import replace

    subject = Subject.load(folder)
    assert verify_training(subject, official) == [] == verify_training(subject, None)
    (check,) = verify_training(subject, replace(official, losses=(11.0, 9.0)))
    assert check.state == "fail" and "at step" in check.expected


def test_the_tokens_of_the_ten_losses(stand_in):
    tokenizer = Subject.load(stand_in[0]).tokenizer
    whole = data_file("tinyshakespeare.txt").read_text()
    assert whole.startswith(SHAKESPEARE)
    ids = []
    for piece in whole[:4000].split("\n\n"):
        ids += [50256, *tokenizer.encode(piece + "\n\n")]
    ours = shakespeare_ids(tokenizer)
    assert ours[:8] == [50256, 5962, 22307, 25, 198, 8421, 356, 5120]       # llm.c's
    assert ours[:257] == ids[:257] and len(ours) >= 257


def test_published_figures():
    official = Official("x", (1, 1, 1), 1, published=(
        Published("lambada", "perplexity", 40.06, 5e-3, "harness"),
        Published("lambada", "accuracy", 0.3256, 5e-3, "harness"),
        Published("wikitext2-raw", "perplexity", 29.94, 5e-3, "page", 1024),
        Published("wikitext2", "perplexity_per_original_token", 29.41, 0.0, "paper"),
    ))
    good = {"perplexity": 40.1, "accuracy": 0.3251}
    assert [c.state for c in check_published(official, "lambada", None, good)] == ["pass", "pass"]
    bad = {"perplexity": 41, "accuracy": 0.3251}
    assert [c.state for c in check_published(official, "lambada", None, bad)] == ["fail", "pass"]
    raw = {"perplexity": 29.9}
    assert [c.state for c in check_published(official, "wikitext2-raw", 1024, raw)] == ["pass"]
    assert [c.state for c in check_published(official, "wikitext2-raw", 512, raw)] == ["skip"]
    paper = {"perplexity_per_original_token": 99.0}
    assert [c.state for c in check_published(official, "wikitext2", 512, paper)] == ["skip"]
    assert [c.state for c in check_published(None, "hellaswag", None, {})] == ["skip"]


def test_measuring_within_verify(folder, tmp_path, capsys):
    path = tmp_path / "passages.txt"
    path.write_text("to be or not\nthat is the question\n")
    assert main(["verify", str(folder), "--quiet", "--eval", f"lambada={path}"]) == 0
    out = capsys.readouterr().out
    assert "skip  lambada" in out and "no figure is published for this model" in out
    assert main(["verify", str(folder), "--quiet", "--eval", f"text:4={path}"]) == 0
    found = capsys.readouterr().out
    assert main(["eval", "--model", str(folder), "--data", str(path), "--stride", "4",
                 "--json"]) == 0
    perplexity = json.loads(capsys.readouterr().out)["perplexity"]
    assert f"skip  text             perplexity {perplexity:.4f}" in found
