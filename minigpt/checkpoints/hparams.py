"""OpenAI's hparams.json: the five sizes of a GPT-2, under OpenAI's names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.files import read_json

if TYPE_CHECKING:
    from minigpt.config import GPT2Config

HPARAMS_FILE = "hparams.json"
NAMES = {
    "n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head",
    "n_layer": "n_layer",
}  # fmt: skip
"""OpenAI's names -> those of GPT2Config."""

# What a model of OpenAI's code can't have otherwise than as the defaults are.
_FIXED = (
    "n_inner", "activation_function", "layer_norm_epsilon", "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings",
    "add_cross_attention", "pruned_heads",
)  # fmt: skip


def read_hparams(path: Path) -> dict[str, Any]:
    """Values for GPT2Config. ValueError where one of the five is missing."""
    values = read_json(path)
    missing = [name for name in NAMES if name not in values]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; OpenAI's has {', '.join(NAMES)}")
    return {ours: values[theirs] for theirs, ours in NAMES.items()}


def to_hparams(config: GPT2Config) -> dict[str, int]:
    """What hparams.json says of a model. ValueError for one that OpenAI's code has no way to be."""
    default = type(config)()
    for name in _FIXED:
        value = getattr(config, name)
        if value != getattr(default, name) and not (
            name == "n_inner" and value == 4 * config.n_embd
        ):
            raise ValueError(f"{name}={value!r}: OpenAI's format can't say that, its models have "
                             f"{getattr(default, name)!r}")  # fmt: skip
    return {theirs: getattr(config, ours) for theirs, ours in NAMES.items()}
