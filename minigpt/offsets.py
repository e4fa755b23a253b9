"""The parts of a text between its added tokens, and where in the text each token comes from."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from minigpt.vocabulary import Vocabulary, pattern_of_tokens

Span = tuple[int, int]
"""The characters [start, stop) of a text."""


class Part(NamedTuple):
    """A stretch of a text: an added token, with its id, or what lies between two of them.

    start is its place in the text; prefixed, that it begins with a space that the text doesn't
    have (start is then that of a character before the first one).
    """

    text: str
    token_id: int | None
    start: int
    prefixed: bool


def split_parts(text: str, vocabulary: Vocabulary, prefix: bool, split_added: bool) -> list[Part]:
    """Cut a text at its added tokens, at each place the longest that fits.

    prefix: put a space before the text, whatever it begins with. split_added: don't look for added
    tokens.
    """
    start = 0
    if prefix:
        text, start = " " + text, -1
    pieces = [text] if split_added else vocabulary.split(text)
    parts = []
    for i, piece in enumerate(pieces):          # texts and added tokens in turn
        if piece:
            token_id = vocabulary.added[piece] if i % 2 else None
            parts.append(Part(piece, token_id, start, prefixed=start < 0))
            start += len(piece)
    return parts


def split_parts_fast(
    text: str, vocabulary: Vocabulary, special_tokens: Iterable[str], prefix: bool,
    split_special: bool,
) -> list[Part]:
    """The same as GPT2TokenizerFast does it: special tokens are found first, other added tokens in
    what is left; each text between them gets the space, where it doesn't begin with one; and
    `split_special` leaves out the special tokens only.
    """
    special = [token for token in special_tokens if token in vocabulary.added]
    others = vocabulary.added.keys() - set(special)
    find_special = pattern_of_tokens([] if split_special else special)
    find_others = pattern_of_tokens(others)
    parts = []
    start = 0
    for i, between in enumerate(find_special.split(text)):
        for j, piece in enumerate([between] if i % 2 else find_others.split(between)):
            if i % 2 or j % 2:
                parts.append(Part(piece, vocabulary.added[piece], start, False))
            elif piece and prefix and not piece.startswith(" "):
                parts.append(Part(" " + piece, None, start - 1, True))
            elif piece:
                parts.append(Part(piece, None, start, False))
            start += len(piece)
    return parts


def part_spans(part: Part, byte_counts: Sequence[int], length: int) -> list[Span]:
    """The characters of the text, which has `length`, that each token of a part covers. A space
    that the text doesn't have has the place of the character after it.
    """
    spans = [(0, len(part.text))]
    if part.token_id is None:
        spans = token_spans(part.text, byte_counts)
    first = part.start + part.prefixed
    return [
        (max(part.start + start, first), min(max(part.start + stop, first + 1), length))
        for start, stop in spans
    ]


def token_spans(text: str, byte_counts: Sequence[int]) -> list[Span]:
    """The characters of a text that each of its tokens covers, wholly or in part.

    byte_counts: the number of UTF-8 bytes of each token; their sum is that of the text. Tokens that
    share the bytes of one character all have that character's place. A lone surrogate counts as
    the three bytes of U+FFFD, a pair of surrogates as the four of the character that it stands for.
    """
    ends = np.cumsum(np.asarray(byte_counts, dtype=np.int64))           # (tokens,), in bytes
    starts = ends - byte_counts
    if text.isascii():                                                  # a byte is a character
        return list(zip(starts.tolist(), ends.tolist()))
    sizes = _utf8_sizes(text)                                           # (characters,)
    char_of_byte = np.repeat(np.arange(len(text)), sizes)               # (bytes,)
    first = char_of_byte[starts]
    stop = char_of_byte[ends - 1] + 1
    stop += np.append(sizes, 1)[stop] == 0      # the other half of a surrogate pair
    return list(zip(first.tolist(), stop.tolist()))


def _utf8_sizes(text: str) -> np.ndarray:
    """The number of UTF-8 bytes of each character, those of a surrogate pair with the first."""
    code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    sizes = 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)        # (characters,)
    high = np.flatnonzero((code[:-1] >> 10 == 0x36) & (code[1:] >> 10 == 0x37))
    sizes[high], sizes[high + 1] = 4, 0
    return sizes
