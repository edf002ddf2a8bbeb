"""The score over the number of training images: what more labels would bring, and which backbone needs fewer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from deapcache.errors import ResultsError
from deapcache.results.figures.groups import Group, common_notes, error_bar
from deapcache.results.figures.style import Canvas, log_ticks, name_axes, two_columns
from deapcache.results.frame import is_subset
from deapcache.results.painters import DISTINCT

_SHAPES = "osD^vPX*"


def draw_label_efficiency(groups: Sequence[Group]) -> Canvas:
    """A panel for each task and dataset, a line for each readout on a backbone over its numbers of training images.

    Raises :class:`ResultsError` where no row was trained on a drawn part of the images.
    """
    curves = [(group, found) for group in groups if (found := _curves(group))]
    if not curves:
        raise ResultsError(
            "figure label-efficiency needs results of several numbers of training images: run deapcache probe with "
            "--train-limit 50,100,all"
        )
    canvas, axes = two_columns(len(curves), row=2.6, around=0.6)
    names = list(dict.fromkeys(name for _, found in curves for name in found))
    styles = {
        name: {"color": DISTINCT[place % len(DISTINCT)], "marker": _SHAPES[place % len(_SHAPES)]}
        for place, name in enumerate(names)
    }
    for axis, (group, found) in zip(axes, curves, strict=True):
        for name, rows in found.items():
            counts, scores = [row.train_images for row in rows], [row.mean for row in rows]
            bars = [error_bar(row) for row in rows]
            axis.errorbar(counts, scores, bars, markersize=4, linewidth=1.2, capsize=2, **styles[name])  # type: ignore[arg-type]
        every = [row.train_images for rows in found.values() for row in rows]
        axis.set_xlim(min(every) / 1.15, max(every) * 1.15)
        log_ticks(axis)
        name_axes(axis, title=group.title, x="training images", y=group.axis)
    canvas.legend([Line2D([], [], label=name, **styles[name]) for name in names])  # type: ignore[arg-type]
    canvas.note("training images: nested random subsets of one set; all validation images are scored")
    canvas.note(*common_notes([group for group, _ in curves]))
    return canvas


def _curves(group: Group) -> dict[str, list[Any]]:
    """Name → rows by number of training images, of what was trained on several."""
    found: dict[str, list[Any]] = {}
    for row in group.rows:
        if not math.isnan(row.mean):
            found.setdefault(group.name(row), []).append(row)
    return {
        name: sorted(rows, key=lambda row: int(row.train_images))
        for name, rows in found.items()
        if any(is_subset(row.result) for row in rows) and len({row.train_images for row in rows}) > 1
    }
