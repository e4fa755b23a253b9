"""Pictures of several runs together, and of one run's layers. matplotlib is imported when one is
drawn.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt.files import atomic_write
from minigpt.layer_statistics import LAYERS_FILE
from minigpt.plots import Curve, read_log, smooth, thinned

# Okabe and Ito's colours, in an order in which neighbours differ in lightness, too; with them go
# dashes and markers, so that runs can be told apart in grey.
COLOURS = ("#000000", "#e69f00", "#0072b2", "#56b4e9", "#d55e00", "#cc79a7", "#009e73")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

PANELS = (
    ("loss (nats per target)", ("train_loss", "val_loss")),
    ("learning rate", ("lr",)),
    ("norm of the gradients", ("grad_norm",)),
    ("tokens per second", ("tokens_per_s",)),
)
EMPTY = Curve([], [])


def plot_runs(runs: Sequence[str | os.PathLike[str]], picture: str | os.PathLike[str]) -> Path:
    """Draw loss, learning rate, norm of the gradients and tokens per second over the steps.

    Args:
        runs: folders of runs, or their log.csv; each name as often as it is different.
        picture: the PNG file to write.

    Returns the path of the picture. FileNotFoundError and ValueError as `read_log`.
    """
    curves = {}
    for run, name in zip(runs, _names([Path(run) for run in runs])):
        path = Path(run)
        curves[name] = read_log(path / "log.csv" if path.is_dir() else path)
    with atomic_write(picture, "wb") as file:
        runs_figure(curves).savefig(file, format="png")
    return Path(picture)


def _names(paths: Sequence[Path]) -> list[str]:
    """What tells the runs apart: the last part of each path, or as many as are needed."""
    folders = [path.parent if path.suffix == ".csv" else path for path in map(Path.absolute, paths)]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice}: the same run is given twice")
    return names


def runs_figure(runs: Mapping[str, Mapping[str, Curve]]) -> Any:
    """A matplotlib figure of four panels; ``runs`` are the curves of `read_log` by name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure with a canvas of its own: pyplot would pick a screen back end for the whole process.
    figure = Figure(figsize=(10, 6.4 + 0.2 * len(runs)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (title, columns) in zip(panels.flat, PANELS):
        for number, (name, curves) in enumerate(runs.items()):
            for column in columns:
                _draw(axes, curves.get(column, EMPTY), column, number, name, len(runs))
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[1]:
        axes.set_xlabel("step")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False,
                  fontsize=9, handlelength=4)  # fmt: skip
    return figure


def _draw(axes: Any, curve: Curve, column: str, number: int, name: str, runs: int) -> None:
    """One curve of a run: smoothed where it is noisy; the validation loss with markers."""
    style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.6}
    if column == "val_loss":
        style |= {"marker": MARKERS[number % len(MARKERS)], "markerfacecolor": "white"}
        style |= {"markersize": 5, "linestyle": "none"}
        axes.plot(*thinned(*curve), label=f"{name}: validation", **style)
        return
    style["linestyle"] = DASHES[number % len(DASHES)]
    radius = 0 if column == "lr" else len(curve.steps) // 40
    if radius:
        axes.plot(*thinned(*curve), color=style["color"], alpha=0.25 / runs**0.5, linewidth=0.7)
    line = thinned(curve.steps, smooth(curve.values, radius))
    axes.plot(*line, label=f"{name}: training", **style)


def plot_layers(run: str | os.PathLike[str], picture: str | os.PathLike[str]) -> Path:
    """Draw the sizes of gradients and activations in a run's layers.csv over its steps.

    FileNotFoundError, with the setting that makes that file, where it is missing.
    """
    path = Path(run) / LAYERS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} has no {LAYERS_FILE}: a run writes it with --set layers_every=N"
        )
    with atomic_write(picture, "wb") as file:
        _layers_figure(read_log(path), Path(run).name).savefig(file, format="png")
    return Path(picture)


def _layers_figure(curves: Mapping[str, Curve], title: str) -> Any:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, 2), ("gradient", "activation")):
        named = {n.removeprefix(f"{kind} "): c for n, c in curves.items() if n.startswith(kind)}
        layers = [name for name in named if name.startswith("h.")]
        for number, (name, curve) in enumerate(named.items()):
            if name in layers:  # from dark at the bottom to light at the top, in grey as well
                depth = layers.index(name) / max(1, len(layers) - 1)
                style = {"color": colormaps["cividis"](0.9 * depth), "linestyle": "-"}
            else:
                style = {"color": "#777777", "linestyle": DASHES[1 + number % 3]}
            curve = thinned(*curve)
            axes.plot(*curve, label=name, linewidth=1.5, marker=MARKERS[number % len(MARKERS)],
                      markevery=max(1, len(curve.steps) // 6), markersize=4, **style)  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_title(f"{title}: root mean square of {kind}s", loc="left", fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, handlelength=4, loc="center left",
                    bbox_to_anchor=(1, 0.5))  # fmt: skip
    return figure
