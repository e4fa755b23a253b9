"""Does a run's memory stay flat? `python -m tests.bench.memory [--minutes 30] [--json FILE]`.

Trains a tiny model for that long, with everything that a run does beside its steps (evaluations,
checkpoints, pictures, samples, layer statistics), and reads the resident memory twice a second. It
prints the mean of each tenth of the time, and how much is gained an hour by a straight line through
the second half: in the first minutes the C library's heap and matplotlib's caches fill.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from minigpt.callbacks import Callback
from minigpt.presets import TrainConfig
from minigpt.training import Trainer

PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch(Callback):
    """Notes (seconds, bytes) and ends the run when the time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.started = seconds, time.monotonic()
        self.readings: list[tuple[float, int]] = []

    def on_step(self, trainer, stats) -> None:
        now = time.monotonic() - self.started
        if not self.readings or now - self.readings[-1][0] >= 0.5:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.readings.append((now, pages * PAGE))
        if now >= self.seconds:
            raise KeyboardInterrupt


def slope(readings: list[tuple[float, int]]) -> float:
    """Bytes a second of the least-squares line."""
    seconds = [s for s, _ in readings]
    mean_s, mean_b = statistics.fmean(seconds), statistics.fmean(b for _, b in readings)
    above = sum((s - mean_s) * (b - mean_b) for s, b in readings)
    return above / sum((s - mean_s) ** 2 for s in seconds)


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all readings")
    arguments = parser.parse_args()
    config = TrainConfig(
        n_layer=2, n_embd=64, max_steps=10**9, schedule="constant", eval_every=50, eval_batches=2,
        checkpoint_every=100, sample_every=100, sample_tokens=32, layers_every=20, log_every=5,
        order="epochs", dropout=0.1,
    )  # fmt: skip
    watch = Watch(60 * arguments.minutes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.start(config, folder, report=None, callbacks=[watch])
        try:
            trainer.run()
        except KeyboardInterrupt:
            pass
    readings = watch.readings
    tenth = readings[-1][0] / 10
    print(f"{trainer.step} steps in {readings[-1][0] / 60:.1f} minutes; resident memory, MB:")
    for number in range(10):
        part = [b for s, b in readings if number * tenth <= s < (number + 1) * tenth]
        if part:
            print(f"  {number * tenth / 60:5.1f} min  {statistics.fmean(part) / 1e6:8.2f}  "
                  f"(largest {max(part) / 1e6:.2f})")  # fmt: skip
    settled = [reading for reading in readings if reading[0] >= 5 * tenth]
    print(f"gained an hour, by the second half: {slope(settled) * 3600 / 1e6:+.2f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps(readings))


if __name__ == "__main__":
    main()
