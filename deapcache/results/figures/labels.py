"""Puts the names of points where they cover neither each other nor a mark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

_FIRST, _STEP, _LAST = 4.5, 4.5, 63.0
"""Distances from the point that are tried, points."""
_AROUND = 16
_MARK = 3.2
"""Half the side of a mark, points."""
_AIR = 1.2
"""Around each name, points."""


@dataclass(frozen=True)
class Label:
    """A name for the point at (x, y), in data coordinates; an empty one keeps others off the point."""

    x: float
    y: float
    text: str = ""
    colour: str = "#222222"


def place_labels(axis: Axes, labels: Sequence[Label], renderer: RendererBase, size: float) -> list[str]:
    """Write the names of ``size`` points, nearest to their points first; returns those that found no room.

    Axes must have their final place and limits. A name stands inside of the axes; a line leads to it where it is not
    beside its point.
    """
    pixels = _pixels_per_point(renderer)
    points = axis.transData.transform([(one.x, one.y) for one in labels]) if labels else np.zeros((0, 2))
    taken = [Bbox([place - _MARK * pixels, place + _MARK * pixels]) for place in points]
    taken += [text.get_window_extent(renderer) for text in axis.texts]
    frame, left_out = axis.get_window_extent(renderer), []
    for label, point in sorted(zip(labels, points, strict=True), key=lambda pair: (-pair[1][1], pair[1][0])):
        if label.text:
            made = _write(axis, label, size)
            box = _free(made, point / pixels, taken, frame, renderer)
            if box is None:
                made.remove()
                left_out.append(label.text)
            else:
                taken.append(box)
    return left_out


def _write(axis: Axes, label: Label, size: float) -> Annotation:
    return axis.annotate(
        label.text, (label.x, label.y), (0, 0), textcoords="offset points", fontsize=size, color=label.colour,
        gid="name", annotation_clip=False, ha="left", va="bottom", zorder=5,
        arrowprops={"arrowstyle": "-", "color": "#8A8A8A", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2.5},
    )  # fmt: skip


def _free(
    text: Annotation, point: np.ndarray, taken: Sequence[Bbox], frame: Bbox, renderer: RendererBase
) -> Bbox | None:
    """Move ``text`` to the nearest free place, and say which pixels it takes; ``None`` where there is none."""
    pixels = _pixels_per_point(renderer)
    air = _AIR * pixels
    # the text alone: an annotation's own extent includes its leader
    extent = Text.get_window_extent(text, renderer)
    width, height = extent.width, extent.height
    for distance, (left, bottom) in _places(width / pixels, height / pixels):
        x, y = (float(point[0]) + left) * pixels, (float(point[1]) + bottom) * pixels
        box = Bbox.from_extents(x - air, y - air, x + width + air, y + height + air)
        inside = frame.x0 <= box.x0 and frame.y0 <= box.y0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
        if inside and not any(box.overlaps(other) for other in taken):
            text.set_position((left, bottom))
            if distance <= _FIRST and text.arrow_patch is not None:
                text.arrow_patch.set_visible(False)
            return box
    return None


def _pixels_per_point(renderer: RendererBase) -> float:
    per_point: Any = renderer.points_to_pixels(1)
    return float(per_point)


def _places(width: float, height: float) -> Iterator[tuple[float, tuple[float, float]]]:
    """Distances and offsets of the text's lower left corner from the point, in points, the nearest first."""
    for distance in np.arange(_FIRST, _LAST, _STEP):
        for place in range(_AROUND):
            # right, left, above and below come before what is between them
            turn = [0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11][place] * 2 * math.pi / _AROUND
            across, up = math.cos(turn), math.sin(turn)
            left = distance * across - width * (1 - across) / 2
            bottom = distance * up - height * (1 - up) / 2
            yield float(distance), (left, bottom)
