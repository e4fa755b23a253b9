"""GPT-2 with a head on top. Each head has a GPT2Model, under the name "transformer"."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from minigpt.cache import KVCache
from minigpt.config import GPT2Config
from minigpt.generation import generate
from minigpt.generation_config import GENERATION_CONFIG_FILE, TOKEN_IDS, GenerationConfig
from minigpt.model import GPT2Model
from minigpt.outputs import CausalLMOutput
from minigpt.pretrained import PreTrainedModel
from tensor import Tensor, cross_entropy, linear
from tensor.nn import Linear

IGNORED = -100  # the label of a position that takes no part in the loss


class GPT2LMHeadModel(PreTrainedModel):
    """GPT-2 with a language-modelling head: the logits of the next token.

    The head shares its matrix with the token embedding (Press and Wolf 2017) unless the
    configuration has tie_word_embeddings=False; then it has its own, `lm_head.weight` (V, C).
    """

    head_names = ("lm_head.weight",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.generation_config = GenerationConfig.of_model(config)
        self.transformer = GPT2Model(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(
                config.n_embd, config.vocab_size, bias=False, std=config.initializer_range
            )

    def output_matrix(self) -> Tensor:
        """The matrix (V, C) that turns hidden states into logits."""
        return (
            self.transformer.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight
        )

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: KVCache | Sequence[tuple[Any, Any]] | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Any = 0,
    ) -> Any:
        """Logits, and with labels the loss. The other arguments are those of GPT2Model.forward.

        labels: (B, T), usually the input_ids themselves: position t is trained to predict label
            t + 1, so the first label is never used. -100 leaves a position out; if all are left
            out the loss is NaN.
        logits_to_keep: only the last n positions' logits are computed, 0 for all; or the positions
            in a one-dimensional array.

        Returns a CausalLMOutput, or with return_dict=False the tuple of its fields that are not
        None.
        """
        base = self.transformer(
            input_ids,
            past_key_values,
            attention_mask,
            position_ids,
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        hidden = _kept_positions(base.last_hidden_state, logits_to_keep)
        logits = linear(hidden, self.output_matrix(), transpose=True)  # (B, T, C) -> (B, T, V)
        output = CausalLMOutput(
            loss=None
            if labels is None
            else next_token_loss(logits, self.integers("labels", labels)),
            logits=logits,
            past_key_values=base.past_key_values,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
        )
        wants_dict = self.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write config.json, model.safetensors and generation_config.json, as transformers does."""
        super().save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        /,
        device: str = "cpu",
        dtype: str = "float32",
        **overrides: Any,
    ) -> Self:
        """As PreTrainedModel.from_pretrained; generation_config.json, if the folder has one, holds
        the defaults of `generate`. Token ids among the overrides count there, too.
        """
        model = super().from_pretrained(path, device, dtype, **overrides)
        if (Path(path) / GENERATION_CONFIG_FILE).is_file():
            tokens = {n: v for n, v in overrides.items() if n in TOKEN_IDS}
            model.generation_config = GenerationConfig.from_pretrained(path).updated(**tokens)
        return model

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        """Token ids (B, T + new) that continue the prompts; see `minigpt.generation.generate`."""
        return generate(self, input_ids, attention_mask, **options)


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the logits (B, T, V) at t against the labels (B, T) at t + 1.

    The labels are shifted and not the logits, which would copy (B, T, V) numbers.
    """
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels {labels.shape} must be (B, T) = {logits.shape[:2]}, as the logits"
        )
    shifted = labels[:, 1:].astype("int64").pad([(0, 0), (0, 1)], IGNORED)  # (B, T)
    return cross_entropy(logits, shifted, ignore_index=IGNORED)


def _kept_positions(hidden: Tensor, keep: Any) -> Tensor:
    """The positions (B, kept, C) of the hidden states (B, T, C) whose logits are wanted."""
    if isinstance(keep, (int, np.integer)):
        if keep < 0:
            raise ValueError(f"logits_to_keep = {keep}: a number of last positions, or 0 for all")
        return hidden[:, -int(keep) :] if 0 < keep < hidden.shape[1] else hidden
    index = np.asarray(keep)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(
            f"logits_to_keep of shape {index.shape}: one integer, or positions in one dimension"
        )
    return hidden[:, index]
