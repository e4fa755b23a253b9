"""The arguments of a forward pass: checked, defaults filled in, each in one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigpt import legacy
from minigpt.cache import KVCache
from tensor import Tensor
from tensor.dtypes import lowest, name_of

if TYPE_CHECKING:
    from minigpt.pretrained import PreTrainedModel


class Encoded(NamedTuple):
    """What cross-attention looks at: hidden states (B, S', C) of another text, and a bias that
    broadcasts to its scores (B, H, T, S').
    """

    states: Tensor
    bias: Tensor | None


@dataclass
class Inputs:
    """One forward pass. B rows, T new tokens, S = cached + T keys, H heads."""

    ids: Tensor | None  # (B, T)
    embeds: Tensor | None  # (B, T, C), in their place
    types: Tensor | None  # (B, T) or (1, T)
    positions: Tensor  # (B, T) or (1, T)
    bias: Tensor | None  # added to the scores, broadcasts to (B, H, T, S)
    head_masks: list[Tensor | None]  # a layer each, broadcasts to (B, H, T, S)
    encoded: Encoded | None
    cache: KVCache | None
    shape: tuple[int, ...]  # of the ids as they were given

    def restore(self, x: Tensor) -> Tensor:
        """(B, T, C) in the shape that the ids had, and C."""
        return legacy.with_choices(x, self.shape)


def read_inputs(
    model: PreTrainedModel,
    *,
    input_ids: Any,
    past_key_values: Any,
    cache_position: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
    head_mask: Any,
    inputs_embeds: Any,
    encoder_hidden_states: Any,
    encoder_attention_mask: Any,
    use_cache: bool,
) -> Inputs:
    """Check the arguments of `GPT2Model.forward`, which says what they are."""
    ids, embeds, shape = _ids_or_embeds(model, input_ids, inputs_embeds)
    B, T = (embeds if ids is None else ids).shape[:2]  # type: ignore[union-attr]
    cache = _cache(model, past_key_values, use_cache)
    past = 0 if cache is None else cache.get_seq_length()
    _check_cache_position(cache_position, past, T)
    positions = _positions(model, position_ids, B, T, past)
    if attention_mask is None and position_ids is not None and cache is None:
        bias = _bias(model, legacy.packed_mask(positions.numpy()))
    else:
        bias = _self_bias(model, attention_mask, B, T, past + T)
    return Inputs(
        ids=ids,
        embeds=embeds,
        types=None if token_type_ids is None else _types(model, token_type_ids, B, T),
        positions=positions,
        bias=bias,
        head_masks=_head_masks(model, head_mask, B, T, past + T),
        encoded=_encoded(model, encoder_hidden_states, encoder_attention_mask, cache, B, T),
        cache=cache,
        shape=shape,
    )


def _ids_or_embeds(
    model: PreTrainedModel, input_ids: Any, inputs_embeds: Any
) -> tuple[Tensor | None, Tensor | None, tuple[int, ...]]:
    """(ids (B, T), None, their shape as given), or (None, embeddings (B, T, C), (B, T))."""
    if (input_ids is None) == (inputs_embeds is None):
        both = "both were" if input_ids is not None else "neither was"
        raise ValueError(f"give either input_ids or inputs_embeds; {both} given")
    if inputs_embeds is not None:
        x = _floats(model, "inputs_embeds", inputs_embeds)
        if x.ndim != 3 or x.size == 0 or x.shape[2] != model.config.n_embd:
            raise ValueError(
                f"inputs_embeds {x.shape} must be (B, T, C) with C = {model.config.n_embd}"
            )
        return None, x, x.shape[:2]
    ids = model.integers("input_ids", input_ids)
    if ids.ndim not in (2, 3) or ids.size == 0:
        raise ValueError(
            f"input_ids {ids.shape} must be (B, T): a batch of sequences of ids, not empty; or "
            "(B, choices, T)"
        )
    return legacy.without_choices(ids), None, ids.shape


def _floats(model: PreTrainedModel, name: str, values: Any) -> Tensor:
    """Numbers as a tensor of the model's dtype; one that is a Tensor keeps its graph."""
    if isinstance(values, Tensor):
        if values.dtype != model.dtype:
            raise TypeError(
                f"{name} is {name_of(values.dtype)}, the model {name_of(model.dtype)}; convert "
                "with .astype(…)"
            )
        return values
    return model.constant(as_array(name, values))


def as_array(name: str, values: Any) -> np.ndarray:
    """Numbers as an array. TypeError with the name for anything else, ValueError for ragged lists.
    """
    try:
        array = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    except ValueError:
        raise ValueError(f"{name}: rows of different lengths; pad them to one length") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, not {array.dtype}")
    return array


def _cache(model: PreTrainedModel, given: Any, use_cache: bool) -> KVCache | None:
    if given is None:
        return KVCache() if use_cache else None
    cache = given if isinstance(given, KVCache) else legacy.cache_from_tuples(
        given, model.device, model.dtype
    )
    if len(cache) not in (0, model.config.n_layer):
        raise ValueError(
            f"past_key_values has {len(cache)} layers, the model {model.config.n_layer}"
        )
    if len(cache.lengths()) > 1:
        raise ValueError(
            "past_key_values: its layers hold different numbers of positions, as after a "
            "call that was interrupted; start with a new cache"
        )
    return cache


def _check_cache_position(given: Any, past: int, T: int) -> None:
    if given is None:
        return
    positions = as_array("cache_position", given)
    if not np.array_equal(positions, np.arange(past, past + T)):
        raise ValueError(
            f"cache_position {positions}: the {T} new tokens come after the {past} cached "
            f"ones, so it can only be {past} … {past + T - 1}; leave it out"
        )


def _positions(model: PreTrainedModel, given: Any, B: int, T: int, past: int) -> Tensor:
    limit = model.config.n_positions
    if given is not None:
        positions = model.integers("position_ids", given)
        if positions.shape not in ((B, T), (1, T)):
            raise ValueError(f"position_ids {positions.shape} must be (B, T) = {(B, T)} or (1, T)")
        values = positions.numpy()
        if not 0 <= values.min() <= values.max() < limit:
            raise IndexError(
                f"position_ids from {values.min()} to {values.max()} are not all in "
                f"0 … {limit - 1} (n_positions is {limit})"
            )
        return positions
    if past + T > limit:
        raise IndexError(
            f"{T} tokens after {past} cached ones need {past + T} positions, but n_positions "
            f"is {limit}: shorten the text, or train a model with a longer context"
        )
    return model.integers("position_ids", np.arange(past, past + T)[None])  # (1, T)


def _types(model: PreTrainedModel, given: Any, B: int, T: int) -> Tensor:
    types = legacy.without_choices(model.integers("token_type_ids", given))
    if types.shape not in ((B, T), (1, T)):
        raise ValueError(f"token_type_ids {types.shape} must be (B, T) = {(B, T)}, as input_ids")
    low, high = types.numpy().min(), types.numpy().max()
    if low < 0 or high >= model.config.vocab_size:
        raise IndexError(
            f"token_type_ids from {low} to {high} are not all in 0 … "
            f"{model.config.vocab_size - 1}: types are embedded as tokens are"
        )
    return types


# --- masks


def _bias(model: PreTrainedModel, seen: np.ndarray | None) -> Tensor | None:
    """0 where a key is seen and the lowest number where not, added to the scores.

    The lowest number and not -inf: a row whose keys are all masked stays finite, as in
    transformers.
    """
    if seen is None or seen.all():
        return None
    return model.constant(np.where(seen, 0.0, lowest(model.dtype)))


def _self_bias(model: PreTrainedModel, given: Any, B: int, T: int, S: int) -> Tensor | None:
    """The bias of an attention_mask; the causal mask is attention's own."""
    if given is None:
        return None
    mask = legacy.without_choices(as_array("attention_mask", given))
    if mask.ndim == 4:
        full = (B, model.config.n_head, T, S)
        return model.constant(legacy.additive_mask(mask, full, model.dtype))
    if mask.shape != (B, S):
        raise ValueError(
            f"attention_mask {mask.shape} must be (B, S) = {(B, S)}: one entry for each cached "
            "and each new position"
        )
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise ValueError(f"attention_mask must hold 1 for tokens and 0 for padding, not {mask}")
    return _bias(model, mask[:, None, None, :] != 0)  # (B, 1, 1, S)


def _head_masks(
    model: PreTrainedModel, given: Any, B: int, T: int, S: int
) -> list[Tensor | None]:
    """A factor for the weights of each layer, (1, H, 1, 1) unless more was given."""
    L, H = model.config.n_layer, model.config.n_head
    if given is None:
        return [None] * L
    if any((model.config.pruned_heads or {}).values()):
        raise ValueError(
            f"head_mask with pruned_heads={model.config.pruned_heads}: give one of the two"
        )
    mask = _floats(model, "head_mask", given)
    if mask.shape == (H,):
        return [mask.reshape(1, H, 1, 1)] * L
    if mask.shape == (L, H):
        return [mask[i].reshape(1, H, 1, 1) for i in range(L)]
    full = (L, B, H, T, S)
    if mask.ndim == 5 and all(n in (1, m) for n, m in zip(mask.shape, full, strict=True)):
        return [mask[i if len(mask) > 1 else 0] for i in range(L)]  # each broadcasts (B, H, T, S)
    raise ValueError(
        f"head_mask {mask.shape} must be (H,) = ({H},) or (L, H) = {(L, H)}: 1 keeps a head, 0 "
        "turns it off"
    )


def _encoded(
    model: PreTrainedModel, states: Any, mask: Any, cache: KVCache | None, B: int, T: int
) -> Encoded | None:
    """What cross-attention sees, or None where nothing was given."""
    cached = None if cache is None else cache.get_cross(0)
    if states is None:
        if mask is not None:
            raise ValueError("encoder_attention_mask without encoder_hidden_states: give both")
        if cached is not None:
            raise ValueError(
                "past_key_values holds cross-attention keys, but encoder_hidden_states was not "
                "given: without it cross-attention is skipped; give it on every call"
            )
        return None
    if not model.config.add_cross_attention:
        raise ValueError(
            "encoder_hidden_states was given, but the model has no cross-attention layers; make "
            "it with GPT2Config(add_cross_attention=True)"
        )
    x = _floats(model, "encoder_hidden_states", states)
    if x.ndim != 3 or x.size == 0 or x.shape[::2] != (B, model.config.n_embd):
        raise ValueError(
            f"encoder_hidden_states {x.shape} must be (B, S, C) with B = {B} and C = "
            f"{model.config.n_embd}"
        )
    if mask is None:
        return Encoded(x, None)
    size = x.shape[1] if cached is None else cached[0].shape[2]
    return Encoded(x, _encoder_bias(model, mask, B, T, size))


def _encoder_bias(
    model: PreTrainedModel, given: Any, B: int, T: int, S: int
) -> Tensor | None:
    """The bias of a mask (B, S), or (B, T, S) for each query its own."""
    mask = as_array("encoder_attention_mask", given)
    if mask.shape not in ((B, S), (B, T, S)):
        raise ValueError(
            f"encoder_attention_mask {mask.shape} must be (B, S) = {(B, S)}, as "
            "encoder_hidden_states, or (B, T, S)"
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"encoder_attention_mask must hold 1 for what is seen and 0 for padding, not {mask}"
        )
    return _bias(model, mask[:, None, None] != 0 if mask.ndim == 2 else mask[:, None] != 0)
