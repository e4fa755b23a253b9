"""What a second rank buys: `python -m tests.bench.ranks [--rounds N]` from the checkout.

The same training step, with the same batch for all together, in one process with one thread of
BLAS, in one with two, and on two ranks with one each, in turns, each a process of its own. A step's
time is told apart: computing, adding up gradients, the optimizer. Needs the `distributed` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# (layers, heads, width, vocabulary, B, T)
CASES = {
    "128 wide, B=12 T=64": (4, 4, 128, 65, 12, 64),
    "384 wide, B=8 T=256": (6, 6, 384, 65, 8, 256),
    "124M, B=4 T=64": (12, 12, 768, 50257, 4, 64),
}
# name -> (ranks, threads of BLAS in each)
WAYS = {"1 rank, 1 thread": (1, 1), "1 rank, 2 threads": (1, 2), "2 ranks, 1 thread each": (2, 1)}
SECONDS = 6.0  # that a case is measured for, at least three steps


def worker(case: str) -> None:
    """Run steps of a case; rank 0 prints the medians of their parts in seconds."""
    import numpy as np

    from minigpt import GPT2Config, GPT2LMHeadModel
    from minigpt.distributed import own_rows, world
    from tensor import manual_seed, optim

    group = world()
    layers, heads, width, vocabulary, B, T = CASES[case]
    manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=vocabulary, n_layer=layers, n_head=heads, n_embd=width, n_positions=1024,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ))  # fmt: skip
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1))
    ids = np.random.default_rng(0).integers(0, vocabulary, (B, T))
    own = own_rows(group, {"input_ids": ids})["input_ids"]
    rows, began = [], 0.0
    while True:
        times = [time.perf_counter()]
        model(own, labels=own, use_cache=False).loss.backward()
        times.append(time.perf_counter())
        group.gather([0.0])  # waiting for the slower rank is no exchange
        times.append(time.perf_counter())
        group.sum_gradients(model.parameters())
        times.append(time.perf_counter())
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter())
        rows.append(np.diff(times))
        began = began or times[-1]  # the first step, which warms up, is not counted
        over = float(times[-1] - began > SECONDS and len(rows) > 3)
        if group.gather([over])[0, 0]:
            break
    if group.rank == 0:
        parts = np.median(rows[1:], axis=0)
        names = ("compute", "wait", "exchange", "optimizer")
        whole = statistics.median(float(row.sum()) for row in rows[1:])
        print(json.dumps({"step": whole, **dict(zip(names, map(float, parts))),
                          "parameters": model.num_parameters()}))  # fmt: skip


def run(case: str, ranks: int, threads: int) -> dict[str, float]:
    """What rank 0 prints of a case run in one way."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    command = [sys.executable, "-m", "tests.bench.ranks", "--worker", case]
    if ranks > 1:
        command = [mpiexec, "-n", str(ranks), *command]
    settings = {
        "OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT),
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True,
                          text=True)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ranks", description=__doc__)
    parser.add_argument("--worker", metavar="CASE", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each case (3)")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker)
    print("| case | way | step ms | of 1 rank, 1 thread | compute | wait | exchange | optimizer |")
    print("|--|--|--|--|--|--|--|--|")
    for case in CASES:
        results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, (ranks, threads) in WAYS.items():
                results[way].append(run(case, ranks, threads))
        first = [r["step"] for r in results["1 rank, 1 thread"]]
        for way, runs in results.items():
            median = {name: statistics.median(r[name] for r in runs) for name in runs[0]}
            ratios = [r["step"] / one for r, one in zip(runs, first)]
            cells = [f"{1e3 * median[n]:.1f}" for n in ("compute", "wait", "exchange", "optimizer")]
            print(
                f"| {case} | {way} | {1e3 * median['step']:.1f} | {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f}–{max(ratios):.2f}) | {' | '.join(cells)} |", flush=True,
            )  # fmt: skip
    return None


if __name__ == "__main__":
    main()
