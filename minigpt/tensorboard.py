"""A run's curves for TensorBoard, where its package is installed."""

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from minigpt.callbacks import Callback

if TYPE_CHECKING:
    from minigpt.training import StepStats, Trainer, TrainResult

FOLDER = "tensorboard"


def is_installed() -> bool:
    """Whether the tensorboard package is there; it is not imported."""
    return find_spec("tensorboard") is not None


class TensorBoard(Callback):
    """Writes the figures of log.csv as event files into the folder "tensorboard" of the run, at the
    same steps: `tensorboard --logdir runs` shows several runs together.

    A resumed run says from which step on what was written before no longer counts.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    def on_start(self, trainer: "Trainer") -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(trainer.folder.path / FOLDER))
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(
            Event(wall_time=time.time(), step=trainer.step + 1, session_log=start)
        )

    def on_step(self, trainer: "Trainer", stats: "StepStats") -> None:
        if trainer.config.log_every and trainer.step % trainer.config.log_every == 0:
            speed = trainer.tokens_per_step / stats.seconds
            self._add(trainer.step, {
                "loss/train": stats.loss, "lr": stats.lr, "grad_norm": stats.grad_norm,
                "tokens_per_s": speed,
            })  # fmt: skip

    def on_evaluation(self, trainer: "Trainer", loss: float) -> None:
        self._add(trainer.step, {"loss/validation": loss})

    def on_end(self, trainer: "Trainer", result: "TrainResult | None") -> None:
        self._writer.close()
        self._writer = None

    def _add(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:  # a step or an evaluation by hand, outside of a run
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        self._writer.add_event(event)
