"""A score of ours beside the paper's: where the two may be compared, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deapcache.regions import SQUASH
from deapcache.results.aggregate import Summary
from deapcache.results.intervals import Interval
from deapcache.results.paper import BASE, DATA, READOUTS, PaperNumber, paper_ablation, paper_score
from deapcache.results.reading import inner_layer, layer_of, tokens_of
from deapcache.results.record import Result
from deapcache.results.uncertainty import UncertaintyOf

SPREADS = 2
"""A difference is marked where the paper's number is more than so many spreads, and beyond the interval, from ours."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One score of ours, and the paper's where it has one that was measured on the same data."""

    summary: Summary
    metric: str
    interval: Interval | None
    """95% interval over images; ``None`` where it was not computed."""
    paper: PaperNumber | None

    @property
    def mean(self) -> float:
        """Over seeds."""
        return self.summary.mean[self.metric]

    @property
    def spread(self) -> float:
        """Over seeds; NaN for a single one."""
        return self.summary.spread[self.metric]

    @property
    def higher_is_better(self) -> bool:
        """Of the metric."""
        return bool(self.summary.first.metrics[self.metric]["higher_is_better"])

    @property
    def difference(self) -> float:
        """Ours minus the paper's, as a share of the paper's; NaN without a paper's number."""
        return math.nan if self.paper is None else (self.mean - self.paper.value) / abs(self.paper.value)

    @property
    def is_better(self) -> bool | None:
        """Than the paper; ``None`` without a paper's number, or where they agree within its rounding."""
        if self.paper is None or math.isnan(self.mean) or abs(self.mean - self.paper.value) <= self.paper.rounding:
            return None
        return (self.mean > self.paper.value) == self.higher_is_better

    @property
    def is_beyond(self) -> bool | None:
        """Whether the paper's number, with its rounding, is outside both two spreads and the interval.

        ``None`` where there is nothing to judge by: no paper's number, or neither several seeds nor an interval.
        """
        bounds = [(self.mean - SPREADS * self.spread, self.mean + SPREADS * self.spread), self.interval]
        known = [found for found in bounds if found is not None and not math.isnan(found[0])]
        if self.paper is None or not known:
            return None
        low, high = min(found[0] for found in known), max(found[1] for found in known)
        return self.paper.value + self.paper.rounding < low or self.paper.value - self.paper.rounding > high

    def to_json(self) -> dict[str, Any]:
        """Everything about the cell; what is not known is ``None`` or NaN."""
        first = self.summary.first
        return {
            **{name: getattr(self.summary, name) for name in ("task", "dataset", "backbone", "readout", "lr", "seeds")},
            "layer": layer_of(first),
            "tokens": tokens_of(first),
            "metric": self.metric,
            "mean": self.mean,
            "spread": self.spread,
            "interval": self.interval,
            "paper": None if self.paper is None else {"value": self.paper.value, "source": self.paper.source},
            "difference": self.difference,
            "is_better": self.is_better,
            "is_beyond": self.is_beyond,
            "parameters": first.parameters,
            "protocol_digest": self.summary.protocol_digest,
            "runs": [result.run for result in self.summary.results],
        }


def compared(summary: Summary, metric: str, which: str, uncertainty: UncertaintyOf | None) -> Cell:
    """The cell of ``summary`` in ``table3``, ``table4``, ``table5`` or ``figure4``."""
    known: Mapping[str, Interval] = uncertainty(summary).intervals if uncertainty else {}
    paper = None if unlike_paper(summary.first) or inner_layer(summary.first) else _paper_number(summary, metric, which)
    return Cell(summary=summary, metric=metric, interval=known.get(metric), paper=paper)


def _paper_number(summary: Summary, metric: str, which: str) -> PaperNumber | None:
    if which == "table5":
        return paper_ablation(summary.readout, summary.backbone, summary.task, metric)
    return paper_score(summary.backbone, summary.task, metric) if is_of_backbones(summary, which) else None


def is_of_backbones(summary: Summary, which: str) -> bool:
    """Whether Tables 3 and 4 may have this cell: they are of the full readout. Figure 4 prints no numbers."""
    return which in ("table3", "table4") and READOUTS.get(summary.readout) == BASE


def unlike_paper(result: Result) -> str:
    """Why a result must not stand beside the paper's, for a note; empty where it may.

    Same data is asked for: dataset, numbers of images, output size, whole images. Which ones it chose where it did not
    take all, and how it trained, the paper does not say.
    """
    data = DATA.get(result.task)
    if data is None:
        return "the paper has no such task"
    size = tuple(result.protocol["output_size"])
    pairs = {
        "dataset": (result.dataset, data.dataset),
        "train images": (result.train_images, data.train_images),
        "val images": (result.val_images, data.val_images),
        "output size": (size, data.output_size),
        "fit": (result.caches["train"]["recipe"].get("base_fit", SQUASH), SQUASH),
    }
    return "; ".join(f"{name} {ours}, the paper's {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs)
