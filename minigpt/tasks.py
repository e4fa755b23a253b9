"""What a run trains a model for: its data, its class, and how good its answers are."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigpt.addition import LENGTH, AdditionData, addition_tokenizer
from minigpt.classifiers import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
)
from minigpt.data import Examples
from minigpt.evaluation import evaluation_mode
from minigpt.examples import Example, ExampleData, encode
from minigpt.heads import GPT2DoubleHeadsModel, GPT2LMHeadModel
from minigpt.labelled import Record, read_records
from minigpt.losses import IGNORED
from minigpt.places import VALIDATION_STREAM, shuffled_places
from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from minigpt.progress import Report, tell
from minigpt.run_setup import Tokenizer, is_made, make_tokenizer, read_data
from minigpt.tokenizer import GPT2Tokenizer, load_tokenizer

MODELS: dict[str, type[PreTrainedModel]] = {
    "text": GPT2LMHeadModel,
    "addition": GPT2LMHeadModel,
    "complete": GPT2LMHeadModel,
    "classify": GPT2ForSequenceClassification,
    "tag": GPT2ForTokenClassification,
    "answer": GPT2ForQuestionAnswering,
    "choose": GPT2DoubleHeadsModel,
}


@dataclass(frozen=True)
class Task:
    """The data of a run, its tokenizer, and what the configuration of its model says of its head.
    """

    tokenizer: Tokenizer
    train: Examples
    validation: Examples
    head: dict[str, Any] = field(default_factory=dict)


def read_task(
    config: TrainConfig, tokenizer: Tokenizer | None = None, report: Report | None = None
) -> Task:
    """Read what ``config.data`` holds for ``config.task``; without a ``tokenizer`` it is made, or
    loaded, as ``config.tokenizer`` says. Raises as `run_setup.read_data`, `labelled.read_records`
    and `examples.encode` do.
    """
    if config.task == "text":
        return Task(*read_data(config.data, config.tokenizer, tokenizer, report))
    if config.task == "addition":
        if config.data is not None:
            raise ValueError("task=addition makes its own data: leave --data out")
        if config.block_size < LENGTH:
            raise ValueError(f"block_size={config.block_size}: task=addition needs {LENGTH}")
        train, held_out = AdditionData(False, "training split"), AdditionData(True, "held-out sums")
        return Task(addition_tokenizer(), train, held_out)
    if config.data is None:
        raise ValueError(f"task={config.task} needs labelled examples: name a file with --data")
    records = read_records(config.data, config.task)
    tell(report, f"examples: {len(records):,} of {config.data}")
    if tokenizer is None:
        name = config.tokenizer
        tokenizer = make_tokenizer(name, _texts(records)) if is_made(name) else load_tokenizer(name)
    if config.task != "complete" and not isinstance(tokenizer, GPT2Tokenizer):
        raise ValueError(
            f"task={config.task} needs a tokenizer with an end token, which also fills up short "
            "rows: byte, bpe:SIZE or that of a GPT-2; the characters of char have none"
        )
    return _labelled_task(config, records, tokenizer)


def _labelled_task(config: TrainConfig, records: list[Record], tokenizer: Tokenizer) -> Task:
    try:
        labels = _labels(records) if config.task in ("classify", "tag") else []
    except ValueError as error:
        raise ValueError(f"{config.data}: {error}") from None
    examples: list[Example] = []
    for number, record in enumerate(records, 1):
        try:
            examples.append(encode(config.task, record, tokenizer, labels, config.block_size))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{config.data}, example {number}: {error}") from None
    if config.task == "choose" and len({len(e["input_ids"]) for e in examples}) > 1:
        raise ValueError(f"{config.data}: every example must have the same number of choices")
    pad = tokenizer.eos_token_id or 0
    # Files are often sorted by label: which tenth is for validation is left to chance.
    order = shuffled_places(len(examples), np.arange(len(examples)), seed=0,
                            stream=VALIDATION_STREAM)  # fmt: skip
    held_out = set(order[: max(1, len(examples) // 10)].tolist())
    splits = [
        ExampleData([e for i, e in enumerate(examples) if (i in held_out) == wanted], pad, name)
        for wanted, name in ((False, "training split"), (True, "validation split"))
    ]
    return Task(tokenizer, splits[0], splits[1], _head(config.task, records, labels, pad))


def _labels(records: list[Record]) -> list[str]:
    """The names of all labels, sorted; none for regression. ValueError for a mixture.

    Numbers are names unless one of them has a decimal point: then they are something to estimate.
    """
    if "labels" in records[0]:
        if not all("labels" in record for record in records):
            raise ValueError("some examples have 'label' and some 'labels': make them all alike")
        return sorted({label for record in records for label in record["labels"]})
    kinds = {type(record.get("label")) for record in records}
    if kinds <= {int, float} and float in kinds:
        return []
    if kinds not in ({str}, {int}):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"labels of different kinds ({names}): make them all alike")
    for record in records:
        record["label"] = str(record["label"])
    return sorted({record["label"] for record in records})


def _head(task: str, records: list[Record], labels: list[str], pad: int) -> dict[str, Any]:
    """What of a model's configuration its head depends on."""
    if task not in ("classify", "tag"):
        return {"pad_token_id": pad} if task == "choose" else {}
    if not labels:
        return {"num_labels": 1, "problem_type": "regression", "pad_token_id": pad}
    head: dict[str, Any] = {
        "id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)},
    }  # fmt: skip
    if task == "classify":
        kind = "multi" if "labels" in records[0] else "single"
        head |= {"problem_type": f"{kind}_label_classification", "pad_token_id": pad}
    return head


