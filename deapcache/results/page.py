"""A picture whose parts are placed in inches from the upper left corner, so that no text can meet another.

The figure is made directly, never through pyplot: nothing global is touched, and threads may draw at once.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from deapcache.results.literal import LiteralFigure, drawable, literal_legend, shortened

DPI = 110

GAP = 0.08
MARGIN = 0.15
STRIP = 1.85
"""Width of what explains the colours, right of the images."""
LINE = 0.2
"""Height of a line of text."""
_BAR = 1.2
"""Height of a colour bar with its label."""
_CHARACTERS_PER_INCH = 11

Bars = Sequence[tuple[ScalarMappable, str]]
"""Colour bars and their labels."""


def wrapped(texts: Sequence[str], width: float) -> list[str]:
    """The lines of a title that is ``width`` inches wide."""
    return [line for text in texts for line in textwrap.wrap(drawable(text), int(width * _CHARACTERS_PER_INCH))]


def strip_height(legend: Mapping[str, str], bars: Bars) -> float:
    """Inches that :meth:`Page.place_strip` takes."""
    return LINE * (len(legend) + 1) + _BAR * len(bars)


class NotebookFigure(LiteralFigure):
    """A figure that a notebook shows also where pyplot, which would register that, was never imported."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        FigureCanvasAgg(self).print_png(data)
        return data.getvalue()


class Page:
    """An empty picture of ``width`` × ``height`` inches."""

    def __init__(self, width: float, height: float) -> None:
        self._width = width
        self._height = height
        self._figure = NotebookFigure(figsize=(width, height), dpi=DPI)

    @property
    def figure(self) -> Figure:
        """The picture as matplotlib has it; notebooks show it."""
        return self._figure

    def place_title(self, left: float, lines: Sequence[str]) -> None:
        """Write ``lines`` at the upper margin."""
        self._figure.text(
            left / self._width, self._up(MARGIN), "\n".join(lines), fontsize=10, va="top", linespacing=1.4
        )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """New axes; everything in inches."""
        rectangle = (left / self._width, self._up(top + height), width / self._width, height / self._height)
        return self._figure.add_axes(rectangle)

    def place_strip(self, left: float, top: float, legend: Mapping[str, str], bars: Bars) -> None:
        """Say what colours mean: ``legend`` is name → colour."""
        handles = [
            Patch(facecolor=colour, edgecolor="#555555", linewidth=0.5, label=shortened(name, 20))
            for name, colour in legend.items()
        ]
        corner = (left / self._width, self._up(top))
        literal_legend(self._figure, handles, loc="upper left", bbox_to_anchor=corner, borderaxespad=0, borderpad=0,
                       fontsize=8, frameon=False)  # fmt: skip
        below = top + LINE * (len(handles) + 1)
        for place, (scale, label) in enumerate(bars):
            axis = self.axes(left + 0.05, below + place * _BAR, 0.14, _BAR - 0.2)
            bar = self._figure.colorbar(scale, cax=axis)
            bar.set_label(label, fontsize=8)
            axis.tick_params(labelsize=8)

    def png(self) -> bytes:
        """The picture as a PNG file."""
        return self._figure._repr_png_()

    def _up(self, inches: float) -> float:
        return 1 - inches / self._height
