"""Completions: LAMBADA's last words, and HellaSwag's four endings, from files of JSON lines."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minigpt.evaluation_rows import Row, RowScore, score_rows
from minigpt.heads import GPT2LMHeadModel
from minigpt.progress import Report

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class LastWords:
    """LAMBADA: accuracy is the share of passages whose last word greedy decoding would write;
    perplexity is exp(mean -log p of that word), a word counting once however many tokens it has.
    """

    passages: int
    accuracy: float
    perplexity: float

    def to_dict(self) -> dict[str, Any]:
        """Every figure by name."""
        return {**asdict(self), "standard_error": standard_error(self.accuracy, self.passages)}


@dataclass(frozen=True)
class Endings:
    """HellaSwag: the share of questions whose right ending is the likeliest as a whole (accuracy),
    or a token on average (accuracy_norm).
    """

    questions: int
    accuracy: float
    accuracy_norm: float

    def to_dict(self) -> dict[str, Any]:
        """Every figure by name."""
        return {
            **asdict(self), "standard_error": standard_error(self.accuracy_norm, self.questions)
        }


def standard_error(share: float, count: int) -> float:
    """Of a share of `count` independent answers: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / count)


def last_words(
    model: GPT2LMHeadModel,
    encode: Encode,
    passages: Sequence[str],
    *,
    batch_size: int = 8,
    report: Report | None = None,
) -> LastWords:
    """Score the last word of each passage, given the rest (Paperno et al. 2016).

    As lm-evaluation-harness does it ("lambada_openai"): the word with the blank before it, all its
    tokens; a passage longer than the context loses its beginning. ValueError, with the number of
    the passage, for one of fewer than two words.
    """
    rows = []
    for number, passage in enumerate(passages, 1):
        context, blank, word = passage.rstrip().rpartition(" ")
        if not context.strip():
            raise ValueError(f"passage {number}: {passage[:40]!r} has fewer than two words")
        rows.append(completion_row(model, encode(context), encode(blank + word)))
    scores = score_rows(model, rows, batch_size=batch_size, report=report, unit="passages")
    _need_some(scores, "passages")
    mean = math.fsum(score.loss for score in scores) / len(scores)
    return LastWords(
        passages=len(scores),
        accuracy=sum(score.greedy for score in scores) / len(scores),
        perplexity=math.exp(mean) if mean < 700 else math.inf,
    )


@dataclass(frozen=True)
class Question:
    """A text, its possible endings, and the number of the right one."""

    context: str
    endings: Sequence[str]
    label: int


def best_endings(
    model: GPT2LMHeadModel,
    encode: Encode,
    questions: Sequence[Question],
    *,
    batch_size: int = 8,
    report: Report | None = None,
) -> Endings:
    """Choose the likeliest ending of each question (Zellers et al. 2019, HellaSwag).

    As llm.c does it (dev/data/hellaswag.py): an ending is encoded by itself, after a blank; its
    loss is the sum over its tokens, or for `accuracy_norm` the mean. Of equal losses the first
    counts.
    """
    rows = [
        completion_row(model, encode(question.context), encode(" " + ending))
        for question in questions
        for ending in question.endings
    ]
    scores = iter(score_rows(model, rows, batch_size=batch_size, report=report, unit="endings"))
    whole = normed = 0
    for question in questions:
        own = [next(scores) for _ in question.endings]
        whole += _least([score.loss for score in own]) == question.label
        normed += _least([score.loss / score.tokens for score in own]) == question.label
    _need_some(questions, "questions")
    return Endings(len(questions), whole / len(questions), normed / len(questions))


def completion_row(
    model: GPT2LMHeadModel, context: Sequence[int], completion: Sequence[int]
) -> Row:
    """A row that scores a completion. Where both don't fit, the context loses its beginning.

    ValueError for an empty side, or a completion that alone is longer than the model's context.
    """
    limit = model.config.n_positions
    if not context or not 1 <= len(completion) <= limit:
        raise ValueError(
            f"a context of {len(context)} tokens and a completion of {len(completion)}: both need "
            f"one, and the completion can have at most {limit}"
        )
    ids = [*context, *completion][-(limit + 1) :]
    return Row(ids, len(ids) - len(completion))


def _least(losses: Sequence[float]) -> int:
    return min(range(len(losses)), key=losses.__getitem__)


def _need_some(items: Sequence[RowScore] | Sequence[Question], what: str) -> None:
    if not items:
        raise ValueError(f"there are no {what} in the file")


# ---- files --------------------------------------------------------------------------------------


def read_passages(path: str | os.PathLike[str]) -> list[str]:
    """LAMBADA's passages: from JSON lines with a "text" each, as OpenAI gave them out, or, where
    the name does not end in .jsonl, a passage a line. ValueError naming a line that has none.
    """
    if Path(path).suffix != ".jsonl":
        return [line for _, line in _lines(path)]
    return [_field(item, "text", str, where) for where, item in _objects(path)]


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """HellaSwag's questions, from JSON lines with "ctx", "endings" and "label".

    ValueError naming the line and the field that is missing or wrong.
    """
    questions = []
    for where, item in _objects(path):
        context = _field(item, "ctx", str, where)
        endings = _field(item, "endings", list, where)
        if not all(isinstance(ending, str) for ending in endings):
            raise ValueError(f"{where}: endings must be strings")
        label = item.get("label")
        if isinstance(label, str) and label.isascii() and label.isdecimal():
            label = int(label)                  # as the Hub's copy of the data set has it
        if type(label) is not int or not 0 <= label < len(endings):
            raise ValueError(
                f"{where}: label {item.get('label')!r} is not the number of one of the "
                f"{len(endings)} endings (the test split has none: take the validation split)"
            )
        questions.append(Question(context, endings, label))
    return questions


def _objects(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in _lines(path):
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not a JSON object: {error}") from None
        if not isinstance(item, dict):
            raise ValueError(f"{where}: expected a JSON object {{...}}, found {line[:40]!r}")
        yield where, item


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file that are not blank, each with where it stands."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8: byte {error.start} is damaged") from None
            if text.strip():
                yield where, text.rstrip("\r\n")


def _field(item: dict[str, Any], name: str, kind: type, where: str) -> Any:
    value = item.get(name)
    if not isinstance(value, kind) or not value:
        fault = f"{name} is {value!r:.40}" if name in item else f"there is no {name!r}"
        raise ValueError(f"{where}: {fault}, expected a {kind.__name__} that is not empty")
    return value
