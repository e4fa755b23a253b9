"""CharTokenizer: one id a character."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.char_tokenizer import CharTokenizer
from minigpt.tokenizer import load_tokenizer


def test_ids_are_places_in_the_sorted_characters():
    tokenizer = CharTokenizer.from_text("hello\nworld é🤗")
    assert tokenizer.characters == "\n dehlorwé🤗"
    assert len(tokenizer) == tokenizer.vocab_size == 11
    assert tokenizer.encode("hé🤗\n") == [4, 9, 10, 0]
    assert tokenizer.decode([4, 9, 10, 0]) == "hé🤗\n"
    assert tokenizer.eos_token_id is None and tokenizer.pad_token_id is None
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    assert repr(CharTokenizer("ba")) == "CharTokenizer('ba')"


@given(st.text(min_size=1))
def test_round_trip(text):
    tokenizer = CharTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(np.array(ids, dtype=np.uint16)) == text
    assert tokenizer.batch_decode([ids, ids[:1]]) == [text, text[:1]]
    decoder = tokenizer.stream_decoder()
    assert "".join(map(decoder.put, ids)) + decoder.end() == text


@given(st.text(min_size=1))
def test_save_and_load(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("tokenizer") / "new"
    tokenizer = CharTokenizer.from_text(text)
    tokenizer.save_pretrained(folder)
    for loaded in (CharTokenizer.from_pretrained(folder), load_tokenizer(folder)):
        assert isinstance(loaded, CharTokenizer)
        assert loaded.characters == tokenizer.characters


def test_unknown_character():
    tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 2 is not among the 3 char"):
        tokenizer.encode("abé")
    with pytest.raises(ValueError, match=r"U\+D800"):
        tokenizer.encode("\ud800")
    with pytest.raises(TypeError, match="encode takes a str"):
        tokenizer.encode(b"abc")


@pytest.mark.parametrize("bad", [3, -1, [3], [0, -1]])
def test_unknown_id(bad):
    with pytest.raises(ValueError, match="is not in this vocabulary of 3 characters"):
        CharTokenizer("abc").decode(bad)


@pytest.mark.parametrize("bad", [[0.0], "a", [[0]], None, np.zeros((1, 1), dtype=int)])
def test_not_ids(bad):
    with pytest.raises(TypeError, match="expected ids as"):
        CharTokenizer("abc").decode(bad)


def test_bad_vocabularies():
    with pytest.raises(ValueError, match="has no characters"):
        CharTokenizer.from_text("")
    with pytest.raises(ValueError, match=r"'a' \(U\+0061\) twice"):
        CharTokenizer("abca")
    with pytest.raises(ValueError, match=r"U\+D800\) is half a character"):
        CharTokenizer.from_text("ab\ud800")
    with pytest.raises(TypeError, match="must be a str, got list"):
        CharTokenizer(["a", "b"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tokenizer_class": "CharTokenizer"}, "as one string under \"characters\", found None"),
        ({"tokenizer_class": "CharTokenizer", "characters": ["a"]}, "found list"),
        ({"tokenizer_class": "CharTokenizer", "characters": ""}, "has no characters"),
        ({"tokenizer_class": "CharTokenizer", "characters": "aa"}, "twice"),
        ({"tokenizer_class": "GPT2Tokenizer"}, "found 'GPT2Tokenizer'"),
        ("{", "JSON"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        CharTokenizer.from_pretrained(tmp_path)
    assert "tokenizer_config.json" in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="it has no tokenizer_config.json"):
        CharTokenizer.from_pretrained(tmp_path)
