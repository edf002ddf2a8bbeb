"""The paper's Figure 3: instance awareness by category of backbone, scores of each task mapped to [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deapcache.errors import ResultsError
from deapcache.results.figures.canvas import GREY, LARGE, Canvas, name_axes
from deapcache.results.figures.marks import CATEGORIES, category_of, legend_of, mark_style
from deapcache.results.figures.subjects import Subject, error_bar, spread_note
from deapcache.results.paper import paper_backbones, paper_score

TASKS: Mapping[str, tuple[str, str, str]] = {
    "discrimination": ("ari", "discrimination", "ARI ↑"),
    "boundaries": ("iou", "boundaries", "IoU ↑"),
    "detection": ("ap_large", "detection", "AP large ↑"),
}
"""Task → its metric in the paper, and how a panel names both; all are higher for the better."""

_ROW, _HEAD = 0.155, 0.75
"""Height of a line and of what stands around a row of panels, inches."""


@dataclass(frozen=True)
class _Source:
    """One row of panels: scores that may stand beside each other."""

    title: str
    """The data, or the paper's table."""
    scores: Mapping[str, Mapping[str, float]]
    """Task → backbone → score."""
    spreads: Mapping[str, Mapping[str, float]]
    hollow: bool


def draw_instance_awareness(found: Sequence[Subject], *, paper: bool) -> Canvas:
    """A row of panels for each dataset, one panel a task; with ``paper`` another row of Table 3's numbers.

    In each panel the worst score shown is 0 and the best 1. Raises :class:`ResultsError` where no task has two
    backbones, between which scores could be mapped.
    """
    sources = _ours(found) + ([_paper()] if paper else [])
    if not sources:
        raise ResultsError(
            "figure instance-awareness needs scores of two backbones or more in one of the tasks "
            f"{', '.join(TASKS)}, on the same data: run deapcache probe --task discrimination with another --backbone, "
            "or show the paper's numbers with --paper"
        )
    lines = [_ordered(source) for source in sources]
    canvas = Canvas(0.5 + sum(_HEAD + _ROW * len(one) for one in lines))
    grid = canvas.panels(len(sources), len(TASKS), sharey="row", heights=[len(one) + 2 for one in lines])
    for axes, source, names in zip(grid, sources, lines, strict=True):
        _draw_source(axes, source, names)
    canvas.figure.align_ylabels([axes[0] for axes in grid])
    shown = [name for names in lines for name in names]
    canvas.legend([*legend_of(map(category_of, shown), paper=paper), _mean_handle()])
    canvas.note("each panel: the worst score shown is 0, the best is 1, linear in between; the range is in its title")
    canvas.note("the paper's scores: its Table 3, on COCO" if paper else "")
    canvas.note(spread_note(s for one in found for s in one.summaries), *(note for one in found for note in one.notes))
    return canvas


def _ours(found: Sequence[Subject]) -> list[_Source]:
    sources = []
    for dataset in dict.fromkeys(one.dataset for one in found):
        fitting = [one for one in found if one.dataset == dataset and one.task in TASKS]
        scores: dict[str, dict[str, float]] = {}
        spreads: dict[str, dict[str, float]] = {}
        for one in fitting:
            metric = TASKS[one.task][0]
            named = {_name(s.label, s.readout, one): s for s in one.summaries}
            scores[one.task] = {name: s.mean[metric] for name, s in named.items() if not math.isnan(s.mean[metric])}
            spreads[one.task] = {name: error_bar(s, metric) for name, s in named.items()}
        scores = {task: values for task, values in scores.items() if len(values) > 1}
        if scores:
            sources.append(_Source(dataset, scores, spreads, hollow=False))
    return sources


def _name(label: str, readout: str, subject: Subject) -> str:
    several = len({summary.readout for summary in subject.summaries}) > 1
    return f"{label} · {readout}" if several else label


def _paper() -> _Source:
    scores: dict[str, dict[str, float]] = {}
    for task, (metric, _, _) in TASKS.items():
        printed = {name: paper_score(name, task, metric) for name in paper_backbones()}
        scores[task] = {name: number.value for name, number in printed.items() if number is not None}
    return _Source("the paper", scores, {}, hollow=True)


def _ordered(source: _Source) -> list[str]:
    """The backbones from bottom to top: by category, the best of each on top."""
    order = list(CATEGORIES)
    names = {name for values in source.scores.values() for name in values}
    relative = [_relative(values) for values in source.scores.values()]

    def mean(name: str) -> float:
        return float(np.mean([values[name] for values in relative if name in values]))

    return sorted(names, key=lambda name: (-order.index(_category(name)), mean(name), name))


def _category(name: str) -> str:
    return category_of(name.partition(" · ")[0])


def _relative(values: Mapping[str, float]) -> dict[str, float]:
    low, high = min(values.values()), max(values.values())
    return {name: (value - low) / (high - low) if high > low else 0.5 for name, value in values.items()}


def _draw_source(axes: Sequence[Axes], source: _Source, names: Sequence[str]) -> None:
    for axis, (task, (_, title, score)) in zip(axes, TASKS.items(), strict=True):
        values = source.scores.get(task)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if values is None:
            axis.grid(visible=False)  # lines behind the words
            axis.text(0.5, 0.5, "no scores of\ntwo backbones", transform=axis.transAxes, ha="center", va="center",
                      fontsize=LARGE, color=GREY)  # fmt: skip
            name_axes(axis, title=f"{title}\n{source.title}", x="relative score [0 to 1]")
            continue
        low, high = min(values.values()), max(values.values())
        name_axes(axis, title=f"{title}, {source.title}\n{score} {low:.3f} to {high:.3f}", x="relative score [0 to 1]")
        _draw_points(axis, source, task, names)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(-0.7, len(names) - 0.3)
    name_axes(axes[0], y="backbone")


def _draw_points(axis: Axes, source: _Source, task: str, names: Sequence[str]) -> None:
    values, relative = source.scores[task], _relative(source.scores[task])
    width = max(values.values()) - min(values.values()) or 1
    by_category: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name not in values:
            continue
        style = mark_style(CATEGORIES[_category(name)], hollow=source.hollow)
        bar = source.spreads.get(task, {}).get(name, 0) / width
        axis.errorbar(relative[name], row, xerr=bar or None, elinewidth=0.9, **style)
        by_category.setdefault(_category(name), []).append(row)
    for category, rows in by_category.items():
        mean = np.mean([relative[names[row]] for row in rows])
        axis.vlines(mean, min(rows) - 0.4, max(rows) + 0.4, CATEGORIES[category].colour, linewidth=1.4, alpha=0.6)


def _mean_handle() -> Line2D:
    return Line2D([], [], color=GREY, linewidth=1.4, alpha=0.6, label="line: mean of the category")
