"""The text of table cells: scores with spread, intervals, headings, time and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deapcache.results.aggregate import Summary
from deapcache.results.intervals import Interval

NOTHING = "–"

TRAIN_TIME = "train [ms/image]"

_COST = {"train_ms_per_image": (TRAIN_TIME, 1), "backward_bytes_per_image": ("memory [MB/image]", 1e6)}
"""What of a result's ``cost`` a table shows: title, and its unit in that of the result."""


def heading(metric: Mapping[str, Any]) -> str:
    """``CE [nats] ↓`` from a result's description of a metric."""
    unit = f" [{metric['unit']}]" if metric["unit"] else ""
    return f"{metric['label']}{unit} {'↑' if metric['higher_is_better'] else '↓'}"


def score(mean: float, spread: float = math.nan) -> str:
    """``0.6000 ± 0.1414``; a dash where there is no score."""
    if math.isnan(mean):
        return NOTHING
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def interval(found: Interval | None) -> str:
    """``0.5810–0.6190``; a dash where there is none."""
    if found is None or math.isnan(found[0]):
        return NOTHING
    return f"{found[0]:.4f}–{found[1]:.4f}"


def cost_columns(summaries: Sequence[Summary]) -> Iterator[tuple[str, ...]]:
    """Time and memory of training each readout: header, a cell for each, one left empty; nothing where none has any."""
    for name, (title, unit) in _COST.items():
        if any(name in summary.cost for summary in summaries):
            yield title, *(_cost(summary, name, unit) for summary in summaries), ""


def train_time(summary: Summary) -> str:
    """Milliseconds an image of one training step of the readout alone; a dash where it was not measured."""
    return _cost(summary, "train_ms_per_image", 1)


def _cost(summary: Summary, name: str, unit: float) -> str:
    return f"{summary.cost[name] / unit:.3g}" if name in summary.cost else NOTHING
