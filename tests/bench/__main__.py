"""How fast, beside PyTorch: `python -m tests.bench [CASE …]` from the checkout.

Each case runs in turns, minigpt, then torch with transformers, then minigpt again, each time in a
fresh process with two threads, because two thread pools in one process slow each other down, and
because machines have quieter and busier minutes, which turns spread over both. What counts is the
ratio of the medians; the spread is the smallest and the largest ratio of one turn. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from tests.bench.cases import CASES, Case
from tests.bench.worker import THREADS

ROOT = Path(__file__).parents[2]


def run_worker(library: str, case: Case, *options: str) -> str:
    """What a process of its own prints of a case in one library."""
    threads = {f"{name}_NUM_THREADS": str(THREADS) for name in ("OPENBLAS", "OMP", "MKL")}
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.worker", library, case.name, *options],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{library}, {case.name}:\n{done.stderr}")
    return done.stdout


def run_once(library: str, case: Case) -> dict[str, float]:
    """Seconds a step and peak memory of a case in one library."""
    return json.loads(run_worker(library, case).splitlines()[-1])


def measure(case: Case, rounds: int) -> dict[str, object]:
    """Medians, ratio and spread of a case over `rounds` turns."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(run_once("ours", case))
        theirs.append(run_once("theirs", case))
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(ours, theirs)]
    seconds = [statistics.median(r["seconds"] for r in runs) for runs in (ours, theirs)]
    return {
        "case": case.name, "ours_s": seconds[0], "theirs_s": seconds[1],
        "ratio": seconds[0] / seconds[1], "lowest": min(ratios), "highest": max(ratios),
        "aim": case.aim, "ours_peak_mb": max(r["peak_bytes"] for r in ours) / 1e6,
        "theirs_peak_mb": max(r["peak_bytes"] for r in theirs) / 1e6,
    }  # fmt: skip


HEAD = (
    f"{'case':26} {'ours':>9} {'theirs':>9} {'ratio':>6} {'spread':>13} {'aim':>5} {'peak MB':>13}"
)


def row(result: dict) -> str:
    """A result as a line of the table."""
    return (
        f"{result['case']:26} {result['ours_s'] * 1e3:>6.1f} ms {result['theirs_s'] * 1e3:>6.1f} "
        f"ms {result['ratio']:>6.2f} {result['lowest']:>6.2f}–{result['highest']:<6.2f} "
        f"{result['aim']:>5.2f} {result['ours_peak_mb']:>6.0f}/{result['theirs_peak_mb']:<6.0f}"
    )


def draw(results: list[dict], path: Path) -> None:
    """A bar a case: the ratio, its spread, and the aim."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.45 * len(results) + 1.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(results))
    ratios = [r["ratio"] for r in results]
    below = [r["ratio"] - min(r["lowest"], r["ratio"]) for r in results]
    above = [max(r["highest"], r["ratio"]) - r["ratio"] for r in results]
    axes.barh(places, ratios, xerr=[below, above], color="#0072b2", ecolor="#555555", capsize=3)
    axes.plot([r["aim"] for r in results], places, "D", color="#d55e00", label="aim")
    axes.axvline(1, color="black", linewidth=1, linestyle="--", label="as fast as torch")
    axes.set_yticks(places, [r["case"] for r in results])
    axes.invert_yaxis()
    axes.set_xlabel("time of minigpt / time of torch and transformers (shorter is faster)")
    figure.legend(frameon=False, loc="outside lower right", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Measure the cases named, or all; print a table, and write JSON and a picture if asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [case.name for case in CASES]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each case (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a picture, PNG or SVG")
    parser.add_argument("--profile", action="store_true", help="print our operations' costs only")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if not any(name in full for full in names)]
    if unknown:
        parser.error(f"no case contains {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [c for c in CASES if not arguments.cases or any(n in c.name for n in arguments.cases)]
    if arguments.profile:
        for case in chosen:
            print(f"{case.name}\n{run_worker('ours', case, '--profile')}", flush=True)
        return
    print(f"{platform.processor() or platform.machine()}, {THREADS} threads\n{HEAD}", flush=True)
    results = []
    for case in chosen:
        results.append(measure(case, arguments.rounds))
        print(row(results[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.picture:
        draw(results, arguments.picture)


if __name__ == "__main__":
    main()
