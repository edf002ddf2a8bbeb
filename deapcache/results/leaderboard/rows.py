"""From collected results to boards: what may stand beside each other, in which order, and what tells it apart."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from deapcache.recipe import SHORT
from deapcache.results.frame import Summary, comparison_identity, row_identity, summarise
from deapcache.results.intervals import UncertaintyOf
from deapcache.results.leaderboard.entries import MEASURED, Board, Comparison, Entry, Leaderboard, Line, Metric, Score
from deapcache.results.leaderboard.facts import measured_backbone
from deapcache.results.leaderboard.homes import Collected, Intervals
from deapcache.results.leaderboard.naming import differing, told_apart
from deapcache.results.leaderboard.paper_rows import may_stand_beside, paper_comparison, paper_entries
from deapcache.results.leaderboard.speeds import shown_device, with_speeds
from deapcache.results.paper import DATA

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

PAPERS_DATA = "the paper's data"
"""Title of the board that has the paper's rows."""


def leaderboard(
    collected: Collected, *, intervals: bool = True, paper: bool = True, device: str | None = None
) -> Leaderboard:
    """Boards of everything collected: the paper's data on one, each other dataset on its own.

    Only what shares its conditions (protocol but for readout and learning rate, targets) stands in one column. The
    paper's rows stand beside results that were measured on its data, and alone where there are none. Speeds are those
    on ``device``, by default the one with the most backbones; raises :class:`ResultsError` where it has none.
    """
    shown = shown_device(collected.speeds, device)
    summaries = summarise(collected.results, allow_mixed=True)
    uncertainty = Intervals(collected.homes) if intervals else None
    make = _EntryMaker(collected, uncertainty, _variants(summaries))
    comparisons = [_comparison(group, summaries, make, paper) for group in _by(summaries, _conditions).values()]
    if paper:
        comparisons += _papers_alone(comparisons)
    comparisons = [with_speeds(_ordered(comparison), collected.speeds, shown) for comparison in comparisons]
    boards = [_board(title, group) for title, group in _by(comparisons, _board_of).items()]
    return Leaderboard(
        boards=tuple(sorted(boards, key=_has_no_measured)),
        device=shown,
        devices=tuple(sorted(collected.speeds, key=lambda name: (name != shown, name))),
        notes=collected.notes,
    )


def _papers_alone(comparisons: Sequence[Comparison]) -> list[Comparison]:
    there = {comparison.task for comparison in comparisons if comparison.has_paper}
    names = {(comparison.task, comparison.dataset) for comparison in comparisons}
    return [
        paper_comparison(task, told_apart="the paper's" if (task, data.dataset) in names else "")
        for task, data in DATA.items()
        if task not in there
    ]


def _by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _conditions(summary: Summary) -> tuple[str, str, str]:
    return summary.task, summary.dataset, summary.comparison_key


def _board_of(comparison: Comparison) -> str:
    return PAPERS_DATA if comparison.has_paper else comparison.dataset


def _has_no_measured(board: Board) -> bool:
    return all(line.first.source != MEASURED for line in board.lines)


def _variants(summaries: Sequence[Summary]) -> Mapping[str, str]:
    """Run of the first seed → what tells its row from others that share dataset and readout.

    That is how it was trained wherever rows of one comparison differ in it, and everything in which rows of one
    layer of a backbone differ.
    """
    named: dict[str, str] = {}
    for rows in _by(summaries, lambda s: (s.dataset, s.readout)).values():
        groups = list(_by(rows, _conditions).values())
        trained = differing([[_training(summary) for summary in group] for group in groups])
        for own in _by(rows, lambda s: s.label).values():
            alike = list(_by(own, _conditions).values())
            identities = [[row_identity(s.first) for s in group] for group in alike]
            fields = list(dict.fromkeys([*trained, *differing(identities)]))
            for group, found in zip(alike, identities, strict=True):
                runs = [summary.first.run for summary in group]
                named |= dict(zip(runs, told_apart(found, fields), strict=True))
    return named


