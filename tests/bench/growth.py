"""How cost grows: `python -m tests.bench.growth [--picture FILE] [--json FILE]` from the checkout.

Three sweeps: the time of a decoded token against the tokens in the cache, and the time of a
training step against T and against B. Beside each stands the slope of log(cost) over log(size),
measured and counted: the operations that the algorithm has to make, from the model's shape alone.
Time that grows faster than the count would be a fault; slower is what is to be expected where a
part of the cost (reading the weights, the optimizer's step, Python) does not grow at all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.worker import THREADS

ROOT = Path(__file__).parents[2]
DECODE = (12, 12, 768, 50257)  # layers, heads, width, vocabulary: GPT-2 124M
TRAIN = (6, 6, 384, 512)
SWEEPS = {
    "decode, tokens in the cache (124M, B=1)": ("decode", [32, 64, 128, 256, 512, 1000]),
    "train, T (384 wide, B=4)": ("T", [32, 64, 128, 256, 512, 1024]),
    "train, B (384 wide, T=128)": ("B", [1, 2, 4, 8, 16, 32]),
}


def operations(kind: str, size: int) -> float:
    """Multiplications and additions of one token or step; for decode bytes, which bound it.

    Decode reads each weight and each cached number once. Training: 6 operations a weight and token
    in the products (forward 2, backward 4), 12 C a layer for each pair of a query and a key that it
    sees, of which there are T (T + 1) / 2 (Kaplan et al. 2020, table 1, causal), and AdamW's 14 a
    weight.
    """
    layers, _, width, vocabulary = DECODE if kind == "decode" else TRAIN
    weights = layers * 12 * width**2 + vocabulary * width
    if kind == "decode":
        return 4.0 * (weights + 2 * layers * width * size)
    b, t = (4, size) if kind == "T" else (size, 128)
    pairs = b * t * (t + 1) / 2
    return 6.0 * weights * b * t + 12.0 * layers * width * pairs + 14.0 * weights


def seconds(kind: str, size: int) -> float:
    """The median time of one decoded token or training step, in this process."""
    import numpy as np

    from minigpt import GPT2Config, GPT2LMHeadModel
    from tensor import no_grad, optim

    layers, heads, width, vocabulary = DECODE if kind == "decode" else TRAIN
    config = GPT2Config(
        vocab_size=vocabulary, n_layer=layers, n_head=heads, n_embd=width, n_positions=1024,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    b, t = {"decode": (1, size), "T": (4, size), "B": (size, 128)}[kind]
    ids = np.random.default_rng(0).integers(0, vocabulary, (b, t))
    if kind == "decode":
        model.eval()
        with no_grad():
            cache = model(ids, logits_to_keep=1).past_key_values

        def step() -> None:
            with no_grad():
                model(ids[:, :1], past_key_values=cache, logits_to_keep=1)
    else:
        optimizer = optim.AdamW(optim.decay_groups(model, 0.1))

        def step() -> None:
            model(ids, labels=ids, use_cache=False).loss.backward()
            optim.clip_grad_norm(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    step()
    times = []
    for _ in range(16 if kind == "decode" else 3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def slope(sizes: list[int], costs: list[float]) -> float:
    """The least-squares slope of log(cost) over log(size): 1 is linear, 2 quadratic."""
    x, y = [math.log(s) for s in sizes], [math.log(c) for c in costs]
    mx, my = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def measure(kind: str, size: int) -> float:
    """`seconds` in a fresh process."""
    threads = {f"{name}_NUM_THREADS": str(THREADS) for name in ("OPENBLAS", "OMP", "MKL")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.growth", "--one", kind, str(size)],
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return float(done.stdout)


def draw(results: list[dict], path: Path) -> None:
    """A panel a sweep: what was measured, and the count, scaled to the largest size's time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, result in zip(figure.subplots(1, len(results)), results):
        sizes, times, counts = result["sizes"], result["ms"], result["operations"]
        decode = "decode" in result["sweep"]
        kind = "bytes" if decode else "operations"
        axes.plot(sizes, times, "o-", color="#0072b2",
                  label=f"measured, slope {result['slope']:.2f}")  # fmt: skip
        axes.plot(sizes, [c * times[-1] / counts[-1] for c in counts], "--", color="#d55e00",
                  label=f"{kind}, slope {result['counted_slope']:.2f}")  # fmt: skip
        axes.set_xscale("log", base=2)
        if decode:
            axes.set_ylim(0, max(times) * 1.2)
        else:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(sizes, [str(s) for s in sizes])
        axes.set_title(result["sweep"], fontsize=10)
        axes.set_ylabel("ms")
        axes.legend(frameon=False, loc="lower right", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Measure the sweeps, print a table, write JSON and a picture if asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a picture, PNG or SVG")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SIZE"), help="one measurement, here")
    arguments = parser.parse_args()
    if arguments.one:
        print(seconds(arguments.one[0], int(arguments.one[1])))
        return
    results = []
    for sweep, (kind, sizes) in SWEEPS.items():
        times = [measure(kind, size) for size in sizes]
        counts = [operations(kind, size) for size in sizes]
        results.append({
            "sweep": sweep, "sizes": sizes, "ms": [t * 1e3 for t in times], "operations": counts,
            "slope": slope(sizes, times), "counted_slope": slope(sizes, counts),
        })  # fmt: skip
        print(f"{sweep}: slope {results[-1]['slope']:.2f}, "
              f"counted {results[-1]['counted_slope']:.2f}")  # fmt: skip
        for size, t, count in zip(sizes, times, counts):
            print(f"  {size:>5} {t * 1e3:>9.2f} ms  {count / t / 1e9:>7.1f} G/s", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.picture:
        draw(results, arguments.picture)


if __name__ == "__main__":
    main()
