"""The model as generation uses it: called once a token, on what is new, with a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from minigpt.cache import KVCache
from minigpt.generation_config import GenerationConfig
from minigpt.outputs import GenerateOutput
from minigpt.recorded_decoding import RecordedDecoding
from tensor import Tensor
from tensor.dtypes import name_of

if TYPE_CHECKING:
    from minigpt.heads import LanguageModel


class NextLogits:
    """The logits of the next token; what else the options ask for is kept for the output.

    The prompts (B, T) are run once, however many copies of each are continued: N = B * copies.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt_mask: np.ndarray,
        copies: int,
        config: GenerationConfig,
        recorded: RecordedDecoding | None = None,
        length: int = 0,
    ) -> None:
        """recorded: computes what follows the prompts, up to `length` tokens together."""
        self._model = model
        self._mask = prompt_mask  # (B, T), with the first token on (N, T)
        self._copies = copies
        self._cache = KVCache() if config.use_cache else None
        self._started = False
        self._recorded, self._length = recorded, length
        wanted = config if config.return_dict_in_generate else GenerationConfig()
        self._want_attentions = wanted.output_attentions
        self._want_hidden = wanted.output_hidden_states
        self._logits: list[np.ndarray] | None = [] if wanted.output_logits else None
        self._attentions: list[tuple[Tensor, ...]] = []
        self._hidden: list[tuple[Tensor, ...]] = []

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """The logits after the ids (N, T): float32 (N, V), as in transformers for any dtype."""
        if self._recorded is not None and self._started:
            logits = self._recorded(ids[:, -1:], self._positions()[:, -1:])
            self._mask = self._mask_up_to(self._mask.shape[1] + 1)
            return self._kept(logits)
        copies = 1 if self._started else self._copies
        out = self._forward(ids[::copies])
        rows = np.repeat(np.arange(len(self._mask)), copies)  # (N,)
        if copies > 1:
            self._mask = self._mask[rows]
            self.select(rows)
        if self._recorded is not None and self._cache is not None:
            self._recorded.start(self._cache, self._mask_up_to(self._length))
        self._started = True
        self._mask = self._mask_up_to(self._mask.shape[1] + 1)
        logits = out.logits.numpy()[:, -1].astype(np.float32, copy=False)
        if self._want_attentions:
            self._attentions.append(tuple(x[rows] for x in out.attentions))
        if self._want_hidden:
            self._hidden.append(tuple(x[rows] for x in out.hidden_states))
        return self._kept(logits if copies == 1 else logits[rows])

    def _kept(self, logits: np.ndarray) -> np.ndarray:
        """The logits, checked."""
        if np.isnan(logits.max()):
            raise FloatingPointError(
                "generate: the model's logits are NaN: its weights are damaged, or too large for "
                f"{name_of(self._model.dtype)}"
            )
        if self._logits is not None:
            self._logits.append(logits)
        return logits

    def _mask_up_to(self, length: int) -> np.ndarray:
        """(N, length): new tokens are no padding."""
        N, S = self._mask.shape
        new = np.ones((N, length - S), self._mask.dtype)
        return np.concatenate([self._mask, new], axis=1)  # np.pad takes ten times as long

    def _positions(self) -> np.ndarray:
        """Of the tokens so far, (N, T). Padding takes none: each row counts its own tokens. Padded
        places get position 1, any would do.
        """
        return np.where(self._mask == 0, 1, self._mask.cumsum(axis=1) - 1)

    def _forward(self, ids: np.ndarray) -> Any:
        past = 0 if self._cache is None else self._cache.get_seq_length()
        return self._model(
            ids[:, past:],
            past_key_values=self._cache,
            attention_mask=self._mask,
            position_ids=self._positions()[:, past:],
            use_cache=self._cache is not None,
            output_attentions=self._want_attentions,
            output_hidden_states=self._want_hidden,
            logits_to_keep=1,
            return_dict=True,
        )

    def select(self, rows: np.ndarray) -> None:
        """Go on with these rows, in this order; the rows of one prompt have one mask."""
        if self._cache is not None:
            self._cache.select(rows)

    def output(
        self, sequences: np.ndarray, scores: list[np.ndarray] | None, **of_beams: Any
    ) -> GenerateOutput:
        """What `generate` returns, with all that was kept."""
        return GenerateOutput(
            sequences=sequences,
            scores=None if scores is None else tuple(map(Tensor, scores)),
            logits=None if self._logits is None else tuple(map(Tensor, self._logits)),
            attentions=tuple(self._attentions) if self._want_attentions else None,
            hidden_states=tuple(self._hidden) if self._want_hidden else None,
            past_key_values=self._cache,
            **of_beams,
        )