def _training(summary: Summary) -> Mapping[str, Any]:
    return {name: value for name, value in row_identity(summary.first).items() if name.startswith("protocol.")}


@dataclasses.dataclass(frozen=True)
class _EntryMaker:
    collected: Collected
    uncertainty: UncertaintyOf | None
    variants: Mapping[str, str]

    def __call__(self, summary: Summary) -> Entry:
        known = self.uncertainty(summary.results) if self.uncertainty else None
        scores = {
            name: Score(
                mean=summary.mean[name],
                spread=summary.spread[name],
                interval=known.intervals.get(name) if known else None,
            )
            for name in summary.first.metrics
        }
        return Entry(
            source=MEASURED,
            backbone=measured_backbone(summary.first),
            readout=summary.readout,
            variant=self.variants[summary.first.run],
            scores=scores,
            parameters=summary.first.parameters,
            summary=summary,
            homes=tuple(self.collected.homes[result.run] for result in summary.results),
            problem=known.problem if known else "",
        )


def _comparison(
    group: Sequence[Summary], summaries: Sequence[Summary], make: Callable[[Summary], Entry], paper: bool
) -> Comparison:
    first = group[0].first
    metrics = {
        name: Metric(
            name=name, label=about["label"], unit=about["unit"], higher_is_better=bool(about["higher_is_better"])
        )
        for name, about in first.metrics.items()
    }
    others = {s.comparison_key: s for s in summaries if (s.task, s.dataset) == (first.task, first.dataset)}
    identities = [comparison_identity(summary.first) for summary in others.values()]
    named = dict(zip(others, told_apart(identities, differing([identities])), strict=True))
    entries = [make(summary) for summary in group]
    if paper and all(may_stand_beside(summary) for summary in group):
        entries += paper_entries(first.task)
    return Comparison(
        task=first.task,
        dataset=first.dataset,
        conditions=group[0].comparison_key,
        told_apart=named[group[0].comparison_key],
        metrics=tuple(metrics.values()),
        main=metrics[first.main_metric],
        prior={name: first.prior[name] for name in metrics},
        entries=tuple(entries),
        notes=tuple(_notes(group, entries)),
    )


def _notes(group: Sequence[Summary], entries: Sequence[Entry]) -> Iterator[str]:
    first = group[0].first
    height, width = first.protocol["output_size"]
    protocols = _by(group, lambda summary: summary.protocol_digest[:SHORT])
    yield f"images: {first.train_images:,} train, {first.val_images:,} val, output {height}×{width}"
    named = (f"{digest} ({', '.join(dict.fromkeys(s.readout for s in rows))})" for digest, rows in protocols.items())
    yield f"protocol: {', '.join(named)}"
    yield from (f"no interval: {problem}" for problem in dict.fromkeys(e.problem for e in entries) if problem)


def _ordered(comparison: Comparison) -> Comparison:
    """With its entries sorted, the best first."""
    main = comparison.main

    def place(entry: Entry) -> tuple[bool, float]:
        mean = entry.scores[main.name].mean if main.name in entry.scores else math.nan
        return math.isnan(mean), -mean if main.higher_is_better else mean

    return dataclasses.replace(comparison, entries=tuple(sorted(comparison.entries, key=place)))


def _board(title: str, comparisons: Sequence[Comparison]) -> Board:
    columns = sorted(comparisons, key=lambda c: (_task_place(c.task), c.task, c.dataset, c.told_apart))
    cells: dict[tuple[str, ...], dict[str, Entry]] = defaultdict(dict)
    ranks: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for comparison in columns:
        for rank, entry in enumerate(comparison.entries):
            cells[entry.row][comparison.key] = entry
            ranks[entry.row].append(rank)
    rows = sorted(cells, key=lambda row: (-len(ranks[row]), sum(ranks[row]), row))
    lines = tuple(Line(first=next(iter(cells[row].values())), cells=cells[row]) for row in rows)
    return Board(title=title, comparisons=tuple(columns), lines=lines)


def _task_place(task: str) -> int:
    return list(DATA).index(task) if task in DATA else len(DATA)
