"""explain: the steps from a text to its ids, and how they look."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.bpe import chars_to_bytes
from minigpt.bpe_training import train_bpe
from minigpt.explain import LONGEST
from minigpt.tokenizer import GPT2Tokenizer

EOT = "<|endoftext|>"
STORY = "the cat sat on the mat, and the other cat didn't. naïve 日本 日本 <b>&amp;</b>\n" * 3


@pytest.fixture(scope="module")
def tokenizer() -> GPT2Tokenizer:
    tokenizer = train_bpe([STORY], 297)
    tokenizer.add_tokens(["<b>"])
    return tokenizer


any_text = st.lists(
    st.sampled_from(["the", " cat", " ", "\n", "日本", "é", EOT, "<b>", "\ud83e\udd17", "\ud800"])
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@given(text=any_text)
def test_the_steps_lead_from_the_bytes_to_the_ids(tokenizer, text):
    """Each step is replayed from the definition, without the tokenizer's own merge loops."""
    explanation = tokenizer.explain(text)
    assert explanation.ids == tokenizer.encode(text)
    valid = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert "".join(piece.text for piece in explanation.pieces) == valid
    for piece in explanation.pieces:
        assert piece.data == piece.text.encode()
        if piece.added:
            assert piece.text in (EOT, "<b>") and piece.steps == ()
            continue
        tokens = piece.first_tokens
        assert [chars_to_bytes(token) for token in tokens] == [bytes([b]) for b in piece.data]
        for step in piece.steps:
            assert tokenizer._merges[step.rank] == (step.left, step.right)
            pairs = list(zip(tokens, tokens[1:]))
            ranks = [tokenizer._merges.index(pair) for pair in pairs if pair in tokenizer._merges]
            assert step.rank == min(ranks)
            i = pairs.index((step.left, step.right))
            tokens = (*tokens[:i], step.left + step.right, *tokens[i + 2:])
            assert step.tokens == tokens
        assert piece.tokens == tokens
        assert not any(pair in tokenizer._merges for pair in zip(tokens, tokens[1:]))
        assert list(piece.ids) == tokenizer.convert_tokens_to_ids(list(tokens))


def test_as_text(tokenizer):
    vocab = tokenizer.get_vocab()
    shown = str(tokenizer.explain(f"the{EOT}\n"))
    assert shown == repr(tokenizer.explain(f"the{EOT}\n"))
    lines = [re.sub(" +", " ", line.strip()) for line in shown.splitlines()]
    assert lines[0] == "'the<|endoftext|>\\n': 3 pieces, 3 tokens"
    assert lines[2:5] == ["'the' bytes 74 68 65", "rank pair tokens", "t h e"]
    assert f"ids {vocab['the']}" in lines
    assert f"'<|endoftext|>' an added token, found before BPE: id {vocab[EOT]}" in lines
    assert "'\\n' bytes 0a" in lines
    assert str(tokenizer.explain("")) == "'': 0 pieces, 0 tokens"
    assert str(tokenizer.explain("q")).startswith("'q': 1 piece, 1 token\n")


def test_nothing_that_moves_a_cursor_is_printed(tokenizer):
    shown = str(tokenizer.explain("\x1b[2J\r\x00'\u202e\ufeff\ud800"))
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "\\x1b" in shown and "\\'" in shown and "\\u202e" in shown


@given(text=any_text)
def test_in_a_notebook(tokenizer, text):
    """The table is well formed, and nothing of the text gets through as HTML."""
    html = tokenizer.explain(text)._repr_html_()
    opened: list[str] = []
    seen: set[str] = set()

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.add(tag)
            if tag != "br":
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Checker().feed(html)
    assert opened == [] and seen <= {"table", "tr", "th", "td", "b", "br", "small", "code"}
    html.encode()


def test_prefix_space_and_long_texts(tokenizer):
    cat = GPT2Tokenizer(tokenizer._vocabulary.base, tokenizer._merges, add_prefix_space=True)
    assert cat.explain("cat").pieces[0].text == " cat"
    assert len(tokenizer.explain("a" * LONGEST).ids) > 0
    with pytest.raises(ValueError, match="up to 2000 characters; this one has 2001"):
        tokenizer.explain("a" * (LONGEST + 1))
    with pytest.raises(TypeError, match="explain takes a str, got list"):
        tokenizer.explain(["the"])
