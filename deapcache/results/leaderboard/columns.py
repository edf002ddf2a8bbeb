"""The columns that every form of the leaderboard shares: heading → text of an entry."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from deapcache.locations import LocalLocation
from deapcache.recipe import SHORT
from deapcache.results.leaderboard.entries import Comparison, Entry
from deapcache.results.record import result_key
from deapcache.results.tables import NOTHING, interval

Column = tuple[str, Callable[[Entry], str]]

BACKBONE: Sequence[Column] = (
    ("backbone", lambda entry: entry.backbone.label),
    ("readout", lambda entry: entry.name),
    ("from", lambda entry: entry.origin),
    ("category", lambda entry: entry.backbone.category),
    ("parameters\n[M]", lambda entry: millions(entry.backbone.parameters, 1)),
    ("features\nH×W×D", lambda entry: entry.backbone.size or NOTHING),
)
"""What an entry is of."""


def millions(count: float | None, decimals: int) -> str:
    """``85.8`` from a count; a dash where it is not known."""
    return NOTHING if count is None else f"{count / 1e6:.{decimals}f}"


def score_columns(comparison: Comparison, *, with_intervals: bool) -> list[Column]:
    """All metrics of a comparison, the main one first and followed by its interval."""
    ordered = [comparison.main, *(metric for metric in comparison.metrics if metric != comparison.main)]
    columns: list[Column] = [(str(metric), _score_of(metric.name)) for metric in ordered]
    if with_intervals:
        columns.insert(1, ("95% interval", lambda e: interval(e.scores[ordered[0].name].interval)))
    return columns


def _score_of(metric: str) -> Callable[[Entry], str]:
    return lambda entry: str(entry.scores[metric]) if metric in entry.scores else NOTHING


def has_intervals(comparison: Comparison) -> bool:
    """Whether any entry has an interval of the main metric."""
    known = (entry.scores.get(comparison.main.name) for entry in comparison.entries)
    return any(score is not None and score.interval is not None for score in known)


MEASURED: Sequence[Column] = (
    ("seeds", lambda entry: ", ".join(map(str, entry.seeds)) or NOTHING),
    ("learnable\n[M]", lambda entry: millions(entry.parameters, 3)),
    ("train\n[ms/image]", lambda entry: milliseconds(entry.cost("train_ms_per_image"))),
    ("protocol", lambda entry: entry.protocol[:SHORT] or NOTHING),
    ("date", lambda entry: entry.date or NOTHING),
    ("versions", lambda entry: entry.versions or NOTHING),
)
"""How it was measured."""


def milliseconds(value: float | None) -> str:
    """Three digits; a dash where it was not measured."""
    return NOTHING if value is None else f"{value:.3g}"


def details(entry: Entry, beside: Path | None) -> str:
    """Where the result of the first seed lies: an address, relative to the folder ``beside`` for a local home.

    Empty for the paper's. Reserved characters are quoted, so that it is safe in Markdown and HTML.
    """
    if entry.summary is None:
        return ""
    home, key = entry.homes[0], result_key(entry.summary.first.run)
    if not isinstance(home, LocalLocation):
        return quote(f"{home}/{key}", safe=":/@")
    folder = home.path
    return quote(f"{os.path.relpath(folder, beside.absolute()) if beside else folder}/{key}", safe="/@")
