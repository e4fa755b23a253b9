"""Perplexity of a text, by sliding windows; and WikiText-2 as its published figures were made.

A text longer than the context is cut into windows of `window` tokens that begin `stride` tokens
apart. Each window predicts the tokens that no window before it has; what they share with the one
before is context only. With stride = window the first token of each window is not predicted at
all, and what follows it has little to go by: the smaller the stride, the lower the perplexity, and
the longer it takes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minigpt.evaluation_rows import Row, score_rows
from minigpt.heads import GPT2LMHeadModel
from minigpt.progress import Report


@dataclass(frozen=True)
class TextLoss:
    """How well a text was predicted.

    tokens: how many it has; scored: how many of them were predicted. loss: their mean -log p, in
    nats. documented_loss: the same windows as the page "Perplexity of fixed-length models" in
    transformers' documentation adds them up: there a window's mean counts once less than it has
    new tokens, also where all of those were predicted.
    """

    tokens: int
    scored: int
    window: int
    stride: int
    loss: float
    documented_loss: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return _exp(self.loss)

    @property
    def total(self) -> float:
        """-log p of all predicted tokens together, in nats."""
        return self.loss * self.scored

    def to_dict(self) -> dict[str, Any]:
        """Every figure by name."""
        documented = _exp(self.documented_loss)
        return {**asdict(self), "perplexity": self.perplexity, "documented_perplexity": documented}


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def sliding_windows(
    ids: Sequence[int] | np.ndarray, window: int, stride: int
) -> Iterator[tuple[Row, int]]:
    """The windows of a text, each with the number of its tokens that no window before it has.

    ValueError for a stride that is longer than a window (tokens would be left out), or for sizes
    below 2 and 1.
    """
    if window < 2 or not 1 <= stride <= window:
        raise ValueError(
            f"a window of {window} and a stride of {stride}: the window needs at least 2 tokens, "
            "and the stride 1 to as many as the window"
        )
    seen = 0
    for first in range(0, len(ids), stride):
        end = min(first + window, len(ids))
        new, length, seen = end - seen, end - first, end
        if length > 1:          # a last window of one token predicts nothing
            yield Row(ids[first:end], max(1, length - new)), new
        if end == len(ids):
            return


def text_loss(
    model: GPT2LMHeadModel,
    ids: Sequence[int] | np.ndarray,
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    report: Report | None = None,
) -> TextLoss:
    """The loss over a text of token ids (N,), by sliding windows: of n_positions tokens unless
    given, and half a window apart.

    ValueError for a text of fewer than two tokens, or a window longer than the model's context;
    otherwise as `sliding_windows` and `score_rows`.
    """
    limit = model.config.n_positions
    window = limit if window is None else window
    if window > limit:
        raise ValueError(f"a window of {window} tokens: the model's context is {limit}")
    stride = max(1, window // 2) if stride is None else stride
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} tokens: a loss needs at least two")
    pairs = list(sliding_windows(ids, window, stride))
    rows = [row for row, _ in pairs]
    scores = score_rows(model, rows, batch_size=batch_size, report=report, unit="windows")
    scored = sum(score.tokens for score in scores)
    weights = [new - 1 for _, new in pairs]
    documented = math.fsum(w * s.loss / s.tokens for w, s in zip(weights, scores))
    return TextLoss(
        tokens=len(ids),
        scored=scored,
        window=window,
        stride=stride,
        loss=math.fsum(score.loss for score in scores) / scored,
        documented_loss=documented / sum(weights) if sum(weights) else math.nan,
    )


# ---- WikiText-2 ---------------------------------------------------------------------------------


def wikitext_raw(text: str) -> str:
    """What transformers' documentation measures, from the file wiki.test.raw: the rows of the data
    set are the file's lines, each with its line end, blank ones empty; they are joined by "\\n\\n".
    """
    lines = text.splitlines(keepends=True)
    return "\n\n".join(line if line.strip() else "" for line in lines)


def original_tokens(text: str) -> int:
    """How many tokens WikiText itself counts: words between blanks, and an <eos> for each line."""
    return len(text.split()) + text.count("\n")


# WikiText sets blanks around punctuation, and writes "@-@" for a hyphen within a word. Order
# matters: first what stands inside words and numbers, then what belongs to the left or right of it.
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" @([-,.])@ ", r"\1"),                    # 1 @,@ 000 -> 1,000; well @-@ known
        (r" n't\b", "n't"),
        (r" '(s|re|ve|ll|d|m|t)\b", r"'\1"),
        (r"(?<=s) '(?= [a-z])", "'"),               # the boys ' team
        (r" ([.,;:!?%])(?=\s|$)", r"\1"),
        (r"([(\[{]) ", r"\1"),
        (r" ([)\]}])", r"\1"),
        (r'" ([^"\n]*?) "', r'"\1"'),
        (r"(?<=[\s(])' ([^'\n]*?) '(?=[\s).,;:!?]|$)", r"'\1'"),
        (r"(?<=\d) ° (?=[CFNSEW])", "°"),
        (r"([$£€]) (?=\d)", r"\1"),
        (r"(?m)^ ", ""),                            # each line begins with a blank
        (r"(?m) $", ""),                            # and ends with one
        (r"= (?==)", "="),                          # = = Heading = = -> == Heading ==
    )
]


def detokenise_wikitext(text: str) -> str:
    """WikiText as prose is written, so that a byte-level vocabulary meets what it was made of.

    Radford et al. 2019, section 3.1, score de-tokenised text and count the loss per original
    token; their own rules were not published, so figures differ from theirs by how these differ.
    """
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text
