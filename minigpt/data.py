"""Text and tokens for training: where the text comes from, its split, and the windows of a step.

A language model is trained on windows cut out of one long row of tokens: the input is
``tokens[i : i + T]`` and the target of every position is the token after it,
``tokens[i + 1 : i + T + 1]``.

Which windows a batch has is told at `places`: there is no state to save but the number of steps.
"""

import ast
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minigpt.places import TRAINING_STREAM, epoch_offset, random_places, shuffled_places
from minigpt.text_stream import document_boundary, read_blocks
from minigpt.token_files import ShardedIds

_CHUNK = 2**20  # ids that are looked at at a time, so that files larger than memory can be


def load_text(source: str | os.PathLike[str] | None = None) -> str:
    """Return the text of a UTF-8 file, or of all text files below a folder, joined by blank lines.

    Which files those are, and what is changed in them, is told at `text_stream.read_blocks`.
    Without a source the text is English prose that CPython carries: the topics of its help system,
    or, where a build leaves them out, the docstrings of the standard library.

    Raises FileNotFoundError or ValueError as `read_blocks` does, ValueError for an empty text.
    """
    if source is None:
        return _python_help_topics() or _standard_library_docstrings()
    text = "".join(read_blocks(source))
    if not text.strip():
        raise ValueError(f"{source}: the text is empty")
    return text


def _python_help_topics() -> str:
    try:
        from pydoc_data.topics import topics  # half a megabyte that only this function needs
    except ImportError:
        return ""
    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics))


def _standard_library_docstrings() -> str:
    """The docstrings of the standard library's top-level modules, read without importing them."""
    docstrings = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstrings.append(ast.get_docstring(node))
    text = "\n\n".join(docstring for docstring in docstrings if docstring)
    if not text:
        raise ValueError("this Python carries no text to train on: name a text file with --data")
    return text


