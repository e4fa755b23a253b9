"""What the trainer costs beside its steps: `python -m tests.bench.trainer [--steps N]`.

Blocks of steps of the bare loop (batch, loss, backward, clipping, rate, AdamW) and blocks of the
trainer's own loop (with its checks, callbacks, log and bar, at the default rhythm of the log)
alternate in one process, each on a model of its own; printed is the ratio of the medians, and the
spread of the blocks. Evaluations and checkpoints are work of their own and not counted. With --cpu
it is the processor's time that counts, which other programs disturb less than the clock's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minigpt.evaluation import window_loss
from minigpt.presets import PRESETS, TrainConfig
from minigpt.progress import Progress, StopOnSignal
from minigpt.run_folder import RunLog
from minigpt.train_step import LEARNING_RATE
from minigpt.training import Trainer
from tensor import optim

Clock = Callable[[], float]

def bare_steps(trainer: Trainer, config: TrainConfig, steps: int, clock: Clock) -> float:
    """Seconds of that many steps, written as anybody would."""
    started = clock()
    for step in range(steps):
        inputs, targets = trainer.train_data.random_batch(
            config.batch_size, config.block_size, seed=config.seed, step=step
        )
        trainer.optimizer.zero_grad()
        loss = window_loss(trainer.model, inputs, targets)
        loss.backward()
        optim.clip_grad_norm(trainer.model.parameters(), config.grad_clip)
        trainer.optimizer.set_lr(
            LEARNING_RATE[config.schedule](
                step, config.lr, config.warmup_steps, config.max_steps, config.min_lr
            )
        )
        trainer.optimizer.step()
        loss.item()
    return clock() - started


def trainer_steps(trainer: Trainer, steps: int, log: RunLog, clock: Clock) -> float:
    """Seconds of that many steps of the trainer's loop."""
    trainer.config = trainer.config.replace(max_steps=trainer.step + steps + 1)
    last = trainer.step + steps

    class Stop(StopOnSignal):
        @property
        def requested(self) -> bool:
            return trainer.step >= last

        @requested.setter
        def requested(self, value: bool) -> None:
            pass

    started = clock()
    with Progress(trainer.step, last, lambda line: None) as progress:
        trainer._loop(Stop(), log, progress)
    return clock() - started


def main() -> None:
    """Alternate and print the ratio."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.trainer", description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of a block (20)")
    parser.add_argument("--blocks", type=int, default=15, help="of each kind (15)")
    parser.add_argument("--cpu", action="store_true", help="the processor's time")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu else time.perf_counter
    config = PRESETS["tiny"].replace(
        max_steps=10**6, schedule="constant", eval_every=0, checkpoint_every=0, tensorboard=False
    )
    with tempfile.TemporaryDirectory() as folder:
        bare = Trainer.start(config, Path(folder, "bare"), report=None)
        ours = Trainer.start(config, Path(folder, "ours"), report=None)
        for trainer in (bare, ours):  # the first step makes arrays
            trainer.train_step()
        with RunLog(Path(folder, "log.csv"), 0) as log:
            pairs = [
                (bare_steps(bare, config, arguments.steps, clock),
                 trainer_steps(ours, arguments.steps, log, clock))
                for _ in range(arguments.blocks)
            ]  # fmt: skip
    ratios = sorted(two / one for one, two in pairs)
    one, two = (statistics.median(times) / arguments.steps * 1e3 for times in zip(*pairs))
    print(f"bare {one:.2f} ms a step, trainer {two:.2f} ms: {two / one:.3f} of the medians")
    print(f"block by block: median {statistics.median(ratios):.3f}, "
          f"from {ratios[0]:.3f} to {ratios[-1]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
