"""Text and tokens for training: where the text comes from, its split, and the windows of a step.

A language model is trained on windows cut out of one long row of tokens: the input is
``tokens[i : i + T]`` and the target of every position is the token after it,
``tokens[i + 1 : i + T + 1]``.

Windows are drawn by a counter-based generator from (seed, step, micro-batch). There is no state to
save: a run that is resumed at step 700 draws the batches it would have drawn uninterrupted.
"""

import ast
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from minigpt.text_stream import read_blocks

TRAINING_STREAM, VALIDATION_STREAM = 1, 2
"""Which of a seed's random streams batches come from; 0 is the one of `tensor.random` (dropout)."""


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
        raise ValueError(f"{source}: the text is empty: training needs some to learn from")
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
    """The first 90 % of the characters to train on, the rest to validate on (as nanoGPT does)."""
    boundary = len(text) * 9 // 10
    return text[:boundary], text[boundary:]


class TokenData:
    """One split of a corpus: a row of token ids, and the windows that are cut out of it."""

    def __init__(self, ids: Sequence[int] | np.ndarray, vocab_size: int, name: str = "data"):
        """Hold ``ids`` (N,), each in ``[0, vocab_size)``, as uint16 where they fit, else uint32.

        Ids in one of these types are not copied, so that a file mapped into memory (np.memmap) may
        be larger than it. ``name`` is what error messages call this split. IndexError for an id
        outside.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise ValueError(
                f"{name}: expected one row of integer ids, got {ids.dtype} of shape {ids.shape}"
            )
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise IndexError(f"{name}: token {worst} is outside the vocabulary of {vocab_size}")
        if ids.dtype not in (np.uint16, np.uint32):
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
            for start in range(0, len(self), 2**20):
                digest.update(self.ids[start : start + 2**20].astype("<u4").tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def require_window(self, block_size: int) -> None:
        """Raise ValueError unless at least one window of ``block_size`` and its targets fits."""
        if len(self) < block_size + 1:
            advice = "give a longer text"
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

        The places come from Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy
        as 1, 2, 3") with the key (seed, stream) and a counter that starts at (step, micro-batch).
        """
        self.require_window(block_size)
        bits = np.random.Philox(key=[seed, stream], counter=[0, 0, micro_batch, step])
        windows = len(self) - block_size
        # A remainder of 64 random bits favours no window by more than windows / 2**64.
        starts = (bits.random_raw(batch_size) % np.uint64(windows)).astype(np.int64)  # (B,)
        chunks = self.ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)  # (B, T+1)
        return chunks[:, :-1], chunks[:, 1:]

    def windows(
        self, batch_size: int, block_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Go once through the split in windows that don't overlap: every token but the first is a
        target exactly once. Yields inputs and targets, int64 (B, T) each; what is left at the end
        comes as a last batch of one shorter row.
        """
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
