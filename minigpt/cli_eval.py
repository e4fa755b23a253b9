"""`minigpt eval`: how good a model is, by a text's perplexity or by what it answers."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.cli_common import add_dtype, not_empty, print_line
from minigpt.data import load_text
from minigpt.evaluation_completions import best_endings, last_words, read_passages, read_questions
from minigpt.evaluation_text import (
    TextLoss,
    detokenise_wikitext,
    original_tokens,
    text_loss,
    wikitext_raw,
)
from minigpt.heads import GPT2LMHeadModel
from minigpt.progress import Report
from minigpt.token_files import holds_tokens, read_splits
from minigpt.tokenizer import load_tokenizer

TASKS = {
    "text": "a text file, a folder of them, or tokens of `minigpt prepare` (the validation split)",
    "wikitext2-raw": "wiki.test.raw, joined and counted as in transformers' documentation",
    "wikitext2": "wiki.test.tokens, de-tokenised, counted per original token as in GPT-2's paper",
    "lambada": "last words: JSON lines with a \"text\", or a passage a line",
    "hellaswag": "endings: JSON lines with \"ctx\", \"endings\" and \"label\"",
}
WINDOWS = ("text", "wikitext2-raw", "wikitext2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=evaluate)
    parser.description = (
        "Measure a model on a file: the perplexity of a text, LAMBADA's last words, HellaSwag's "
        "endings. docs/verify.md has the protocols, and the figures published for GPT-2."
    )
    parser.epilog = "TASKS: " + "; ".join(f"{name}: {text}" for name, text in TASKS.items()) + "."
    parser.add_argument(
        "--model", required=True, type=not_empty,
        help="a folder with a model, or its name on the Hub, such as gpt2",
    )
    parser.add_argument("--data", metavar="PATH", required=True, type=not_empty, help="the file")
    parser.add_argument("--task", choices=list(TASKS), default="text", help="what it is (text)")
    parser.add_argument(
        "--window", type=int, metavar="N", help="tokens in view at a time (the model's context)"
    )
    parser.add_argument(
        "--stride", type=int, metavar="N",
        help="tokens from one window to the next (half a window; wikitext2-raw: a whole one)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N",
        help="only the first N passages or questions, or the first N tokens of a text",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="rows at a time (8)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, emulator or auto (cpu)")
    add_dtype(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quiet", action="store_true", help="print only the results")


def evaluate(arguments: argparse.Namespace) -> int:
    """`minigpt eval`."""
    _check(arguments)
    tokenizer = load_tokenizer(arguments.model)
    model = GPT2LMHeadModel.from_pretrained(
        arguments.model, arguments.device, arguments.dtype
    )
    report = None if arguments.quiet or arguments.json else print_line
    found, lines = measure(
        arguments.task, arguments.data, model, tokenizer, window=arguments.window,
        stride=arguments.stride, limit=arguments.limit, batch_size=arguments.batch_size,
        report=report,
    )
    if arguments.json:
        found = {"task": arguments.task, "model": arguments.model, "data": arguments.data, **found}
        print(json.dumps({key: _finite(value) for key, value in found.items()}, indent=2))
    else:
        print("\n".join(lines))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense before anything long is loaded."""
    for name in ("limit", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")
    if arguments.task not in WINDOWS and (arguments.window or arguments.stride):
        raise ValueError(f"--window and --stride are for texts, not for {arguments.task}")
    if not Path(arguments.data).exists():
        raise FileNotFoundError(f"{arguments.data}: no such file or folder")


def measure(
    task: str,
    data: str,
    model: GPT2LMHeadModel,
    tokenizer: Any,
    *,
    window: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    report: Report | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Do one of TASKS on a file: the figures by name, and the lines that say them."""
    if task not in WINDOWS:
        return _completions(task, data, model, tokenizer, limit, batch_size, report)
    text, original = None, ""
    if task == "text" and holds_tokens(data):
        ids: Any = read_splits(data, tokenizer.vocab_size)[1]
    else:
        text = original = load_text(data)
        if task == "wikitext2-raw":
            text = wikitext_raw(original)
        elif task == "wikitext2":
            text = detokenise_wikitext(original)
        ids = tokenizer.encode(text)
    if limit is not None and limit < len(ids):
        ids, text = ids[:limit], None
    window = model.config.n_positions if window is None else window
    if stride is None and task == "wikitext2-raw":
        stride = window
    loss = text_loss(
        model, np.asarray(ids), window=window, stride=stride, batch_size=batch_size, report=report
    )
    found, lines = _text_result(loss)
    if text is not None:
        bits = loss.total / math.log(2) / len(text.encode("utf-8", "surrogatepass"))
        found["bits_per_byte"] = bits
        lines.append(f"{bits:.4f} bits a byte")
    if task == "wikitext2" and text is not None:
        words = original_tokens(original)
        found["original_tokens"], mean = words, loss.total / words
        found["perplexity_per_original_token"] = math.exp(min(mean, 700))
        lines.append(f"per original token ({words:,}): perplexity {math.exp(min(mean, 700)):.4f}")
    return found, lines


def _text_result(loss: TextLoss) -> tuple[dict[str, Any], list[str]]:
    found = loss.to_dict()
    lines = [
        f"{loss.tokens:,} tokens, {loss.scored:,} of them predicted: windows of {loss.window}, "
        f"{loss.stride} apart",
        f"loss {loss.loss:.4f} nats a token, perplexity {loss.perplexity:.4f}",
    ]
    if abs(loss.documented_loss - loss.loss) > 1e-12:
        lines.append(
            f"perplexity {found['documented_perplexity']:.4f} as transformers' documentation "
            "averages it"
        )
    return found, lines


def _completions(
    task: str, data: str, model: GPT2LMHeadModel, tokenizer: Any, limit: int | None,
    batch_size: int, report: Report | None,
) -> tuple[dict[str, Any], list[str]]:
    """LAMBADA or HellaSwag: the figures, and the lines that say them."""
    options: dict[str, Any] = {"batch_size": batch_size, "report": report}
    try:
        if task == "lambada":
            words = last_words(model, tokenizer.encode, read_passages(data)[:limit], **options)
            found = words.to_dict()
            lines = [
                f"{words.passages:,} passages",
                f"last word right: {words.accuracy:.2%} (+- {found['standard_error']:.2%}), "
                f"perplexity {words.perplexity:.4f} a word",
            ]
        else:
            chosen = best_endings(model, tokenizer.encode, read_questions(data)[:limit], **options)
            found = chosen.to_dict()
            lines = [
                f"{chosen.questions:,} questions",
                f"the likeliest ending is right: {chosen.accuracy:.4f}; by its mean a token: "
                f"{chosen.accuracy_norm:.4f} (+- {found['standard_error']:.4f})",
            ]
    except (ValueError, IndexError) as error:
        at = "" if str(error).startswith(data) else f"{data}: "
        raise ValueError(f"{at}{error}") from None
    return found, lines


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
