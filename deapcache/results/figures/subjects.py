"""What a figure may put beside each other: results measured alike, at one learning rate, by task and data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deapcache.errors import ResultsError
from deapcache.results.frame import Summary
from deapcache.results.paper import unlike_paper
from deapcache.results.tables import heading


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One panel's results: a task on one dataset."""

    task: str
    dataset: str
    metric: str
    summaries: tuple[Summary, ...]
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    @property
    def axis(self) -> str:
        """``mIoU ↑``, with the unit where there is one."""
        return heading(self.summaries[0].first.metrics[self.metric])

    @property
    def higher_is_better(self) -> bool:
        """Of the metric."""
        return bool(self.summaries[0].first.metrics[self.metric]["higher_is_better"])

    @property
    def paper_reason(self) -> str:
        """Why the paper's numbers may not stand beside these; empty where they may."""
        return unlike_paper(self.summaries[0].first)


def subjects(summaries: Sequence[Summary], rates: Sequence[float] = ()) -> list[Subject]:
    """Results by task and dataset, each readout at one learning rate.

    That is one of ``rates`` where any are given, else the one that most backbones were probed at, the lower of two: a
    figure takes no rate for its score. Raises :class:`ResultsError` where nothing has a rate of ``rates``.
    """
    chosen = _at_rates(summaries, rates)
    groups: dict[tuple[str, str], list[Summary]] = defaultdict(list)
    for summary in chosen:
        groups[summary.task, summary.dataset].append(summary)
    return [_subject(group) for group in groups.values()]


def spread_note(summaries: Iterable[Summary]) -> str:
    """What error bars are; empty where there are none."""
    several = any(len(summary.seeds) > 1 for summary in summaries)
    return "bars: ± one sample standard deviation over seeds" if several else ""


def error_bar(summary: Summary, metric: str) -> float:
    """The spread over seeds, 0 for a single one."""
    return summary.spread[metric] if len(summary.seeds) > 1 else 0.0


def _at_rates(summaries: Sequence[Summary], rates: Sequence[float]) -> list[Summary]:
    kept = [summary for summary in summaries if not rates or summary.lr in rates]
    if summaries and not kept:
        there = ", ".join(f"{rate:g}" for rate in sorted({summary.lr for summary in summaries}))
        raise ResultsError(f"no result at learning rate {', '.join(f'{rate:g}' for rate in rates)}: there are {there}")
    return kept


def _subject(group: Sequence[Summary]) -> Subject:
    first, kept, notes = group[0], [], []
    for readout in dict.fromkeys(summary.readout for summary in group):
        mine = [summary for summary in group if summary.readout == readout]
        rate = _commonest_rate(mine)
        kept += [summary for summary in mine if summary.lr == rate]
        others = sorted({summary.lr for summary in mine} - {rate})
        if others:
            told = ", ".join(f"{other:g}" for other in others)
            notes.append(f"{first.task}, {readout}: at learning rate {rate:g}; there is also {told} (--lr)")
    return Subject(
        task=first.task,
        dataset=first.dataset,
        metric=first.first.main_metric,
        summaries=tuple(kept),
        notes=tuple(notes),
    )


def _commonest_rate(summaries: Sequence[Summary]) -> float:
    backbones: dict[float, int] = defaultdict(int)
    for summary in summaries:
        backbones[summary.lr] += 1
    return min(backbones, key=lambda rate: (-backbones[rate], rate))
