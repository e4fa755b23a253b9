"""Pictures of a training run. matplotlib is imported only when one is drawn."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigpt.files import atomic_write

# Blue and vermilion of Okabe and Ito's palette ("Color universal design", 2008), apart for every
# kind of colour vision; in grey, dashes and dots tell the curves apart.
TRAIN_COLOUR, VALIDATION_COLOUR = "#0072b2", "#d55e00"

# A picture is about a thousand pixels wide. Drawing more points shows no more, and takes memory
# that is not given back: 45,000 take several hundred MB, at each checkpoint of a long run.
MOST_POINTS = 1000


class Curve(NamedTuple):
    """One column of a log over the steps where it has a value."""

    steps: list[int]
    values: list[float]


def read_log(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """Read ``log.csv``: column name to Curve, empty cells left out.

    FileNotFoundError without the file; ValueError, with file and line, for one that is no log.
    """
    curves: dict[str, Curve] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not reader.fieldnames or reader.fieldnames[0] != "step":
            raise ValueError(f"{path}: not a training log: its first column should be 'step'")
        for row in reader:
            for name in reader.fieldnames[1:]:
                curve = curves.setdefault(name, Curve([], []))
                if not row[name]:
                    continue
                try:
                    step, value = int(row["step"]), float(row[name])
                except ValueError as error:
                    raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
                curve.steps.append(step)
                curve.values.append(value)
    return curves


def smooth(values: Sequence[float], radius: int) -> list[float]:
    """Mean of each value and up to ``radius`` on either side, as many on the left as on the right
    (so that the curve neither lags nor bends at its ends).
    """
    if radius == 0:
        return list(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means = []
    for i in range(len(values)):
        reach = min(radius, i, len(values) - 1 - i)
        means.append(float(sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1))
    return means


def thinned(steps: Sequence[int], values: Sequence[float]) -> Curve:
    """At most MOST_POINTS of a curve, evenly spread, the first and the last among them."""
    if len(steps) <= MOST_POINTS:
        return Curve(list(steps), list(values))
    chosen = np.linspace(0, len(steps) - 1, MOST_POINTS).round().astype(int)
    return Curve([steps[i] for i in chosen], [values[i] for i in chosen])


def plot_run(
    log: str | os.PathLike[str],
    picture: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Path:
    """Draw training and validation loss over the steps of one run.

    Args:
        log: the run's ``log.csv``.
        picture: the PNG file to write; ``loss.png`` beside the log by default.
        title: a line above the picture.

    Returns:
        The path of the picture. Read errors are those of ``read_log``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = read_log(log)
    picture = Path(log).with_name("loss.png") if picture is None else Path(picture)
    # A figure with a canvas of its own: pyplot would pick a screen back end for the whole process.
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    _draw_losses(
        figure.add_subplot(),
        curves.get("train_loss", Curve([], [])),
        curves.get("val_loss", Curve([], [])),
        title,
    )
    with atomic_write(picture, "wb") as file:
        figure.savefig(file, format="png")
    return picture


def _draw_losses(axes: Any, train: Curve, validation: Curve, title: str | None) -> None:
    from matplotlib.ticker import MaxNLocator

    if len(train.steps) < 20:
        axes.plot(*train, color=TRAIN_COLOUR, label="training", linewidth=1.8)
    else:
        radius = max(2, len(train.steps) // 40)
        axes.plot(*thinned(*train), color=TRAIN_COLOUR, alpha=0.3, linewidth=0.8)
        axes.plot(
            *thinned(train.steps, smooth(train.values, radius)),
            color=TRAIN_COLOUR,
            linewidth=1.8,
            label=f"training (mean of {2 * radius + 1} logged steps)",
        )
    axes.plot(
        *thinned(*validation),
        color=VALIDATION_COLOUR,
        linewidth=1.8,
        linestyle="--",
        marker="o",
        markersize=5,
        label="validation",
    )
    if validation.steps:
        axes.annotate(
            f"{validation.values[-1]:.3f}",
            (validation.steps[-1], validation.values[-1]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color=VALIDATION_COLOUR,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, handlelength=3)
    if title:
        axes.set_title(title, loc="left", fontsize=10)
