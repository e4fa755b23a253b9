"""Changing a model's shape: a larger or smaller vocabulary, fewer attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tensor.dtypes import converted
from tensor.nn import Conv1D, Parameter
from tensor.random import default_generator

if TYPE_CHECKING:
    from minigpt.model import GPT2Attention
    from minigpt.pretrained import PreTrainedModel


def resize_token_embeddings(
    model: PreTrainedModel,
    new_num_tokens: int,
    pad_to_multiple_of: int | None = None,
    mean_resizing: bool = True,
) -> None:
    """Give wte, and an untied lm_head, another number of rows, and config.vocab_size with them.

    The first rows stay. A new row is the mean of the old ones, so that new tokens start out as no
    more probable than the average one (Hewitt 2021, "Initializing New Word Embeddings for
    Pretrained Language Models"); with mean_resizing=False it is N(0, initializer_range).

    Optimizers made before hold averages of the old shape: make a new one. ValueError for a number
    below 1.
    """
    for name, number in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of",
                                                              pad_to_multiple_of)):  # fmt: skip
        if number is not None and (not _is_whole(number) or number < 1):
            raise ValueError(f"{name} = {number!r} must be a whole number of at least 1")
    size = int(new_num_tokens)
    if pad_to_multiple_of is not None:
        size += -size % pad_to_multiple_of
    weights = [model.base_model.wte.weight]
    if hasattr(model, "lm_head"):
        weights.append(model.lm_head.weight)
    for weight in weights:
        old = weight.numpy()  # (V, C)
        added = max(0, size - len(old))
        if mean_resizing:
            new = np.broadcast_to(old.mean(axis=0, dtype=np.float64), (added, old.shape[1]))
        else:
            std = model.config.initializer_range
            new = default_generator().normal((added, old.shape[1]), std=std)
        _replace(weight, np.concatenate([old[:size], new.astype(old.dtype)]))
    model.config.vocab_size = size


def prune_heads(model: PreTrainedModel, heads: Mapping[int, Iterable[int]]) -> None:
    """Cut heads away, {layer: their numbers}: fewer columns of c_attn, fewer rows of c_proj.

    Numbers are those of the model before any pruning; heads that are gone already stay gone.
    config.pruned_heads remembers them, and files hold the smaller matrices. Michel et al. 2019,
    "Are Sixteen Heads Really Better than One?".

    ValueError for a layer or a head that does not exist, for all heads of a layer, or for a model
    with LoRA adapters, TypeError for one that is no whole number: then nothing is changed.
    """
    config = model.config
    pruned = {layer: set(gone) for layer, gone in (config.pruned_heads or {}).items()}
    wanted = _whole_numbers(heads)
    for layer, gone in wanted.items():
        if layer not in range(config.n_layer) or not gone <= set(range(config.n_head)):
            raise ValueError(
                f"prune_heads: layer {layer}, heads {sorted(gone)}: there are layers 0 … "
                f"{config.n_layer - 1} with heads 0 … {config.n_head - 1}"
            )
        if len(gone | pruned.get(layer, set())) == config.n_head:
            raise ValueError(f"prune_heads: layer {layer} would have no head left; keep one")
    attentions = [block.attn for block in model.base_model.h]
    if not all(isinstance(layer, Conv1D) for a in attentions for layer in (a.c_attn, a.c_proj)):
        raise ValueError("prune_heads: the model has LoRA adapters: merge_lora(model) first")
    for layer, gone in wanted.items():
        before = pruned.get(layer, set())
        left = [head for head in range(config.n_head) if head not in before]
        keep = [place for place, head in enumerate(left) if head not in gone]
        _keep_heads(model.base_model.h[layer].attn, keep)
        pruned[layer] = before | gone
    config.pruned_heads = {layer: sorted(gone) for layer, gone in pruned.items()}


def _whole_numbers(heads: Mapping[int, Iterable[int]]) -> dict[int, set[int]]:
    """The heads asked for, as sets of int. TypeError for anything else, even 1.0 and True."""
    if not isinstance(heads, Mapping):
        raise TypeError(f"prune_heads takes {{layer: [head, …]}}, not {heads!r}")
    wanted = {}
    for layer, gone in heads.items():
        gone = list(gone) if isinstance(gone, Iterable) else [None]
        if not all(map(_is_whole, [layer, *gone])):
            raise TypeError(
                f"prune_heads: {{{layer!r}: {heads[layer]!r}}}: layers and heads must be whole "
                "numbers, {layer: [head, …]}"
            )
        wanted[int(layer)] = {int(head) for head in gone}
    return wanted


def _is_whole(number: object) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def _keep_heads(attention: GPT2Attention, keep: list[int]) -> None:
    """Keep these of the heads that there are."""
    H, c_attn, c_proj = attention.n_head, attention.c_attn, attention.c_proj
    C, width = c_attn.weight.shape[0], c_proj.weight.shape[0]
    D = width // H
    weight = c_attn.weight.numpy().reshape(C, 3, H, D)[:, :, keep]  # (C, 3, kept, D)
    _replace(c_attn.weight, weight.reshape(C, -1))
    _replace(c_attn.bias, c_attn.bias.numpy().reshape(3, H, D)[:, keep].reshape(-1))
    _replace(c_proj.weight, c_proj.weight.numpy().reshape(H, D, C)[keep].reshape(-1, C))
    attention.n_head = len(keep)


def _replace(parameter: Parameter, values: np.ndarray) -> None:
    """Values of another shape in the same Parameter, so that ties hold. The gradient is
    forgotten.
    """
    values = converted(values, parameter.dtype)
    parameter.data, parameter.grad = parameter.backend.from_numpy(values), None
