"""The paper's tables with our results in them, and the paper's numbers beside: as text, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from deapcache.recipe import SHORT
from deapcache.results.aggregate import Summary, mixture
from deapcache.results.blocks import Block, print_blocks
from deapcache.results.cells import NOTHING, TRAIN_TIME, heading, interval, score, train_time
from deapcache.results.comparison import SPREADS, Cell, compared, is_of_backbones, unlike_paper
from deapcache.results.layouts import Column, Grid, Row, lay_out, layout_title
from deapcache.results.paper import paper_parameters
from deapcache.results.reading import inner_layer
from deapcache.results.record import plain_json
from deapcache.results.table import make_blocks
from deapcache.results.uncertainty import UncertaintyOf

PLAIN = "plain"
"""The layout of ``table.make_blocks``: a table for each task and dataset."""

_FACTS = {"parameters": "P_learn\n[M]", "time": TRAIN_TIME.replace(" ", "\n")}

_OURS, _INTERVAL, _PAPER, _DIFFERENCE = "ours", "95% interval", "paper", "difference"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table in the paper's layout."""

    which: str
    grid: Grid
    cells: Mapping[tuple[int, Column], Cell]
    """(place of the row, column of a metric) → score; only where there is one."""
    mixed: tuple[str, ...]
    """What of mixed results was measured differently from what stands in an earlier row or table."""
    problems: tuple[str, ...]
    """Why rows lack an interval."""

    def block(self) -> Block:
        """The table as text: several lines for each row, ours first, then what it is compared with."""
        columns = self.grid.columns
        heads = (_head(column, self.grid) for column in columns)
        lines = [line for place, row in enumerate(self.grid.rows) for line in self._lines(place, row)]
        faint = frozenset(place for place, line in enumerate(lines) if line[1] in (_INTERVAL, _PAPER))
        first = "readout" if self.which in ("table5", "figure4") else "backbone"
        return Block(self.grid.title, (first, "", *heads), tuple(lines), tuple(self._notes()), faint)

    def to_json(self) -> dict[str, Any]:
        """The table as a JSON object: for each row its scores with spread, interval, paper's number and difference."""
        rows = [
            {"label": row.label, "cells": [cell.to_json() for (at, _), cell in self.cells.items() if at == place]}
            for place, row in enumerate(self.grid.rows)
        ]
        document = {"table": self.which, "title": self.grid.title, "rows": rows, "notes": list(self._notes())}
        return dict(plain_json(document))

    def _lines(self, place: int, row: Row) -> Iterator[tuple[str, ...]]:
        found = [(column, self.cells.get((place, column)), row.summary(column)) for column in self.grid.columns]
        name = row.label
        for source in (_OURS, _INTERVAL, _PAPER, _DIFFERENCE):
            texts = [_text(self.which, source, column, cell, summary) for column, cell, summary in found]
            if source == _OURS or any(texts):
                yield name, source, *texts
                name = ""

    def _notes(self) -> Iterator[str]:
        yield f"ours: mean over (n) seeds ± their sample standard deviation{self._legend()}"
        for task, dataset in dict.fromkeys((s.task, s.dataset) for s in self.grid.summaries):
            yield from _task_notes([s for s in self.grid.summaries if (s.task, s.dataset) == (task, dataset)])
        yield from self.mixed
        yield from self._best_of_seeds()
        yield from (f"no interval: {problem}" for problem in self.problems)

    def _legend(self) -> str:
        if all(cell.paper is None for cell in self.cells.values()):
            return ""
        marks = f"; ▲ better, ▼ worse than the paper, = equal within its rounding; * beyond {SPREADS} spreads"
        return marks + (" and the interval" if any(cell.interval for cell in self.cells.values()) else "")

    def _best_of_seeds(self) -> Iterator[str]:
        """The paper's largest bicubic run on detection is the best of three; so the best stands beside our mean."""
        if self.which != "figure4":
            return
        cells = [c for c in self.cells.values() if (c.summary.task, c.summary.readout[:7]) == ("detection", "bicubic")]
        if cells:
            largest = max(cells, key=lambda cell: cell.summary.first.parameters)
            best = max(result.scores[largest.metric] for result in largest.summary.results)
            yield f"detection · {largest.summary.readout}: best of {len(largest.summary.seeds)} seeds {best:.4f}"


