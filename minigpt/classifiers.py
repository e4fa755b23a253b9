"""GPT-2 as a classifier: of sequences, of tokens, and of where an answer stands in a text."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigpt.config import GPT2Config
from minigpt.inputs import as_array
from minigpt.legacy import tuple_without_second
from minigpt.losses import classification_loss, sequence_loss, span_loss
from minigpt.model import GPT2Model
from minigpt.outputs import (
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    as_asked,
    asked,
)
from minigpt.pretrained import PreTrainedModel
from tensor import Tensor
from tensor.nn import Dropout, Linear


class GPT2ForSequenceClassification(PreTrainedModel):
    """GPT-2 with a linear layer on each row's last token: one label, several, or numbers.

    The last token is the rightmost one that is not config.pad_token_id, whatever the
    attention_mask says; with inputs_embeds, or no pad_token_id, the rightmost.
    """

    head_names = ("score.weight",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.score = Linear(
            config.n_embd, config.num_labels, bias=False, std=config.initializer_range
        )

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, num_labels), and with labels the loss of config.problem_type. The other
        arguments are those of GPT2Model.forward.

        labels: (B,) integers for single_label_classification; (B, num_labels) numbers for
            multi_label_classification and regression, the latter (B,) with one label. Where the
            configuration names no problem_type, the first labels decide, and it is stored there:
            regression for num_labels = 1, else one label for integers, several for floats.

        Returns a SequenceClassifierOutput, or with return_dict=False the tuple of its fields that
        are not None. ValueError for more than one row without a pad_token_id.
        """
        base = self.transformer(
            input_ids,
            past_key_values,
            None,
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
        hidden = base.last_hidden_state  # (B, T, C)
        if hidden.ndim != 3:
            raise ValueError(f"input_ids {hidden.shape[:-1]} must be (B, T): a row is a sequence")
        last = self._last_tokens(input_ids, hidden.shape[0], hidden.shape[1])
        logits = self.score(hidden[np.arange(hidden.shape[0]), last])  # (B, C) -> (B, num_labels)
        output = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            past_key_values=base.past_key_values,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
        )
        return as_asked(output, self.config, return_dict)

    def _last_tokens(self, input_ids: Any, B: int, T: int) -> np.ndarray:
        """Where each row's last token stands: (B,). A row of nothing but padding gives 0."""
        pad = self.config.pad_token_id
        if pad is None and B > 1:
            raise ValueError(
                f"{B} rows, but config.pad_token_id is None: it tells where a row ends; set "
                "model.config.pad_token_id, or classify row by row"
            )
        if pad is None or input_ids is None:
            return np.full(B, T - 1)
        is_token = self.integers("input_ids", input_ids).numpy() != pad  # (B, T)
        return (np.arange(T) * is_token).argmax(axis=-1)

    def _loss(self, logits: Tensor, labels: Any) -> Tensor:
        if not isinstance(labels, Tensor):
            labels = Tensor(as_array("labels", labels))
        if self.config.problem_type is None:
            if self.config.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.dtype.kind in "iu":
                self.config.problem_type = "single_label_classification"
            else:
                self.config.problem_type = "multi_label_classification"
        return sequence_loss(self.config.problem_type, logits, labels)


class GPT2ForTokenClassification(PreTrainedModel):
    """GPT-2 with dropout and a linear layer on each token, as for named entities.

    The dropout is config.classifier_dropout, else config.hidden_dropout, else 0.1.
    """

    head_names = ("classifier.weight", "classifier.bias")

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        given = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout"))
        self.dropout = Dropout(next((p for p in given if p is not None), 0.1))
        self.classifier = Linear(config.n_embd, config.num_labels, std=config.initializer_range)

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T, num_labels), and with labels the loss. The other arguments are those of
        GPT2Model.forward.

        labels: integers (B, T) in 0 … num_labels - 1; -100 leaves a token out.

        Returns a TokenClassifierOutput, or with return_dict=False a tuple (loss where there is
        one, logits, then `minigpt.legacy.tuple_without_second`).
        """
        base = self.transformer(
            input_ids,
            past_key_values,
            None,
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
        logits = self.classifier(self.dropout(base.last_hidden_state))
        loss = None
        if labels is not None:
            loss = classification_loss("labels", logits, self.integers("labels", labels))
        if not asked(self.config, "return_dict", return_dict):
            return tuple_without_second((loss, logits), base)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=base.hidden_states, attentions=base.attentions
        )


class GPT2ForQuestionAnswering(PreTrainedModel):
    """GPT-2 with a linear layer that gives each token two scores: does the answer start here, does
    it end here?
    """

    head_names = ("qa_outputs.weight", "qa_outputs.bias")

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.qa_outputs = Linear(config.n_embd, 2, std=config.initializer_range)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits (B, T) of the answer's first and last token. The other arguments are those of
        GPT2Model.forward.

        start_positions, end_positions: (B,) integers; a loss needs both. See
            `minigpt.losses.span_loss` for those outside the text.

        Returns a QuestionAnsweringOutput, or with return_dict=False a tuple (loss where there is
        one, start_logits, end_logits, then `minigpt.legacy.tuple_without_second`).
        """
        base = self.transformer(
            input_ids,
            None,
            None,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        start_logits, end_logits = (
            part.squeeze(-1)  # (B, T)
            for part in self.qa_outputs(base.last_hidden_state).split(1, axis=-1)
        )
        loss = None
        if start_positions is not None and end_positions is not None:
            start = self.integers("start_positions", start_positions)
            end = self.integers("end_positions", end_positions)
            loss = span_loss(start_logits, end_logits, start, end)
        if not asked(self.config, "return_dict", return_dict):
            return tuple_without_second((loss, start_logits, end_logits), base)
        return QuestionAnsweringOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=base.hidden_states,
            attentions=base.attentions,
        )
