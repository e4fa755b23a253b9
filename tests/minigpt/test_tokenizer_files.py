"""tokenizer.json; and files that make a tokenizer, but not the one that was meant."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt import GPT2Tokenizer, GPT2TokenizerFast
from minigpt.bpe_training import train_bpe
from minigpt.tokenizer import load_tokenizer

EOT = "<|endoftext|>"
STORY = "The cat sat on the mat, and the other cat didn't. In 1984 the naïve café 日本 日本.\n" * 3
TEXT = f"the other cat{EOT}<x> <y>new words 日本 didn't"


@pytest.fixture(scope="module")
def tokenizer() -> GPT2Tokenizer:
    return train_bpe([STORY], 300)


@pytest.fixture
def official(tmp_path) -> Path:
    """A copy of OpenAI's files in a folder called gpt2."""
    folder = os.environ.get("MINIGPT_TEST_DATA")
    if not folder or not (Path(folder) / "gpt2" / "vocab.bpe").is_file():
        pytest.skip("MINIGPT_TEST_DATA names no folder with gpt2/encoder.json and gpt2/vocab.bpe")
    shutil.copytree(Path(folder) / "gpt2", tmp_path / "gpt2")
    return tmp_path / "gpt2"


# ---- tokenizer.json -----------------------------------------------------------------------------


def content(tokenizer, pairs=True):
    """What transformers 4.56.2 writes for a GPT2TokenizerFast."""
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    vocab = tokenizer.get_vocab()
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": vocab[EOT], "content": EOT, **added, "special": True},
            {"id": 300, "content": "<x>", **added, "special": True},
            {"id": 301, "content": "new words", **added, "special": False},
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
        },
        "post_processor": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True,
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": vocab,
            "merges": [list(m) if pairs else " ".join(m) for m in tokenizer._merges],
        },
    }


@pytest.mark.parametrize("pairs", [True, False])
def test_a_tokenizer_json_alone(tokenizer, tmp_path, pairs):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content(tokenizer, pairs)))
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(STORY) == tokenizer.encode(STORY)
    assert len(loaded) == 302 and loaded.all_special_tokens == [EOT, "<x>"]
    assert loaded.encode("<x>new words") == [300, 301]
    assert (loaded.add_prefix_space, loaded.add_bos_token) == (False, False)
    assert isinstance(GPT2TokenizerFast.from_pretrained(tmp_path), GPT2TokenizerFast)


def test_its_settings_and_those_of_the_other_files(tokenizer, tmp_path):
    changed = content(tokenizer)
    changed["pre_tokenizer"]["add_prefix_space"] = True
    changed["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": EOT, "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    loaded = load_tokenizer(tmp_path)
    assert loaded.add_prefix_space and loaded.add_bos_token
    assert loaded.encode("cat") == [tokenizer.eos_token_id, *tokenizer.encode(" cat")]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"add_prefix_space": False, "add_bos_token": False, "model_max_length": 9,
         "pad_token": "<x>"}))
    loaded = load_tokenizer(tmp_path)
    assert not loaded.add_prefix_space and not loaded.add_bos_token
    assert loaded.model_max_length == 9 and loaded.pad_token_id == 300


