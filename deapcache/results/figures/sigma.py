"""The learned width σ of each attention head, by backbone."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from deapcache.errors import ResultsError
from deapcache.results.figures.canvas import Canvas, log_ticks, name_axes
from deapcache.results.figures.marks import CATEGORIES, category_of, legend_of, mark_style
from deapcache.results.figures.subjects import Subject
from deapcache.results.frame import Summary, depth_of

_ROW, _AROUND = 0.24, 0.75
_SPREAD = 0.5
"""Of a line's height, over which its seeds are spread."""


def draw_sigma(found: Sequence[Subject]) -> Canvas:
    """A panel for each task and dataset, a line for each backbone and readout that has a mask, a dot for each head.

    Raises :class:`ResultsError` where no result has a mask.
    """
    masked = [(one, [s for s in one.summaries if any(r.sigma for r in s.results)]) for one in found]
    panels = [(one, group) for one, group in masked if group]
    if not panels:
        raise ResultsError(
            "figure sigma needs results of a readout whose attention has a mask (deap, 8-dim, no-indiv-sigma, "
            "only-mask): run deapcache probe with --readout deap"
        )
    canvas = Canvas(0.6 + sum(_AROUND + _ROW * len(group) for _, group in panels))
    heights = [len(group) + 1.5 for _, group in panels]
    axes = [axis for (axis,) in canvas.panels(len(panels), 1, sharex=True, heights=heights)]
    for axis, (subject, group) in zip(axes, panels, strict=True):
        _draw(axis, subject, group)
    heads = [sigma for _, group in panels for s in group for result in s.results for sigma in result.sigma or ()]
    axes[-1].set_xlim(min(heads) / 1.25, max(heads) * 1.25)  # of all panels, which share it
    log_ticks(axes[-1], most=9)
    canvas.figure.align_ylabels(axes)
    name_axes(axes[-1], x="learned σ of each attention head [share of the image's longer side]")
    canvas.legend(legend_of([category_of(s.backbone) for _, group in panels for s in group], paper=False))
    seeds = any(len(s.seeds) > 1 for _, group in panels for s in group)
    canvas.note("each dot is a head; each row of dots is a seed" if seeds else "each dot is a head")
    canvas.note(*(note for subject, _ in panels for note in subject.notes))
    return canvas


def _draw(axis: Axes, subject: Subject, group: Sequence[Summary]) -> None:
    several = len({summary.readout for summary in group}) > 1
    lines = sorted(group, key=_order, reverse=True)
    for line, summary in enumerate(lines):
        known = [result.sigma for result in summary.results if result.sigma]
        for place, heads in enumerate(known):
            up = line + _SPREAD * ((place + 0.5) / len(known) - 0.5)
            style = mark_style(CATEGORIES[category_of(summary.backbone)], size=5 if len(known) == 1 else 3.6)
            axis.plot(heads, [up] * len(heads), alpha=0.8, **style)
    axis.set_yticks(range(len(lines)), [f"{s.label} · {s.readout}" if several else s.label for s in lines])
    axis.set_ylim(-0.6, len(lines) - 0.4)
    name_axes(axis, title=f"{subject.task}, {subject.dataset}", y="backbone\nand readout" if several else "backbone")


def _order(summary: Summary) -> tuple[int, str, int, str, str]:
    category = list(CATEGORIES).index(category_of(summary.backbone))
    return category, summary.backbone, depth_of(summary.first), summary.label, summary.readout
