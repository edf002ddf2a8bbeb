"""The paper's Figure 4: score over learnable parameters, by readout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from deapcache.errors import ResultsError
from deapcache.results.figures.groups import Group, error_bar, spread_note
from deapcache.results.figures.labels import Label
from deapcache.results.figures.style import (
    PAPER,
    Canvas,
    Mark,
    log_ticks,
    mark_style,
    name_axes,
    paper_handle,
    two_columns,
)
from deapcache.results.frame import grouped, inner_layer
from deapcache.results.painters import DISTINCT
from deapcache.results.paper import paper_ablation, paper_parameters, paper_score, unlike_paper

_AROUND = 1.35
"""Room left and right of the points, as a factor of their parameters."""
_COLOURS = [colour for colour in DISTINCT if colour != "#F0E442"]
"""Without yellow, which is faint as a mark on white."""
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


def draw_parameters(groups: Sequence[Group], *, paper: bool) -> Canvas:
    """A panel for each task, dataset and backbone that has two readouts or more.

    Sizes of one readout (``deap:8``, ``deap:16``) are joined by a line. With ``paper`` the number of Tables 3 and 4 for
    the full readout is added where it was measured on the same data. Raises :class:`ResultsError` where nothing has two
    readouts.
    """
    # the results of each backbone and layer that has several readouts
    scored = [(group, [row for row in group.rows if not math.isnan(row.mean)]) for group in groups]
    found_of = [(group, found) for group, rows in scored for found in grouped(rows, "display_name")]
    panels = [(group, found) for group, found in found_of if len({row.readout for row in found}) > 1]
    if not panels:
        raise ResultsError(
            "figure parameters compares readouts, and no backbone here has results of two on the same task and data: "
            "run deapcache probe with --readout deap,8-dim,bicubic"
        )
    canvas, axes = two_columns(len(panels), row=2.7, around=0.7)
    families = dict.fromkeys(_family(s) for _, found in panels for s in found)
    marks = {
        family: Mark(_COLOURS[place % len(_COLOURS)], _SHAPES[place % len(_SHAPES)])
        for place, family in enumerate(families)
    }
    with_paper = False
    for axis, (group, found) in zip(axes, panels, strict=True):
        _draw(canvas, axis, group, found, marks)
        if paper:
            with_paper |= _add_paper(canvas, axis, group, found[0])
    canvas.legend([paper_handle()] if with_paper else [])
    canvas.note(spread_note(s for _, found in panels for s in found))
    canvas.note(*(note for group, _ in panels for note in group.notes))
    return canvas


def _family(row: Any) -> str:
    return str(row.readout).partition(":")[0]


def _thousands(row: Any) -> float:
    return float(row.parameters) / 1000


def _draw(canvas: Canvas, axis: Axes, group: Group, found: Sequence[Any], marks: dict[str, Mark]) -> None:
    for family, mark in marks.items():
        mine = sorted((s for s in found if _family(s) == family), key=_thousands)
        if not mine:
            continue
        bars = list(map(error_bar, mine))
        axis.errorbar(
            [_thousands(s) for s in mine], [s.mean for s in mine], yerr=bars if any(bars) else None,
            elinewidth=0.9, capsize=2, **{**mark_style(mark), "linestyle": "-", "linewidth": 1.0},
        )  # fmt: skip
    canvas.label(axis, [Label(_thousands(s), s.mean, s.readout) for s in found])
    sizes = [_thousands(s) for s in found]
    axis.set_xlim(min(sizes) / _AROUND, max(sizes) * _AROUND)
    axis.margins(y=0.18)
    log_ticks(axis)
    name_axes(axis, title=f"{group.title}\n{found[0].display_name}", y=group.axis, x="learnable parameters [thousands]")


def _add_paper(canvas: Canvas, axis: Axes, group: Group, row: Any) -> bool:
    """Show what Tables 3 and 4 print for this backbone; whether they print anything that may stand here."""
    backbone, task, metric = row.backbone, group.task, row.metric
    score, size = paper_score(backbone, task, metric), paper_parameters(backbone, task)
    if score is None or size is None:
        canvas.note(f"{task}, {backbone}: the paper prints no such number")
        return False
    if inner := inner_layer(row.result):
        canvas.note(f"{task}, {backbone}: the paper's number is of the last layer, not beside {inner}")
        return False
    if reason := unlike_paper(group.rows[0].result):
        canvas.note(f"{task}, {backbone}: not beside the paper's number, {reason}")
        return False
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, size.value * 1000 / _AROUND), max(high, size.value * 1000 * _AROUND))
    log_ticks(axis)
    axis.plot(size.value * 1000, score.value, **mark_style(PAPER, hollow=True, size=6.5))
    canvas.label(axis, [Label(size.value * 1000, score.value, f"deap, {score.source}")])
    if paper_ablation("8-dim", backbone, task, metric) is not None:
        canvas.note("the paper's Table 5 prints scores of other readouts, but not their parameters: not shown")
    return True
