"""The paper's rows as entries, marked as such."""

from __future__ import annotations

from collections.abc import Iterator

from deapcache.results.frame import Summary
from deapcache.results.leaderboard.entries import PAPER, Comparison, Entry, Metric, Score
from deapcache.results.leaderboard.facts import paper_backbone
from deapcache.results.paper import (
    DATA,
    READOUTS,
    PaperNumber,
    paper_ablation,
    paper_backbones,
    paper_metrics,
    paper_parameters,
    paper_score,
    unlike_paper,
)

FULL_READOUT = "deap"
"""Ours that Tables 3 and 4 are of."""

_ABLATED = tuple(dict.fromkeys(ours for ours, row in READOUTS.items() if ours == row))


def may_stand_beside(summary: Summary) -> bool:
    """Whether the paper's rows may: same task, dataset, numbers of images, output size, whole images."""
    return not unlike_paper(summary.first)


def paper_entries(task: str) -> list[Entry]:
    """Tables 3 and 4 of one task, and Table 5's other readouts."""
    return [
        entry
        for backbone in paper_backbones()
        for readout in (FULL_READOUT, *_ABLATED)
        if (entry := _entry(task, backbone, readout))
    ]


def paper_comparison(task: str, *, told_apart: str) -> Comparison:
    """The paper's rows of a task of which there are no results that they may stand beside."""
    from deapcache.tasks import get_task

    ours, data = get_task(task), DATA[task]
    height, width = data.output_size
    described = [(name, ours.metrics[name]) for name in ours.metrics if name in paper_metrics(task)]
    metrics = tuple(
        Metric(name=name, label=m.label, unit=m.unit, higher_is_better=m.higher_is_better) for name, m in described
    )
    return Comparison(
        task=task,
        dataset=data.dataset,
        conditions=PAPER,
        told_apart=told_apart,
        metrics=metrics,
        main=next(metric for metric in metrics if metric.name == ours.main_metric),
        prior={},
        entries=tuple(paper_entries(task)),
        notes=(f"images: {data.train_images:,} train, {data.val_images:,} val, output {height}×{width}",),
    )


def _entry(task: str, backbone: str, readout: str) -> Entry | None:
    printed = dict(_numbers(task, backbone, readout))
    if not printed:
        return None
    learnable = paper_parameters(backbone, task) if readout == FULL_READOUT else None
    scores = {metric: Score(mean=number.value, decimals=number.decimals) for metric, number in printed.items()}
    return Entry(
        source=PAPER,
        backbone=paper_backbone(backbone),
        readout=readout,
        variant="",
        scores=scores,
        parameters=learnable.value * 1e6 if learnable else None,
        printed=next(iter(printed.values())).source,
    )


def _numbers(task: str, backbone: str, readout: str) -> Iterator[tuple[str, PaperNumber]]:
    for metric in paper_metrics(task):
        if readout == FULL_READOUT:
            number = paper_score(backbone, task, metric)
        else:
            number = paper_ablation(readout, backbone, task, metric)
        if number is not None:
            yield metric, number
