"""Data parallel training on paper: `python -m tests.bench.scaling` prints docs/distributed.md's
tables.

A step on n ranks, each with a batch of its own, takes the time to compute one rank's batch and the
time to add up the gradients. Everybody computes at once, so the first does not depend on n; the
second does, by how an all-reduce works. A ring sends 2 (n - 1) / n of the gradients' bytes over
each link (Patarasuk and Yuan 2009), in 2 (n - 1) hops a bucket.
"""

from __future__ import annotations

from minigpt.distributed import BUCKET_BYTES

PARAMETERS = {"124M": 124_439_808, "355M": 354_823_168, "774M": 774_030_080, "1558M": 1_557_611_200}
RANKS = (2, 8, 64, 1024)
TOKENS = (4 * 1024, 32 * 1024)  # a rank and step
LATENCY = 5e-6  # seconds a hop, of a good network
LINKS = {"1 Gb/s": 0.125e9, "10 Gb/s": 1.25e9, "100 Gb/s": 12.5e9, "400 Gb/s": 50e9}
SPEEDS = {"one core": 1.0, "1,000 cores": 1000.0}  # about a GPU


def exchange_seconds(parameters: int, ranks: int, bandwidth: float) -> float:
    """Adding up float32 gradients round a ring, bucket after bucket, nothing at the same time."""
    size = 4 * parameters
    hops = 2 * (ranks - 1) * -(-size // BUCKET_BYTES)
    return 2 * (ranks - 1) / ranks * size / bandwidth + hops * LATENCY


def compute_seconds(parameters: int, tokens: int, flops: float) -> float:
    """6 operations a parameter and token: forward 2, backward 4 (Kaplan et al. 2020, table 1)."""
    return 6.0 * parameters * tokens / flops


def rows(cells: list[list[str]]) -> str:
    """A table of Markdown; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "--|" * len(cells[0]), *lines[1:]])


def exchange_table() -> str:
    """What an exchange among many ranks costs: bytes that each rank sends, and seconds."""
    cells = [["model", "each rank sends", *LINKS]]
    for model, parameters in PARAMETERS.items():
        times = [exchange_seconds(parameters, 64, bandwidth) for bandwidth in LINKS.values()]
        sent = 2 * 63 / 64 * 4 * parameters
        cells.append([model, f"{sent / 1e9:.2f} GB", *[f"{t:.3g} s" for t in times]])
    return rows(cells)


def share_table(core_flops: float) -> str:
    """The share of a step of 124M that computes, by a rank's speed and tokens, link and ranks."""
    cells = [["a rank computes as", "tokens", "link", *[f"{n:,} ranks" for n in RANKS]]]
    for speed, factor in SPEEDS.items():
        for tokens in TOKENS:
            for link, bandwidth in LINKS.items():
                compute = compute_seconds(PARAMETERS["124M"], tokens, core_flops * factor)
                shares = [
                    compute / (compute + exchange_seconds(PARAMETERS["124M"], n, bandwidth))
                    for n in RANKS
                ]
                percent = [f"{100 * s:.0f} %" if s > 0.1 else f"{100 * s:.1f} %" for s in shares]
                cells.append([speed, f"{tokens:,}", link, *percent])
    return rows(cells)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(prog="python -m tests.bench.scaling", description=__doc__)
    parser.add_argument("gflops", type=float, help="measured: 10^9 operations a second of a core")
    core = parser.parse_args().gflops * 1e9
    print(f"{exchange_table()}\n\n{share_table(core)}")
