"""The leaderboard as CSV: one line for each entry and metric."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from deapcache.results.frame import layer_of, tokens_of
from deapcache.results.leaderboard.columns import details
from deapcache.results.leaderboard.entries import Comparison, Entry, Leaderboard, Metric
from deapcache.results.leaderboard.speeds import on_device

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""How cells begin that a spreadsheet computes; the last four are the wide forms of the others."""


def csv_text(board: Leaderboard, beside: Path | None) -> str:
    """CSV with a header; numbers in full, empty where unknown, several seeds, runs and versions joined by spaces."""
    rows = [row for comparison in board.comparisons for row in _rows(comparison, board.device, beside)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["task"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _rows(comparison: Comparison, device: str, beside: Path | None) -> Iterator[dict[str, str | float | None]]:
    for entry in comparison.entries:
        for metric in comparison.metrics:
            if metric.name in entry.scores:
                yield {**_row(comparison, entry, metric, beside), **_speed(entry, device)}


def _row(comparison: Comparison, entry: Entry, metric: Metric, beside: Path | None) -> dict[str, str | float | None]:
    score, summary = entry.scores[metric.name], entry.summary
    return {
        "task": comparison.task,
        "dataset": comparison.dataset,
        "conditions": comparison.conditions[:12],
        "source": entry.source,
        "backbone": entry.backbone.name,
        "category": entry.backbone.category,
        "backbone_parameters": entry.backbone.parameters,
        "features": entry.backbone.size,
        "layer": layer_of(summary.first) if summary else "",
        "tokens": tokens_of(summary.first) if summary else "",
        "readout": entry.readout,
        "variant": entry.variant,
        "lr": summary.lr if summary else None,
        "readout_parameters": entry.parameters,
        "metric": metric.name,
        "unit": metric.unit,
        "higher_is_better": str(metric.higher_is_better).lower(),
        "is_main": str(metric == comparison.main).lower(),
        "mean": score.mean,
        "spread": score.spread,
        "low": score.interval[0] if score.interval else None,
        "high": score.interval[1] if score.interval else None,
        "prior": comparison.prior.get(metric.name),
        "seeds": " ".join(map(str, entry.seeds)),
        "train_ms_per_image": entry.cost("train_ms_per_image"),
        "predict_ms_per_image": entry.cost("predict_ms_per_image"),
        "protocol": entry.protocol,
        "date": entry.date,
        "versions": entry.versions,
        "runs": " ".join(result.run for result in summary.results) if summary else "",
        "details": details(entry, beside) or entry.printed,
    }


def _speed(entry: Entry, device: str) -> dict[str, str | float | None]:
    found = on_device(entry.backbone, device)
    return {
        "speed_relative": found.relative if found else None,
        "speed_images_per_second": found.images_per_second if found else None,
        "speed_device": device if found else "",
    }


def _plain(value: str | float | None) -> str | float | None:
    """A text that a spreadsheet would run as a formula is quoted; a number that is none is empty."""
    if isinstance(value, str):
        value = " ".join(value.split("\n"))
        return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
    return None if value is None or math.isnan(value) else value
