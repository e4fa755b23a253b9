"""Reading text a part at a time: what is read, and that cutting it changes no token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt import text_stream
from minigpt.bpe import split_pieces
from minigpt.bpe_training import count_pieces, train_bpe
from minigpt.data import load_text
from minigpt.text_stream import read_blocks, read_parts, safe_parts

TEXTS = st.lists(
    st.sampled_from(["the", " ", "\n", "\r\n", "'s", "é", "日本", "12", "=", "\u3000", "\x1c",
                     "\x85", "👩\u200d👩", "new words", "<|endoftext|>", "<|end"]),
    max_size=30,
).map("".join)


def cut_anywhere(draw, text):
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]


class TestSafeParts:
    @given(st.data(), TEXTS, st.integers(1, 12))
    def test_the_pieces_are_those_of_the_whole(self, data, text, size):
        parts = list(safe_parts(cut_anywhere(data.draw, text), size=size))
        assert "".join(parts) == text
        assert [piece for part in parts for piece in split_pieces(part)] == split_pieces(text)
        assert all(len(part) >= size for part in parts[:-1])

    @given(st.data(), TEXTS, st.integers(1, 12))
    def test_the_ids_are_those_of_the_whole(self, tokenizer, data, text, size):
        blocks = cut_anywhere(data.draw, text)
        parts = safe_parts(blocks, tokenizer.get_added_vocab(), size)
        assert [i for part in parts for i in tokenizer.encode(part)] == tokenizer.encode(text)

    @given(st.data(), TEXTS, st.integers(1, 12))
    def test_the_parts_don_t_depend_on_the_blocks(self, data, text, size):
        whole = ["new words", "<|endoftext|>"]
        parts = list(safe_parts(cut_anywhere(data.draw, text), whole, size))
        assert parts == list(safe_parts([text], whole, size))

    def test_what_is_to_stay_whole(self):
        text = "some new words"
        assert list(safe_parts([text], size=5)) == ["some new", " words"]
        assert list(safe_parts([text], ["new words"], 5)) == ["some new words"]
        assert list(safe_parts(text, ["new words"], 2)) == ["some", " new words"]

    def test_nothing(self):
        assert list(safe_parts([])) == list(safe_parts(["", ""])) == []

    def test_a_line_without_a_place_to_cut_is_not_searched_again_and_again(self):
        """5,000 blocks of one letter; searching all for each would take a minute."""
        assert [len(part) for part in safe_parts(("a" * 4000 for _ in range(5000)), size=10)] == [
            20_000_000]


@pytest.fixture(scope="module")
def tokenizer():
    made = train_bpe(["the new words of the end, it's the end 日本 12 é"], 263)
    made.add_tokens(["new words", "words of", " of"])
    return made


class TestReadBlocks:
    @settings(max_examples=50)
    @given(TEXTS, st.integers(1, 9))
    def test_blocks_of_any_size(self, tmp_path_factory, text, size):
        path = tmp_path_factory.getbasetemp() / "blocks.txt"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_stream, "_BLOCK", size)
            blocks = list(read_blocks(path))
        # A block of one or two bytes doesn't hold the mark, which is three: that is never so.
        expected = text.replace("\r\n", "\n")
        assert "".join(blocks).removeprefix("\ufeff") == expected
        assert all(blocks)

    def test_a_carriage_return_at_the_end_of_a_block(self, tmp_path, monkeypatch):
        monkeypatch.setattr(text_stream, "_BLOCK", 4)
        path = tmp_path / "windows.txt"
        path.write_bytes(b"abc\r\ndef\rghi\r")
        assert "".join(read_blocks(path)) == "abc\ndef\rghi\r"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"abcdef\xc3", r"unexpected end of data at byte 6 \(0xc3\)"),
            (b"abc\xc3\xa9\xe9 xyz", r"invalid continuation byte at byte 5 \(0xe9\)"),
            (b"abc\xe6\x97", r"unexpected end of data at byte 3 \(0xe6\)"),
            (b"abcdefghi\0", r"a binary file \(NUL at byte 9\)"),
        ],
    )
    @pytest.mark.parametrize("block", [1, 2, 4, 100])
    def test_the_byte_is_named_wherever_blocks_end(
        self, tmp_path, monkeypatch, content, message, block
    ):
        monkeypatch.setattr(text_stream, "_BLOCK", block)
        path = tmp_path / "bad.txt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.txt: .*{message}"):
            list(read_blocks(path))

    def test_a_folder_in_parts_is_the_folder(self, tmp_path):
        (tmp_path / "a.txt").write_text("one two " * 50)
        (tmp_path / "b.md").write_text("three")
        parts = list(read_parts(tmp_path, size=100))
        assert len(parts) > 3
        assert "".join(parts) == load_text(tmp_path) == "one two " * 50 + "\n\nthree"


def test_training_on_parts_is_training_on_the_whole(tmp_path):
    words = np.random.default_rng(0).choice(["the", "of", "it's", "new", "日本", "12", "\n"], 5000)
    text = " ".join(words)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    parts = list(read_parts(tmp_path / "text.txt", size=1000))
    assert len(parts) > 10
    assert count_pieces(parts) == count_pieces([text])
