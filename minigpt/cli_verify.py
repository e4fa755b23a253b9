"""`minigpt verify`: is a checkpoint whole, and does this program compute with it what it should?"""

from __future__ import annotations

import argparse
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minigpt.checkpoints.hub import find_model_folder
from minigpt.checks import Check, table
from minigpt.cli_common import not_empty, print_line
from minigpt.cli_eval import TASKS, WINDOWS, measure
from minigpt.lora import require_whole_model
from minigpt.official_values import Official
from minigpt.progress import Report, tell
from minigpt.tolerances import Comparison
from minigpt.verify import Subject, check_file, verify, verify_training
from minigpt.verify_official import check_published
from minigpt.verify_torch import Against, compare_with_transformers, layer_of

FAILED = 1      # the exit code of a check that failed; 2 is a mistake in the command


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=verify_model)
    parser.description = (
        "Check a model: its tensors against the architecture, its tokenizer, how it behaves, and, "
        "if it is one of OpenAI's, the text and the losses that it is known to give. Exit code 0 "
        "if nothing failed, else 1."
    )
    parser.add_argument(
        "model", type=not_empty, help="a folder with a model, or its name on the Hub, such as gpt2"
    )
    parser.add_argument(
        "--against", choices=["torch"],
        help="compare every layer, every part of a layer, loss and gradients with transformers' "
        'model on the same weights (pip install -e ".[reference]")',
    )
    parser.add_argument(
        "--picture", metavar="FILE", type=not_empty,
        help="draw the differences by layer into this PNG file (with --against)",
    )
    parser.add_argument(
        "--dtype", choices=["float32", "float64"], default="float32",
        help="what is computed with; in float64 rounding can't be taken for a mistake (float32)",
    )
    parser.add_argument(
        "--official", action="store_true",
        help="compare with the official model of these sizes, even if no hash says it is the one",
    )
    parser.add_argument(
        "--eval", metavar="TASK=FILE", action="append", default=[],
        help="measure it on a file that you have, as `minigpt eval` does, and compare with the "
        f"published figure; may be repeated; TASK: {', '.join(list(TASKS)[1:])}; with a stride: "
        "wikitext2-raw:512=FILE",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, emulator or auto (cpu)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quiet", action="store_true", help="print only the results")


def verify_model(arguments: argparse.Namespace) -> int:
    """`minigpt verify`."""
    if arguments.picture and not arguments.against:
        raise ValueError("--picture draws the differences from torch: give --against torch, too")
    if arguments.picture and not Path(arguments.picture).absolute().parent.is_dir():
        raise FileNotFoundError(f"--picture {arguments.picture}: there is no such folder")
    files = [_task_and_file(text) for text in arguments.eval]
    report = None if arguments.quiet or arguments.json else print_line
    folder = find_model_folder(arguments.model)
    require_whole_model(folder, "verify")
    checks: list[Check] = []
    try:
        checks.append(check_file(folder))
        subject = Subject.load(folder, arguments.device, arguments.dtype)
    except ValueError as error:     # damaged, or of another architecture: that is a result
        checks.append(Check("loading", "fail", " ".join(str(error).split())))
        return _finish(arguments, checks, None, None)
    more, known = verify(subject, official=arguments.official, report=report)
    checks += more
    for task, stride, file in files:
        checks += _evaluate(task, stride, file, subject, known, report)
    against = None
    if arguments.against:
        tell(report, "comparing with transformers")
        against = _compare(subject, arguments.dtype)
        checks += against_checks(against)
    checks += verify_training(subject, known, report)
    return _finish(arguments, checks, against, known)


def _task_and_file(text: str) -> tuple[str, int | None, str]:
    """The task, the stride if there is one, and the file of TASK:STRIDE=FILE."""
    name, _, file = text.partition("=")
    task, colon, stride = name.partition(":")
    is_number = stride.isascii() and stride.isdecimal() and task in WINDOWS
    if task not in TASKS or not file or (colon and not is_number):
        raise ValueError(
            f"--eval {text}: expected TASK=FILE or TASK:STRIDE=FILE, TASK one of "
            f"{', '.join(TASKS)}, a stride only for {', '.join(WINDOWS)}"
        )
    if not Path(file).exists():
        raise FileNotFoundError(f"--eval {text}: there is no file {file}")
    return task, int(stride) if colon else None, file


def _evaluate(
    task: str, stride: int | None, file: str, subject: Subject, known: Official | None,
    report: Report | None,
) -> list[Check]:
    if subject.tokenizer is None:
        return [Check(task, "skip", "needs a tokenizer in the folder")]
    results, _ = measure(
        task, file, subject.model, subject.tokenizer, stride=stride, report=report
    )
    return check_published(known, task, results.get("stride"), results)


def _compare(subject: Subject, dtype: str) -> Against:
    try:
        return compare_with_transformers(subject.model, subject.folder, dtype)
    except ImportError as error:
        raise ValueError(str(error)) from None


# ---- results ------------------------------------------------------------------------------------


def against_checks(against: Against) -> list[Check]:
    """The comparison with transformers as rows of the table."""
    versions = ", ".join(f"{name} {version}" for name, version in against.versions.items())
    source = {"transformers": "read from the files by each", "minigpt": "ours, handed over"}
    parts = [part.comparison for part in against.parts]
    groups = (
        ("weights", against.weights, f"{versions}; {source[against.weights_from]}"),
        ("forward pass", parts, "every layer, and every part of a layer alone"),
        ("gradients", against.gradients, "every parameter"),
    )
    checks = []
    for name, comparisons, note in groups:
        wrong = [c for c in comparisons if not c.ok]
        worst = max(comparisons, key=lambda c: c.ratio)
        found = f"{len(comparisons)} compared, {len(wrong)} deviate"
        if worst.difference:
            found += f", the most {worst.name}: {_amount(worst)}"
        expected = "all within their tolerances" if wrong else ""
        checks.append(Check(name, "fail" if wrong else "pass", found, expected, note))
    if not against.ok:
        checks.append(Check("deviation", "fail", against.verdict()))
    return checks


def _amount(comparison: Comparison) -> str:
    return f"{comparison.difference:.1e}, {comparison.ratio:.2g} of what is allowed"


def layer_table(against: Against) -> list[str]:
    """The largest difference of each kind in each layer; "!" beside those that are too large."""
    columns = {
        "model": ("embeddings", "through", "logits"),
        "ln": ("ln_1", "ln_2", "ln_f"),
        "attn": ("attn.c_attn", "attn.c_proj", "attn", "attn.tiled"),
        "mlp": ("mlp.c_fc", "mlp.act", "mlp.c_proj", "mlp"),
        "weights": ("attentions",),
    }
    L = against.n_layer
    lines = ["layer        " + "".join(f"{name:>11}" for name in [*columns, "gradients"])]
    for layer in range(-1, L + 1):
        name = {-1: "embeddings", L: "ln_f, logits"}.get(layer, f"h.{layer}")
        cells = [
            _worst([p.comparison for p in against.parts if p.layer == layer and p.kind in kinds])
            for kinds in columns.values()
        ]
        cells.append(_worst([c for c in against.gradients if layer_of(c.name, L) == layer]))
        lines.append(f"{name:<13}" + "".join(f"{cell:>11}" for cell in cells))
    return lines


def _worst(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    worst = max(comparisons, key=lambda c: (not c.ok, c.difference))
    return f"{worst.difference:.1e}{' ' if worst.ok else '!'}"


def _finish(
    arguments: argparse.Namespace, checks: list[Check], against: Against | None,
    known: Official | None,
) -> int:
    """Print everything, draw the picture, and return the exit code."""
    ok = all(check.state != "fail" for check in checks)
    if arguments.json:
        result: dict[str, Any] = {
            "model": arguments.model, "ok": ok, "official": known.name if known else None,
            "checks": [asdict(check) for check in checks],
        }
        if against is not None:
            result["against"] = _as_json(against)
        print(json.dumps(result, indent=2))
    else:
        if against is not None:
            print("\n".join(layer_table(against)) + "\n")
        print("\n".join(table(checks)))
    if arguments.picture and against is not None:
        from minigpt.verify_plot import plot_against

        plot_against(against, arguments.picture, arguments.model)
        if not (arguments.json or arguments.quiet):
            print(f"differences by layer: {shlex.quote(arguments.picture)}")
    return 0 if ok else FAILED


def _as_json(against: Against) -> dict[str, Any]:
    """The comparison for machines: every number; null for one that is infinite or not a number."""
    first = against.first_deviation
    return {
        "versions": against.versions,
        "weights_from": against.weights_from,
        "ok": against.ok,
        "first_deviation": first.name if first else None,
        "layer": first.layer if first else None,
        "verdict": against.verdict(),
        "parts": [
            {"layer": part.layer, "kind": part.kind, "alone": part.alone,
             **_numbers(part.comparison)} for part in against.parts
        ],
        "weights": [_numbers(comparison) for comparison in against.weights],
        "gradients": [_numbers(comparison) for comparison in against.gradients],
    }  # fmt: skip


def _numbers(comparison: Comparison) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(comparison).items()
    }
