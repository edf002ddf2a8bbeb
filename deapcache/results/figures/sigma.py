"""The learned width σ of each attention head, by backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from deapcache.errors import ResultsError
from deapcache.results.figures.groups import Group, category_of
from deapcache.results.figures.style import MARKS, Canvas, category_handles, log_ticks, mark_style, name_axes
from deapcache.results.frame import CATEGORIES

_ROW, _AROUND = 0.24, 0.75
_SPREAD = 0.5
"""Of a line's height, over which its seeds are spread."""


def draw_sigma(groups: Sequence[Group]) -> Canvas:
    """A panel for each task and dataset, a line for each backbone and readout that has a mask, a dot for each head.

    Raises :class:`ResultsError` where no result has a mask.
    """
    with_mask = [
        (group, [row for row in group.rows if any(result.sigma for result in row.results)]) for group in groups
    ]
    panels = [(group, found) for group, found in with_mask if found]
    if not panels:
        raise ResultsError(
            "figure sigma needs results of a readout whose attention has a mask (deap, 8-dim, no-indiv-sigma, "
            "only-mask): run deapcache probe with --readout deap"
        )
    canvas = Canvas(0.6 + sum(_AROUND + _ROW * len(found) for _, found in panels))
    heights = [len(found) + 1.5 for _, found in panels]
    axes = [axis for (axis,) in canvas.panels(len(panels), 1, sharex=True, heights=heights)]
    for axis, (group, found) in zip(axes, panels, strict=True):
        _draw(axis, group, found)
    every = [row for _, found in panels for row in found]
    heads = [sigma for row in every for result in row.results for sigma in result.sigma or ()]
    axes[-1].set_xlim(min(heads) / 1.25, max(heads) * 1.25)  # of all panels, which share it
    log_ticks(axes[-1], most=9)
    canvas.figure.align_ylabels(axes)
    name_axes(axes[-1], x="learned σ of each attention head [share of the image's longer side]")
    canvas.legend(category_handles(map(category_of, every), paper=False))
    has_seeds = any(len(row.seeds) > 1 for row in every)
    canvas.note("each dot is a head; each row of dots is a seed" if has_seeds else "each dot is a head")
    canvas.note(*(note for group, _ in panels for note in group.notes))
    return canvas


def _draw(axis: Axes, group: Group, found: Sequence[Any]) -> None:
    several = len({row.readout for row in found}) > 1

    def order(row: Any) -> tuple[int, str, int, str, str]:
        return CATEGORIES.index(category_of(row)), row.backbone, row.depth, row.display_name, row.readout

    lines = sorted(found, key=order, reverse=True)
    for line, row in enumerate(lines):
        known = [result.sigma for result in row.results if result.sigma]
        for place, heads in enumerate(known):
            up = line + _SPREAD * ((place + 0.5) / len(known) - 0.5)
            style = mark_style(MARKS[category_of(row)], size=5 if len(known) == 1 else 3.6)
            axis.plot(heads, [up] * len(heads), alpha=0.8, **style)
    axis.set_yticks(
        range(len(lines)), [f"{row.display_name} · {row.readout}" if several else row.display_name for row in lines]
    )
    axis.set_ylim(-0.6, len(lines) - 0.4)
    name_axes(axis, title=group.title, y="backbone\nand readout" if several else "backbone")
