"""What gets the tokens of `generate` as they are made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np

if TYPE_CHECKING:
    from minigpt.char_tokenizer import CharTokenizer
    from minigpt.tokenizer import GPT2Tokenizer


class Streamer(Protocol):
    """Gets the prompt (B, T), then the tokens (B,) of each step, as they are made."""

    def put(self, ids: np.ndarray) -> None:
        """Take what has been generated since the last call."""

    def end(self) -> None:
        """Generation is over."""


class TextStreamer:
    """Prints the text of one prompt as its tokens come, and never half a character.

    >>> model.generate(ids, streamer=TextStreamer(tokenizer))

    skip_prompt: print the new text only.
    file: where to, standard output unless given.
    """

    def __init__(
        self,
        tokenizer: GPT2Tokenizer | CharTokenizer,
        skip_prompt: bool = False,
        *,
        skip_special_tokens: bool = False,
        file: TextIO | None = None,
    ) -> None:
        self._decoder = tokenizer.stream_decoder(skip_special_tokens)
        self._skip_prompt = skip_prompt
        self._file = file
        self._is_prompt = True

    def put(self, ids: np.ndarray) -> None:
        """Print what is complete now. ValueError for more than one prompt."""
        ids = np.asarray(ids)
        if ids.ndim > 1 and len(ids) > 1:
            raise ValueError(f"TextStreamer prints one prompt's text, and got {len(ids)} prompts")
        if not (self._is_prompt and self._skip_prompt):
            self._write(self._decoder.put(ids.ravel()))
        self._is_prompt = False

    def end(self) -> None:
        """Print the rest and a new line; be ready for another prompt."""
        self._write(self._decoder.end() + "\n")
        self._is_prompt = True

    def _write(self, text: str) -> None:
        file = sys.stdout if self._file is None else self._file
        file.write(text)
        file.flush()
