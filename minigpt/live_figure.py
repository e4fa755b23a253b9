"""A run's loss, drawn anew while it trains, below the cell of a notebook."""

import io
import time
from typing import TYPE_CHECKING, Any

from minigpt.callbacks import Callback
from minigpt.plot_runs import runs_figure
from minigpt.plots import read_log

if TYPE_CHECKING:
    from minigpt.training import StepStats, Trainer, TrainResult


class LiveFigure(Callback):
    """Shows the figure of `minigpt plot` and renews it every ``seconds``, as soon as the log has
    something new; it needs IPython, which every notebook has.

        trainer.callbacks.append(LiveFigure())
        trainer.run()
    """

    def __init__(self, seconds: float = 3.0):
        self.seconds = seconds
        self._handle: Any = None
        self._drawn = 0.0

    def on_start(self, trainer: "Trainer") -> None:
        try:
            import IPython.display  # noqa: F401
        except ImportError:
            raise RuntimeError(
                "LiveFigure needs IPython, which a notebook has: elsewhere leave it out, and look "
                "at loss.png in the run's folder"
            ) from None

    def on_step(self, trainer: "Trainer", stats: "StepStats") -> None:
        if time.monotonic() - self._drawn >= self.seconds:
            self._show(trainer)

    def on_end(self, trainer: "Trainer", result: "TrainResult | None") -> None:
        self._show(trainer)

    def _show(self, trainer: "Trainer") -> None:
        from IPython.display import display

        image = io.BytesIO()
        curves = read_log(trainer.folder.log_path)
        runs_figure({trainer.folder.path.name: curves}).savefig(image, format="png", dpi=80)
        picture = _Picture(image.getvalue())
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn = time.monotonic()


class _Picture:
    """PNG bytes, as IPython asks for them."""

    def __init__(self, png: bytes):
        self.png = png

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return "the curves of a run"
