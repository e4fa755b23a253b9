"""What may look on while a run goes on: at its steps, its evaluations, its checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.files import atomic_write

if TYPE_CHECKING:
    from minigpt.training import StepStats, Trainer, TrainResult


class Callback:
    """Does nothing at every occasion; a subclass overrides those it cares for.

    Whatever a callback does, the run's numbers must not depend on it: it may read the trainer and
    its model, and write files of its own.
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step of `Trainer.run`, of a resumed run, too."""

    def on_gradients(self, trainer: "Trainer") -> None:
        """The gradients of a step are complete, and not clipped yet; `trainer.step` is the number
        of steps before it.
        """

    def on_step(self, trainer: "Trainer", stats: "StepStats") -> None:
        """A step is done."""

    def on_evaluation(self, trainer: "Trainer", loss: float) -> None:
        """The validation loss was estimated."""

    def on_checkpoint(self, trainer: "Trainer", folder: Path) -> None:
        """A checkpoint is written."""

    def on_end(self, trainer: "Trainer", result: "TrainResult | None") -> None:
        """`Trainer.run` ends, with a result, or None on its way out with an error."""


class Samples(Callback):
    """A text of the model every so many steps, in the run's folder: samples/step-000500.txt."""

    def __init__(self, every: int):
        self.every = every

    def on_step(self, trainer: "Trainer", stats: "StepStats") -> None:
        if trainer.step % self.every:
            return
        folder = trainer.folder.samples_path
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / f"step-{trainer.step:06d}.txt", "w") as file:
            file.write(trainer.sample() + "\n")
