"""An official checkpoint, and what is known of it: the text it writes, the losses of ten steps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.checks import Check
from minigpt.config import GPT2Config
from minigpt.evaluation import window_loss
from minigpt.heads import GPT2LMHeadModel
from minigpt.official_values import (
    LOSS_TOLERANCE,
    N_POSITIONS,
    OFFICIALS,
    SHAKESPEARE,
    VOCAB_SIZE,
    Continuation,
    Official,
    Published,
)
from tensor import optim

END_OF_TEXT = 50256
STEPS_SHAPE = (4, 64)       # of llm.c's batch: B rows, T tokens


def of_that_shape(
    config: GPT2Config, officials: Sequence[Official] = OFFICIALS
) -> Official | None:
    """The official model with these sizes, if there is one."""
    shape = config.n_layer, config.n_head, config.n_embd
    if (config.vocab_size, config.n_positions) != (VOCAB_SIZE, N_POSITIONS):
        return None
    return next((official for official in officials if official.shape == shape), None)


def recognise(official: Official, folder: Path) -> tuple[bool, str]:
    """Whether a file of weights in the folder has a hash that is known of this model; and what to
    say about it.
    """
    names = [name for name in ("model.safetensors", "pytorch_model.bin")
             if (folder / name).is_file()]  # fmt: skip
    for name in names:
        with open(folder / name, "rb") as file:
            if official.sha256.get(hashlib.file_digest(file, "sha256").hexdigest()) == name:
                return True, f"{official.name}, by the sha256 of {name}"
    return False, (
        f"the sizes of {official.name}, but no file with a sha256 that is known of it: its values "
        "are skipped; --official compares with them all the same"
    )


def check_continuations(
    model: GPT2LMHeadModel, tokenizer: Any, continuations: Sequence[Continuation]
) -> list[Check]:
    """Greedy decoding, one prompt at a time, and then all prompts as one batch padded on the left,
    which must give the same tokens.
    """
    prompts = [tokenizer.encode(each.prompt) for each in continuations]
    wanted = [list(each.ids) or tokenizer.encode(each.text) for each in continuations]
    checks, singles = [], []
    for each, prompt, expected in zip(continuations, prompts, wanted):
        ids = model.generate([prompt], max_new_tokens=len(expected), do_sample=False,
                             eos_token_id=None)  # fmt: skip
        singles.append(ids[0, len(prompt):].tolist())
        same = sum(1 for _ in _common(singles[-1], expected))
        found = f"{each.prompt!r} goes on {tokenizer.decode(singles[-1])!r}"
        right = "" if same == len(expected) else (
            f"{tokenizer.decode(expected)!r}: token {same + 1} of {len(expected)} is another"
        )
        checks.append(
            Check("greedy text", "fail" if right else "pass", found, right, each.source)
        )
    if len(continuations) > 1:
        checks.append(_check_batch(model, prompts, singles))
    return checks


def _check_batch(
    model: GPT2LMHeadModel, prompts: list[list[int]], singles: list[list[int]]
) -> Check:
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), END_OF_TEXT % model.config.vocab_size)
    mask = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt):], mask[row, longest - len(prompt):] = prompt, 1
    new = max(map(len, singles))
    together = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False,
                              eos_token_id=None, pad_token_id=int(ids[0, 0]))  # fmt: skip
    wrong = [row for row, single in enumerate(singles)
             if together[row, longest : longest + len(single)].tolist() != single]  # fmt: skip
    found = f"the same {len(prompts)} texts as one batch, padded on the left"
    expected = f"rows {wrong} as they are alone" if wrong else ""
    return Check("greedy batch", "fail" if wrong else "pass", found, expected)


def _common(a: Sequence[int], b: Sequence[int]) -> Any:
    for x, y in zip(a, b):
        if x != y:
            return
        yield x


# ---- ten steps ----------------------------------------------------------------------------------


def shakespeare_ids(tokenizer: Any) -> list[int]:
    """llm.c's tokens of the text (dev/data/tinyshakespeare.py): it is cut at blank lines, and each
    piece follows the token 50256 and keeps its blank line.
    """
    ids: list[int] = []
    for piece in SHAKESPEARE.rstrip("\n").split("\n\n"):
        ids += [END_OF_TEXT, *tokenizer.encode(piece + "\n\n")]
    return ids


def training_losses(
    model: GPT2LMHeadModel, ids: Sequence[int], shape: tuple[int, int], steps: int
) -> list[float]:
    """The loss before each of some AdamW steps on one batch, as llm.c's test_gpt2.c takes them: the
    first B * T tokens and those after them, no dropout, lr 1e-4, betas 0.9 and 0.999, eps 1e-8,
    weight decay 0.01 on every parameter, no clipping. The model is changed.
    """
    B, T = shape
    row = np.asarray(ids[: B * T + 1])
    inputs, targets = row[:-1].reshape(B, T), row[1:].reshape(B, T)             # (B, T)
    model.eval()
    optimizer = optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8,
                            weight_decay=0.01)  # fmt: skip
    losses = []
    for _ in range(steps):
        loss = window_loss(model, inputs, targets)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def check_training(model: GPT2LMHeadModel, tokenizer: Any, expected: Sequence[float]) -> Check:
    """Ten losses against llm.c's. The model is changed."""
    losses = training_losses(model, shakespeare_ids(tokenizer), STEPS_SHAPE, len(expected))
    differences = [abs(a - b) for a, b in zip(losses, expected)]
    worst = int(np.argmax(differences))
    ok = differences[worst] <= LOSS_TOLERANCE
    found = f"{len(losses)} AdamW steps, losses {losses[0]:.6f} … {losses[-1]:.6f}"
    said = f"{expected[worst]:.6f} at step {worst}, not {losses[worst]:.6f}"
    return Check(
        "training losses", "pass" if ok else "fail", found, "" if ok else said,
        f"llm.c, test_gpt2.c, within {LOSS_TOLERANCE:g}; largest difference "
        f"{differences[worst]:.1e}",
    )


# ---- published figures --------------------------------------------------------------------------


def check_published(
    official: Official | None, task: str, stride: int | None, results: Mapping[str, Any]
) -> list[Check]:
    """The results of `minigpt eval` on a user's file, against what was published for the model."""
    figures = [
        each for each in (official.published if official else ())
        if each.task == task and each.stride in (None, stride)
    ]
    if not figures:
        keys = ("perplexity", "accuracy", "accuracy_norm")
        shown = ", ".join(f"{key} {results[key]:.4f}" for key in keys if key in results)
        return [Check(task, "skip", shown, note="no figure is published for this model")]
    return [_check_figure(figure, results[figure.key]) for figure in figures]


def _check_figure(figure: Published, value: float) -> Check:
    found = f"{figure.key} {value:.4f}"
    if not figure.tolerance:
        return Check(figure.task, "skip", found, note=f"{figure.value} in {figure.source}, whose "
                     "protocol is not published whole: compare by eye")  # fmt: skip
    ok = math.isclose(value, figure.value, rel_tol=figure.tolerance)
    expected = "" if ok else f"{figure.value} within {figure.tolerance:.1%}"
    return Check(figure.task, "pass" if ok else "fail", found, expected, figure.source)