def comparison_table(
    summaries: Sequence[Summary], which: str, *, uncertainty: UncertaintyOf | None = None
) -> list[Sheet]:
    """``table3``, ``table4``, ``table5`` or ``figure4`` of the paper, filled: a sheet for each kind of data.

    The paper's numbers stand beside ours where dataset, numbers of images and output size are the paper's; elsewhere a
    note says why not. [] where no result fits the layout; raises :class:`UsageError` for a layout that there is not.
    """
    return [_sheet(grid, which, uncertainty, mixture(grid.summaries, summaries)) for grid in lay_out(summaries, which)]


def print_layouts(
    summaries: Sequence[Summary],
    layouts: Sequence[str],
    *,
    file: IO[str] | None = None,
    uncertainty: UncertaintyOf | None = None,
) -> None:
    """Print results in each of ``layouts``: ``plain``, or those of :func:`comparison_table`.

    In colour on a terminal, else as plain text that is never wrapped or cut.
    """
    for layout in layouts:
        print_blocks(layout_blocks(summaries, layout, uncertainty=uncertainty), file=file)


def layout_blocks(
    summaries: Sequence[Summary], layout: str, *, uncertainty: UncertaintyOf | None = None
) -> list[Block]:
    """The tables of one layout as text; one that says so where no result fits it."""
    if layout == PLAIN:
        return make_blocks(summaries, uncertainty=uncertainty)
    sheets = comparison_table(summaries, layout, uncertainty=uncertainty)
    return [sheet.block() for sheet in sheets] or [Block(layout_title(layout), (), (), ("no result fits it",))]


def _sheet(grid: Grid, which: str, uncertainty: UncertaintyOf | None, mixed: Sequence[str]) -> Sheet:
    cells = {
        (place, column): compared(summary, column.metric, which, uncertainty)
        for place, row in enumerate(grid.rows)
        for column in grid.columns
        if column.metric is not None and (summary := row.summary(column)) is not None
    }
    known = [uncertainty(summary) for summary in grid.summaries] if uncertainty else []
    problems = tuple(dict.fromkeys(one.problem for one in known if one.problem))
    return Sheet(which=which, grid=grid, cells=cells, mixed=tuple(mixed), problems=problems)


def _head(column: Column, grid: Grid) -> str:
    if column.metric is None:
        return _FACTS[column.fact]
    metric = next(s.first.metrics[column.metric] for s in grid.summaries if s.task == column.task)
    return "\n".join([column.task, *([column.backbone] if column.backbone else []), heading(metric)])


def _text(which: str, source: str, column: Column, cell: Cell | None, summary: Summary | None) -> str:
    """What stands in one line of a row under a column; empty where there is nothing to say."""
    if summary is None:
        return NOTHING if source == _OURS else ""
    if cell is None:
        return _fact(which, source, column, summary)
    texts = {
        _OURS: f"{score(cell.mean, cell.spread)} ({len(summary.seeds)})",
        _INTERVAL: interval(cell.interval) if cell.interval else "",
        _PAPER: str(cell.paper or ""),
        _DIFFERENCE: _difference(cell),
    }
    return texts[source]


def _fact(which: str, source: str, column: Column, summary: Summary) -> str:
    if source == _OURS:
        return train_time(summary) if column.fact == "time" else f"{summary.first.parameters / 1e6:.3f}"
    if (
        source != _PAPER
        or unlike_paper(summary.first)
        or inner_layer(summary.first)
        or not is_of_backbones(summary, which)
    ):
        return ""
    return str(paper_parameters(summary.backbone, summary.task) or "")


def _difference(cell: Cell) -> str:
    if cell.paper is None:
        return ""
    if cell.is_better is None:
        return "="
    return f"{'▲' if cell.is_better else '▼'} {abs(cell.difference):.1%}{' *' if cell.is_beyond else ''}"


def _task_notes(summaries: Sequence[Summary]) -> Iterator[str]:
    """Where one task's numbers come from."""
    first = summaries[0].first
    protocols: dict[str, list[str]] = {}
    for summary in summaries:
        protocols.setdefault(summary.protocol_digest[:SHORT], []).append(summary.readout)
    named = ", ".join(f"{digest} ({', '.join(dict.fromkeys(readouts))})" for digest, readouts in protocols.items())
    seeds = ", ".join(str(seed) for seed in sorted({seed for summary in summaries for seed in summary.seeds}))
    yield (
        f"{first.task} · {first.dataset}: protocol {named}; seeds {seeds}; "
        f"{first.train_images:,} train and {first.val_images:,} val images"
    )
    if inner := sorted({s.label for s in summaries if inner_layer(s.first)}):
        yield f"{first.task} · {first.dataset}: the paper's are of last layers, not beside {', '.join(inner)}"
    if unlike := unlike_paper(first):
        yield f"{first.task} · {first.dataset}: no paper's number beside it: {unlike}"
