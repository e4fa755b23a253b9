"""Labelled examples as a model with a head takes them: encoded, in batches, padded."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minigpt.char_tokenizer import CharTokenizer
from minigpt.labelled import Record
from minigpt.losses import IGNORED
from minigpt.places import TRAINING_STREAM, random_places, shuffled_places
from minigpt.tokenizer import GPT2Tokenizer

Arrays = dict[str, np.ndarray]
Example = dict[str, Any]
"""One row of a model's arguments: numbers, lists of them, and for choices a list of lists."""


class RowData:
    """One split of separate rows, as `data.Examples` has them; subclasses say what a row is."""

    unit = "examples"

    def __init__(self, name: str):
        self.name = name

    def __len__(self) -> int:
        raise NotImplementedError

    def batch(self, places: np.ndarray) -> Arrays:
        """The arguments of a model for the rows at some places (B,)."""
        raise NotImplementedError

    def random_batch(
        self, batch_size: int, block_size: int, *, seed: int, step: int, micro_batch: int = 0,
        stream: int = TRAINING_STREAM,
    ) -> Arrays:  # fmt: skip
        """Random rows."""
        return self.batch(random_places(
            len(self), batch_size, seed=seed, step=step, micro_batch=micro_batch, stream=stream
        ))  # fmt: skip

    def epoch_batch(
        self, batch_size: int, block_size: int, *, seed: int, row: int, shuffled: bool = True
    ) -> Arrays:
        """The rows number ``row``, ``row + 1``, … of an endless series of epochs."""
        rows = np.arange(row, row + batch_size)
        return self.batch(
            shuffled_places(len(self), rows, seed=seed) if shuffled else rows % len(self)
        )

    def windows(self, batch_size: int, block_size: int) -> Iterator[Arrays]:
        """Every row once."""
        for start in range(0, len(self), batch_size):
            yield self.batch(np.arange(start, min(start + batch_size, len(self))))


class ExampleData(RowData):
    """One split of a labelled file, encoded by `encode`."""

    def __init__(self, examples: Sequence[Example], pad: int = 0, name: str = "data"):
        """Hold examples; ``pad`` is the id that shorter ones are filled up with."""
        super().__init__(name)
        self.examples = list(examples)
        self.pad = pad

    def __len__(self) -> int:
        return len(self.examples)

    def fingerprint(self) -> str:
        """The sha256 of the examples."""
        return hashlib.sha256(json.dumps(self.examples, sort_keys=True).encode()).hexdigest()

    def require_window(self, block_size: int) -> None:
        """Raise ValueError where there is no example."""
        if not self.examples:
            raise ValueError(f"{self.name}: no examples")

    def batch(self, places: np.ndarray) -> Arrays:
        """See `collate`."""
        return collate([self.examples[place] for place in places.tolist()], self.pad)

    def prompt_ids(self, tokenizer: Any, context: int) -> list[int]:
        """The first example's prompt, where it has a completion."""
        example = self.examples[0]
        if "shift_labels" not in example:
            return []
        first = next(i for i, target in enumerate(example["shift_labels"]) if target != IGNORED)
        return example["input_ids"][: first + 1]


def collate(examples: Sequence[Example], pad: int) -> Arrays:
    """Examples side by side: (B, T) of what is a row of ids or of labels a token, filled up on the
    right with ``pad`` or with -100, which no loss counts; (B, N, T) of choices; (B,) of numbers.
    """
    return {
        name: _stacked([example[name] for example in examples], pad if "ids" in name else IGNORED)
        for name in examples[0]
    }


def _stacked(rows: list[Any], fill: int) -> np.ndarray:
    if not isinstance(rows[0], list):
        return np.array(rows)
    if rows[0] and isinstance(rows[0][0], list):  # choices
        flat = _stacked([choice for row in rows for choice in row], fill)
        return flat.reshape(len(rows), len(rows[0]), -1)  # (B, N, T)
    longest = max(map(len, rows))
    return np.array([row + [fill] * (longest - len(row)) for row in rows])


# ---- from a record to an example ----------------------------------------------------------------


def encode(
    task: str, record: Record, tokenizer: GPT2Tokenizer | CharTokenizer, labels: Sequence[str],
    block_size: int,
) -> Example:  # fmt: skip
    """A record of `labelled` as one row of the arguments of the task's model.

    labels: the names of the labels, in the order of their ids.

    Text that is longer than ``block_size`` loses its end where a label is for all of it; ValueError
    where a completion or an answer would be lost.
    """
    return _ENCODERS[task](record, tokenizer, labels, block_size)


def _complete(
    record: Record, tokenizer: Any, labels: Sequence[str], block_size: int
) -> Example:
    """The completion, and an end token where the tokenizer has one, are to be predicted."""
    prompt = tokenizer.encode(record["prompt"])
    row = prompt + tokenizer.encode(record["completion"])
    if tokenizer.eos_token_id is not None:
        row.append(tokenizer.eos_token_id)
    _require_room(len(row) - 1, block_size)
    targets = [IGNORED] * (len(prompt) - 1) + row[len(prompt) :]
    return {"input_ids": row[:-1], "labels": targets, "shift_labels": targets}


def _classify(
    record: Record, tokenizer: Any, labels: Sequence[str], block_size: int
) -> Example:
    ids = tokenizer.encode(record["text"])[:block_size]
    if "labels" in record:
        return {"input_ids": ids, "labels": [float(name in record["labels"]) for name in labels]}
    label = record["label"]
    return {"input_ids": ids, "labels": labels.index(label) if labels else float(label)}


def _tag(record: Record, tokenizer: Any, labels: Sequence[str], block_size: int) -> Example:
    """A word's label is that of its first token; its others have none."""
    ids: list[int] = []
    tags: list[int] = []
    for number, (word, label) in enumerate(zip(record["tokens"], record["labels"])):
        tokens = tokenizer.encode(" " + word if number else word)
        ids += tokens
        tags += [labels.index(label)] + [IGNORED] * (len(tokens) - 1)
    return {"input_ids": ids[:block_size], "labels": tags[:block_size]}


def _answer(
    record: Record, tokenizer: Any, labels: Sequence[str], block_size: int
) -> Example:
    """Question and context with a line end between them, and the answer's first and last token."""
    before = record["question"] + "\n"
    encoded = tokenizer(before + record["context"], return_offsets_mapping=True)
    start = len(before) + record["answer_start"]
    stop = start + len(record["answer"])
    inside = [
        i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < stop and b > start
    ]
    _require_room(inside[-1] + 1, block_size)
    return {
        "input_ids": encoded["input_ids"][:block_size],
        "start_positions": inside[0],
        "end_positions": inside[-1],
    }


def _choose(
    record: Record, tokenizer: Any, labels: Sequence[str], block_size: int
) -> Example:
    rows = [tokenizer.encode(record["prompt"] + choice) for choice in record["choices"]]
    _require_room(max(map(len, rows)), block_size)
    longest = max(map(len, rows))
    pad = tokenizer.eos_token_id
    return {
        "input_ids": [row + [pad] * (longest - len(row)) for row in rows],
        "mc_token_ids": [len(row) - 1 for row in rows],
        "mc_labels": record["label"],
    }


def _require_room(needed: int, block_size: int) -> None:
    if needed > block_size:
        raise ValueError(f"{needed} tokens, and block_size={block_size}: raise it, or shorten this")


_ENCODERS = {
    "complete": _complete, "classify": _classify, "tag": _tag, "answer": _answer,
    "choose": _choose,
}  # fmt: skip
