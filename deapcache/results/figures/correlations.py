"""The paper's Figure 6: our scores against published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from deapcache.errors import ResultsError
from deapcache.results.figures.association import FEWEST, HOW, pearson, spearman
from deapcache.results.figures.canvas import GREY, NORMAL, Canvas, name_axes
from deapcache.results.figures.labels import Label
from deapcache.results.figures.marks import CATEGORIES, category_of, legend_of, mark_style
from deapcache.results.figures.references import Reference
from deapcache.results.figures.subjects import Subject, error_bar, spread_note
from deapcache.results.frame import Summary, inner_layer
from deapcache.results.paper import DATA, PaperNumber, paper_backbones, paper_score

_COLUMNS = 2
_PAPER_METRICS = {
    "discrimination": ("ari", "ARI ↑"),
    "boundaries": ("iou", "IoU ↑"),
    "detection": ("ap_large", "AP, large objects ↑"),
    "voc": ("mean_iou", "mIoU ↑"),
    "coco-stuff": ("mean_iou", "mIoU ↑"),
    "depth": ("rmse", "RMSE [m] ↓"),
}


@dataclass(frozen=True)
class _Panel:
    """Scores of one task and readout beside one reference, of the backbones that both have."""

    title: str
    axis: str
    reference: Reference
    points: tuple[tuple[str, float, float], ...]
    """Backbone, score and its spread."""
    hollow: bool = False


def draw_correlations(found: Sequence[Subject], references: Sequence[Reference], *, paper: bool) -> Canvas:
    """A panel for each pair of a task's scores and a reference that share three backbones or more.

    With ``paper`` the scores of its Tables 3 and 4 are compared with the references as well, in panels of their own.
    Raises :class:`ResultsError` where no pair shares enough backbones.
    """
    panels = [panel for one in found for reference in references for panel in _ours(one, reference)]
    panels += [panel for reference in references for panel in _papers(reference)] if paper else []
    enough = [panel for panel in panels if len(panel.points) >= FEWEST]
    if not enough:
        raise _too_few(panels, references)
    columns = min(_COLUMNS, len(enough))
    rows = -(-len(enough) // columns)
    canvas = Canvas(1.2 + rows * 3.1)
    axes = [axis for line in canvas.panels(rows, columns) for axis in line]
    for axis, panel in zip(axes, enough, strict=False):
        _draw(canvas, axis, panel)
    for axis in axes[len(enough) :]:
        axis.remove()
    named = [category_of(name) for panel in enough for name, _, _ in panel.points]
    canvas.legend(legend_of(named, paper=any(panel.hollow for panel in enough)))
    canvas.note("r: Pearson's, ρ: Spearman's", HOW, spread_note(s for one in found for s in one.summaries))
    canvas.note(*(f"{one.name}: {one.source}" for one in references if any(one is p.reference for p in enough)))
    inner = dict.fromkeys(s.label for one in found for s in one.summaries if inner_layer(s.first))
    canvas.note(f"published scores are of last layers: without {', '.join(inner)}" if inner else "")
    canvas.note(*(note for one in found for note in one.notes))
    return canvas


def _ours(subject: Subject, reference: Reference) -> list[_Panel]:
    if reference.tasks and subject.task not in reference.tasks:
        return []
    readouts = dict.fromkeys(summary.readout for summary in subject.summaries)
    panels = []
    for readout in readouts:
        whole = [s for s in subject.summaries if s.readout == readout and not inner_layer(s.first)]
        group = [s for s in whole if s.backbone in reference.scores]
        points = tuple(_point(s, subject.metric) for s in group if not math.isnan(s.mean[subject.metric]))
        title = f"{subject.task}, {subject.dataset}" + (f"\n{readout}" if len(readouts) > 1 else "")
        panels.append(_Panel(title, f"our {subject.axis}", reference, points))
    return panels


def _point(summary: Summary, metric: str) -> tuple[str, float, float]:
    return summary.backbone, summary.mean[metric], error_bar(summary, metric)


def _papers(reference: Reference) -> list[_Panel]:
    if reference.tasks:  # the paper's own numbers: beside themselves they say nothing
        return []
    panels = []
    for task, (metric, axis) in _PAPER_METRICS.items():
        printed = [(name, paper_score(name, task, metric)) for name in paper_backbones() if name in reference.scores]
        known = [(name, number) for name, number in printed if isinstance(number, PaperNumber)]
        if known:
            title = f"the paper's {task}, {DATA[task].dataset}\n{known[0][1].source}"
            points = tuple((name, number.value, 0.0) for name, number in known)
            panels.append(_Panel(title, f"the paper's {axis}", reference, points, hollow=True))
    return panels


def _draw(canvas: Canvas, axis: Axes, panel: _Panel) -> None:
    x = [panel.reference.scores[name] for name, _, _ in panel.points]
    y = [score for _, score, _ in panel.points]
    for at, (name, score, bar) in zip(x, panel.points, strict=True):
        style = mark_style(CATEGORIES[category_of(name)], hollow=panel.hollow)
        axis.errorbar(at, score, yerr=bar or None, elinewidth=0.9, **style)
    axis.margins(0.16)
    name_axes(axis, title=panel.title, x=panel.reference.name, y=panel.axis)
    told = f"{pearson(x, y)}\n{spearman(x, y)}\nn = {len(x)}"
    # above the points: the axis grows upwards, so that neither marks nor names meet it
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.42 * (high - low))
    axis.text(0.03, 0.98, told, transform=axis.transAxes, va="top", fontsize=NORMAL - 0.5, color=GREY, linespacing=1.25)
    canvas.label(axis, [Label(at, score, name) for at, (name, score, _) in zip(x, panel.points, strict=True)])


def _too_few(panels: Sequence[_Panel], references: Sequence[Reference]) -> ResultsError:
    best = max(panels, key=lambda panel: len(panel.points), default=None)
    if best is None:
        have = "there is no result of a task that they are compared with"
    else:
        names = ", ".join(name for name, _, _ in best.points) or "none"
        have = f"{best.title.splitlines()[0]} and {best.reference.name} share {len(best.points)} ({names})"
    there = ", ".join(dict.fromkeys(name for reference in references for name in reference.scores))
    return ResultsError(
        f"figure correlations needs {FEWEST} backbones that have both our score and a published one: {have}. "
        f"Run deapcache probe for more of {there}, or give scores of your backbones with --reference FILE.csv"
    )
