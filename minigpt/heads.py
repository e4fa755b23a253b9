"""GPT-2 with a language-modelling head, and with one for multiple choice beside it.

Each has a GPT2Model, under the name "transformer"; so have the classes of `classifiers.py`.
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np

from minigpt.activations import ACTIVATIONS
from minigpt.checkpoints.hub import find_folder
from minigpt.config import GPT2Config
from minigpt.generation import generate
from minigpt.generation_config import GENERATION_CONFIG_FILE, TOKEN_IDS, GenerationConfig
from minigpt.inputs import as_array
from minigpt.losses import classification_loss, next_token_loss
from minigpt.model import GPT2Model
from minigpt.outputs import CausalLMOutput, DoubleHeadsOutput, as_asked
from minigpt.pretrained import PreTrainedModel
from tensor import Tensor, linear
from tensor.nn import Dropout, Linear, Module


class LanguageModel(PreTrainedModel):
    """What the two classes with a language-modelling head share.

    The head shares its matrix with the token embedding (Press and Wolf 2017) unless the
    configuration has tie_word_embeddings=False; then it has its own, `lm_head.weight` (V, C).
    """

    head_names: tuple[str, ...] = ("lm_head.weight",)

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

    def logits(self, hidden: Tensor, keep: Any) -> Tensor:
        """The logits (..., T, V) of hidden states (..., T, C), or of those positions to keep."""
        return linear(_kept_positions(hidden, keep), self.output_matrix(), transpose=True)

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
        checksums: bool = True,
        **overrides: Any,
    ) -> Self:
        """As PreTrainedModel.from_pretrained; generation_config.json, if the folder has one, holds
        the defaults of `generate`. Token ids among the overrides count there, too.
        """
        folder = find_folder(path, "model")
        model = super().from_pretrained(folder, device, dtype, checksums, **overrides)
        if (folder / GENERATION_CONFIG_FILE).is_file():
            tokens = {n: v for n, v in overrides.items() if n in TOKEN_IDS}
            model.generation_config = GenerationConfig.from_pretrained(folder).updated(**tokens)
        return model

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        """Token ids (B, T + new) that continue the prompts; see `minigpt.generation.generate`."""
        return generate(self, input_ids, attention_mask, **options)


class GPT2LMHeadModel(LanguageModel):
    """GPT-2 with a language-modelling head: the logits of the next token."""

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        cache_position: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Any = 0,
        shift_labels: Any = None,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Logits, and with labels the loss. The other arguments are those of GPT2Model.forward.

        labels: (B, T), usually the input_ids themselves: position t is trained to predict label
            t + 1, so the first label is never used. -100 leaves a position out; if all are left
            out the loss is NaN.
        logits_to_keep: only the last n positions' logits are computed, 0 for all; or the positions
            in a one-dimensional array.
        shift_labels, num_items_in_batch: see `minigpt.losses.next_token_loss`.

        Returns a CausalLMOutput, or with return_dict=False the tuple of its fields that are not
        None.
        """
        if labels is None and (shift_labels is not None or num_items_in_batch is not None):
            raise ValueError("shift_labels and num_items_in_batch need labels: give them, too")
        base = self.transformer(
            input_ids,
            past_key_values,
            cache_position,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        logits = self.logits(base.last_hidden_state, logits_to_keep)
        loss = None
        if labels is not None:
            labels = self.integers("labels", labels)
            if shift_labels is not None:
                shift_labels = self.integers("shift_labels", shift_labels)
            loss = next_token_loss(logits, labels, shift_labels, num_items_in_batch)
        output = CausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=base.past_key_values,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
            cross_attentions=base.cross_attentions,
        )
        return as_asked(output, self.config, return_dict)


