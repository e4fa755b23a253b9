"""Small files of labelled examples: JSON-lines, or CSV with a row of names first.

What a record holds depends on the task, which is the head that is trained:

    complete   {"prompt": "7 + 5 = ", "completion": "12"}
    classify   {"text": "a fine film", "label": "good"}   a text or a whole number;
               {"text": "a fine film", "label": 4.5}   numbers with a point, for regression;
               {"text": "a fine film", "labels": ["film", "review"]}   any number of labels
    tag        {"tokens": ["Ada", "lives"], "labels": ["NAME", "O"]}   a label a word
    answer     {"question": "Who?", "context": "It was Ada.", "answer": "Ada", "answer_start": 7}
    choose     {"prompt": "The sky is", "choices": [" blue", " loud"], "label": 0}

CSV can hold the first two.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]

LABELLED_TASKS = ("complete", "classify", "tag", "answer", "choose")


def read_records(path: str | os.PathLike[str], task: str) -> list[Record]:
    """Every record of a .jsonl or .csv file, checked for the task.

    FileNotFoundError; ValueError, with file and line, for another kind of file, one that is
    damaged, and a record that lacks something, or whose parts don't fit together.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"{path}: task={task} reads labelled examples from a .jsonl or .csv file")
    if path.suffix == ".csv" and task not in ("complete", "classify"):
        raise ValueError(f"{path}: examples for task={task} have lists in them: use .jsonl")
    records = []
    for line, record in (read_json_lines if path.suffix == ".jsonl" else _read_csv)(path):
        try:
            _CHECKS[task](record)
        except KeyError as error:
            has = ", ".join(map(repr, record)) or "nothing"
            raise ValueError(
                f"{path}, line {line}: no {error} there, which task={task} needs; it has {has}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
        records.append(record)
    if len(records) < 2:
        raise ValueError(
            f"{path}: {len(records)} examples: at least one to train on and one to validate"
        )
    if path.suffix == ".csv" and task == "classify":
        _read_numbers(records)
    return records


def read_json_lines(path: Path) -> Iterator[tuple[int, Record]]:
    """Each line's number, from 1, and the object on it; empty lines are left out. ValueError, with
    file and line, for what is no JSON object, or not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not a line of JSON: {error}") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: a JSON object is needed, as {{...}}")
            yield number, record


def _read_csv(path: Path) -> Iterator[tuple[int, Record]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"{len(reader.fieldnames or ())} columns are named, not these")
                yield reader.line_num, dict(row)
        except (csv.Error, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _read_numbers(records: list[Record]) -> None:
    """Labels from CSV are texts: make them numbers where all look like some with a decimal point.
    """
    try:
        numbers = [float(record["label"]) for record in records]
    except ValueError:
        return
    if any("." in record["label"] for record in records):
        for record, number in zip(records, numbers):
            record["label"] = number


# ---- what each task needs -----------------------------------------------------------------------


def _text(record: Record, name: str, empty: bool = False) -> str:
    value = record[name]
    if not isinstance(value, str) or not (value or empty):
        raise ValueError(f"{name!r} must be text, not {value!r}")
    return value


def _list_of(record: Record, name: str, kind: type, least: int = 1) -> list[Any]:
    value = record[name]
    good = isinstance(value, list) and all(isinstance(item, kind) for item in value)
    if not good or len(value) < least:
        what = "texts" if kind is str else "numbers"
        raise ValueError(f"{name!r} must be a list of {least} or more {what}, not {value!r}")
    return value


def _check_complete(record: Record) -> None:
    _text(record, "prompt")
    _text(record, "completion")


def _check_classify(record: Record) -> None:
    _text(record, "text")
    if "labels" in record:
        _list_of(record, "labels", str, least=0)
    elif isinstance(record["label"], bool) or not isinstance(record["label"], (str, int, float)):
        raise ValueError(f"'label' must be text or a number, not {record['label']!r}")


def _check_tag(record: Record) -> None:
    words, labels = _list_of(record, "tokens", str), _list_of(record, "labels", str)
    if len(words) != len(labels):
        raise ValueError(f"{len(words)} tokens and {len(labels)} labels: one for each is needed")


def _check_answer(record: Record) -> None:
    _text(record, "question")
    context, answer = _text(record, "context"), _text(record, "answer")
    start = record["answer_start"]
    if not isinstance(start, int) or context[start : start + len(answer)] != answer or start < 0:
        raise ValueError(f"the context has no {answer!r} at 'answer_start' {start!r}")


def _check_choose(record: Record) -> None:
    _text(record, "prompt", empty=True)
    choices, label = _list_of(record, "choices", str, least=2), record["label"]
    if type(label) is not int or not 0 <= label < len(choices):
        raise ValueError(f"'label' must be the number of a choice, 0 to {len(choices) - 1}, not "
                         f"{label!r}")  # fmt: skip


_CHECKS: dict[str, Callable[[Record], None]] = {
    "complete": _check_complete,
    "classify": _check_classify,
    "tag": _check_tag,
    "answer": _check_answer,
    "choose": _check_choose,
}
