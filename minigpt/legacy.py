"""Older and rarer forms of input and output, made into the plain ones and back at the edge.

transformers has taken on forms over the years that still work in its GPT-2: tuples for a cache,
batches of choices, masks with four axes, several texts in one row, outputs as tuples. The model
knows none of them: `inputs.py` and the heads call the functions here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigpt.cache import KVCache
from minigpt.outputs import BaseModelOutput
from tensor import Tensor
from tensor.dtypes import HALVES, lowest

# --- batches of choices: (B, choices, T), as for multiple choice


def without_choices(values: Any) -> Any:
    """(B, choices, N) as (B * choices, N), a Tensor or an array; anything else as it is."""
    if values.ndim == 3:
        return values.reshape(values.shape[0] * values.shape[1], values.shape[2])
    return values


def with_choices(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B * choices, T, C) as (*shape, C), where `shape` is that of the ids as they came."""
    return x if x.shape[:-1] == shape else x.reshape(*shape, x.shape[-1])


# --- a cache as a tuple


def cache_from_tuples(layers: Any, device: str, dtype: np.dtype) -> KVCache:
    """A cache on the device, of (k, v) a layer, (B, H, S, D) each, or four with cross-attention.
    Arrays of NumPy, which has no bfloat16, are rounded for a model in half precision.

    ValueError for anything else.
    """
    wanted = (
        "past_key_values must be the cache that a model returned, or for each layer (k, v), or "
        "(k, v, cross_k, cross_v), each (B, H, S, D)"
    )
    for given in (layers, *layers) if isinstance(layers, (tuple, list)) else (layers,):
        if not isinstance(given, (tuple, list)):
            raise TypeError(f"{wanted}; got {type(given).__name__}")
    if len({len(layer) for layer in layers}) > 1:
        raise ValueError(f"{wanted}; its layers hold {[len(layer) for layer in layers]} arrays")
    for i, layer in enumerate(layers):
        shapes = [np.shape(x.data if isinstance(x, Tensor) else x) for x in layer]
        fits = len(shapes) in (2, 4) and all(len(shape) == 4 for shape in shapes)
        if not fits or shapes[0] != shapes[1] or shapes[2:3] != shapes[3:]:
            raise ValueError(f"{wanted}; layer {i} has {shapes}")
    return KVCache(layers, device, dtype if dtype in HALVES else None)


# --- masks


def additive_mask(
    mask: np.ndarray, full: tuple[int, int, int, int], dtype: np.dtype
) -> np.ndarray:
    """A mask with four axes, which is added to the scores (B, H, T, S), on top of the causal mask.

    What is below the lowest number of `dtype`, like -inf, becomes that number, so that a row whose
    keys are all masked stays finite.

    TypeError if it holds no floats, ValueError for NaN, infinity or a shape that does not
    broadcast to `full`.
    """
    if mask.dtype.kind != "f":
        raise TypeError(
            f"attention_mask {mask.shape} is {mask.dtype}: with four axes it is added to the "
            "scores, so it holds floats, 0 where a key is seen and np.finfo(np.float32).min where "
            "not; for a mask of 1 and 0 give (B, S)"
        )
    if any(n not in (1, m) for n, m in zip(mask.shape, full, strict=True)):
        raise ValueError(
            f"attention_mask {mask.shape} does not broadcast to (B, H, T, S) = {full}; S counts "
            "cached and new positions"
        )
    low = lowest(dtype)
    if not (mask <= -low).all():  # NaN fails the comparison
        raise ValueError(
            "attention_mask: a mask that is added to the scores must not hold NaN or infinity"
        )
    return np.maximum(mask, low)


def packed_mask(position_ids: np.ndarray) -> np.ndarray | None:
    """Which keys a query may see where several texts lie in one row, told by their positions.

    position_ids (B, T): wherever two neighbours differ by other than 1 a new text starts. Returns
    booleans (B, 1, T, T), true within a text, or None if no row holds two.
    """
    starts = np.diff(position_ids, axis=-1) != 1  # (B, T - 1)
    if not starts.any():
        return None
    text = np.pad(starts.cumsum(axis=-1), [(0, 0), (1, 0)])  # (B, T)
    return (text[:, :, None] == text[:, None, :])[:, None]


# --- outputs as tuples


def tuple_without_second(
    own: Sequence[Tensor | None], base: BaseModelOutput
) -> tuple[Any, ...]:
    """What the token classification and question answering heads give with return_dict=False.

    `own` without the Nones, then the body's tuple without its first two entries. The second is
    usually the cache; without one it is the hidden states, which are lost.
    """
    return (*(x for x in own if x is not None), *base.to_tuple()[2:])
