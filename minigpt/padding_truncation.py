"""How long the rows of a batch may be, and how long they become: truncation, overflow, padding.

The arithmetic is that of transformers 4.56.2, where the classes GPT2Tokenizer ("slow") and
GPT2TokenizerFast differ in two things: which text of a pair loses the odd token, and what becomes
of the tokens that were cut off.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from minigpt.warn import warn_user

Side = Literal["right", "left"]
Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Truncation = (
    bool | Literal["longest_first", "only_first", "only_second", "do_not_truncate"] | None
)

_PADDINGS = {
    True: "longest", "longest": "longest", "max_length": "max_length",
    False: "do_not_pad", "do_not_pad": "do_not_pad",
}
_TRUNCATIONS = {
    True: "longest_first", "longest_first": "longest_first",
    "only_first": "only_first", "only_second": "only_second",
    False: "do_not_truncate", None: "do_not_truncate", "do_not_truncate": "do_not_truncate",
}

PAD_VALUES: dict[str, Any] = {
    "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0),
}
"""What each entry has at a padded place; input_ids have the id of the padding token."""


@dataclass(frozen=True)
class Lengths:
    """What the length arguments of a call amount to.

    padding: "longest", "max_length" or "do_not_pad".
    truncation: "longest_first", "only_first", "only_second" or "do_not_truncate".
    max_length: in tokens, special ones included; None only where nothing depends on it.
    stride: how many tokens a part that was cut off has in common with what was kept.
    multiple: padded rows are made a multiple of this long.
    """

    padding: str
    truncation: str
    max_length: int | None
    stride: int
    multiple: int | None

    @property
    def truncates(self) -> bool:
        """Whether rows longer than `max_length` are cut."""
        return self.truncation != "do_not_truncate"

    def padded_length(self, rows: Sequence[Sequence[int]]) -> int | None:
        """The length to pad these rows to, None for no padding."""
        if self.padding == "do_not_pad":
            return None
        length = max(map(len, rows), default=0)
        if self.padding == "max_length" and self.max_length is not None:
            length = self.max_length
        if self.multiple is not None:
            length = -(-length // self.multiple) * self.multiple
        return length


def resolve_lengths(
    padding: Padding,
    truncation: Truncation,
    max_length: int | None,
    stride: int,
    pad_to_multiple_of: int | None,
    model_max_length: int | None,
) -> Lengths:
    """Check the arguments and fill in what they leave open, as transformers does.

    A `max_length` alone cuts. Where padding or truncation need a length, and there is neither
    `max_length` nor `model_max_length`, they are left out with a warning.
    """
    if padding not in _PADDINGS:
        raise ValueError(f'padding must be False, True, "longest" or "max_length", got {padding!r}')
    if truncation not in _TRUNCATIONS:
        raise ValueError(
            'truncation must be True, False, "longest_first", "only_first" or "only_second", '
            f"got {truncation!r}"
        )
    max_length = _count("max_length", max_length, least=0)
    stride = _count("stride", stride, least=0) or 0
    multiple = _count("pad_to_multiple_of", pad_to_multiple_of, least=1)
    how_to_pad, how_to_cut = _PADDINGS[padding], _TRUNCATIONS[truncation]
    if max_length is not None and padding is False and truncation is None:
        how_to_cut = "longest_first"
    if max_length is None:
        max_length = model_max_length
        if max_length is None and (how_to_pad == "max_length" or how_to_cut != "do_not_truncate"):
            warn_user(
                'padding="max_length" and truncation have no effect: give max_length, or set '
                "tokenizer.model_max_length"
            )
            how_to_cut = "do_not_truncate"
            how_to_pad = "do_not_pad" if how_to_pad == "max_length" else how_to_pad
    if how_to_cut != "do_not_truncate" and how_to_pad != "do_not_pad" and multiple is not None:
        if max_length is not None and max_length % multiple:
            raise ValueError(
                f"rows can't be both cut at max_length={max_length} and padded to a multiple of "
                f"{multiple}: give a max_length that is one"
            )
    return Lengths(how_to_pad, how_to_cut, max_length, stride, multiple)


def _count(name: str, value: int | None, least: int) -> int | None:
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value}")
    if number < least:
        limit = "must not be negative" if least == 0 else f"must be at least {least}"
        raise ValueError(f"{name} {limit}, got {number}")
    return number


# ---- truncation ---------------------------------------------------------------------------------


def kept_lengths(
    first: int, second: int | None, specials: int, lengths: Lengths, *, fast: bool
) -> tuple[int, int]:
    """How many tokens remain of two texts (the second 0 where there is none).

    Args:
        first, second: the tokens of each; second None for a single text.
        specials: the special tokens that will be added to both.
        fast: whether an odd token goes where GPT2TokenizerFast leaves it.

    Raises ValueError where `max_length` can't be reached in the way asked for.
    """
    total = first + (second or 0) + specials
    limit = lengths.max_length
    if not lengths.truncates or limit is None or total <= limit:
        return first, second or 0
    if limit < specials:
        raise ValueError(
            f"max_length={limit} leaves no room for the {specials} special tokens alone"
        )
    excess = total - limit
    if lengths.truncation == "longest_first":
        if second is None:
            return first - excess, 0
        split = _split_evenly_fast if fast else _split_evenly
        return split(first, second, limit - specials)
    which = lengths.truncation.removeprefix("only_")
    if which == "second" and second is None:
        raise ValueError(
            f'truncation="only_second", but there is one text, {total} tokens long, and '
            f'max_length is {limit}: use truncation="only_first" or True'
        )
    length = first if which == "first" else second or 0
    if length <= excess:
        raise ValueError(
            f'truncation="only_{which}" can\'t shorten {total} tokens to max_length={limit}: the '
            f"{which} text has only {length}, and one of them must stay; use truncation=True to "
            "cut both texts, or a larger max_length"
        )
    return (first - excess, second or 0) if which == "first" else (first, length - excess)


def _split_evenly(first: int, second: int, room: int) -> tuple[int, int]:
    """Cut the longer text down to the other one, then both in turn; the first keeps the odd
    token. (The rounding of transformers' slow class, which is not symmetrical.)
    """
    excess = first + second - room
    longer_only = min(abs(first - second), excess)
    both = excess - longer_only
    if first > second:
        cut_first, cut_second = longer_only + both // 2, both - both // 2
    else:
        cut_first, cut_second = both // 2, longer_only + both - both // 2
    return max(first - cut_first, 0), max(second - cut_second, 0)


def _split_evenly_fast(first: int, second: int, room: int) -> tuple[int, int]:
    """The same, but the odd token stays with the text that was longer, or else the second."""
    shorter, longer = min(first, second), max(first, second)
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter = room // 2
        longer = room - shorter
    return (longer, shorter) if first > second else (shorter, longer)


def kept_window(length: int, kept: int, side: Side) -> tuple[int, int]:
    """The places [start, stop) of the tokens that remain, when `side` is where the text is cut."""
    return (length - kept, length) if side == "left" else (0, kept)


def overflow_window(length: int, kept: int, stride: int, side: Side) -> tuple[int, int]:
    """The places of the tokens cut off, and `stride` more of those kept."""
    cut = min(length, length - kept + stride)
    return (0, cut) if side == "left" else (length - cut, length)


def windows(length: int, size: int, stride: int, side: Side) -> list[tuple[int, int]]:
    """The places of all windows of `size` tokens of a text that is too long, each beginning
    `size - stride` after the one before (from the end, when cut at the left): what
    GPT2TokenizerFast makes rows of.
    """
    if length <= size:
        return [(0, length)]
    if size == 0:
        return [(0, 0), (0, length)]
    if stride >= size:
        raise ValueError(
            f"stride={stride} must be less than the {size} tokens that max_length leaves to the "
            "text"
        )
    places = []
    for offset in range(0, length, size - stride):
        end = min(offset + size, length)
        places.append((offset, end) if side == "right" else (length - end, length - offset))
        if end == length:
            break
    return places


# ---- padding ------------------------------------------------------------------------------------


def require_side(name: str, side: str) -> None:
    """Raise ValueError unless `side` is "right" or "left"."""
    if side not in ("right", "left"):
        raise ValueError(f'{name} must be "right" or "left", got {side!r}')


def pad_columns(
    columns: Mapping[str, list[Any]], length: int, pad_token_id: int, side: Side
) -> dict[str, list[Any]]:
    """Pad the rows of a batch, column by column, to `length`; longer rows stay as they are.

    Columns that are not in PAD_VALUES, such as `length`, are left alone.
    """
    values = PAD_VALUES | {"input_ids": pad_token_id}
    return {
        name: [pad_row(row, values[name], length, side) for row in rows] if name in values else rows
        for name, rows in columns.items()
    }


def pad_row(row: list[Any], value: Any, length: int, side: Side) -> list[Any]:
    """One row, with `value` up to `length`."""
    padding = [value] * (length - len(row))
    return padding + row if side == "left" else row + padding
