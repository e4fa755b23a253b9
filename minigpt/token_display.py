"""Tokens as a person can see them: escaped, and in colour on a terminal."""

import os
from collections.abc import Container, Sequence
from typing import IO

_COLOURS = (153, 223, 157, 218, 229, 183)       # light backgrounds of the 256-colour palette


def visible(text: str) -> str:
    """The text in quotes, with what can't be seen, or would move a terminal's cursor, escaped."""
    return "'" + escape(text).replace("'", "\\'") + "'"


def escape(text: str) -> str:
    """Control characters, other characters without an image, and backslashes, as Python writes
    them: \\n, \\x1b, \\u200b.
    """
    return "".join(map(_escape, text))


def escape_bytes(data: bytes) -> str:
    """The text of a token's bytes; \\xe6 for a byte that is a part of a character only."""
    text = data.decode("utf-8", "surrogateescape")          # such a byte b becomes U+DC00 + b
    return "".join(
        f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else _escape(char)
        for char in text
    )


def _escape(char: str) -> str:
    if char.isprintable() and char != "\\":
        return char
    return char.encode("unicode_escape").decode("ascii")


def wants_colour(stream: IO[str]) -> bool:
    """Whether to write colours: to a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def row(
    tokens: Sequence[str], colour: bool, between: str = "", breaks: Container[int] = ()
) -> str:
    """Tokens in a row: each on another background than its neighbours, or with bars between them
    where there is no colour, or `between` if that is given. breaks: the places of the tokens that
    end a line.
    """
    shown = []
    for i, token in enumerate(tokens):
        is_last = i + 1 == len(tokens)
        if colour:
            token = f"\x1b[30;48;5;{_COLOURS[i % len(_COLOURS)]}m{token}\x1b[0m"
        elif not between and not is_last:
            token += "|"
        shown.append(token + "\n" if i in breaks and not is_last else token)
    return between.join(shown)