def test_the_two_files_come_first(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert load_tokenizer(tmp_path).encode(TEXT) == tokenizer.encode(TEXT)
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()       # it would be believed by others


def put(*keys, value):
    def change(tree):
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value
    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (put("model", value=None), "model is 'None', not an object"),
        (put("model", "type", value="Unigram"), "model.type is Unigram, expected BPE"),
        (put("model", "dropout", value=0.1), "model.dropout is 0.1"),
        (put("model", "byte_fallback", value=True), "model.byte_fallback is True"),
        (put("model", "byte_fallback", value=0), "model.byte_fallback is 0"),
        (put("model", "ignore_merges", value=True), "model.ignore_merges is True"),
        (put("model", "end_of_word_suffix", value="</w>"), "end_of_word_suffix is </w>"),
        (put("model", "vocab", value=[]), "vocab is '.*', not an object"),
        (put("model", "vocab", "!", value="0"), "the id of '!' is '0'"),
        (put("model", "vocab", "!", value=5), "the same id, 5"),
        (put("model", "merges", value={}), "model.merges is not a list"),
        (put("model", "merges", 2, value="alone"), "merge 3 is 'alone', expected two tokens"),
        (put("model", "merges", 2, value=["a", 1]), "merge 3 is"),
        (put("model", "merges", 2, value=["q", "x"]), "merge 3, 'q x', needs 'qx'"),
        (put("normalizer", value={"type": "NFC"}), "normalizer is .*NFC"),
        (put("pre_tokenizer", value=None), "pre_tokenizer is 'None'"),
        (put("pre_tokenizer", "type", value="Whitespace"), "pre_tokenizer is .*Whitespace"),
        (put("pre_tokenizer", "use_regex", value=False), "pre_tokenizer is"),
        (put("post_processor", "type", value="BertProcessing"), "post_processor is .*Bert"),
        (put("post_processor", value=[]), "post_processor is"),
        (put("added_tokens", value={}), "added_tokens is {}, not a list"),
        (put("added_tokens", 1, value="<x>"), "added_tokens has '<x>'"),
        (put("added_tokens", 1, "id", value=-1), "added_tokens has .*-1"),
        (put("added_tokens", 1, "id", value=5), "the same id, 5"),
        (put("added_tokens", 1, "lstrip", value=True), "'<x>' has lstrip=true"),
    ],
)
def test_a_damaged_tokenizer_json(tokenizer, tmp_path, damage, message):
    changed = content(tokenizer)
    damage(changed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(tmp_path)
    assert "tokenizer.json" in str(error.value)


@given(st.data())
def test_random_damage_of_tokenizer_json(tokenizer, tmp_path_factory, data):
    """A ValueError, or a tokenizer that brings text back; never anything else."""
    folder = tmp_path_factory.mktemp("damaged")
    damaged = bytearray(json.dumps(content(tokenizer)).encode())
    start = data.draw(st.integers(0, len(damaged)))
    damaged[start:start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    (folder / "tokenizer.json").write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = load_tokenizer(folder)
        except ValueError:
            return
    assert loaded.decode(loaded.encode(STORY)) == STORY


# ---- files that are whole, but not the ones that were meant -------------------------------------


def test_merges_cut_off_between_two_lines(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    lines = (tmp_path / "merges.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "merges.txt").write_text("".join(lines[:-2]), encoding="utf-8")
    message = r"no merge makes 2 of the 300 tokens \(.*\), so no text .* cut off"
    with pytest.warns(UserWarning, match=message) as caught:
        load_tokenizer(tmp_path)
    assert caught[0].filename == __file__


def test_whole_files_bring_no_warning(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "gpt2-mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(tmp_path / "gpt2-mine")


def test_the_official_files_bring_no_warning(official):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = load_tokenizer(official)
        tokenizer.save_pretrained(official)         # other bytes, the same content
        (official / "encoder.json").unlink()
        load_tokenizer(official)


def swap(folder):
    path = folder / "encoder.json"
    vocab = json.loads(path.read_text("utf-8"))
    vocab["Ġdog"], vocab["Ġcat"] = vocab["Ġcat"], vocab["Ġdog"]
    path.write_text(json.dumps(vocab))


def reorder(folder):
    path = folder / "vocab.bpe"
    lines = path.read_text("utf-8").split("\n")
    lines[1], lines[2] = lines[2], lines[1]
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"), [(swap, "the vocabulary are not"), (reorder, "the merges are not")])
@pytest.mark.parametrize("name", ["gpt2", "124M", "models--gpt2/snapshots/0123",
                                  "models--openai-community--gpt2-xl/snapshots/0123"])
def test_a_folder_that_is_called_gpt2_and_is_not(official, tmp_path, change, message, name):
    change(official)
    folder = tmp_path / "elsewhere" / name
    folder.parent.mkdir(parents=True)
    official.rename(folder)
    with pytest.warns(UserWarning, match=f"has the name of an official GPT-2, .*{message}"):
        load_tokenizer(folder)
    other = folder.rename(tmp_path / "my-gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(other)


def test_paths_in_place_of_the_vocabulary(tokenizer, tmp_path):
    vocab_file, merges_file = tokenizer.save_vocabulary(tmp_path)
    assert GPT2Tokenizer(vocab_file, merges_file).encode(TEXT) == tokenizer.encode(TEXT)
    assert GPT2Tokenizer(Path(vocab_file), merges_file, pad_token=EOT).pad_token == EOT
    Path(merges_file).write_text("a b c\n")
    with pytest.raises(ValueError, match="merges.txt: line 1"):
        GPT2Tokenizer(vocab_file, merges_file)


def test_save_pretrained_returns_the_paths(tokenizer, tmp_path):
    paths = tokenizer.save_pretrained(tmp_path)
    assert sorted(paths) == sorted(map(str, tmp_path.iterdir()))