def _texts(records: list[Record]) -> str:
    """All text of the records, to make a tokenizer from."""
    parts: list[str] = []
    for record in records:
        for value in record.values():
            parts += [value] if isinstance(value, str) else []
            parts += [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
    return "\n".join(parts)


# ---- how good the answers are -------------------------------------------------------------------


def score(model: PreTrainedModel, data: Examples, task: str, batch_size: int) -> str | None:
    """A line on how many answers of a split are right; None for text, which has none.

    A completion, or a sum, is right when each of its tokens is the likeliest one after those before
    it: then greedy decoding writes it.
    """
    if task == "text":
        return None
    right, count = 0.0, 0
    with evaluation_mode(model), warnings.catch_warnings():
        for batch in data.windows(batch_size, 0):
            assert isinstance(batch, dict), "only text comes as tuples"
            answers = _right_answers(model, batch)
            right, count = right + float(answers.sum()), count + answers.size
    if getattr(model.config, "problem_type", None) == "regression":
        return f"mean absolute error {right / count:.4f} over {count:,} held-out numbers"
    what = {"tag": "words", "addition": "sums", "complete": "completions"}.get(task, "answers")
    return f"right: {right:,.0f} of {count:,} held-out {what}, {right / count:.2%}"


def _right_answers(model: PreTrainedModel, batch: dict[str, np.ndarray]) -> np.ndarray:
    """For each answer of a batch whether it is right; of regression, how far it is off."""
    hidden = ("labels", "shift_labels", "start_positions", "end_positions", "mc_labels")
    output = model(**{name: value for name, value in batch.items() if name not in hidden})
    if "mc_labels" in batch:
        return output.mc_logits.numpy().argmax(axis=-1) == batch["mc_labels"]
    if "start_positions" in batch:
        start = output.start_logits.numpy().argmax(axis=-1) == batch["start_positions"]
        return start & (output.end_logits.numpy().argmax(axis=-1) == batch["end_positions"])
    logits, labels = output.logits.numpy(), batch["labels"]
    if "shift_labels" in batch:
        return ((logits.argmax(axis=-1) == labels) | (labels == IGNORED)).all(axis=-1)
    if model.config.problem_type == "regression":
        return np.abs(logits[:, 0] - labels)
    if labels.dtype.kind == "f":  # several labels: each is right or wrong
        return ((logits > 0) == (labels > 0.5)).ravel()
    return (logits.argmax(axis=-1) == labels)[labels != IGNORED]
