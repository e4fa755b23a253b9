"""The pictures of lesson 2. Each takes the lesson's numbers, draws them, and says them in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tutorials.tools.figures import (
    BLUE,
    GREY,
    PALE,
    SAND,
    VERMILION,
    LivePicture,
    bare,
    new_figure,
    show,
)  # fmt: skip


def _visible(token: str) -> str:
    """A token as it can be seen: spaces and line ends as signs."""
    return token.replace(" ", "␣").replace("\n", "⏎")


def draw_tokens(tokens: Sequence[str], ids: Sequence[int]) -> None:
    """A text cut into its tokens, with the id of each below."""
    from matplotlib.patches import Rectangle

    shown = [_visible(token) for token in tokens]
    widths = [0.24 * max(len(token), 3) + 0.2 for token in shown]
    figure, (axes,) = new_figure(0.42 * sum(widths) + 0.2, 1.0)
    left = 0.0
    for number, (token, token_id, width) in enumerate(zip(shown, ids, widths)):
        axes.add_patch(Rectangle((left, 0), width, 0.9, edgecolor="black", linewidth=1,
                                 facecolor=(PALE, SAND)[number % 2]))
        axes.text(left + width / 2, 0.45, token, ha="center", va="center", family="monospace")
        axes.text(left + width / 2, -0.4, str(token_id), ha="center", va="center", fontsize=8.5)
        left += width
    axes.set(xlim=(-0.05, left + 0.05), ylim=(-0.75, 1))
    bare(axes)
    pairs = ", ".join(f"{token} {token_id}" for token, token_id in zip(shown, ids))
    show(figure, f"The text as {len(shown)} boxes, a token each, with its id below: {pairs}.")


def draw_window(inputs: np.ndarray, targets: np.ndarray) -> None:
    """One window: at each position what the model sees, and what it must name."""
    figure, (axes,) = new_figure(5.4, 2.9)
    rows = len(inputs)
    for t in range(rows):
        y = rows - 1 - t
        for s in range(t + 1):
            axes.text(s, y, str(inputs[s]), ha="center", va="center",
                      bbox={"boxstyle": "square,pad=0.35", "facecolor": PALE})
        axes.annotate("", (rows + 0.6, y), (t + 0.45, y), arrowprops={"arrowstyle": "->"})
        axes.text(rows + 1, y, str(targets[t]), ha="center", va="center", fontweight="bold",
                  bbox={"boxstyle": "square,pad=0.35", "facecolor": SAND})
    axes.text((rows - 1) / 2, rows - 0.25, "the model sees", ha="center", va="bottom")
    axes.text(rows + 1, rows - 0.25, "comes next", ha="center", va="bottom")
    axes.set(xlim=(-0.5, rows + 2), ylim=(-0.6, rows + 0.3))
    axes.set_axis_off()
    told = "; ".join(
        f"after {' '.join(map(str, inputs[: t + 1]))} comes {targets[t]}" for t in range(rows)
    )
    show(figure, f"One window holds {rows} questions, a row each: {told}.")


def draw_surprise(marks: Mapping[str, float]) -> None:
    """-ln p over p, with some probabilities marked."""
    figure, (axes,) = new_figure(5.6, 3.3)
    p = np.linspace(0.001, 1, 500)
    axes.plot(p, -np.log(p), color=BLUE, linewidth=2)
    told = []
    for name, value in marks.items():
        loss = -np.log(value) + 0.0
        axes.plot([value], [loss], "o", color="black", markersize=6)
        axes.annotate(f"{name}: {loss:.2f}", (value, loss), xytext=(8, 4),
                      textcoords="offset points")
        told.append(f"{loss:.2f} at p = {name}")
    axes.set(xlabel="p, the share that the right token got", ylabel="loss, −ln p",
             xlim=(-0.02, 1.18), ylim=(-0.2, 7.6))
    show(figure, "The loss −ln p falls from infinity at p = 0 to 0 at p = 1, steeply at first: "
         + ", ".join(told) + ".")


def draw_mask(weights: np.ndarray) -> None:
    """Attention weights (T, T) as shares, with the future crossed out."""
    from matplotlib.patches import Rectangle

    T = len(weights)
    figure, (axes,) = new_figure(3.2, 2.9)
    for t in range(T):
        for s in range(T):
            future = s > t
            axes.add_patch(Rectangle(
                (s, T - 1 - t), 1, 1, edgecolor="black", linewidth=1,
                facecolor="white" if future else str(1 - 0.5 * weights[t, s]),
                hatch="xx" if future else "",
            ))
            if not future:
                axes.text(s + 0.5, T - 0.5 - t, f"{weights[t, s]:.2f}", ha="center", va="center")
    for t in range(T):
        axes.text(t + 0.5, T + 0.12, f"looks at {t}", ha="center", va="bottom", fontsize=9)
        axes.text(-0.12, T - 0.5 - t, f"token {t}", ha="right", va="center", fontsize=9)
    axes.set(xlim=(-1.1, T + 0.1), ylim=(-0.1, T + 0.5))
    bare(axes)
    rows = "; ".join(
        f"token {t}: {', '.join(f'{w:.2f}' for w in weights[t, : t + 1])}" for t in range(T)
    )
    show(figure, f"A table of attention weights: row t shares 1 among the tokens 0 to t. {rows}. "
         "The upper right triangle, the future, is crossed out.")


def _heat(axes: Any, weights: np.ndarray) -> None:
    """A map of weights (T, T), black for 1; what lies in the future is left out."""
    T = len(weights)
    axes.imshow(np.where(np.tri(T) > 0, weights, np.nan), cmap="Greys", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def draw_heads(attentions: Sequence[np.ndarray], title: str) -> None:
    """The map of every head: a row of maps a layer. attentions: (H, T, T) each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers, heads = len(attentions), len(attentions[0])
    figure = Figure(figsize=(1.35 * heads + 0.6, 1.35 * layers + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(layers, heads, squeeze=False)
    for layer, maps in enumerate(attentions):
        plots[layer][0].set_ylabel(f"layer {layer}")
        for head, weights in enumerate(maps):
            _heat(plots[layer][head], weights)
            if layer == 0:
                plots[0][head].set_title(f"head {head}", fontsize=10)
    figure.suptitle(title, fontsize=11)
    peaks = "; ".join(
        f"layer {layer}: {', '.join(f'{np.mean(w.max(-1)):.2f}' for w in maps)}"
        for layer, maps in enumerate(attentions)
    )
    show(figure, f"{title}: {layers} × {heads} maps of attention, lower triangles, darker where a "
         "token looks more. The weight of the token looked at most, a mean over the rows, for each "
         f"head of {peaks}.")


def draw_head(weights: np.ndarray, tokens: Sequence[str], title: str) -> None:
    """The map of one head (T, T), with its tokens."""
    T = len(tokens)
    figure, (axes,) = new_figure(5.2, 4.9)
    _heat(axes, weights)
    shown = [_visible(token) for token in tokens]
    axes.set_xticks(range(T), shown, rotation=90, family="monospace", fontsize=9)
    axes.set_yticks(range(T), shown, family="monospace", fontsize=9)
    axes.set(xlabel="looks at", ylabel="this token")
    axes.set_title(title, fontsize=11)
    told = "; ".join(
        f"{shown[t]} at {t} looks most at {shown[s]} at {s}, with {weights[t, s]:.2f}"
        for t, s in enumerate(weights.argmax(-1))
    )
    show(figure, f"{title}: a map of one head's attention. {told}.")


def draw_paths(height: Any, paths: Mapping[str, np.ndarray]) -> None:
    """Ways downhill (N, 2) over the contours of a function of two numbers."""
    figure, (axes,) = new_figure(6.4, 3.3)
    a, b = np.meshgrid(np.linspace(-0.5, 3.5, 120), np.linspace(-1.2, 1.2, 100))
    axes.contour(a, b, height(a, b), levels=[0.02, 0.1, 0.3, 1, 3, 8], colors=GREY, linewidths=0.8)
    looks = (("-", "o", VERMILION), ("--", "s", BLUE))
    told = []
    for (name, path), (dashes, marker, colour) in zip(paths.items(), looks):
        axes.plot(*path.T, linestyle=dashes, marker=marker, markersize=4, color=colour, label=name)
        told.append(f"{name} goes from ({path[0, 0]:.1f}, {path[0, 1]:.1f}) by way of "
                    f"({path[1, 0]:.2f}, {path[1, 1]:.2f}) to ({path[-1, 0]:.2f}, "
                    f"{path[-1, 1]:.2f}) in {len(path) - 1} steps")
    axes.plot([0], [0], "*", color="black", markersize=13)
    axes.set(xlabel="first number: a gentle slope", ylabel="second: a steep one")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    show(figure, "Two ways through a long, narrow valley whose lowest point, a star, is at (0, 0). "
         + ". ".join(told) + ".")


class LossCurve:
    """The losses of a run, drawn anew as it goes on."""

    def __init__(self, steps: int, rivals: Mapping[str, float]) -> None:
        """steps: how long the run will be; rivals: losses to compare with, the largest first."""
        self.steps, self.rivals = steps, rivals
        self.train: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float]] = []
        self._picture = LivePicture()

    def draw(self) -> None:
        """Draw what there is so far, in the place of the picture before."""
        figure, (axes,) = new_figure(6.6, 3.6)
        for name, loss in self.rivals.items():
            axes.axhline(loss, color=GREY, linestyle=":", linewidth=1.5)
            axes.text(self.steps, loss + 0.06, f"{name}: {loss:.2f}", ha="right", color=GREY)
        axes.plot(*zip(*self.train), color=BLUE, linewidth=1.4, label="training")
        told = f"step {self.train[-1][0]} of {self.steps}: training loss {self.train[-1][1]:.2f}"
        if self.validation:
            axes.plot(*zip(*self.validation), color=VERMILION, linestyle="--", marker="o",
                      markersize=5, linewidth=1.8, label="validation")
            values = ", ".join(f"{loss:.2f} at {step}" for step, loss in self.validation)
            told += f"; validation loss {values}"
        axes.set(xlabel="step", ylabel="loss (nats per token)", xlim=(0, self.steps * 1.02),
                 ylim=(2, max(self.rivals.values()) + 0.5))
        axes.legend(frameon=False, handlelength=3, loc="lower left")
        rivals = ", ".join(f"{name} {loss:.2f}" for name, loss in self.rivals.items())
        self._picture.update(figure, f"Loss over steps. {told}. Dotted lines: {rivals}.")
