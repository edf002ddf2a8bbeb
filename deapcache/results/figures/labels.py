"""Puts the names of points where they cover neither each other, nor a mark, nor a line that leads to another name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from deapcache.results.fonts import drawable

NAME = "_name"
"""Label of the artists that are such names."""
LINE = "_line"
"""Label of lines that names avoid where they can."""

_TURNS = sorted(range(32), key=lambda turn: (turn % 16 != 0, turn % 8 != 0, turn % 4 != 0, turn % 2 != 0, turn))
"""Directions in 32 parts of a turn: right, left, above and below come before what is between them."""
_FIRST = 4.5
_DISTANCES = np.repeat(np.arange(_FIRST, 140, 4.5), len(_TURNS))
_ANGLES = np.tile(np.array(_TURNS) * math.pi / 16, len(_DISTANCES) // len(_TURNS))
_DIRECTIONS = np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])
"""What is tried, the nearest first: distances from the point, in typographic points, and directions."""
_ROUNDS = 4
"""At most, in which what found no room is tried first."""
_MARK, _AIR = 3.2, 1.2
"""Half the side of a mark; what stays free around each name, both in typographic points."""


@dataclass(frozen=True)
class Label:
    """A name for the point at (x, y), in data coordinates."""

    x: float
    y: float
    text: str


def place_labels(axis: Axes, labels: Sequence[Label], renderer: RendererBase, size: float) -> list[Label]:
    """Write the names of ``size`` points, nearest to their points first; returns those that found no room.

    Axes must have their final place and limits. A name stands inside of the axes; a line leads to it where it is not
    beside its point. What finds no room is tried first in another round, and the round that names most is kept.
    """
    if not labels:
        return []
    panel = _Panel(axis, labels, renderer)
    texts = [_write(axis, label, size) for label in labels]
    # the text alone: an annotation's own extent includes its leader
    extents = [Text.get_window_extent(text, renderer) for text in texts]
    order = panel.crowded_first()
    best: dict[int, tuple[np.ndarray, bool]] = {}
    for _ in range(_ROUNDS):
        panel.names, panel.leaders = [], []
        found = {i: place for i in order if (place := panel.find(i, extents[i].width, extents[i].height))}
        best = max(best, found, key=len)
        if len(found) == len(labels):
            break
        order = [i for i in order if i not in found] + [i for i in order if i in found]
    for i, text in enumerate(texts):
        if i not in best:
            text.remove()
            continue
        offset, is_beside = best[i]
        text.set_position(tuple(offset))
        if is_beside and text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)
    return [label for i, label in enumerate(labels) if i not in best]


def _write(axis: Axes, label: Label, size: float) -> Annotation:
    return axis.annotate(
        drawable(label.text), (label.x, label.y), (0, 0), textcoords="offset points", fontsize=size, color="#222222",
        label=NAME, annotation_clip=False, parse_math=False, ha="left", va="bottom", zorder=5,
        path_effects=[withStroke(linewidth=1.6, foreground="white")],
        arrowprops={"arrowstyle": "-", "color": "#8A8A8A", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2.5},
    )  # fmt: skip


class _Panel:
    """What is taken inside of one panel, in pixels."""

    def __init__(self, axis: Axes, labels: Sequence[Label], renderer: RendererBase) -> None:
        self._scale = float(renderer.points_to_pixels(1))  # type: ignore[arg-type]
        self._frame = axis.get_window_extent(renderer)
        self._points = axis.transData.transform([(one.x, one.y) for one in labels])
        self._marks = [Bbox([point - _MARK * self._scale, point + _MARK * self._scale]) for point in self._points]
        self._texts = [text.get_window_extent(renderer) for text in axis.texts]
        self._lines = [line.get_path().transformed(axis.transData) for line in axis.lines if line.get_label() == LINE]
        self.names: list[Bbox] = []
        self.leaders: list[Path] = []

    def crowded_first(self) -> list[int]:
        """The labels, those first that have many neighbours: where it is not crowded there is a choice."""
        far = np.linalg.norm(self._points[:, None] - self._points, axis=-1)
        crowd = (far < 30 * self._scale).sum(1)
        return sorted(range(len(crowd)), key=lambda i: (-crowd[i], -self._points[i][1]))

    def find(self, label: int, width: float, height: float) -> tuple[np.ndarray, bool] | None:
        """Take the nearest free place for a name of that size, pixels; ``None`` where there is none.

        The offset of the text's lower left corner from its point, in typographic points, and whether it stands beside
        the point, so that no line leads to it.
        """
        sides = np.array([width, height]) / self._scale
        offsets = _DISTANCES[:, None] * _DIRECTIONS - sides * (1 - _DIRECTIONS) / 2
        corners = self._points[label] + offsets * self._scale
        air = _AIR * self._scale
        boxes = np.hstack([corners - air, corners + np.array([width, height]) + air])
        free = self._unoccupied(boxes)
        for strictness in (2, 1, 0):
            for i in free:
                box = Bbox.from_extents(*boxes[i])
                middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
                leader = None if _DISTANCES[i] <= _FIRST else Path([middle, tuple(self._points[label])])
                if self._is_clear(box, leader, self._marks[label], strictness):
                    self.names.append(box)
                    self.leaders += [] if leader is None else [leader]
                    return offsets[i], leader is None
        return None

    def _unoccupied(self, boxes: np.ndarray) -> np.ndarray:
        """Places of the (n, 4) boxes (left, bottom, right, top) in the frame that meet neither name nor mark."""
        left, bottom, right, top = boxes.T
        frame = self._frame
        free = (left >= frame.x0) & (bottom >= frame.y0) & (right <= frame.x1) & (top <= frame.y1)
        for other in (*self.names, *self._texts, *self._marks):
            free &= (left >= other.x1) | (right <= other.x0) | (bottom >= other.y1) | (top <= other.y0)
        return np.flatnonzero(free)

    def _is_clear(self, box: Bbox, leader: Path | None, own: Bbox, strictness: int) -> bool:
        """Whether (1) no line would run through a name, (2) nor through other marks and lines; (0) anyway."""
        crossed = [(line, box) for line in self.leaders]
        if leader is not None:
            crossed += [(leader, other) for other in (*self.names, *self._texts)]
        if strictness == 2:
            crossed += [(line, box) for line in self._lines]
            if leader is not None:
                crossed += [(leader, mark) for mark in self._marks if not mark.overlaps(own)]
                if any(leader.intersects_path(line) for line in self.leaders):
                    return False
        return strictness == 0 or not any(line.intersects_bbox(other, filled=False) for line, other in crossed)
