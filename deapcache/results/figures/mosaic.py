"""Pictures in rows and columns with a head over each column, for figures made of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from deapcache.results.figures.canvas import GREY, NORMAL, SMALL, WIDE, WIDTH, Canvas
from deapcache.results.literal import shortened
from deapcache.results.page import Bars
from deapcache.results.prediction_panels import show_image

Painter = Callable[[Axes], None]
"""Puts its picture on axes."""

TILE = (200, 200)
"""Pixels below which those of a picture are shown as rectangles, larger ones are smoothed."""

_SIDE, _BAR, _GAP = 0.35, 0.65, 0.06
_LARGEST = 2.2
"""Inches: names left of the rows, a colour bar, between pictures; the side of a picture."""
_CHARACTERS_PER_INCH = 18


def draw_mosaic(
    rows: Sequence[Sequence[Painter]],
    *,
    heads: Sequence[str],
    sides: Sequence[str],
    aspects: Sequence[float],
    legend: Mapping[str, str] = {},
    bars: Bars = (),
) -> Canvas:
    """A sheet of pictures; ``heads`` stand over columns and ``sides`` left of rows.

    ``aspects`` is height by width of each row's pictures; ``legend`` is name → colour, ``bars`` stand on the right.
    """
    tile = min((WIDTH - _SIDE - _BAR * len(bars)) / len(heads) - _GAP, _LARGEST)
    height = sum(tile * aspect + _GAP for aspect in aspects)
    canvas = Canvas(height + 0.85 + 0.2 * -(-len(legend) // 5), gap=_GAP / 2)
    grid = canvas.panels(len(rows), len(heads), heights=aspects)
    for axes, painters, side, aspect in zip(grid, rows, sides, aspects, strict=True):
        for axis, paint in zip(axes, painters, strict=True):
            paint(axis)
            _frame(axis, aspect)
        room = int(tile * aspect * _CHARACTERS_PER_INCH)
        axes[0].set_ylabel(shortened(side, max(room, 8)), fontsize=SMALL)
    for axis, head in zip(grid[0], heads, strict=True):
        axis.set_title(head, fontsize=NORMAL, pad=4).set_label(WIDE)
    for scale, label in bars:
        every = [axis for axes in grid for axis in axes]
        bar = canvas.figure.colorbar(scale, ax=every, shrink=0.8, aspect=30, pad=0.015)
        bar.set_label(label, fontsize=NORMAL)
        bar.ax.tick_params(labelsize=NORMAL)
    patches = [Patch(facecolor=colour, edgecolor=GREY, linewidth=0.5, label=name) for name, colour in legend.items()]
    canvas.legend(patches)
    return canvas


def show_pixels(pixels: np.ndarray) -> Painter:
    """A painter of (h, w, 3), as uint8 or in [0, 1]; each pixel of few stays a rectangle."""
    return lambda axis: show_image(axis, pixels, TILE)


def _frame(axis: Axes, aspect: float) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.set_box_aspect(aspect)
    for side in axis.spines.values():
        side.set_visible(False)
