"""What a figure may put beside each other: results measured in the same way, at one learning rate, by task and data."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deapcache.errors import ResultsError
from deapcache.results.frame import Summary
from deapcache.results.paper import DATA, paper_backbones, paper_score
from deapcache.results.tables import heading

PAPER_SCORES = {
    "discrimination": ("ari", "ARI ↑"),
    "boundaries": ("iou", "IoU ↑"),
    "detection": ("ap_large", "AP large ↑"),
    "voc": ("mean_iou", "mIoU ↑"),
    "coco-stuff": ("mean_iou", "mIoU ↑"),
    "depth": ("rmse", "RMSE [m] ↓"),
}
"""Task → its score in the paper's Tables 3 and 4, and how an axis names it."""


class Point(NamedTuple):
    """One backbone's score."""

    backbone: str
    name: str
    """What to write beside it."""
    score: float
    bar: float = 0.0
    """Its spread over seeds."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One panel's results: a task on one dataset."""

    task: str
    dataset: str
    metric: str
    summaries: tuple[Summary, ...]
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    @property
    def title(self) -> str:
        """What the results are of."""
        return f"{self.task}, {self.dataset}"

    @property
    def axis(self) -> str:
        """``mIoU ↑``, with the unit where there is one."""
        return heading(self.summaries[0].first.metrics[self.metric])

    @property
    def higher_is_better(self) -> bool:
        """Of the metric."""
        return bool(self.summaries[0].first.metrics[self.metric]["higher_is_better"])

    def name(self, summary: Summary) -> str:
        """Of a backbone, with the readout where the group has several."""
        several = len({one.readout for one in self.summaries}) > 1
        return f"{summary.label} · {summary.readout}" if several else summary.label

    def points(self, metric: str = "") -> tuple[Point, ...]:
        """The scores that there are, of the main metric unless another one is given."""
        metric = metric or self.metric
        return tuple(
            Point(summary.backbone, self.name(summary), summary.mean[metric], error_bar(summary, metric))
            for summary in self.summaries
            if not math.isnan(summary.mean[metric])
        )


def group_results(summaries: Sequence[Summary], rates: Sequence[float] = ()) -> list[Group]:
    """Results by task and dataset, each readout at one learning rate.

    That is one of ``rates`` where any are given, else the one that most backbones were probed at, the lower of two: a
    figure takes no rate for its score. Raises :class:`ResultsError` where nothing has a rate of ``rates``.
    """
    kept = [summary for summary in summaries if not rates or summary.lr in rates]
    if summaries and not kept:
        there = ", ".join(f"{rate:g}" for rate in sorted({summary.lr for summary in summaries}))
        raise ResultsError(f"no result at learning rate {', '.join(f'{rate:g}' for rate in rates)}: there are {there}")
    groups: dict[tuple[str, str], list[Summary]] = defaultdict(list)
    for summary in kept:
        groups[summary.task, summary.dataset].append(summary)
    return [_group(group) for group in groups.values()]


def _group(summaries: Sequence[Summary]) -> Group:
    first, kept, notes = summaries[0], [], []
    for readout in dict.fromkeys(summary.readout for summary in summaries):
        mine = [summary for summary in summaries if summary.readout == readout]
        backbones = Counter(summary.lr for summary in mine)
        commonest = min(backbones, key=lambda rate: (-backbones[rate], rate))
        kept += [summary for summary in mine if summary.lr == commonest]
        others = ", ".join(f"{rate:g}" for rate in sorted(backbones) if rate != commonest)
        if others:
            notes.append(f"{first.task}, {readout}: at learning rate {commonest:g}; there is also {others} (--lr)")
    return Group(
        task=first.task,
        dataset=first.dataset,
        metric=PAPER_SCORES.get(first.task, (first.first.main_metric,))[0],
        summaries=tuple(kept),
        notes=tuple(notes),
    )


def paper_points(task: str) -> tuple[tuple[Point, ...], str]:
    """The scores of :data:`PAPER_SCORES` that the paper prints for a task, and a title that says where."""
    metric, _ = PAPER_SCORES[task]
    numbers = {name: paper_score(name, task, metric) for name in paper_backbones()}
    known = {name: number for name, number in numbers.items() if number is not None}
    source = next(number.source for number in known.values())
    points = tuple(Point(name, name, number.value) for name, number in known.items())
    return points, f"the paper's {task}, {DATA[task].dataset}\n{source}"


def error_bar(summary: Summary, metric: str) -> float:
    """The spread over seeds, 0 for a single one."""
    return summary.spread[metric] if len(summary.seeds) > 1 else 0.0


def spread_note(summaries: Iterable[Summary]) -> str:
    """What error bars are; empty where there are none."""
    several = any(len(summary.seeds) > 1 for summary in summaries)
    return "bars: ± one sample standard deviation over seeds" if several else ""


def common_notes(groups: Sequence[Group]) -> list[str]:
    """What error bars are, and what was left out."""
    spread = spread_note(summary for group in groups for summary in group.summaries)
    return [spread, *(note for group in groups for note in group.notes)]
