"""What a tokenizer returns: lists or arrays by name, as a model takes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


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


def require_numpy(return_tensors: str | None) -> None:
    """Raise ValueError unless the tensors asked for are NumPy's, or None for lists."""
    if return_tensors in ("pt", "tf", "jax", "mlx"):
        raise ValueError(
            f'return_tensors="{return_tensors}" is not supported: minigpt works on NumPy arrays; '
            'use return_tensors="np", or None for lists'
        )
    if return_tensors not in (None, "np"):
        raise ValueError(f'return_tensors must be "np", or None for lists, got {return_tensors!r}')


def as_arrays(columns: dict[str, list[Any]]) -> BatchEncoding:
    """Make int64 arrays of B rows each: (B, T), (B,) of `length` and other numbers, (B, T, 2) of
    `offset_mapping`. ValueError where rows are of unequal length.
    """
    return BatchEncoding({name: _array(name, rows) for name, rows in columns.items()})


def _array(name: str, rows: list[Any]) -> np.ndarray:
    if rows and not isinstance(rows[0], list):
        return np.array(rows, dtype=np.int64)                           # (B,)
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        advice = "give padding=True"
        if name == "overflowing_tokens":
            advice = 'leave out return_tensors="np"'
        raise ValueError(
            f"{name}: rows of {min(lengths)} to {max(lengths)} tokens don't make an array; {advice}"
        )
    shape: tuple[int, ...] = len(rows), max(lengths, default=0)         # (B, T), also when empty
    if name == "offset_mapping":
        shape = *shape, 2                                               # (B, T, 2)
    return np.array(rows, dtype=np.int64).reshape(shape)


def as_columns(encoded: Any) -> tuple[dict[str, list[Any]], bool, bool]:
    """What `tokenizer.pad` was given, as a list of rows for each entry; whether it was one text
    alone, and whether it was arrays.

    encoded: a mapping of rows, or of one row's numbers; or a list of mappings for a text each.
    """
    if isinstance(encoded, (list, tuple)):
        if not all(isinstance(row, Mapping) and row.keys() == encoded[0].keys() for row in encoded):
            raise ValueError("pad takes a list of mappings that all have the same entries")
        encoded = {name: [row[name] for row in encoded] for name in (encoded[0] if encoded else ())}
        encoded = encoded or {"input_ids": []}
    if not isinstance(encoded, Mapping) or "input_ids" not in encoded:
        found = ", ".join(encoded) if isinstance(encoded, Mapping) else type(encoded).__name__
        raise ValueError(f"pad takes what has input_ids, got {found}")
    columns = {name: _as_list(rows) for name, rows in encoded.items()}
    arrays = any(map(_has_arrays, encoded.values()))
    ids = columns["input_ids"]
    if not isinstance(ids, list):
        raise ValueError(f"pad takes input_ids as a list or an array, got {type(ids).__name__}")
    single = bool(ids) and not isinstance(ids[0], list)
    if single:
        columns = {name: [row] for name, row in columns.items()}
    sizes = {name: len(rows) if isinstance(rows, list) else 1 for name, rows in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"pad takes a batch whose entries have a row for each text, got {sizes}")
    return columns, single, arrays


def _has_arrays(value: Any) -> bool:
    rows = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(row, np.ndarray) for row in rows)


def _as_list(value: Any) -> Any:
    """Arrays and tuples as lists, rows included; numbers as they are."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_as_list(row) for row in value] if isinstance(value, (list, tuple)) else value
