"""From the ids of texts to the rows of a batch: pairs, the token before them, what is cut off."""

from dataclasses import dataclass
from typing import Any

from minigpt.padding_truncation import (
    Lengths,
    Side,
    kept_lengths,
    kept_window,
    overflow_window,
    windows,
)

Row = dict[str, Any]
"""One row: lists of equal length under input_ids, token_type_ids, attention_mask,
special_tokens_mask and, where asked for, offset_mapping; its length; and what the tokenizer's class
says about tokens cut off."""


@dataclass(frozen=True)
class Encoded:
    """A text as ids, and the characters that each of them covers; spans is None unless asked for.
    """

    ids: list[int]
    spans: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, window: tuple[int, int]) -> "Encoded":
        """The tokens at the places [start, stop)."""
        start, stop = window
        spans = None if self.spans is None else self.spans[start:stop]
        return Encoded(self.ids[start:stop], spans)


def make_row(
    first: Encoded, second: Encoded | None, bos_token_id: int | None, bos_before_second: bool
) -> Row:
    """The two texts of a pair one after the other, with `bos_token_id` before one or both.

    Token types are 0 for the first text and 1 for the second, each with the token before it.
    """
    row: Row = {"input_ids": [], "token_type_ids": [], "special_tokens_mask": []}
    spans: list[tuple[int, int]] = []
    for kind, text in enumerate((first, second)):
        if text is None:
            continue
        bos = [] if bos_token_id is None or (kind and not bos_before_second) else [bos_token_id]
        row["input_ids"] += [*bos, *text.ids]
        row["token_type_ids"] += [kind] * (len(bos) + len(text))
        row["special_tokens_mask"] += [1] * len(bos) + [0] * len(text)
        spans += [(0, 0)] * len(bos) + (text.spans or [])
    row["attention_mask"] = [1] * len(row["input_ids"])
    row["length"] = len(row["input_ids"])
    if first.spans is not None:
        row["offset_mapping"] = spans
    return row


def specials(second: Encoded | None, bos_token_id: int | None, bos_before_second: bool) -> int:
    """How many special tokens `make_row` adds."""
    if bos_token_id is None:
        return 0
    return 2 if second is not None and bos_before_second else 1


def row_and_rest(
    first: Encoded, second: Encoded | None, bos_token_id: int | None, lengths: Lengths, side: Side
) -> Row:
    """One row as transformers' slow class makes it: bos before each text, what was cut off of the
    one text that was cut in `overflowing_tokens`, and how many tokens were too many, a negative
    number where there was room, in `num_truncated_tokens`.
    """
    added = specials(second, bos_token_id, bos_before_second=True)
    keep_first, keep_second = kept_lengths(
        len(first), None if second is None else len(second), added, lengths, fast=False
    )
    rest: list[int] = []
    total = len(first) + added + (0 if second is None else len(second))
    for text, kept in ((first, keep_first), (second, keep_second)):
        if text is not None and kept < len(text):
            start, stop = overflow_window(len(text), kept, lengths.stride, side)
            rest = text.ids[start:stop]
    if second is not None and lengths.truncation == "longest_first":
        rest = []                       # it would not be known which tokens are of which text
    first = first.cut(kept_window(len(first), keep_first, side))
    if second is not None:
        second = second.cut(kept_window(len(second), keep_second, side))
    row = make_row(first, second, bos_token_id, bos_before_second=True)
    row["overflowing_tokens"] = rest
    row["num_truncated_tokens"] = 0 if lengths.max_length is None else total - lengths.max_length
    return row


def row_windows(
    first: Encoded,
    second: Encoded | None,
    bos_token_id: int | None,
    lengths: Lengths,
    side: Side,
    overflow: bool,
) -> list[Row]:
    """The rows that transformers' fast class makes: bos before the first text only, and with
    `overflow` a row for each window of a text that is too long, the one that is kept at the head.
    """
    added = specials(second, bos_token_id, bos_before_second=False)
    keep_first, keep_second = kept_lengths(
        len(first), None if second is None else len(second), added, lengths, fast=True
    )

    def parts(text: Encoded, kept: int) -> list[Encoded]:
        if not overflow:
            return [text.cut(kept_window(len(text), kept, side))]
        return [text.cut(place) for place in windows(len(text), kept, lengths.stride, side)]

    firsts = parts(first, keep_first)
    if second is None:
        return [make_row(part, None, bos_token_id, False) for part in firsts]
    seconds = parts(second, keep_second)
    pairs = [(firsts[0], seconds[0])]
    pairs += [(part, other) for part in firsts[1:] for other in seconds]
    pairs += [(firsts[0], other) for other in seconds[1:]]
    return [make_row(part, other, bos_token_id, False) for part, other in pairs]
