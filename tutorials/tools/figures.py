"""How a lesson shows a picture: with its description, which is read aloud, searched and printed.

Every picture is a matplotlib Figure that goes through `show(figure, alt)`. In a notebook it becomes
an image with alternative text; where there is no notebook, the text is printed in its place.
"""

from __future__ import annotations

import base64
import html
import io
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and vermilion of Okabe and Ito's palette are apart for every kind of colour vision, but
# equally dark: what matters is told apart by a line's dashes or a marker, too. The pale blue and
# the sand are fillings behind black text.
BLUE, VERMILION, GREY, PALE, SAND = "#0072b2", "#d55e00", "#767676", "#dcebf5", "#f3dfc8"

DOTS_PER_INCH = 160  # twice what is shown, so that it is sharp on a dense screen


class Picture:
    """A drawn figure and its description: HTML in a notebook, text elsewhere."""

    def __init__(self, figure: Figure, alt: str) -> None:
        """Draw the figure now; what is changed in it afterwards does not show."""
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, facecolor="white")
        self.png = file.getvalue()
        self.width = round(figure.get_figwidth() * DOTS_PER_INCH / 2)
        self.alt = alt

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png).decode()
        return (
            f'<img alt="{html.escape(self.alt)}" width="{self.width}" '
            f'style="max-width:100%" src="data:image/png;base64,{data}">'
        )

    def __repr__(self) -> str:
        return f"[picture: {self.alt}]"


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    """An empty figure, in inches, with plots side by side.

    It has a canvas of its own, so that no window opens and no pyplot state is left behind.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for plot in axes:
        plot.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def bare(axes: Any) -> None:
    """Take away the frame, the ticks and the stretching: for diagrams."""
    axes.set_axis_off()
    axes.set_aspect("equal")


def in_notebook() -> bool:
    """Whether this runs in a notebook: IPython is loaded, and there is someone to display to."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def show(figure: Figure, alt: str) -> None:
    """Show a figure with its description, which should say all that the picture says."""
    LivePicture().update(figure, alt)


class LivePicture:
    """A picture that is drawn anew in its place, while something is running."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._handle: Any = None

    def update(self, figure: Figure, alt: str) -> None:
        """Show the figure in the place of the one before. Without a notebook: print its text."""
        if not in_notebook():
            print(f"[picture: {alt}]")
            return
        from IPython.display import display

        picture = Picture(figure, alt)
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
