"""A picture of how far a model is from transformers', layer by layer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minigpt.files import atomic_write
from minigpt.plots import TRAIN_COLOUR, VALIDATION_COLOUR
from minigpt.verify_torch import Against, Part, layer_of

ALLOWED_COLOUR = "#777777"
_EXACT = 1e-3       # of the smallest difference: where one of exactly 0 is drawn


def plot_against(
    against: Against, picture: str | os.PathLike[str], title: str | None = None
) -> Path:
    """Draw the largest differences by layer, as a PNG: of what leaves each layer of the model and
    of each part called alone (above), and of the gradients (below); the tolerances are dashed, the
    first layer that deviates is marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    L = against.n_layer
    figure = Figure(figsize=(max(7, 0.35 * L), 6.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    outputs, gradients = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _draw_outputs(outputs, against)
    _draw_gradients(gradients, against)
    ticks = list(range(-1, L + 1))
    names = ["emb.", *(f"h.{i}" for i in range(L)), "ln_f,\nlogits"]
    step = max(1, L // 24)
    shown = [t for t in ticks if t in (-1, L) or t % step == 0]
    gradients.set_xticks(shown, [names[t + 1] for t in shown])
    gradients.set_xlim(-1.5, L + 0.5)
    first = against.first_deviation
    for axes in (outputs, gradients):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if first is not None:
            axes.axvspan(first.layer - 0.5, first.layer + 0.5, color=VALIDATION_COLOUR, alpha=0.15)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    said = f"first deviation: {first.name}" if first else "no part deviates"
    outputs.set_title(f"{title}: {said}" if title else said, loc="left", fontsize=10)
    with atomic_write(picture, "wb") as file:
        figure.savefig(file, format="png")
    return Path(picture)


def _draw_outputs(axes: Any, against: Against) -> None:
    through = [p for p in against.parts if not p.alone and p.kind in ("embeddings", "through")]
    through += [p for p in against.parts if p.kind == "logits"]
    logits = through.pop()
    _draw(axes, [(p.layer, p) for p in through], "through the model", TRAIN_COLOUR, "o", "-")
    _draw(axes, [(logits.layer, logits)], "logits", TRAIN_COLOUR, "D", "")
    attention = ("attn.c_attn", "attn.c_proj", "attn", "attn.tiled")
    groups = (
        ("layer norm, alone", ("ln_1", "ln_2", "ln_f"), "#009e73", "^"),
        ("attention, alone", attention, VALIDATION_COLOUR, "s"),
        ("mlp, alone", ("mlp.c_fc", "mlp.act", "mlp.c_proj", "mlp"), "#cc79a7", "v"),
    )
    for label, kinds, colour, marker in groups:
        worst: dict[int, Part] = {}
        for part in against.parts:
            if part.kind in kinds:
                old = worst.get(part.layer)
                if old is None or part.comparison.ratio > old.comparison.ratio:
                    worst[part.layer] = part
        _draw(axes, sorted(worst.items()), label, colour, marker, "")
    allowed = sorted((p.layer, p.comparison.allowed) for p in through)
    axes.plot(*zip(*allowed), color=ALLOWED_COLOUR, linestyle="--",
              label="allowed through the model")  # fmt: skip
    axes.set_ylabel("largest |difference|\n(hollow: equal to the last bit)")


def _draw(
    axes: Any, items: list[tuple[int, Part]], label: str, colour: str, marker: str, line: str
) -> None:
    """Differences over layers; one of exactly zero is drawn hollow, at the bottom."""
    floor = _EXACT * min(p.comparison.allowed for _, p in items)
    layers = [layer for layer, _ in items]
    values = [max(p.comparison.difference, floor) for _, p in items]
    axes.plot(layers, values, color=colour, linestyle=line or "none", linewidth=1.5)
    faces = [colour if p.comparison.difference > floor else "none" for _, p in items]
    axes.scatter(layers, values, s=28, marker=marker, edgecolors=colour, facecolors=faces,
                 zorder=3, label=label)  # fmt: skip


def _draw_gradients(axes: Any, against: Against) -> None:
    worst: dict[int, float] = {}
    for comparison in against.gradients:
        layer = layer_of(comparison.name, against.n_layer)
        worst[layer] = max(worst.get(layer, 1e-6), comparison.ratio)
    layers = sorted(worst)
    values = [min(worst[layer], 1e12) for layer in layers]
    axes.plot(layers, values, color=TRAIN_COLOUR, marker="o", linewidth=1.5, label="gradients")
    axes.axhline(1, color=ALLOWED_COLOUR, linestyle="--", label="allowed")
    axes.set_ylabel("gradients: largest\ndifference / allowed")
