"""The paper's Figure 7: score over speed of the backbones, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deapcache.errors import ResultsError
from deapcache.results.figures.groups import Group, Panel, common_notes, paper_panel
from deapcache.results.figures.labels import LINE
from deapcache.results.figures.style import GREY, Canvas, category_handles, log_ticks, name_axes, two_columns
from deapcache.results.speeds import Speed, speed_of

_PAPER_TASKS = ("discrimination", "voc", "depth")
"""One of each of the paper's three categories of tasks."""

_FRONT: dict[str, Any] = {"color": GREY, "linewidth": 1.0, "linestyle": "--"}


def draw_speed_quality(groups: Sequence[Group], speeds: Sequence[Speed], *, paper: bool) -> Canvas:
    """A panel for each task and dataset, of the backbones that have both a score and a speed.

    With ``paper`` also the scores that it prints, over the speeds measured here: its own speeds it only draws. Raises
    :class:`ResultsError` where no backbone has both.
    """
    by_name = {one.name: one for one in speeds}
    scored = [Panel(one.title, one.axis, one.points(), one.rows[0].higher_is_better) for one in groups]
    scored += map(paper_panel, _PAPER_TASKS if paper else ())
    models = {point.model for panel in scored for point in panel.points}
    relative = {model: found.relative for model in models if (found := speed_of(by_name, model))}
    panels = [panel for panel in (one.of(relative) for one in scored) if panel.points]
    if not panels:
        names = ", ".join(dict.fromkeys(line.backbone for one in groups for line in one.rows)) or "none"
        raise ResultsError(
            f"figure speed-quality needs a speed and a score of the same backbone: speeds are of "
            f"{', '.join(by_name)}, scores of {names}. Run deapcache speed --backbone NAME, or deapcache probe "
            "--backbone NAME"
        )
    canvas, axes = two_columns(len(panels), row=3.0, around=1.0)
    for axis, panel in zip(axes, panels, strict=True):
        _draw(canvas, axis, panel, relative)
    has_paper = any(panel.hollow for panel in panels)
    shown = [point.category for panel in panels for point in panel.points]
    canvas.legend([*category_handles(shown, paper=has_paper), Line2D([], [], label="Pareto front", **_FRONT)])
    canvas.note("Pareto front: nothing is both faster and better")
    canvas.note(f"speed of the backbone in inference, measured on {speeds[0].device}")
    canvas.note("hollow: the paper's score over the speed measured here; the paper draws its speeds without printing "
                "them" if has_paper else "", *common_notes(groups))  # fmt: skip
    return canvas


def pareto_front(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Places of the (speed, score) that no other is faster and better than, the slowest first.

    One that is as good in one and better in the other beats; of equal ones the first stays.
    """
    sign = 1 if higher_is_better else -1
    order = sorted(range(len(points)), key=lambda place: (-points[place][0], -sign * points[place][1], place))
    front: list[int] = []
    for place in order:
        if not front or sign * points[place][1] > sign * points[front[-1]][1]:
            front.append(place)
    return front[::-1]


def _draw(canvas: Canvas, axis: Axes, panel: Panel, relative: Mapping[str, float]) -> None:
    speeds = [relative[point.model] for point in panel.points]
    places = [(speed, point.score) for speed, point in zip(speeds, panel.points, strict=True)]
    front = [places[place] for place in pareto_front(places, higher_is_better=panel.higher_is_better)]
    axis.plot(*zip(*front, strict=True), zorder=1, **_FRONT).pop().set_label(LINE)
    canvas.points(axis, speeds, panel.points, hollow=panel.hollow)
    around = max((max(speeds) / min(speeds)) ** 0.15, 1.3)
    axis.set_xlim(min(speeds) / around, max(speeds) * around)
    axis.margins(y=0.2)
    log_ticks(axis)
    name_axes(axis, title=panel.title, x="speed [ViT-B/16 at 224 = 1]", y=panel.axis)
