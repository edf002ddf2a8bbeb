"""Draws a run: images, targets, predictions and errors beside each other, and the reach of its attention heads."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

from deapcache.results.frame import display_name
from deapcache.results.literal import shortened
from deapcache.results.page import GAP, LINE, MARGIN, STRIP, Page, strip_height, wrapped
from deapcache.results.panels import Panels, Row, panels_for
from deapcache.results.pictures import Shown
from deapcache.results.record import Result

_TILE = 1.75
"""Height of one image, inches."""
_SIGMA = 1.2
"""Height of the heads' panel."""


def draw(result: Result, shown: Shown) -> bytes:
    """A PNG of up to six images with target, prediction and errors, and the learned width of each attention head."""
    panels = panels_for(result, shown.targets, shown.predictions)
    layout = _Layout(result, shown, panels)
    layout.place_title()
    for place in range(len(shown.targets)):
        layout.place_row(place)
    layout.place_strip()
    if result.sigma:
        _draw_sigma(layout.sigma_axes(), result.sigma, layout.aspect)
    return layout.page.png()


class _Layout:
    """Where things stand, in inches from the upper left corner."""

    def __init__(self, result: Result, shown: Shown, panels: Panels) -> None:
        self._shown = shown
        self._panels = panels
        height, width = result.protocol["output_size"]
        self.aspect = height / width
        self._tile = _TILE / self.aspect
        self._columns = 3 + (shown.images is not None)
        self._left = MARGIN + (LINE if shown.image_ids else 0)
        self._strip_left = self._left + self._columns * (self._tile + GAP) + GAP
        self._width = self._strip_left + STRIP
        self._title = _title(result, self._width)
        self._top = MARGIN + LINE * (len(self._title) + 1.5)
        self._body = max(len(shown.targets) * (_TILE + GAP), strip_height(panels.legend, panels.bars))
        height = self._top + self._body + (_SIGMA if result.sigma else 0) + MARGIN
        self.page = Page(self._width, height)

    def place_title(self) -> None:
        self.page.place_title(self._left, self._title)

    def place_row(self, place: int) -> None:
        top = self._top + place * (_TILE + GAP)
        axes = [
            self.page.axes(self._left + column * (self._tile + GAP), top, self._tile, _TILE)
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
            axes[0].set_ylabel(shortened(self._shown.image_ids[place], 20), fontsize=7)

    def place_strip(self) -> None:
        self.page.place_strip(self._strip_left, self._top, self._panels.legend, self._panels.bars)

    def sigma_axes(self) -> Axes:
        width = self._width - self._left - MARGIN
        return self.page.axes(self._left, self._top + self._body + 0.35, width, _SIGMA - 0.35)


def _title(result: Result, inches: float) -> list[str]:
    metric = result.metrics[result.main_metric]
    unit = f" {metric['unit']}" if metric["unit"] else ""
    score, prior = result.scores[result.main_metric], result.prior[result.main_metric]
    who = f"{result.task} · {result.dataset} · {display_name(result)} · {result.readout} · seed {result.seed}"
    what = f"{metric['label']} {score:.4f}{unit} (image-independent prior {prior:.4f})"
    return wrapped((who, what), inches)


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