def split_text(text: str) -> tuple[str, str]:
    """The first 90 % of the characters to train on, the rest to validate on (as nanoGPT does); a
    document that the border would divide is trained on, unless it is the last one.
    """
    boundary = document_boundary([text], len(text) * 9 // 10)
    return text[:boundary], text[boundary:]


Batch = tuple[np.ndarray, np.ndarray] | dict[str, np.ndarray]
"""Inputs and targets, int64 (B, T) each; or the arguments of a model with a head, with labels."""


class Examples(Protocol):
    """What a run is trained and validated on: TokenData, or the examples of a labelled file."""

    name: str
    unit: str  # what `len` counts

    def __len__(self) -> int:
        """How many tokens, or examples, there are."""

    def fingerprint(self) -> str:
        """By which a resumed run knows its data again."""

    def require_window(self, block_size: int) -> None:
        """Raise ValueError where not one row can be had."""

    def random_batch(
        self, batch_size: int, block_size: int, *, seed: int, step: int, micro_batch: int = 0,
        stream: int = TRAINING_STREAM,
    ) -> Batch:  # fmt: skip
        """Rows from random places."""

    def epoch_batch(
        self, batch_size: int, block_size: int, *, seed: int, row: int, shuffled: bool = True
    ) -> Batch:
        """The rows number ``row``, ``row + 1``, … of an endless series of epochs."""

    def windows(self, batch_size: int, block_size: int) -> Iterator[Batch]:
        """Everything once."""

    def prompt_ids(self, tokenizer: Any, context: int) -> list[int]:
        """What a sample begins with: fewer than ``context`` tokens; none where nothing is written.
        """


class TokenData:
    """One split of a corpus: a row of token ids, and the windows that are cut out of it."""

    unit = "tokens"

    def __init__(
        self, ids: Sequence[int] | np.ndarray | ShardedIds, vocab_size: int, name: str = "data"
    ):
        """Hold ``ids`` (N,), each in ``[0, vocab_size)``, as uint16 where they fit, else uint32.

        Ids in one of these types are not copied, so that a file mapped into memory (np.memmap), or
        several of them (ShardedIds), may be larger than it. ``name`` is what error messages call
        this split. IndexError for an id outside.
        """
        ids = ids if isinstance(ids, ShardedIds) else np.asarray(ids)
        if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
            raise ValueError(
                f"{name}: expected one row of integer ids, got {ids.dtype} of shape {ids.shape}"
            )
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            if chunk.min() < 0 or chunk.max() >= vocab_size:
                place = int(((chunk < 0) | (chunk >= vocab_size)).argmax())
                raise IndexError(
                    f"{name}: token {chunk[place]} is outside the vocabulary of {vocab_size} "
                    f"(position {start + place:,})"
                )
        if isinstance(ids, np.ndarray) and ids.dtype not in (np.uint16, np.uint32):
            ids = ids.astype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        self.ids = ids
        self.name = name
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """The sha256 of the ids, by which a resumed run knows its data again."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            for start in range(0, len(self), _CHUNK):
                digest.update(self.ids[start : start + _CHUNK].astype("<u4").tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def require_window(self, block_size: int) -> None:
        """Raise ValueError unless at least one window of ``block_size`` and its targets fits."""
        if len(self) < block_size + 1:
            advice = "give a longer text"
            if len(self) == 0:
                advice += ", or prepare it with another --val-fraction"
            if len(self) >= 3:  # a context has two tokens at least
                advice += f" or a shorter context (--set block_size={len(self) - 1})"
            raise ValueError(
                f"{self.name}: {len(self)} tokens, and a context of {block_size} needs at least "
                f"{block_size + 1}: {advice}"
            )

    def random_batch(
        self,
        batch_size: int,
        block_size: int,
        *,
        seed: int,
        step: int,
        micro_batch: int = 0,
        stream: int = TRAINING_STREAM,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int64 (B, T) each: windows at random places, the same ones for the
        same arguments on every machine and whatever was drawn before.
        """
        self.require_window(block_size)
        starts = random_places(
            len(self) - block_size, batch_size,
            seed=seed, step=step, micro_batch=micro_batch, stream=stream,
        )  # fmt: skip
        return self._cut(starts, block_size)

    def epoch_batch(
        self, batch_size: int, block_size: int, *, seed: int, row: int, shuffled: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, int64 (B, T) each: the windows number ``row``, ``row + 1``, … of an
        endless series of epochs. In an epoch the windows don't overlap and none comes twice.

        shuffled: in a random order, another one in each epoch, and cut at other places (at the ends
            of the split fewer than 2 T tokens are left out); else in the text's order from its
            first token on (and fewer than T are left out at its end).
        """
        self.require_window(block_size)
        count = (len(self) - 1) // block_size
        if shuffled:
            count = max(1, count - 1)  # so that there is room to shift them
        rows = np.arange(row, row + batch_size)
        if not shuffled:
            return self._cut(rows % count * block_size, block_size)
        largest = len(self) - 1 - count * block_size
        offsets = {
            epoch: epoch_offset(largest, epoch, seed=seed)
            for epoch in range(row // count, (row + batch_size - 1) // count + 1)
        }
        shifts = np.array([offsets[epoch] for epoch in (rows // count).tolist()])
        places = shuffled_places(count, rows, seed=seed)
        return self._cut(places * block_size + shifts, block_size)

    def _cut(self, starts: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (B, T) of the windows at ``starts`` (B,)."""
        windows = [self.ids[start : start + block_size + 1] for start in starts.tolist()]
        chunks = np.stack(windows).astype(np.int64)  # (B, T + 1)
        return chunks[:, :-1], chunks[:, 1:]

    def windows(
        self, batch_size: int, block_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Go once through the split in windows that don't overlap: every token but the first is a
        target exactly once. Yields inputs and targets, int64 (B, T) each; what is left at the end
        comes as a last batch of one shorter row. ValueError for fewer than two tokens.
        """
        if len(self) < 2:
            raise ValueError(f"{self.name}: {len(self)} tokens: a loss needs at least two")
        targets = len(self) - 1
        full = targets // block_size
        for first in range(0, full, batch_size):
            rows = min(batch_size, full - first)
            start, stop = first * block_size, (first + rows) * block_size
            chunk = self.ids[start : stop + 1].astype(np.int64)  # (rows * T + 1,)
            yield (
                chunk[:-1].reshape(rows, block_size),  # (rows, T)
                chunk[1:].reshape(rows, block_size),  # (rows, T)
            )
        if targets % block_size:
            chunk = self.ids[full * block_size :].astype(np.int64)
            yield chunk[None, :-1], chunk[None, 1:]  # (1, rest)

    def prompt_ids(self, tokenizer: Any, context: int) -> list[int]:
        """The first capitalised word, or the first token without one."""
        ids = self.ids[:1000].tolist()
        word = re.search(r"\b[A-Z][a-z]+\b", tokenizer.decode(ids))
        encoded = [] if word is None else tokenizer.encode(word[0])
        return encoded if 0 < len(encoded) < context else ids[:1]
