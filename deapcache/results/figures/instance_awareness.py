"""The paper's Figure 3: instance awareness by category of backbone, scores of each task mapped to [0, 1]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deapcache.errors import ResultsError
from deapcache.results.figures.groups import PAPER_SCORES, Group, Point, common_notes, paper_panel
from deapcache.results.figures.style import GREY, LARGE, MARKS, Canvas, category_handles, mark_style, name_axes
from deapcache.results.frame import CATEGORIES

_TASKS = ("discrimination", "boundaries", "detection")
"""A panel each; all scores are higher for the better."""

_PAPER = "the paper"
"""Title of its row of panels."""

_ROW, _HEAD = 0.155, 0.75
"""Height of a line and of what stands around a row of panels, inches."""


def draw_instance_awareness(groups: Sequence[Group], *, paper: bool) -> Canvas:
    """A row of panels for each dataset, one panel a task; with ``paper`` another row of Table 3's numbers.

    In each panel the worst score shown is 0 and the best 1. Raises :class:`ResultsError` where no task has two
    backbones, between which scores could be mapped.
    """
    # title → task → scores that may stand beside each other
    rows: dict[str, dict[str, Sequence[Point]]] = {group.dataset: {} for group in groups}
    for group in groups:
        if group.task in _TASKS and len(points := group.points(PAPER_SCORES[group.task][0])) > 1:
            rows[group.dataset][group.task] = points
    rows = {title: row for title, row in rows.items() if row}
    if paper:
        rows[_PAPER] = {task: paper_panel(task).points for task in _TASKS}
    if not rows:
        raise ResultsError(
            "figure instance-awareness needs scores of two backbones or more in one of the tasks "
            f"{', '.join(_TASKS)}, on the same data: run deapcache probe --task discrimination with another "
            "--backbone, or show the paper's numbers with --paper"
        )
    names = [_names(row.values()) for row in rows.values()]
    canvas = Canvas(0.5 + sum(_HEAD + _ROW * len(each) for each in names))
    grid = canvas.panels(len(rows), len(_TASKS), sharey="row", heights=[len(each) + 2 for each in names])
    for axes, (title, row), each in zip(grid, rows.items(), names, strict=True):
        for axis, task in zip(axes, _TASKS, strict=True):
            _draw(axis, title, task, row.get(task), each)
        axes[0].set_yticks(range(len(each)), each)
        axes[0].set_ylim(-0.7, len(each) - 0.3)
        name_axes(axes[0], y="backbone")
    canvas.figure.align_ylabels([axes[0] for axes in grid])
    shown = [point.category for row in rows.values() for points in row.values() for point in points]
    mean = Line2D([], [], color=GREY, linewidth=1.4, alpha=0.6, label="line: mean of the category")
    canvas.legend([*category_handles(shown, paper=paper), mean])
    canvas.note("each panel: the worst score shown is 0, the best is 1, linear in between; the range is in its title")
    canvas.note("the paper's scores: its Table 3, on COCO" if paper else "", *common_notes(groups))
    return canvas


def _names(tasks: Iterable[Sequence[Point]]) -> list[str]:
    """The backbones of a row of panels from bottom to top: by category, the best of each on top."""
    categories, values = {}, defaultdict(list)
    for points in tasks:
        for point, value in zip(points, _relative(points), strict=True):
            values[point.name].append(value)
            categories[point.name] = CATEGORIES.index(point.category)
    return sorted(values, key=lambda name: (-categories[name], float(np.mean(values[name])), name))


def _relative(points: Sequence[Point]) -> list[float]:
    scores = [point.score for point in points]
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 0.5 for score in scores]


def _draw(axis: Axes, title: str, task: str, points: Sequence[Point] | None, names: Sequence[str]) -> None:
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    if points is None:
        axis.grid(visible=False)  # lines behind the words
        axis.text(0.5, 0.5, "no scores of\ntwo backbones", transform=axis.transAxes, ha="center", va="center",
                  fontsize=LARGE, color=GREY)  # fmt: skip
        name_axes(axis, title=f"{task}\n{title}", x="relative score [0 to 1]")
        return
    low, high = min(point.score for point in points), max(point.score for point in points)
    of_range = f"{task}, {title}\n{PAPER_SCORES[task][1]} {low:.3f} to {high:.3f}"
    name_axes(axis, title=of_range, x="relative score [0 to 1]")
    places = defaultdict(list)
    for point, value in zip(points, _relative(points), strict=True):
        line = names.index(point.name)
        bar = point.bar / ((high - low) or 1) or None
        style = mark_style(MARKS[point.category], hollow=title == _PAPER)
        axis.errorbar(value, line, xerr=bar, elinewidth=0.9, **style)
        places[point.category].append((value, line))
    for category, found in places.items():
        values, lines = zip(*found, strict=True)
        colour = MARKS[category].colour
        axis.vlines(np.mean(values), min(lines) - 0.4, max(lines) + 0.4, colour, linewidth=1.4, alpha=0.6)
