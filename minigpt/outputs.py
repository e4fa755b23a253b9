"""What the models return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from minigpt.cache import KVCache
from minigpt.config import GPT2Config
from tensor import Tensor


@dataclass
class ModelOutput:
    """A dataclass that also reads as a dictionary or a tuple, both without the None fields.

    `out.logits`, `out["logits"]`, `loss, logits = out[:2]`.
    """

    def keys(self) -> list[str]:
        """The names of the fields that are not None, in order."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    def items(self) -> list[tuple[str, Any]]:
        """(name, value) of the fields that are not None."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are not None, in order."""
        return tuple(value for _, value in self.items())

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{type(self).__name__} has no {key!r}; it has {self.keys()}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


def asked(config: GPT2Config, name: str, given: Any) -> bool:
    """A flag of a forward pass, or where it was not given the configuration's. TypeError for what
    is no truth value.
    """
    if given is None:
        return bool(getattr(config, name))
    if not isinstance(given, (bool, int, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {type(given).__name__}")
    return bool(given)


def as_asked(output: ModelOutput, config: GPT2Config, return_dict: bool | None) -> Any:
    """The output, or with return_dict=False (or the configuration's) its tuple."""
    return output if asked(config, "return_dict", return_dict) else output.to_tuple()


# What all have. past_key_values: the cache, where use_cache is on. hidden_states: n_layer + 1 of
# (B, T, C), the first after the embedding dropout, the last after ln_f. attentions: n_layer of
# (B, H, T, S), after dropout and head_mask; cross_attentions likewise, over the encoder's states.


@dataclass
class BaseModelOutput(ModelOutput):
    """last_hidden_state (B, T, C), after ln_f."""

    last_hidden_state: Tensor
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutput(ModelOutput):
    """loss (), the mean cross-entropy in nats; logits (B, T, V)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class DoubleHeadsOutput(ModelOutput):
    """loss () of the next tokens and mc_loss () of the choices, not added up; logits (B, N, T, V)
    and mc_logits (B, N) for N choices.
    """

    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """loss (); logits (B, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """loss (), the mean cross-entropy in nats; logits (B, T, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringOutput(ModelOutput):
    """loss (), the mean of the cross-entropies of start and end; start_logits and end_logits
    (B, T).
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class GenerateOutput(ModelOutput):
    """What `generate` returns with return_dict_in_generate=True; N rows while it runs.

    sequences: int64 (B * num_return_sequences, T + new). scores, logits: a float32 (N, V) a step,
    after and before all processors; with beams the scores are log-probabilities.
    sequences_scores: of beams, (B * num_return_sequences,); beam_indices: the row that each new
    token was added to, -1 after the end. attentions, hidden_states: the model's, a tuple a step.
    """

    sequences: np.ndarray
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: np.ndarray | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: KVCache | None = None
