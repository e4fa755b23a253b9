"""The pictures of lesson 1. Each takes the lesson's numbers, draws them, and says them in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tensor import Tensor
from tutorials.tools.figures import BLUE, GREY, PALE, SAND, VERMILION, bare, new_figure, show


def draw_slope(loss: Callable[[float], float], w: float, slope: float) -> None:
    """The loss as a curve over one number, and the straight line that it follows at w."""
    figure, (axes,) = new_figure(5.6, 3.4)
    ws = np.linspace(w - 1, w + 3, 200)
    axes.plot(ws, [loss(x) for x in ws], color=BLUE, linewidth=2, label="loss")
    near = np.array([w - 0.5, w + 0.5])
    axes.plot(near, loss(w) + slope * (near - w), color=VERMILION, linewidth=2, linestyle="--",
              label=f"slope {slope:g}")
    axes.plot([w], [loss(w)], "o", color="black", markersize=7)
    axes.annotate(f"w = {w:g}, loss = {loss(w):g}", (w, loss(w)), xytext=(10, 6),
                  textcoords="offset points")
    axes.set(xlabel="w, the price of a kilometre", ylabel="loss", ylim=(-1, 40))
    axes.legend(frameon=False, handlelength=3)
    best = ws[int(np.argmin([loss(x) for x in ws]))]
    show(figure, f"The loss over w is a parabola. At w = {w:g} the loss is {loss(w):g}, and a "
         f"dashed line with the slope {slope:g} touches the curve there. The bottom is near "
         f"w = {best:.2g}.")


SYMBOLS = {"Add": "+", "Sub": "−", "Mul": "×", "Div": "÷", "MatMul": "@"}


def draw_graph(tensors: Mapping[str, Tensor]) -> None:
    """The graph of the last of some named tensors, of one number each: values and slopes.

    Every value in the graph needs a name. Draw before `backward`, or after
    `backward(retain_graph=True)`, because backward frees the graph as it goes.
    """
    name_of = {id(t if t.creator is None else t.creator): name for name, t in tensors.items()}
    result = list(tensors.values())[-1]
    if result.creator is None or result.creator.freed:
        raise ValueError(
            "draw_graph: the last tensor has no graph, or backward freed it: call "
            "backward(retain_graph=True) if the graph is to be drawn afterwards"
        )
    inputs: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        edges = () if tensor.creator is None else tensor.creator.edges
        sources = [edge[0] for edge in edges if edge is not None]
        if not all(id(source) in name_of for source in sources):
            raise ValueError(f"draw_graph: {name} was made from a tensor that has no name here")
        inputs[name] = [name_of[id(source)] for source in sources]
    place = _places(inputs)
    told = [_node(name, tensors[name], inputs[name])[1] for name in tensors]
    _draw_nodes(tensors, inputs, place,
                "The graph, from the inputs on the left to the result on the right. "
                + "; ".join(told) + ".")


def _places(inputs: Mapping[str, list[str]]) -> dict[str, tuple[float, float]]:
    """Where each node stands: right of its inputs; inputs of the whole just left of their user."""
    column: dict[str, int] = {}
    for name in inputs:  # in the order they were computed, so inputs come first
        column[name] = 1 + max((column[source] for source in inputs[name]), default=-1)
    for name in inputs:
        users = [column[user] for user in inputs if name in inputs[user]]
        if not inputs[name] and users:
            column[name] = min(users) - 1
    place = {}
    for x in set(column.values()):
        # Those that were computed stand in one line, the leaves below it.
        here = sorted((name for name in inputs if column[name] == x), key=lambda n: not inputs[n])
        for i, name in enumerate(here):
            place[name] = (2.6 * x, -1.9 * i)
    return place


def _node(name: str, tensor: Tensor, inputs: Sequence[str]) -> tuple[str, str]:
    """What stands in a node, and the same as a part of a sentence."""
    lines = [name, f"value {tensor.item():g}"]
    if tensor.grad is not None:
        lines.append(f"slope {tensor.grad.item():g}")
    made = ""
    if tensor.creator is not None:
        operation = type(tensor.creator).__name__
        lines[0] = f"{name}   ({SYMBOLS.get(operation, operation)})"
        made = f", made by {operation} from {' and '.join(inputs)}"
    return "\n".join(lines), f"{name}{made}: {', '.join(lines[1:])}"


def _draw_nodes(
    tensors: Mapping[str, Tensor],
    inputs: Mapping[str, list[str]],
    place: Mapping[str, tuple[float, float]],
    alt: str,
) -> None:
    xs, ys = zip(*place.values())
    figure, (axes,) = new_figure(0.68 * (max(xs) + 2.4), 0.68 * (max(ys) - min(ys) + 1.8))
    for name, (x, y) in place.items():
        leaf = not inputs[name]
        axes.text(x, y, _node(name, tensors[name], inputs[name])[0], ha="center", va="center",
                  fontsize=9.5, linespacing=1.35,
                  bbox={"boxstyle": "round,pad=0.45", "facecolor": SAND if leaf else PALE,
                        "edgecolor": "black", "linewidth": 2 if leaf else 1})
        for i, source in enumerate(inputs[name]):
            twice = inputs[name].count(source) > 1
            bend = (0.4 if i == 0 else -0.4) if twice else 0
            axes.annotate("", (x, y), place[source], zorder=0, arrowprops={
                "arrowstyle": "-|>", "color": GREY, "linewidth": 1.5, "mutation_scale": 16,
                "shrinkA": 30, "shrinkB": 30, "connectionstyle": f"arc3,rad={bend}"})
    axes.set(xlim=(min(xs) - 1.2, max(xs) + 1.2), ylim=(min(ys) - 0.9, max(ys) + 0.9))
    bare(axes)
    show(figure, alt)


def draw_descents(losses: Mapping[float, Sequence[float]]) -> None:
    """The loss over the steps, a line for each learning rate."""
    figure, (axes,) = new_figure(6, 3.4)
    looks = [(BLUE, "-", "o"), ("black", "--", "s"), (VERMILION, ":", "D"), (GREY, "-.", "^")]
    for (lr, values), (colour, dashes, marker) in zip(losses.items(), looks):
        axes.plot(values, color=colour, linestyle=dashes, marker=marker, markersize=5,
                  linewidth=1.8, label=f"lr = {lr:g}")
    axes.set(xlabel="step", ylabel="loss", ylim=(-2, 42))
    axes.legend(frameon=False, handlelength=3.5, loc="upper left", bbox_to_anchor=(1, 1))
    ends = "; ".join(
        f"lr = {lr:g}: {values[0]:.3g}, {values[1]:.3g}, {values[2]:.3g} … {values[-1]:.3g}"
        for lr, values in losses.items()
    )
    show(figure, f"The loss over {len(values) - 1} steps for {len(losses)} learning rates. {ends}.")


# --- grids of numbers


def _grid(
    axes: Any, numbers: np.ndarray, left: float, top: float, title: str,
    lit: Sequence[tuple[int, int]] = (), dashed: bool = False,
) -> None:
    """A matrix as boxes with its corner at (left, top); cells in `lit` are filled and bold."""
    from matplotlib.patches import Rectangle

    rows, columns = numbers.shape
    axes.text(left + columns / 2, top + 0.2, title, ha="center", va="bottom")
    for i in range(rows):
        for j in range(columns):
            on = (i, j) in lit
            axes.add_patch(Rectangle(
                (left + j, top - i - 1), 1, 1, facecolor=SAND if on else "white",
                edgecolor="black", linewidth=1.1, linestyle="--" if dashed else "-",
            ))
            axes.text(left + j + 0.5, top - i - 0.5, f"{numbers[i, j]:g}", ha="center",
                      va="center", fontweight="bold" if on else "normal")


def draw_broadcast(a: np.ndarray, b: np.ndarray, dy: np.ndarray) -> None:
    """Forward, the row b is used once for each row of a; backward, the rows of dy add up."""
    rows, columns = a.shape
    figure, plots = new_figure(8.6, 2.9, columns=2)
    repeated = np.broadcast_to(b, a.shape)
    first = [(0, j) for j in range(columns)]
    for axes, title, left, right, names, word in (
        (plots[0], "forward: b is used in every row", b[None], repeated, ("b", "b, repeated"), ""),
        (plots[1], "backward: what comes back adds up", dy, dy.sum(0)[None], ("dy", "db"), "sum"),
    ):
        top_left, top_right = (len(left) / 2, len(right) / 2)
        _grid(axes, left, 0, top_left, names[0], first if len(left) == 1 else ())
        _grid(axes, right, columns + 2, top_right, names[1], first if len(right) == 1 else (),
              dashed=len(left) == 1)
        axes.annotate("", (columns + 1.8, 0), (columns + 0.2, 0),
                      arrowprops={"arrowstyle": "-|>", "linewidth": 1.6})
        axes.text(columns + 1, 0.15, word, ha="center", va="bottom")
        axes.set(xlim=(-0.2, 2 * columns + 2.2), ylim=(-rows / 2 - 0.2, rows / 2 + 1))
        axes.set_title(title, fontsize=11)
        bare(axes)
    show(figure, f"Left, forward: the row b = {b.tolist()} is repeated in {rows} rows. Right, "
         f"backward: the {rows} rows of dy, {dy.tolist()}, add up to "
         f"db = {dy.sum(0).tolist()}.")


def draw_matmul(a: np.ndarray, b: np.ndarray, i: int, k: int) -> None:
    """Where one number of a goes in a @ b: its row of y, through its row of b."""
    y = a @ b
    figure, (axes,) = new_figure(6.6, 2.5)
    columns = y.shape[1]
    _grid(axes, a, 0, a.shape[0] / 2, "a", [(i, k)])
    x = a.shape[1] + 1
    axes.text(x - 0.5, 0, "@", ha="center", va="center", fontsize=14)
    _grid(axes, b, x, b.shape[0] / 2, "b", [(k, j) for j in range(columns)])
    x += columns + 1
    axes.text(x - 0.5, 0, "=", ha="center", va="center", fontsize=14)
    _grid(axes, y, x, y.shape[0] / 2, "y", [(i, j) for j in range(columns)])
    axes.set(xlim=(-0.2, x + columns + 0.2), ylim=(-max(a.shape[0], len(b)) / 2 - 0.2,
                                                  max(a.shape[0], len(b)) / 2 + 0.8))
    bare(axes)
    parts = ", ".join(
        f"y[{i}, {j}] = {y[i, j]:g} with the factor {b[k, j]:g}" for j in range(columns)
    )
    show(figure, f"a = {a.tolist()} times b = {b.tolist()} is y = {y.tolist()}. Marked is where "
         f"a[{i}, {k}] = {a[i, k]:g} goes: row {k} of b, and row {i} of y: {parts}.")


def draw_softmax(before: np.ndarray, after: np.ndarray, changed: str) -> None:
    """The shares before and after one score was raised, bar beside bar."""
    figure, (axes,) = new_figure(5, 3)
    places = np.arange(len(before))
    for shift, values, label, colour, hatch in (
        (-0.2, before, "before", PALE, ""), (0.2, after, changed, SAND, "//"),
    ):
        bars = axes.bar(places + shift, values, 0.38, edgecolor="black", label=label,
                        color=colour, hatch=hatch)
        axes.bar_label(bars, [f"{v:.3f}" for v in values], padding=2)
    axes.set(xticks=places, xticklabels=[f"y[{i}]" for i in places], ylabel="share", ylim=(0, 1))
    axes.legend(frameon=False, loc="upper left")
    told = "; ".join(
        f"y[{i}] goes from {p:.3f} to {q:.3f}" for i, (p, q) in enumerate(zip(before, after))
    )
    show(figure, f"Bars before and after ({changed}): {told}. Both times they sum to 1.")


def draw_regions(points: np.ndarray, labels: np.ndarray, models: Mapping[str, Callable]) -> None:
    """Points of two kinds over what each model believes: dark where it says 1."""
    figure, plots = new_figure(3.9 * len(models), 3.6, columns=len(models))
    line = np.linspace(-1, 1, 60)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)  # (3600, 2)
    told = []
    for axes, (title, model) in zip(plots, models.items()):
        belief = model(grid).reshape(60, 60)
        axes.contourf(line, line, belief, levels=np.linspace(0, 1, 11), cmap="Greys", alpha=0.6)
        for kind, marker, colour in ((0, "o", "white"), (1, "^", SAND)):
            axes.scatter(*points[labels == kind].T, s=26, marker=marker, facecolor=colour,
                         edgecolor="black", linewidth=0.8)
        right = float(((model(points) > 0.5) == labels).mean())
        axes.set(aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
        axes.set_title(f"{title}: {right:.0%} right", fontsize=11)
        middle, corner = belief[30, 30], belief[0, 0]
        told.append(f"{title}, {right:.0%} of the points are right; the network's belief in a "
                    f"triangle is {middle:.2f} in the middle and {corner:.2f} in a corner")
    show(figure, "Triangles inside a disc, circles around it, over the network's belief in a "
         f"triangle, dark where it is strong. {'. '.join(told)}.")
