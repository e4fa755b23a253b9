"""What may be given to a tokenizer: a text, a pair, words, or a batch of any of these."""

from collections.abc import Sequence
from typing import Any

Text = str | Sequence[str]
"""One text: a str, or its words."""

TextInput = Text | Sequence[Text] | Sequence[Sequence[str]]
"""One text or a batch of them."""


def read_texts(
    text: Any, text_pair: Any, is_split_into_words: bool
) -> tuple[list[tuple[Text, Text | None]], bool]:
    """The texts, each with the second one of its pair or None, and whether it was one alone.

    Without words: a str is one text, a list is a batch, in which a pair is two str. With words: a
    list of str is one text, a list of such lists is a batch. Raises TypeError for anything else,
    ValueError for batches of unequal size.
    """
    if _is_text(text, is_split_into_words):
        if text_pair is not None and not _is_text(text_pair, is_split_into_words):
            raise _not_a_text("text_pair", text_pair, is_split_into_words)
        return [(text, text_pair)], True
    if not isinstance(text, (list, tuple)):
        raise _not_a_text("text", text, is_split_into_words)
    if text_pair is None:
        items = enumerate(text)
        return [_first_and_second(item, i, is_split_into_words) for i, item in items], False
    if not isinstance(text_pair, (list, tuple)):
        raise TypeError(
            f"text is a batch of {len(text)}, so text_pair must be a list of as many, got "
            f"{type(text_pair).__name__}"
        )
    if len(text) != len(text_pair):
        raise ValueError(f"text has {len(text)} texts, but text_pair has {len(text_pair)}")
    for name, batch in (("text", text), ("text_pair", text_pair)):
        for i, item in enumerate(batch):
            if not _is_text(item, is_split_into_words):
                raise _not_a_text(f"{name}[{i}]", item, is_split_into_words)
    return list(zip(text, text_pair)), False


def _first_and_second(item: Any, i: int, is_split_into_words: bool) -> tuple[Text, Text | None]:
    if _is_text(item, is_split_into_words):
        return item, None
    if not is_split_into_words and _is_text(item, True) and len(item) == 2:
        return item[0], item[1]
    raise _not_a_text(f"text[{i}]", item, is_split_into_words)


def _is_text(item: Any, is_split_into_words: bool) -> bool:
    if not is_split_into_words:
        return isinstance(item, str)
    return isinstance(item, (list, tuple)) and all(isinstance(word, str) for word in item)


def _not_a_text(name: str, item: Any, is_split_into_words: bool) -> TypeError:
    found = repr(item) if len(repr(item)) <= 60 else repr(item)[:57] + "..."
    if is_split_into_words:
        expected = "with is_split_into_words=True a list of words (or a batch of such lists)"
        advice = ""
    else:
        expected = "a str, a list of str, or a list of pairs of str"
        advice = (
            "; a text that is in words needs is_split_into_words=True"
            if _is_text(item, True) else ""
        )
    return TypeError(f"{name}: expected {expected}, got {type(item).__name__} {found}{advice}")
