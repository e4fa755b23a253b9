"""Adding numbers of three digits: a task with as much data as one likes and an answer that is right
or wrong.

A row is ``123+989=2111``: two numbers, and their sum, 1112, with its last digit first, as one adds
on paper, so that each digit depends on the two above it and a carry (Lee et al. 2023, "Teaching
arithmetic to small transformers"). The loss counts the four digits of the sum alone.

One pair of numbers in a hundred, picked by a hash, is held out: training never sees it.
"""

import hashlib

import numpy as np

from minigpt.char_tokenizer import CharTokenizer
from minigpt.examples import RowData
from minigpt.losses import IGNORED
from minigpt.places import mixed

DIGITS, SUM_DIGITS = 3, 4
LENGTH = 2 * DIGITS + 2 + SUM_DIGITS  # characters of a row
_NUMBERS = 10**DIGITS


def addition_tokenizer() -> CharTokenizer:
    """The twelve characters; the id of a digit is the digit."""
    return CharTokenizer("0123456789+=")


class AdditionData(RowData):
    """The pairs of numbers to train on, or those that are held out."""

    unit = "sums"

    def __init__(self, held_out: bool, name: str = "data"):
        super().__init__(name)
        pairs = np.arange(_NUMBERS**2)
        picked = mixed(pairs.astype(np.uint64)) % np.uint64(100) == 0
        self.pairs = pairs[picked == held_out]  # (N,), each a * 1000 + b

    def __len__(self) -> int:
        return len(self.pairs)

    def fingerprint(self) -> str:
        """The sha256 of the pairs."""
        return hashlib.sha256(self.pairs.astype("<u4").tobytes()).hexdigest()

    def require_window(self, block_size: int) -> None:
        """Raise ValueError where a row doesn't fit."""
        if block_size < LENGTH - 1:
            raise ValueError(f"block_size={block_size}: a sum needs {LENGTH - 1}")

    def batch(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """See `batch_of`."""
        return batch_of(self.pairs[places])

    def prompt_ids(self, tokenizer: CharTokenizer, context: int) -> list[int]:
        """The first sum, without its answer."""
        return rows_of(self.pairs[:1])[0, : -SUM_DIGITS].tolist()


def rows_of(pairs: np.ndarray) -> np.ndarray:
    """The ids (N, LENGTH) of the rows of some pairs (N,)."""
    a, b = np.divmod(pairs, _NUMBERS)

    def digits(numbers: np.ndarray, count: int) -> np.ndarray:  # (N, count), the last digit first
        return numbers[:, None] // 10 ** np.arange(count) % 10

    plus, equals = np.full((len(pairs), 1), 10), np.full((len(pairs), 1), 11)
    return np.concatenate(
        [digits(a, DIGITS)[:, ::-1], plus, digits(b, DIGITS)[:, ::-1], equals,
         digits(a + b, SUM_DIGITS)], axis=1,
    )  # fmt: skip


def batch_of(pairs: np.ndarray) -> dict[str, np.ndarray]:
    """The arguments of a language model that is to predict the sums' digits, and those alone."""
    rows = rows_of(pairs)
    targets = rows[:, 1:].copy()  # (N, LENGTH - 1)
    targets[:, :-SUM_DIGITS] = IGNORED
    return {"input_ids": rows[:, :-1], "labels": targets, "shift_labels": targets}
