"""Continuing texts by one token after another, as a step that is recorded once and replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minigpt.cache import KVCache
from minigpt.inputs import Inputs
from tensor import RecordedStep, Tensor
from tensor.dtypes import name_of

if TYPE_CHECKING:
    from minigpt.heads import LanguageModel


class RecordedDecoding:
    """The logits after one more token a row, with the bits of the model's ordinary call.

    A token of a small batch takes a GPU less time than Python needs for the launches. Here the
    first two tokens are computed as ever and recorded, and each one after that is a replay: the
    only numbers that change are where the cache ends, and the tokens and positions themselves.

    ValueError on the CPU, and where keys are converted at each step, as many as there are by then:
    for float16, and for padded prompts of a model in bfloat16, whose bias is.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        dtype = name_of(model.dtype)
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"cuda_graph=True replays models in float32 and bfloat16, not {dtype}")
        self._step = RecordedStep(self._logits, model.device)
        self._cache = KVCache()
        self._bias: Tensor | None = None

    @property
    def launches(self) -> int:
        """Of the kernels of a token."""
        return self._step.launches

    def start(self, cache: KVCache, mask: np.ndarray) -> None:
        """Go on from what the cache holds; mask (N, S) is 0 where a prompt is padded, for the S
        positions that there may be in the end.
        """
        cache.reserve(mask.shape[1])
        self._cache = cache
        if not mask.all():
            if self._model.dtype != np.float32:
                raise ValueError(
                    "cuda_graph=True replays padded prompts in float32 only: leave it out, or give "
                    "prompts of one length"
                )
            lowest = np.finfo(self._model.dtype).min
            self._bias = self._model.constant(np.where(mask == 0, lowest, 0)[:, None, None])

    def __call__(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """float32 (N, V) for a new token, int64 (N, 1), at these positions of the texts, (N, 1)."""
        length = self._cache.get_seq_length()
        logits = self._step(np.stack([ids, positions]), length=length)  # (N, 1, V)
        self._cache.set_length(length + 1)
        return logits.numpy()[:, -1]

    def _logits(self, ids_and_positions: Tensor) -> Tensor:
        """(2, N, 1) -> (N, 1, V)."""
        ids, positions = ids_and_positions[0], ids_and_positions[1]
        end = self._cache.get_seq_length() + 1
        inputs = Inputs(
            ids=ids,
            embeds=None,
            types=None,
            positions=positions,
            bias=None if self._bias is None else self._bias[..., :end],  # (N, 1, 1, S)
            head_masks=[None] * self._model.config.n_layer,
            encoded=None,
            cache=self._cache,
            shape=ids.shape,
        )
        hidden = self._model.transformer.run(inputs).last_hidden_state
        return self._model.logits(hidden, keep=1)
