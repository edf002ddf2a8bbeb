"""Draws a run: images, targets, predictions and errors beside each other, and the reach of its attention heads.

The figure is made directly, never through pyplot: nothing global is touched, and threads may draw at once. Everything
is placed in inches from the upper left corner, so that no text can meet another, whatever the number of images.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch, Rectangle

from deapcache.results.panels import Panels, Row, panels_for
from deapcache.results.pictures import Shown
from deapcache.results.record import Result

DPI = 110

_TILE = 1.75
"""Height of one image, inches."""
_GAP = 0.08
_MARGIN = 0.15
_STRIP = 1.85
"""Width of what explains the colours, right of the images."""
_LINE = 0.2
"""Height of a line of text."""
_BAR = 1.2
"""Height of a colour bar with its label."""
_SIGMA = 1.2
"""Height of the heads' panel."""
_CHARACTERS_PER_INCH = 11


def draw(result: Result, shown: Shown) -> bytes:
    """A PNG of up to six images with target, prediction and errors, and the learned width of each attention head."""
    panels = panels_for(result, shown.targets, shown.predictions)
    page = _Page(result, shown, panels)
    page.place_title()
    for place in range(len(shown.targets)):
        page.place_row(place)
    page.place_strip()
    if result.sigma:
        _draw_sigma(page.sigma_axes(), result.sigma, page.aspect)
    return _png(page.figure)


class _Page:
    """Where things stand, in inches from the upper left corner."""

    def __init__(self, result: Result, shown: Shown, panels: Panels) -> None:
        self._result = result
        self._shown = shown
        self._panels = panels
        count, height, width = shown.targets.shape
        self.aspect = height / width
        self._tile = _TILE / self.aspect
        self._columns = 3 + (shown.images is not None)
        self._left = _MARGIN + (_LINE if shown.image_ids else 0)
        self._strip_left = self._left + self._columns * (self._tile + _GAP) + _GAP
        self._width = self._strip_left + _STRIP
        self._title = _title(result, self._width)
        self._top = _MARGIN + _LINE * (len(self._title) + 1.5)
        strip = _LINE * (len(panels.legend) + 1) + _BAR * len(panels.bars)
        self._body = max(count * (_TILE + _GAP), strip)
        self._height = self._top + self._body + (_SIGMA if result.sigma else 0) + _MARGIN
        self.figure = Figure(figsize=(self._width, self._height), dpi=DPI)

    def place_title(self) -> None:
        self.figure.text(
            self._left / self._width, self._up(_MARGIN), "\n".join(self._title), fontsize=10, va="top", linespacing=1.4
        )

    def place_row(self, place: int) -> None:
        top = self._top + place * (_TILE + _GAP)
        axes = [
            self._axes(self._left + column * (self._tile + _GAP), top, self._tile, _TILE)
            for column in range(self._columns)
        ]
        image = None if self._shown.images is None else self._shown.images[place]
        row = Row(image, self._shown.targets[place], self._shown.predictions[place])
        for axis, title in zip(axes, self._panels.draw(axes, row), strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if place == 0:
                axis.set_title(title, fontsize=9, pad=4)
        if self._shown.image_ids:
            axes[0].set_ylabel(textwrap.shorten(self._shown.image_ids[place], 20, placeholder="…"), fontsize=7)

    def place_strip(self) -> None:
        handles = [
            Patch(
                facecolor=colour, edgecolor="#555555", linewidth=0.5, label=textwrap.shorten(name, 20, placeholder="…")
            )
            for name, colour in self._panels.legend.items()
        ]
        corner = (self._strip_left / self._width, self._up(self._top))
        self.figure.legend(handles=handles, loc="upper left", bbox_to_anchor=corner, borderaxespad=0, borderpad=0,
                           fontsize=8, frameon=False)  # fmt: skip
        top = self._top + _LINE * (len(handles) + 1)
        for place, (scale, label) in enumerate(self._panels.bars):
            axis = self._axes(self._strip_left + 0.05, top + place * _BAR, 0.14, _BAR - 0.2)
            bar = self.figure.colorbar(scale, cax=axis)
            bar.set_label(label, fontsize=8)
            axis.tick_params(labelsize=8)

    def sigma_axes(self) -> Axes:
        return self._axes(self._left, self._top + self._body + 0.35, self._width - self._left - _MARGIN, _SIGMA - 0.35)

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        rectangle = (left / self._width, self._up(top + height), width / self._width, height / self._height)
        return self.figure.add_axes(rectangle)

    def _up(self, inches: float) -> float:
        return 1 - inches / self._height


def _title(result: Result, inches: float) -> list[str]:
    metric = result.metrics[result.main_metric]
    unit = f" {metric['unit']}" if metric["unit"] else ""
    score, prior = result.scores[result.main_metric], result.prior[result.main_metric]
    who = f"{result.task} · {result.dataset} · {result.backbone} · {result.readout} · seed {result.seed}"
    what = f"{metric['label']} {score:.4f}{unit} (image-independent prior {prior:.4f})"
    return [line for text in (who, what) for line in textwrap.wrap(text, int(inches * _CHARACTERS_PER_INCH))]


def _draw_sigma(axis: Axes, sigma: Sequence[float], aspect: float) -> None:
    """Each head's mask as the circle of radius σ around an image's centre; the longer side is 1."""
    height, width = (aspect, 1.0) if aspect <= 1 else (1.0, 1 / aspect)
    step = width + 0.25
    for head, value in enumerate(sigma):
        left = head * step
        frame = Rectangle((left, 0), width, height, facecolor="#F2F2F2", edgecolor="#555555", linewidth=0.8)
        circle = Circle((left + width / 2, height / 2), value, facecolor="#0072B2", alpha=0.75, linewidth=0)
        axis.add_patch(frame)
        axis.add_patch(circle)
        circle.set_clip_path(frame)
        axis.text(left + width / 2, -0.08, f"{value:.3f}", ha="center", va="top", fontsize=8)
    axis.set_xlim(-0.02, len(sigma) * step)
    axis.set_ylim(-0.35, height + 0.05)
    axis.set_aspect("equal", anchor="W")
    axis.set_axis_off()
    axis.set_title(
        "learned reach σ of each attention head, as a share of the image's longer side", fontsize=9, loc="left", pad=3
    )


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    return data.getvalue()
