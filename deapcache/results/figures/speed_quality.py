"""The paper's Figure 7: score over speed of the backbones, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deapcache.errors import ResultsError
from deapcache.results.figures.canvas import GREY, Canvas, log_ticks, name_axes
from deapcache.results.figures.labels import LINE, Label
from deapcache.results.figures.marks import CATEGORIES, category_of, legend_of, mark_style
from deapcache.results.figures.pareto import pareto_front
from deapcache.results.figures.subjects import Subject, error_bar, spread_note
from deapcache.results.paper import paper_backbones, paper_score
from deapcache.results.speeds import BackboneSpeed

_COLUMNS = 2
_PAPER = (
    ("discrimination", "ari", "discrimination, COCO", "ARI ↑", True),
    ("voc", "mean_iou", "Pascal VOC", "mIoU ↑", True),
    ("depth", "rmse", "depth, NYUv2", "RMSE [m] ↓", False),
)
"""One task of each of the paper's three categories."""


@dataclass(frozen=True)
class _Panel:
    title: str
    axis: str
    higher_is_better: bool
    points: tuple[tuple[str, str, float, float], ...]
    """Backbone, name, score and its spread."""
    hollow: bool = False


def draw_speed_quality(found: Sequence[Subject], speeds: Sequence[BackboneSpeed], *, paper: bool) -> Canvas:
    """A panel for each task and dataset, of the backbones that have both a score and a speed.

    With ``paper`` also the scores that it prints, over the speeds measured here: its own speeds it only draws. Raises
    :class:`ResultsError` where no backbone has both.
    """
    known = {one.backbone: one for one in speeds}
    panels = [panel for one in found if (panel := _ours(one, known)).points]
    panels += [panel for row in _PAPER if (panel := _papers(*row, known)).points] if paper else []
    if not panels:
        scored = ", ".join(dict.fromkeys(s.backbone for one in found for s in one.summaries)) or "none"
        raise ResultsError(
            f"figure speed-quality needs a speed and a score of the same backbone: speeds are of {', '.join(known)}, "
            f"scores of {scored}. Run deapcache speed --backbone NAME, or deapcache probe --backbone NAME"
        )
    across, speed_of = "speed [ViT-B/16 at 224 = 1]", {one.backbone: one.relative for one in speeds}
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    canvas = Canvas(1.0 + rows * 3.0)
    axes = [axis for line in canvas.panels(rows, columns) for axis in line]
    for axis, panel in zip(axes, panels, strict=False):
        _draw(canvas, axis, panel, speed_of, across)
    for axis in axes[len(panels) :]:
        axis.remove()
    shown = [category_of(point[0]) for panel in panels for point in panel.points]
    canvas.legend([*legend_of(shown, paper=any(panel.hollow for panel in panels)), _front_handle()])
    canvas.note("Pareto front: nothing is both faster and better")
    canvas.note(f"speed of the backbone in inference, measured on {speeds[0].device}")
    canvas.note("hollow: the paper's score over the speed measured here; the paper draws its speeds without printing "
                "them" if any(panel.hollow for panel in panels) else "")  # fmt: skip
    canvas.note(spread_note(s for one in found for s in one.summaries), *(note for one in found for note in one.notes))
    return canvas


def _ours(subject: Subject, known: Mapping[str, BackboneSpeed]) -> _Panel:
    several = len({summary.readout for summary in subject.summaries}) > 1
    points = tuple(
        (
            s.backbone,
            f"{s.label} · {s.readout}" if several else s.label,
            s.mean[subject.metric],
            error_bar(s, subject.metric),
        )
        for s in subject.summaries
        if s.backbone in known and not math.isnan(s.mean[subject.metric])
    )
    return _Panel(f"{subject.task}, {subject.dataset}", subject.axis, subject.higher_is_better, points)


def _papers(task: str, metric: str, title: str, axis: str, higher: bool, known: Mapping[str, BackboneSpeed]) -> _Panel:
    printed = {name: paper_score(name, task, metric) for name in paper_backbones() if name in known}
    points = tuple((name, name, number.value, 0.0) for name, number in printed.items() if number is not None)
    source = next((number.source for number in printed.values() if number is not None), "")
    return _Panel(f"{title}\nthe paper's {source}", axis, higher, points, hollow=True)


def _draw(canvas: Canvas, axis: Axes, panel: _Panel, speed_of: Mapping[str, float], across: str) -> None:
    places = [(speed_of[backbone], score) for backbone, _, score, _ in panel.points]
    front = [places[place] for place in pareto_front(places, higher_is_better=panel.higher_is_better)]
    axis.plot(*zip(*front, strict=True), color=GREY, linewidth=1.0, linestyle="--", zorder=1, label=LINE)
    for (x, y), (backbone, _, _, bar) in zip(places, panel.points, strict=True):
        style = mark_style(CATEGORIES[category_of(backbone)], hollow=panel.hollow)
        axis.errorbar(x, y, yerr=bar or None, elinewidth=0.9, **style)
    slowest, fastest = min(places)[0], max(places)[0]
    around = max((fastest / slowest) ** 0.15, 1.3)
    axis.set_xlim(slowest / around, fastest * around)
    axis.margins(y=0.2)
    log_ticks(axis)
    name_axes(axis, title=panel.title, x=across, y=panel.axis)
    canvas.label(axis, [Label(x, y, name) for (x, y), (_, name, _, _) in zip(places, panel.points, strict=True)])


def _front_handle() -> Line2D:
    return Line2D([], [], color=GREY, linewidth=1.0, linestyle="--", label="Pareto front")
