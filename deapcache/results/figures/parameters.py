"""The paper's Figure 4: score over learnable parameters, by readout."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from deapcache.errors import ResultsError
from deapcache.results.figures.canvas import Canvas, log_ticks, name_axes
from deapcache.results.figures.labels import Label
from deapcache.results.figures.marks import SHAPES, Mark, mark_style, paper_handle
from deapcache.results.figures.subjects import Subject, error_bar, spread_note
from deapcache.results.frame import Summary, inner_layer
from deapcache.results.palette import DISTINCT
from deapcache.results.paper import paper_ablation, paper_parameters, paper_score

_COLUMNS = 2
_AROUND = 1.35
"""Room left and right of the points, as a factor of their parameters."""
_COLOURS = [colour for colour in DISTINCT if colour != "#F0E442"]
"""Without yellow, which is faint as a mark on white."""


def draw_parameters(found: Sequence[Subject], *, paper: bool) -> Canvas:
    """A panel for each task, dataset and backbone that has two readouts or more.

    Sizes of one readout (``deap:8``, ``deap:16``) are joined by a line. With ``paper`` the number of Tables 3 and 4 for
    the full readout is added where it was measured on the same data. Raises :class:`ResultsError` where nothing has two
    readouts.
    """
    panels = [panel for subject in found for panel in _panels(subject)]
    if not panels:
        raise ResultsError(
            "figure parameters compares readouts, and no backbone here has results of two on the same task and data: "
            "run deapcache probe with --readout deap,8-dim,bicubic"
        )
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    canvas = Canvas(0.7 + rows * 2.7)
    axes = [axis for line in canvas.panels(rows, columns) for axis in line]
    families = list(dict.fromkeys(s.readout.partition(":")[0] for _, group in panels for s in group))
    with_paper = False
    for axis, (subject, group) in zip(axes, panels, strict=False):
        _draw(canvas, axis, subject, group, families)
        if paper:
            with_paper |= _add_paper(canvas, axis, subject, group)
    for axis in axes[len(panels) :]:
        axis.remove()
    canvas.legend([paper_handle()] if with_paper else [])
    canvas.note(spread_note(s for _, group in panels for s in group))
    canvas.note(*(note for subject, _ in panels for note in subject.notes))
    return canvas


def _panels(subject: Subject) -> list[tuple[Subject, list[Summary]]]:
    labels = dict.fromkeys(summary.label for summary in subject.summaries)
    groups = [[s for s in subject.summaries if s.label == label] for label in labels]
    return [(subject, group) for group in groups if len({s.readout for s in group}) > 1]


def _mark(families: Sequence[str], family: str) -> Mark:
    place = families.index(family)
    return Mark(_COLOURS[place % len(_COLOURS)], SHAPES[place % len(SHAPES)])


def _draw(canvas: Canvas, axis: Axes, subject: Subject, group: Sequence[Summary], families: Sequence[str]) -> None:
    metric = subject.metric
    for family in families:
        mine = sorted((s for s in group if s.readout.partition(":")[0] == family), key=lambda s: s.first.parameters)
        if not mine:
            continue
        style = {**mark_style(_mark(families, family)), "linestyle": "-", "linewidth": 1.0}
        bars = [error_bar(s, metric) for s in mine]
        axis.errorbar(
            [s.first.parameters / 1000 for s in mine], [s.mean[metric] for s in mine],
            yerr=bars if any(bars) else None, elinewidth=0.9, capsize=2, **style,
        )  # fmt: skip
    canvas.label(axis, [Label(s.first.parameters / 1000, s.mean[metric], s.readout) for s in group])
    sizes = [s.first.parameters / 1000 for s in group]
    axis.set_xlim(min(sizes) / _AROUND, max(sizes) * _AROUND)
    axis.margins(y=0.18)
    log_ticks(axis)
    name_axes(
        axis, title=f"{subject.task}, {subject.dataset}\n{group[0].label}", y=subject.axis,
        x="learnable parameters [thousands]",
    )  # fmt: skip


def _add_paper(canvas: Canvas, axis: Axes, subject: Subject, group: Sequence[Summary]) -> bool:
    """Show what Tables 3 and 4 print for this backbone; whether they print anything that may stand here."""
    backbone, task, metric = group[0].backbone, subject.task, subject.metric
    score, size = paper_score(backbone, task, metric), paper_parameters(backbone, task)
    if score is None or size is None:
        canvas.note(f"{task}, {backbone}: the paper prints no such number")
        return False
    if inner := inner_layer(group[0].first):
        canvas.note(f"{task}, {backbone}: the paper's number is of the last layer, not beside {inner}")
        return False
    if subject.paper_reason:
        canvas.note(f"{task}, {backbone}: not beside the paper's number, {subject.paper_reason}")
        return False
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, size.value * 1000 / _AROUND), max(high, size.value * 1000 * _AROUND))
    log_ticks(axis)
    axis.plot(size.value * 1000, score.value, **mark_style(Mark("#444444", "o"), hollow=True, size=6.5))
    canvas.label(axis, [Label(size.value * 1000, score.value, f"deap, {score.source}")])
    if paper_ablation("8-dim", backbone, task, metric) is not None:
        canvas.note("the paper's Table 5 prints scores of other readouts, but not their parameters: not shown")
    return True
