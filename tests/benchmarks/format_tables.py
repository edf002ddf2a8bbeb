"""What storage formats did to scores, as numbers and as Markdown; ``compare_formats`` measures it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

REFERENCE = "float32"
FORMATS = (REFERENCE, "float16", "bfloat16", "int8")
CONTROL = "last bit changed"
COLUMNS = (*FORMATS, CONTROL)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One metric of one task: (seeds,) scores in each column."""

    task: str
    heading: str
    """The metric with its unit and the direction that is better."""
    is_main: bool
    """Whether it is the task's main metric."""
    scores: Mapping[str, np.ndarray]

    def differences(self, column: str) -> np.ndarray:
        """(seeds,) score in ``column`` less that of the same seed in float32."""
        return self.scores[column] - self.scores[REFERENCE]

    @property
    def name(self) -> str:
        """The heading, bold for a main metric."""
        return f"**{self.heading}**" if self.is_main else self.heading


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that was measured."""

    stored_bytes: Mapping[str, float]
    """Format → bytes of features an image in the cache, compressed."""
    decoded_bytes: Mapping[str, int]
    """Format → bytes of features an image before compression."""
    rows: Sequence[Compared]


def spread(scores: np.ndarray) -> float:
    """Sample standard deviation over seeds."""
    return float(np.std(scores, ddof=1))


def movement(rows: Sequence[Compared], column: str) -> float:
    """How far scores of ``column`` are from those of float32, in spreads over float32's seeds.

    Root mean square over tasks (the main metric of each) and seeds; NaN where no task's seeds differ.
    """
    squares = [
        float(np.square(row.differences(column) / spread(row.scores[REFERENCE])).mean())
        for row in rows
        if row.is_main and spread(row.scores[REFERENCE]) > 0
    ]
    return math.sqrt(np.mean(squares)) if squares else math.nan


def tables(found: Comparison) -> str:
    """The comparison as Markdown: sizes, scores, and differences to float32 of the same seed."""
    scores = [
        [f"{of.mean():.4f} ± {spread(of):.4f}" for of in (row.scores[column] for column in COLUMNS)]
        for row in found.rows
    ]
    differences = [
        [f"{of.mean():+.5f} ± {spread(of):.5f}" for of in (row.differences(column) for column in COLUMNS[1:])]
        for row in found.rows
    ]
    return "\n\n".join(
        [_sizes(found), _by_task(found.rows, COLUMNS, scores), _by_task(found.rows, COLUMNS[1:], differences)]
    )


def _sizes(found: Comparison) -> str:
    lines = []
    for column in COLUMNS:
        moved = "–" if column == REFERENCE else f"{movement(found.rows, column):.2f}"
        if column == CONTROL:
            lines.append([f"float32, {CONTROL}", "", "", "", moved])
            continue
        size = found.stored_bytes[column]
        shares = [f"{size / whole:.2f}" for whole in (found.stored_bytes[REFERENCE], found.decoded_bytes[column])]
        lines.append([column, f"{size:,.0f}", *shares, moved])
    return markdown(["format", "bytes an image", "of float32", "of its own uncompressed", "scores move by"], lines)


def _by_task(rows: Sequence[Compared], columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [[row.task, row.name, *texts] for row, texts in zip(rows, cells, strict=True)]
    return markdown(["task", "metric", *columns], lines)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))
