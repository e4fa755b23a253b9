"""When a row of generated tokens is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minigpt.decoding import BytesDecoder

Scores = list[np.ndarray] | None
StoppingCriterion = Callable[[np.ndarray, Scores], Any]
"""(ids (N, T), the scores (N, V) of each step, or None unless they are asked for) -> bool (N,), or
one for all."""


class Stopping:
    """The reasons for which a row ends, as one function on the ids (N, T) so far."""

    def __init__(
        self,
        final_length: int,
        ends: list[int],
        stop_strings: str | Sequence[str] | None = None,
        tokenizer: BytesDecoder | None = None,
        own: Iterable[StoppingCriterion] = (),
    ) -> None:
        self.final_length = final_length
        self.ends = ends
        texts = [stop_strings] if isinstance(stop_strings, str) else stop_strings or []
        self.stop_strings = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.tokenizer = tokenizer
        self.own = list(own)

    def __call__(self, ids: np.ndarray, scores: Scores = None) -> np.ndarray:
        """Which rows of ids (N, T) end with their last token: bool (N,)."""
        ended = np.isin(ids[:, -1], self.ends)
        if ids.shape[1] >= self.final_length:
            ended[:] = True
        for text in self.stop_strings:
            ended |= [self._ends_in(row, text) for row in ids[:, -len(text) - 1 :].tolist()]
        for criterion in self.own:
            answer = np.asarray(criterion(ids, scores))
            if answer.dtype.kind != "b" or answer.shape not in ((), ended.shape):
                raise ValueError(
                    f"stopping_criteria: {criterion!r} returned {answer.dtype} {answer.shape}; it "
                    f"must be a truth value for each row, bool {ended.shape}, or one for all"
                )
            ended |= answer
        return ended

    def _ends_in(self, row: list[int], text: bytes) -> bool:
        """Does the last token complete the text? Its first byte may come anywhere before, its last
        one must be of the last token, which may go on after it.

        Bytes are compared and not characters, one of which may take several tokens.
        """
        before, last = self._bytes(row[:-1]), self._bytes(row[-1:])
        start = max(0, len(before) - len(text) + 1)  # a match from further left ends too early
        return text in before[start:] + last

    def _bytes(self, row: list[int]) -> bytes:
        assert self.tokenizer is not None, "generate asks for a tokenizer beside stop strings"
        try:
            return self.tokenizer.decode_bytes(row)
        except ValueError:  # the model's vocabulary may be padded with ids that mean nothing
            return b"".join(map(self._bytes_of_one, row))

    def _bytes_of_one(self, token: int) -> bytes:
        assert self.tokenizer is not None
        try:
            return self.tokenizer.decode_bytes([token])
        except ValueError:
            return b"\xff"  # which no text has
