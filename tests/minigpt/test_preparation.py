"""`minigpt prepare`, and training on what it made."""

import json
import os
import re

import numpy as np
import pytest

from minigpt import preparation
from minigpt.cli import main
from minigpt.data import load_text, split_text
from minigpt.preparation import prepare
from minigpt.run_setup import make_tokenizer
from minigpt.token_files import Prepared
from minigpt.tokenizer import load_tokenizer

SETTINGS = ["--quiet"] + [
    word
    for setting in ("n_layer=1", "n_head=1", "n_embd=8", "block_size=8", "batch_size=2",
                    "max_steps=2", "warmup_steps=0", "eval_batches=1", "sample_tokens=0")
    for word in ("--set", setting)
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(load_text()[:30_011] + " naïve 日本\n", encoding="utf-8")
    return path


def prepared(source, tmp_path, *options):
    out = tmp_path / "out"
    code = main(["prepare", "--data", str(source), "--out", str(out), "--quiet", *options])
    return out if code == 0 else code


def splits(out):
    return [np.fromfile(out / name, "<u2").tolist() for name in ("train.bin", "val.bin")]


@pytest.mark.parametrize("name", ["char", "bpe:300"])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_tokens_are_those_of_the_text(source, tmp_path, name, processes):
    out = prepared(source, tmp_path, "--tokenizer", name, "--processes", processes)
    text = load_text(source)
    expected = make_tokenizer(name, text)
    assert splits(out) == [expected.encode(part) for part in split_text(text)]
    tokenizer = load_tokenizer(out)
    assert tokenizer.encode(text) == expected.encode(text)
    about = Prepared.read(out)
    assert about.characters == len(text) and about.vocab_size == len(expected)
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == [".lock"]


@pytest.mark.parametrize(("fraction", "characters"), [("0", 0), ("0.5", 500), ("0.999", 999)])
def test_the_fraction(tmp_path, fraction, characters):
    (tmp_path / "text.txt").write_text("abcdefghij" * 100)
    out = prepared(
        tmp_path / "text.txt", tmp_path, "--tokenizer", "char", "--val-fraction", fraction
    )
    assert len(splits(out)[1]) == characters


def test_training_on_tokens_is_training_on_the_text(source, tmp_path):
    out = prepared(source, tmp_path, "--tokenizer", "bpe:300")
    runs = [tmp_path / name for name in ("of-text", "of-tokens", "of-a-file")]
    words = ["train", *SETTINGS, "--out"]
    assert main([*words, str(runs[0]), "--data", str(source), "--tokenizer", "bpe:300"]) == 0
    assert main([*words, str(runs[1]), "--data", str(out)]) == 0
    weights = [(run / "model.safetensors").read_bytes() for run in runs[:2]]
    assert weights[0] == weights[1]
    again = ["train", "--resume", "--out", str(runs[1]), "--quiet", "--set", "max_steps=3"]
    assert main(again) == 0
    (tmp_path / "all.bin").write_bytes(
        (out / "train.bin").read_bytes() + (out / "val.bin").read_bytes())
    one_file = [*words, str(runs[2]), "--data", str(tmp_path / "all.bin")]
    assert main(one_file) == 2                              # tokens of which tokenizer?
    assert main([*one_file, "--tokenizer", str(out)]) == 0


def test_tokens_without_their_tokenizer(source, tmp_path, capsys):
    out = prepared(source, tmp_path, "--tokenizer", "bpe:300")
    words = ["train", *SETTINGS, "--out", str(tmp_path / "run"), "--data", str(out)]
    assert main([*words, "--tokenizer", "char"]) == 2
    assert "holds tokens, not text: --tokenizer must name the folder" in capsys.readouterr().err


def test_tokens_of_another_tokenizer(source, tmp_path, capsys):
    out = prepared(source, tmp_path, "--tokenizer", "bpe:300")
    np.full(1000, 300, "<u2").tofile(tmp_path / "x.bin")
    words = ["train", *SETTINGS, "--out", str(tmp_path / "run"), "--data", str(tmp_path / "x.bin")]
    assert main([*words, "--tokenizer", str(out)]) == 2
    error = capsys.readouterr().err
    assert "x.bin: training split: token 300 is outside the vocabulary of 300" in error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.txt")
    assert prepared(tmp_path / "pipe.txt", tmp_path, "--tokenizer", "char") == 2
    assert "can't be read twice" in capsys.readouterr().err


def test_an_earlier_result_is_kept(source, tmp_path, capsys):
    out = prepared(source, tmp_path, "--tokenizer", "bpe:300")
    before = splits(out)
    assert prepared(source, tmp_path, "--tokenizer", "char") == 2
    assert "--overwrite replaces what is there" in capsys.readouterr().err
    assert prepared(source, tmp_path, "--tokenizer", "bpe:300", "--resume") == out  # all done
    assert splits(out) == before
    source.write_text("another text")
    assert prepared(source, tmp_path, "--tokenizer", "bpe:300", "--resume") == 2
    assert "the tokens of another text" in capsys.readouterr().err
    assert splits(out) == before
    assert prepared(source, tmp_path, "--tokenizer", "char", "--overwrite") == out
    assert splits(out) != before


def test_a_folder_of_something_else_is_left_alone(source, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vocab.json").write_text("{}")
    for options in ([], ["--resume"]):
        assert prepared(source, tmp_path, "--tokenizer", "char", *options) == 2
        assert "holds vocab.json already" in capsys.readouterr().err
    assert prepared(source, tmp_path / "out" / "vocab.json", "--tokenizer", "char") == 2


@pytest.mark.parametrize(
    "step", ["tokenizer_by_name", "tokenizer_sha256", "encode_range", "Prepared"]
)
@pytest.mark.parametrize("stops", [1, 2])
def test_resume_after_any_step(source, tmp_path, monkeypatch, step, stops):
    """Stopped as the step begins for the first, or for the second time."""
    calls = []
    real = getattr(preparation, step)

    class Stopping:
        def __call__(self, *args, **kwargs):
            calls.append(step)
            if len(calls) == stops:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        read = Prepared.read

    monkeypatch.setattr(preparation, step, Stopping())
    stopped = prepared(source, tmp_path, "--tokenizer", "bpe:300")
    once = step != "encode_range" and stops == 2            # the step is taken only once
    assert stopped == (tmp_path / "out" if once else 130)
    if not once:
        assert not (tmp_path / "out" / "prepared.json").exists()
        assert prepared(source, tmp_path, "--tokenizer", "bpe:300") == 2
        assert prepared(source, tmp_path, "--tokenizer", "char", "--resume") == 2
    out = prepared(source, tmp_path, "--tokenizer", "bpe:300", "--resume")
    text = load_text(source)
    assert splits(out) == [load_tokenizer(out).encode(part) for part in split_text(text)]
    assert load_tokenizer(out).get_vocab() == make_tokenizer("bpe:300", text).get_vocab()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the text is empty"), (b"\n \n", "the text is empty"),
        (b"PK\x03\x04\0\0", r"a binary file \(NUL at byte 4\)"),
        (b"abc \xff", "not UTF-8 text: invalid start byte at byte 4"),
        (None, "no text file in this folder"),
    ],
)
def test_what_is_no_text(tmp_path, capsys, content, message):
    source = tmp_path / "source"
    source.mkdir() if content is None else source.write_bytes(content)
    assert prepared(source, tmp_path, "--tokenizer", "char") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--val-fraction", "1"], "val_fraction=1.0 should be from 0 up to, but not, 1"),
        (["--val-fraction", "nan"], "val_fraction=nan"),
        (["--processes", "0"], "processes=0"),
        (["--resume", "--overwrite"], "give one of them"),
        (["--tokenizer", "bpe:many"], "expected bpe:SIZE"),
        (["--tokenizer", "bpe:10"], "vocab_size=10 is too small"),
        (["--tokenizer", "nowhere"], "no tokenizer in nowhere"),
    ],
)
def test_bad_options(source, tmp_path, capsys, options, message):
    """And the call that puts them right is not told that one was stopped half way."""
    assert prepared(source, tmp_path, "--tokenizer", "char", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert prepared(source, tmp_path, "--tokenizer", "char") == tmp_path / "out"


def test_what_is_told(source, tmp_path, capsys):
    prepare(source, "char", tmp_path / "out", report=print)
    assert capsys.readouterr().out == f"text: {len(load_text(source)):,} characters of {source}\n"
    about = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert about["train_tokens"] + about["val_tokens"] == len(load_text(source))
