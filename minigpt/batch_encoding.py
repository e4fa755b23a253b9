"""Several encoded texts as one batch: truncated, padded, with the mask that the model takes."""

from typing import Any, Literal

import numpy as np

Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Truncation = bool | Literal["longest_first", "do_not_truncate"] | None
Side = Literal["right", "left"]

_PADDINGS: dict[object, Padding] = {
    False: "do_not_pad", True: "longest",
    "do_not_pad": "do_not_pad", "longest": "longest", "max_length": "max_length",
}
_TRUNCATIONS = {False: False, True: True, "do_not_truncate": False, "longest_first": True}


class BatchEncoding(dict[str, Any]):
    """What a tokenizer returns: a dictionary whose entries are attributes, too.

    `inputs["input_ids"]`, `inputs.input_ids` and `model(**inputs)` all work.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"BatchEncoding has no {name!r}, it has {', '.join(self)}"
            ) from None


def make_batch(
    sequences: list[list[int]],
    *,
    padding: Padding,
    truncation: Truncation,
    max_length: int | None,
    model_max_length: int | None,
    padding_side: Side,
    pad_token_id: int | None,
    return_tensors: str | None,
) -> BatchEncoding:
    """Make the batch of B sequences; what the arguments mean, `GPT2Tokenizer.__call__` says.

    Returns `input_ids` and `attention_mask` (1 for a token, 0 for padding): B lists of ints, or
    int64 arrays (B, T).
    """
    pad_to, cut_at = _lengths(sequences, padding, truncation, max_length, model_max_length)
    if padding_side not in ("right", "left"):
        raise ValueError(f'padding_side must be "right" or "left", got {padding_side!r}')
    if return_tensors not in (None, "np"):
        raise ValueError(
            f"return_tensors={return_tensors!r}: there are NumPy arrays only; use return_tensors="
            '"np", or None for lists'
        )
    if cut_at is not None:
        sequences = [ids[:cut_at] for ids in sequences]
    masks = [[1] * len(ids) for ids in sequences]
    if pad_to is not None:
        if pad_token_id is None:
            raise ValueError(
                "padding needs a padding token, and this tokenizer has none; set "
                "tokenizer.pad_token = tokenizer.eos_token first"
            )
        sequences = [_pad(ids, pad_token_id, pad_to, padding_side) for ids in sequences]
        masks = [_pad(mask, 0, pad_to, padding_side) for mask in masks]
    if return_tensors is None:
        return BatchEncoding(input_ids=sequences, attention_mask=masks)
    return BatchEncoding(input_ids=_stack(sequences), attention_mask=_stack(masks))


def _lengths(
    sequences: list[list[int]],
    padding: Padding,
    truncation: Truncation,
    max_length: int | None,
    model_max_length: int | None,
) -> tuple[int | None, int | None]:
    """(the length to pad to, the length to cut at), None for neither."""
    if max_length is not None and max_length < 0:
        raise ValueError(f"max_length must not be negative, got {max_length}")
    if padding not in _PADDINGS:
        raise ValueError(f'padding must be False, True, "longest" or "max_length", got {padding!r}')
    how = _PADDINGS[padding]
    if truncation is None:
        truncation = max_length is not None and how == "do_not_pad"
    if truncation not in _TRUNCATIONS:
        raise ValueError(f'truncation must be True, False or "longest_first", got {truncation!r}')
    truncate = _TRUNCATIONS[truncation]
    if max_length is None:
        max_length = model_max_length
    if max_length is None and (truncate or how == "max_length"):
        raise ValueError(
            "truncation=True and padding=\"max_length\" need a length: give max_length, or set "
            "tokenizer.model_max_length"
        )
    cut_at = max_length if truncate else None
    if how == "do_not_pad":
        return None, cut_at
    if how == "max_length":
        return max_length, cut_at
    longest = max(map(len, sequences), default=0)
    return (longest if cut_at is None else min(longest, cut_at)), cut_at


def _pad(values: list[int], filler: int, length: int, side: Side) -> list[int]:
    padding = [filler] * (length - len(values))
    return padding + values if side == "left" else values + padding


def _stack(sequences: list[list[int]]) -> np.ndarray:
    lengths = {len(ids) for ids in sequences}
    if len(lengths) > 1:
        raise ValueError(
            f"texts of {min(lengths)} to {max(lengths)} tokens don't make an array; give "
            "padding=True"
        )
    shape = len(sequences), max(lengths, default=0)
    return np.array(sequences, dtype=np.int64).reshape(shape)           # (B, T), also when empty
