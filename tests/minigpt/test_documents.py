"""Documents: JSON-lines, the mark before each, and splits between two of them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.cli import main
from minigpt.data import load_text, split_text
from minigpt.preparation import prepare
from minigpt.run_setup import read_data
from minigpt.text_stream import DOCUMENT, document_boundary
from minigpt.tokenizer import load_tokenizer

TEXTS = [f"Document {n}: {'la ' * (n % 7 + 3)}end\n" for n in range(40)]


def jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text, "id": 7}) + "\n" for text in texts))
    return path


def test_each_line_is_a_document(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ["one\r\nline", "", "zwei ö"])
    assert load_text(path) == DOCUMENT + "one\r\nline" + DOCUMENT + "zwei ö"
    (tmp_path / "b.txt").write_text("plain")
    assert load_text(tmp_path).endswith("zwei ö\n\nplain")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text": "a"}\n{"txt": "b"}', "line 2: no 'text' there that is a text; it has 'txt'"),
        ('{"text": 3}', "line 1: no 'text' there that is a text"),
        ('{"text": "a"', "line 1: not a line of JSON"),
        (r'{"text": "\ud800"}', "line 1: half a character"),
        ('{"text": ""}', "the text is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, content, complaint, capsys):
    (tmp_path / "a.jsonl").write_text(content)
    words = ["prepare", "--data", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*words, "--tokenizer", "byte"]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def slow_boundary(text, boundary):
    starts = [i for i in range(len(text)) if text.startswith(DOCUMENT, i)]
    after = [i for i in starts if i >= boundary]
    return after[0] if after else (starts[-1] if starts and starts[-1] else boundary)


@given(
    pieces=st.lists(st.sampled_from([DOCUMENT, "a", "<|endof", "text|>", "\n"]), max_size=30),
    part=st.floats(0, 1), size=st.integers(1, 40),
)  # fmt: skip
def test_the_boundary_is_where_a_slow_search_finds_it(pieces, part, size):
    text = "".join(pieces)
    boundary = int(len(text) * part)
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    assert document_boundary(blocks, boundary) == slow_boundary(text, boundary)


def test_no_document_is_divided():
    text = "".join(DOCUMENT + t for t in TEXTS)
    train, validation = split_text(text)
    assert train + validation == text and validation.startswith(DOCUMENT)
    assert 0.8 < len(train) / len(text) < 1
    assert train.count(DOCUMENT) + validation.count(DOCUMENT) == 40
    long_last = DOCUMENT + "a" * 10 + DOCUMENT + "b" * 1000
    assert split_text(long_last)[1] == DOCUMENT + "b" * 1000
    assert split_text(DOCUMENT + "b" * 87) == (DOCUMENT + "b" * 77, "b" * 10)  # a single one


@pytest.mark.parametrize("name", ["byte", "bpe:265"])
def test_prepared_and_read_at_once_they_are_the_same_tokens(tmp_path, name):
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    prepare(path, name, tmp_path / "out", report=None)
    tokenizer = load_tokenizer(tmp_path / "out")
    end = tokenizer.eos_token_id
    splits = [np.fromfile(tmp_path / "out" / f"{s}.bin", "<u2") for s in ("train", "val")]
    _, *read = read_data(str(path), name)
    for ids, data in zip(splits, read):
        assert (ids == data.ids).all()
        assert ids[0] == end
    found = [doc for ids in splits for doc in tokenizer.decode(ids).split(DOCUMENT)[1:]]
    assert found == TEXTS
    assert sum((ids == end).sum() for ids in splits) == 40


def test_each_file_of_a_folder_may_be_a_document(tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(text)
    (tmp_path / "texts" / "99.jsonl").write_text('{"text": "one more"}\n')
    words = ["prepare", "--data", str(tmp_path / "texts"), "--tokenizer", "byte", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "out"), "--documents"]) == 0
    tokenizer = load_tokenizer(tmp_path / "out")
    splits = [np.fromfile(tmp_path / "out" / f"{s}.bin", "<u2") for s in ("train", "val")]
    found = [doc for ids in splits for doc in tokenizer.decode(ids).split(DOCUMENT)[1:]]
    assert found == [*TEXTS, "one more"]
    words[4] = "char"
    assert main([*words, "--out", str(tmp_path / "other"), "--documents"]) == 2
    assert f"no {DOCUMENT} to begin one" in capsys.readouterr().err


def test_characters_have_no_mark(tmp_path, capsys):
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    for verb in ("train", "prepare"):
        words = [verb, "--out", str(tmp_path / verb), "--data", str(path), "--tokenizer", "char"]
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"and this tokenizer no {DOCUMENT} to begin one: use byte" in error


def test_training_on_documents(tmp_path, capsys):
    path = jsonl(tmp_path / "a.jsonl", TEXTS)
    words = ["train", "--quiet", "--data", str(path), "--out", str(tmp_path / "run")]
    words += [f"--set={s}" for s in ("max_steps=2", "n_embd=8", "n_layer=1", "n_head=1",
                                     "block_size=8", "sample_tokens=0")]  # fmt: skip
    assert main([*words, "--tokenizer", "byte"]) == 0


@pytest.mark.slow
def test_tinyshakespeare_as_llm_c_has_it(tmp_path):
    """Its dev/data/tinyshakespeare.py: the text cut at each blank line, each piece after 50256."""
    folder = os.environ.get("MINIGPT_TEST_DATA")
    if not folder:
        pytest.skip("MINIGPT_TEST_DATA names no folder with tinyshakespeare.txt and gpt2/")
    from minigpt import GPT2Tokenizer

    text = Path(folder, "tinyshakespeare.txt").read_text()
    sections = text.split("\n\n")
    pieces = [s + "\n\n" for s in sections[:-1]] + sections[-1:]
    GPT2Tokenizer(f"{folder}/gpt2/encoder.json", f"{folder}/gpt2/vocab.bpe").save_pretrained(
        tmp_path / "gpt2"
    )
    path = jsonl(tmp_path / "a.jsonl", pieces)
    about = prepare(path, str(tmp_path / "gpt2"), tmp_path / "out", report=None)
    ids = np.concatenate([np.fromfile(tmp_path / "out" / f"{s}.bin", "<u2")
                          for s in ("train", "val")])  # fmt: skip
    assert ids[:8].tolist() == [50256, 5962, 22307, 25, 198, 8421, 356, 5120]
    assert len(ids) == 32_768 + 305_260 == about.train_tokens + about.val_tokens