class SequenceSummary(Module):
    """One vector for a sequence: a position's hidden state, dropped out, projected, activated.

    The configuration says how: summary_type picks "cls_index", the position that is asked for, or
    takes the "last", the "first" or the "mean" along axis 1; then summary_first_dropout, a
    projection where summary_use_proj (to num_labels where summary_proj_to_labels, else to C),
    summary_activation and summary_last_dropout.

    NotImplementedError for summary_type="attn", which no library ever had.
    """

    def __init__(self, config: GPT2Config) -> None:
        if config.summary_type == "attn":
            raise NotImplementedError(
                'summary_type="attn" is not implemented (nor in transformers): use "cls_index", '
                '"last", "first" or "mean"'
            )
        self.kind = config.summary_type
        self.summary: Linear | None = None
        if config.summary_use_proj:
            size = config.num_labels if config.summary_proj_to_labels else config.n_embd
            self.summary = Linear(config.n_embd, size, std=config.initializer_range)
        self.activation = ACTIVATIONS[config.summary_activation or "linear"]
        self.first_dropout = Dropout(config.summary_first_dropout)
        self.last_dropout = Dropout(getattr(config, "summary_last_dropout", None) or 0.0)

    def forward(self, hidden: Tensor, cls_index: Tensor | None) -> Tensor:
        """(..., T, C) -> (..., num_labels), with the positions cls_index (...), the last unless
        given.
        """
        x = self.first_dropout(self._pick(hidden, cls_index))
        if self.summary is not None:
            x = self.summary(x)
        return self.last_dropout(self.activation(x))

    def _pick(self, hidden: Tensor, cls_index: Tensor | None) -> Tensor:
        if self.kind == "last":
            return hidden[:, -1]
        if self.kind == "first":
            return hidden[:, 0]
        if self.kind == "mean":
            return hidden.mean(axis=1)
        if cls_index is None:
            return hidden[..., -1, :]
        *rows, T, C = hidden.shape
        if cls_index.shape != tuple(rows):
            raise ValueError(
                f"mc_token_ids {cls_index.shape} must be {tuple(rows)}: a position for each choice"
            )
        positions = cls_index.numpy().reshape(-1)
        if not 0 <= positions.min() <= positions.max() < T:
            raise IndexError(
                f"mc_token_ids from {positions.min()} to {positions.max()} are not all in "
                f"0 … {T - 1}, the positions of the input"
            )
        flat = hidden.reshape(positions.size, T, C)
        return flat[np.arange(positions.size), positions].reshape(*rows, C)


class GPT2DoubleHeadsModel(LanguageModel):
    """GPT-2 with a language-modelling head and one that scores choices: which ending is right?

    It sets config.num_labels to 1: a number for each choice. Radford et al. 2018, "Improving
    Language Understanding by Generative Pre-Training", section 3.2.
    """

    head_names = (
        "lm_head.weight",
        "multiple_choice_head.summary.weight",
        "multiple_choice_head.summary.bias",
    )

    def __init__(self, config: GPT2Config) -> None:
        config.num_labels = 1
        super().__init__(config)
        self.multiple_choice_head = SequenceSummary(config)

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        cache_position: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        mc_token_ids: Any = None,
        labels: Any = None,
        mc_labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Any = 0,
    ) -> Any:
        """Logits of the next tokens and of N choices. The other arguments are those of
        GPT2LMHeadModel.forward.

        input_ids: (B, N, T), or (B, T).
        mc_token_ids: (B, N), the position in each choice whose hidden state is scored; the last
            unless given.
        labels: of the shape of input_ids; mc_labels: (B,), the right choice in 0 … N - 1.

        Returns a DoubleHeadsOutput, or with return_dict=False the tuple of its fields that are not
        None. The two losses are not added up.
        """
        base = self.transformer(
            input_ids,
            past_key_values,
            cache_position,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = base.last_hidden_state  # (B, N, T, C)
        if mc_token_ids is not None:
            mc_token_ids = self.integers("mc_token_ids", mc_token_ids)
        logits = self.logits(hidden, logits_to_keep)
        mc_logits = self.multiple_choice_head(hidden, mc_token_ids)  # (B, N, 1)
        if mc_logits.shape[-1] == 1:
            mc_logits = mc_logits.squeeze(-1)
        output = DoubleHeadsOutput(
            loss=None
            if labels is None
            else next_token_loss(logits, self.integers("labels", labels)),
            mc_loss=None
            if mc_labels is None
            else self._choice_loss(mc_logits, self.integers("mc_labels", mc_labels)),
            logits=logits,
            mc_logits=mc_logits,
            past_key_values=base.past_key_values,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
        )
        return as_asked(output, self.config, return_dict)

    def _choice_loss(self, mc_logits: Tensor, mc_labels: Tensor) -> Tensor:
        """Mean cross-entropy over the last axis, the choices; (N,) counts as one row."""
        flat = mc_logits.reshape(-1, mc_logits.shape[-1])
        return classification_loss("mc_labels", flat, mc_labels.reshape(-1))


def _kept_positions(hidden: Tensor, keep: Any) -> Tensor:
    """The positions (..., kept, C) of the hidden states (..., T, C) whose logits are wanted."""
    T = hidden.shape[-2]
    if isinstance(keep, (int, np.integer)) and not isinstance(keep, bool):
        if keep < 0:
            raise ValueError(f"logits_to_keep = {keep}: a number of last positions, or 0 for all")
        return hidden[..., -int(keep) :, :] if 0 < keep < T else hidden
    index = as_array("logits_to_keep", keep)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(
            f"logits_to_keep of shape {index.shape}, {index.dtype}: one integer, or positions as "
            "integers in one dimension"
        )
    if index.size and not -T <= index.min() <= index.max() < T:
        raise IndexError(
            f"logits_to_keep from {index.min()} to {index.max()} are not all in {-T} … {T - 1}, "
            "the positions of the input, or from its end"
        )
    return hidden[..., index, :]
