"""Puts the names of points where they cover neither each other, nor a mark, nor a line that leads to another name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from deapcache.results.literal import drawable

NAME = "_name"
"""Label of the artists that are such names."""
LINE = "_line"
"""Label of lines that names avoid where they can."""

_FIRST, _STEP, _LAST = 4.5, 4.5, 140.0
"""Distances from the point that are tried, points."""
_TURNS = sorted(range(32), key=lambda turn: (turn % 16 != 0, turn % 8 != 0, turn % 4 != 0, turn % 2 != 0, turn))
"""Directions in parts of a turn: right, left, above and below come before what is between them."""
_ROUNDS = 4
"""At most, in which what found no room is tried first."""
_MARK = 3.2
"""Half the side of a mark, points."""
_AIR = 1.2
"""Around each name, points."""


@dataclass(frozen=True)
class Label:
    """A name for the point at (x, y), in data coordinates."""

    x: float
    y: float
    text: str


class _Room:
    """What is taken inside of one panel, in pixels."""

    def __init__(self, frame: Bbox, marks: Sequence[Bbox], lines: Sequence[Path], texts: Sequence[Bbox]) -> None:
        self._frame = frame
        self._marks = marks
        self._lines = lines
        self._names = list(texts)
        self._leaders: list[Path] = []

    def take(self, box: Bbox, leader: Path | None) -> None:
        """Keep others off a name and the line to it."""
        self._names.append(box)
        self._leaders += [] if leader is None else [leader]

    def unoccupied(self, boxes: np.ndarray) -> np.ndarray:
        """Places of the (n, 4) boxes (left, bottom, right, top) in the frame that meet neither name nor mark."""
        left, bottom, right, top = boxes.T
        frame = self._frame
        free = (left >= frame.x0) & (bottom >= frame.y0) & (right <= frame.x1) & (top <= frame.y1)
        for other in (*self._names, *self._marks):
            free &= (left >= other.x1) | (right <= other.x0) | (bottom >= other.y1) | (top <= other.y0)
        return np.flatnonzero(free)

    def is_clear(self, box: Bbox, leader: Path | None, own: Bbox, strictness: int) -> bool:
        """Whether (1) no line would run through a name, (2) nor through other marks and lines; (0) anyway."""
        if strictness >= 1 and any(_crosses(line, box) for line in self._leaders):
            return False
        if strictness >= 1 and leader is not None and any(_crosses(leader, other) for other in self._names):
            return False
        return strictness < 2 or not self._touches_lines(box, leader, own)

    def _touches_lines(self, box: Bbox, leader: Path | None, own: Bbox) -> bool:
        if any(_crosses(line, box) for line in self._lines):
            return True
        if leader is None:
            return False
        others = (mark for mark in self._marks if not mark.overlaps(own))
        return any(_crosses(leader, mark) for mark in others) or any(
            leader.intersects_path(line) for line in self._leaders
        )


@dataclass(frozen=True)
class _Place:
    """Where a name goes."""

    box: Bbox
    """With the air around it, pixels."""
    offset: tuple[float, float]
    """Of the text's lower left corner from its point, points."""
    leader: Path | None


def place_labels(axis: Axes, labels: Sequence[Label], renderer: RendererBase, size: float) -> list[Label]:
    """Write the names of ``size`` points, nearest to their points first; returns those that found no room.

    Axes must have their final place and limits. A name stands inside of the axes; a line leads to it where it is not
    beside its point. What finds no room is tried first in another round, and the round that names most is kept.
    """
    if not labels:
        return []
    scale = _pixels_per_point(renderer)
    others = [text.get_window_extent(renderer) for text in axis.texts]
    texts = [_write(axis, label, size) for label in labels]
    # the text alone: an annotation's own extent includes its leader
    extents = [Text.get_window_extent(text, renderer) for text in texts]
    points = axis.transData.transform([(one.x, one.y) for one in labels])
    marks = [Bbox([point - _MARK * scale, point + _MARK * scale]) for point in points]
    lines = [line.get_path().transformed(axis.transData) for line in axis.lines if line.get_label() == LINE]
    order = _crowded_first(points, 30 * scale)
    best: dict[int, _Place] = {}
    for _ in range(_ROUNDS):
        room = _Room(axis.get_window_extent(renderer), marks, lines, others)
        found = {i: place for i in order if (place := _find(points[i], extents[i], marks[i], room, scale))}
        best = max(best, found, key=len)
        if len(found) == len(labels):
            break
        order = [i for i in order if i not in found] + [i for i in order if i in found]
    for i, text in enumerate(texts):
        _settle(text, best.get(i))
    return [label for i, label in enumerate(labels) if i not in best]


def _crowded_first(points: np.ndarray, near: float) -> list[int]:
    """Where it is not crowded there is a choice, so that those points can wait."""
    crowd = [sum(np.hypot(*(point - other)) < near for other in points) for point in points]
    return sorted(range(len(points)), key=lambda i: (-crowd[i], -points[i][1]))


def _write(axis: Axes, label: Label, size: float) -> Annotation:
    return axis.annotate(
        drawable(label.text), (label.x, label.y), (0, 0), textcoords="offset points", fontsize=size, color="#222222",
        label=NAME, annotation_clip=False, parse_math=False, ha="left", va="bottom", zorder=5,
        path_effects=[withStroke(linewidth=1.6, foreground="white")],
        arrowprops={"arrowstyle": "-", "color": "#8A8A8A", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2.5},
    )  # fmt: skip


def _find(point: np.ndarray, extent: Bbox, own: Bbox, room: _Room, scale: float) -> _Place | None:
    """Take the nearest free place for a name; ``None`` where there is none."""
    air, (distances, offsets) = _AIR * scale, _offsets(extent.width / scale, extent.height / scale)
    corners = point + offsets * scale
    upper = corners + np.array([extent.width, extent.height])
    boxes = np.hstack([corners - air, upper + air])
    free = room.unoccupied(boxes)
    for strictness in (2, 1, 0):
        for i in free:
            box = Bbox.from_extents(*boxes[i])
            middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
            leader = None if distances[i] <= _FIRST else Path([middle, tuple(point)])
            if room.is_clear(box, leader, own, strictness):
                room.take(box, leader)
                return _Place(box, (float(offsets[i][0]), float(offsets[i][1])), leader)
    return None


def _settle(text: Annotation, place: _Place | None) -> None:
    if place is None:
        text.remove()
        return
    text.set_position(place.offset)
    if place.leader is None and text.arrow_patch is not None:
        text.arrow_patch.set_visible(False)


def _crosses(line: Path, box: Bbox) -> bool:
    return bool(line.intersects_bbox(box, filled=False))


def _pixels_per_point(renderer: RendererBase) -> float:
    per_point: Any = renderer.points_to_pixels(1)
    return float(per_point)


def _offsets(width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """(n,) distances and (n, 2) offsets of a text's lower left corner from its point, in points, the nearest first."""
    distances = np.repeat(np.arange(_FIRST, _LAST, _STEP), len(_TURNS))
    angles = np.tile(np.array(_TURNS) * math.pi / 16, len(distances) // len(_TURNS))
    across, up = np.cos(angles), np.sin(angles)
    left = distances * across - width * (1 - across) / 2
    bottom = distances * up - height * (1 - up) / 2
    return distances, np.column_stack([left, bottom])
