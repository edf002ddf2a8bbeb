"""What a figure may put beside each other: results measured in the same way, at one learning rate, by task and data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from deapcache.backbones import describe
from deapcache.errors import ResultsError
from deapcache.results.frame import about_backbone, entry_category, grouped, model_of
from deapcache.results.paper import DATA, paper_backbones, paper_score
from deapcache.results.tables import heading

if TYPE_CHECKING:
    from pandas import DataFrame

PAPER_SCORES = {
    "discrimination": ("ari", "ARI ↑"),
    "boundaries": ("iou", "IoU ↑"),
    "detection": ("ap_large", "AP large ↑"),
    "voc": ("mean_iou", "mIoU ↑"),
    "coco-stuff": ("mean_iou", "mIoU ↑"),
    "depth": ("rmse", "RMSE [m] ↓"),
}
"""Task → its score in the paper's Tables 3 and 4, and how an axis names it, with an arrow to what is better."""


class Point(NamedTuple):
    """One backbone's score."""

    backbone: str
    name: str
    """What to write beside it."""
    score: float
    category: str
    """One of :data:`deapcache.results.frame.CATEGORIES`."""
    model: str
    """Whose speed is the backbone's: itself, or of a checkpoint what that is of."""
    bar: float = 0.0
    """Its spread over seeds."""


@dataclass(frozen=True)
class Panel:
    """Scores of one task beside each other."""

    title: str
    axis: str
    """What the scores are, with unit and direction."""
    points: Sequence[Point]
    higher_is_better: bool = True
    hollow: bool = False
    """Whether they are the paper's."""

    def of(self, backbones: Collection[str]) -> Panel:
        """The same with the points of these backbones; of a checkpoint's, of its model."""
        return replace(self, points=[one for one in self.points if one.model in backbones])


@dataclass(frozen=True, kw_only=True)
class Group:
    """One panel's results: a task on one dataset."""

    task: str
    dataset: str
    lines: tuple[Any, ...]
    """Of :func:`deapcache.results.table_rows`, with all scores of each row."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    @property
    def rows(self) -> list[Any]:
        """The lines of the main metric: one for each readout on a backbone."""
        return [line for line in self.lines if line.is_main]

    @property
    def title(self) -> str:
        """What the results are of."""
        return f"{self.task}, {self.dataset}"

    @property
    def axis(self) -> str:
        """``mIoU ↑``, with the unit where there is one."""
        return heading(self.rows[0].result.metrics[self.rows[0].metric])

    def name(self, line: Any) -> str:
        """Of a backbone, with the readout where the group has several."""
        several = len({one.readout for one in self.lines}) > 1
        return f"{line.display_name} · {line.readout}" if several else str(line.display_name)

    def points(self, metric: str = "") -> tuple[Point, ...]:
        """The scores that there are, of the main metric unless another one is given."""
        lines = [line for line in self.lines if line.metric == metric] if metric else self.rows
        return tuple(point_of(line, self.name(line)) for line in lines if not math.isnan(line.mean))


def point_of(line: Any, name: str) -> Point:
    """A line of :func:`deapcache.results.table_rows` under that name."""
    model = model_of(line.result)
    return Point(
        backbone=line.backbone,
        name=name,
        score=line.mean,
        category=category_of(line),
        model=line.backbone if model == line.result.backbone else model,
        bar=error_bar(line),
    )


def category_of(line: Any) -> str:
    """The category of the backbone of a line of :func:`deapcache.results.table_rows`."""
    return str(about_backbone(line.result)["category"])


def group_results(rows: DataFrame, rates: Sequence[float] = ()) -> list[Group]:
    """Rows of :func:`deapcache.results.table_rows` by task and dataset, each readout at one learning rate.

    That is one of ``rates`` where any are given, else the one that most backbones were probed at, the lower of two: a
    figure takes no rate for its score. Raises :class:`ResultsError` where nothing has a rate of ``rates``.
    """
    kept = rows[rows["lr"].isin(rates)] if rates else rows
    if kept.empty and not rows.empty:
        there = ", ".join(f"{rate:g}" for rate in sorted(rows["lr"].unique()))
        raise ResultsError(f"no result at learning rate {', '.join(f'{rate:g}' for rate in rates)}: there are {there}")
    groups = []
    for of_data in grouped(kept.itertuples(), "task", "dataset"):
        task, lines, notes = of_data[0].task, [], []
        for mine in grouped(of_data, "readout"):
            lrs = {line.lr_text: line.lr for line in mine}
            backbones = Counter(line.lr_text for line in mine if line.is_main)
            commonest, *others = sorted(lrs, key=lambda text: (-backbones[text], lrs[text]))
            lines += [line for line in mine if line.lr_text == commonest]
            if others:
                there = ", ".join(text.removeprefix("lr ") for text in sorted(others, key=lrs.__getitem__))
                shown = f"{task}, {mine[0].readout}: at learning rate {commonest.removeprefix('lr ')}"
                notes.append(f"{shown}; there is also {there} (--lr)")
        groups.append(Group(task=task, dataset=of_data[0].dataset, lines=tuple(lines), notes=tuple(notes)))
    return groups


def paper_panel(task: str) -> Panel:
    """The scores of :data:`PAPER_SCORES` that the paper prints for a task, under a title that says where."""
    metric, axis = PAPER_SCORES[task]
    numbers = {name: paper_score(name, task, metric) for name in paper_backbones()}
    known = {name: number for name, number in numbers.items() if number is not None}
    source = next(number.source for number in known.values())
    points = [
        Point(name, name, number.value, category=entry_category(describe(name)), model=name)
        for name, number in known.items()
    ]
    title = f"the paper's {task}, {DATA[task].dataset}\n{source}"
    return Panel(title, axis, points, higher_is_better=axis.endswith("↑"), hollow=True)


def error_bar(line: Any) -> float:
    """The spread over seeds of a score, 0 for a single one."""
    return float(line.spread) if len(line.seeds) > 1 else 0.0


def spread_note(lines: Iterable[Any]) -> str:
    """What error bars are; empty where there are none."""
    several = any(len(line.seeds) > 1 for line in lines)
    return "bars: ± one sample standard deviation over seeds" if several else ""


def common_notes(groups: Sequence[Group]) -> list[str]:
    """What error bars are, and what was left out."""
    spread = spread_note(line for group in groups for line in group.lines)
    return [spread, *(note for group in groups for note in group.notes)]
