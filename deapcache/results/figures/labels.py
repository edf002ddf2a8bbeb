"""Puts the names of points where they cover neither each other, nor a mark, nor a line that leads to another name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.path import Path
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

NAME = "_name"
"""Label of the artists that are such names."""
LINE = "_line"
"""Label of lines that names avoid where they can."""

_FIRST, _STEP, _LAST = 4.5, 4.5, 140.0
"""Distances from the point that are tried, points."""
_TURNS = sorted(range(32), key=lambda turn: (turn % 16 != 0, turn % 8 != 0, turn % 4 != 0, turn % 2 != 0, turn))
"""Directions in parts of a turn: right, left, above and below come before what is between them."""
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


@dataclass
class _Room:
    """What is taken inside of one panel, in pixels."""

    frame: Bbox
    marks: Sequence[Bbox]
    lines: Sequence[Path]
    """That names avoid where they can."""
    names: list[Bbox] = field(default_factory=list)
    leaders: list[Path] = field(default_factory=list)

    def is_free(self, box: Bbox, leader: Path | None, own: Bbox, *, strictly: bool) -> bool:
        """Whether a name may take ``box``, with ``leader`` to its mark; ``strictly`` also off other lines and marks."""
        frame = self.frame
        inside = frame.x0 <= box.x0 and frame.y0 <= box.y0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
        if not inside or any(box.overlaps(other) for other in (*self.names, *self.marks)):
            return False
        if any(_crosses(line, box) for line in self.leaders):
            return False
        if leader is not None and any(_crosses(leader, other) for other in self.names):
            return False
        return not strictly or not self._touches_lines(box, leader, own)

    def _touches_lines(self, box: Bbox, leader: Path | None, own: Bbox) -> bool:
        if any(_crosses(line, box) for line in self.lines):
            return True
        if leader is None:
            return False
        others = (mark for mark in self.marks if not mark.overlaps(own))
        return any(_crosses(leader, mark) for mark in others) or any(
            leader.intersects_path(line) for line in self.leaders
        )


def place_labels(axis: Axes, labels: Sequence[Label], renderer: RendererBase, size: float) -> list[str]:
    """Write the names of ``size`` points, nearest to their points first; returns those that found no room.

    Axes must have their final place and limits. A name stands inside of the axes; a line leads to it where it is not
    beside its point.
    """
    scale = _pixels_per_point(renderer)
    places = axis.transData.transform([(one.x, one.y) for one in labels]) if labels else np.zeros((0, 2))
    marks = [Bbox([place - _MARK * scale, place + _MARK * scale]) for place in places]
    lines = [line.get_path().transformed(axis.transData) for line in axis.lines if line.get_label() == LINE]
    room = _Room(axis.get_window_extent(renderer), marks, lines)
    room.names += [text.get_window_extent(renderer) for text in axis.texts]
    # where it is crowded first: elsewhere there is a choice
    crowd = [sum(np.hypot(*(place - other)) < 30 * scale for other in places) for place in places]
    left_out = []
    for which in sorted(range(len(labels)), key=lambda which: (-crowd[which], -places[which][1])):
        text = _write(axis, labels[which], size)
        if not _put(text, places[which], marks[which], room, renderer):
            text.remove()
            left_out.append(labels[which].text)
    return left_out


def _write(axis: Axes, label: Label, size: float) -> Annotation:
    return axis.annotate(
        label.text, (label.x, label.y), (0, 0), textcoords="offset points", fontsize=size, color="#222222",
        label=NAME, annotation_clip=False, ha="left", va="bottom", zorder=5,
        arrowprops={"arrowstyle": "-", "color": "#8A8A8A", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2.5},
    )  # fmt: skip


def _put(text: Annotation, point: np.ndarray, own: Bbox, room: _Room, renderer: RendererBase) -> bool:
    """Move ``text`` to the nearest free place; whether there is one."""
    scale = _pixels_per_point(renderer)
    # the text alone: an annotation's own extent includes its leader
    extent = Text.get_window_extent(text, renderer)
    width, height, air = extent.width, extent.height, _AIR * scale
    x, y = float(point[0]), float(point[1])
    for strictly in (True, False):
        for distance, left, bottom in _places(width / scale, height / scale):
            at, up = x + left * scale, y + bottom * scale
            box = Bbox.from_extents(at - air, up - air, at + width + air, up + height + air)
            leader = None if distance <= _FIRST else Path([(at + width / 2, up + height / 2), (x, y)])
            if room.is_free(box, leader, own, strictly=strictly):
                _settle(text, room, box, leader, (left, bottom))
                return True
    return False


def _settle(text: Annotation, room: _Room, box: Bbox, leader: Path | None, offset: tuple[float, float]) -> None:
    text.set_position(offset)
    room.names.append(box)
    if leader is not None:
        room.leaders.append(leader)
    elif text.arrow_patch is not None:
        text.arrow_patch.set_visible(False)


def _crosses(line: Path, box: Bbox) -> bool:
    return bool(line.intersects_bbox(box, filled=False))


def _pixels_per_point(renderer: RendererBase) -> float:
    per_point: Any = renderer.points_to_pixels(1)
    return float(per_point)


def _places(width: float, height: float) -> Iterator[tuple[float, float, float]]:
    """Distance, and the offset of the text's lower left corner from the point, in points, the nearest first."""
    for distance in np.arange(_FIRST, _LAST, _STEP):
        for turn in _TURNS:
            across, up = math.cos(turn * math.pi / 16), math.sin(turn * math.pi / 16)
            left = float(distance) * across - width * (1 - across) / 2
            bottom = float(distance) * up - height * (1 - up) / 2
            yield float(distance), left, bottom
