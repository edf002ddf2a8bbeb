"""The leaderboard as text tables and as a Markdown page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deapcache.results.leaderboard.columns import BACKBONE, MEASURED, Column, details, has_intervals, score_columns
from deapcache.results.leaderboard.entries import PAPER, Board, Comparison, Entry, Leaderboard, Line
from deapcache.results.leaderboard.speeds import UNIT, ratio, relative, speed_note
from deapcache.results.tables import NOTHING, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|!~$])")
_SPREAD = "± is the sample standard deviation over seeds; 95% interval: of their mean, bootstrap over val images"
_ORDER = "rows with most tasks first, then by their ranks; scores of different columns say nothing about each other"


def blocks(board: Leaderboard) -> list[Table]:
    """A table backbones × tasks for each board, then one with everything for each task."""
    found = [_matrix(one, board) for one in board.boards]
    found += [_comparison(one, MEASURED) for one in board.comparisons]
    if board.notes:
        found.append(Table("counted once", (), (), board.notes))
    return found


def _matrix(board: Board, whole: Leaderboard) -> Table:
    heads = tuple("\n".join([*_title(one), str(one.main)]) for one in board.comparisons)
    speed = f"speed\n{UNIT}"
    rows = tuple(
        (
            *_names(line),
            ratio(relative(line.first.backbone, whole.device)),
            *(_cell(line.cells.get(c.key), c) for c in board.comparisons),
        )
        for line in board.lines
    )
    notes = (_ORDER, speed_note(whole.device, len(whole.devices) - 1))
    faint = frozenset(place for place, line in enumerate(board.lines) if line.first.source == PAPER)
    header = (*(name for name, _ in BACKBONE), speed, *heads)
    return Table(f"backbones × tasks: {board.title}", header, rows, notes, faint)


def _names(line: Line) -> Iterator[str]:
    for name, text in BACKBONE:
        yield line.origin if name == "from" else text(line.first)


def _title(comparison: Comparison) -> Iterator[str]:
    yield comparison.task
    if comparison.dataset != comparison.task:
        yield comparison.dataset
    if comparison.told_apart:
        yield comparison.told_apart


def _cell(entry: Entry | None, comparison: Comparison) -> str:
    if entry is None or comparison.main.name not in entry.scores:
        return NOTHING
    seeds = f" ({len(entry.seeds)})" if entry.seeds else ""
    return f"{entry.scores[comparison.main.name]}{seeds}"


def _comparison(comparison: Comparison, further: Sequence[Column]) -> Table:
    columns = [*BACKBONE[:3], *score_columns(comparison, with_intervals=has_intervals(comparison)), *further]
    columns = [column for column in columns if any(column[1](e) != NOTHING for e in comparison.entries)]
    rows = [tuple(text(entry) for _, text in columns) for entry in comparison.entries]
    notes = list(comparison.notes)
    if comparison.prior:
        prior = comparison.prior[comparison.main.name]
        shown = NOTHING if math.isnan(prior) else f"{prior:.4f}"
        notes = [f"image-independent prior: {comparison.main.label} {shown}", *notes, _SPREAD]
    faint = frozenset(place for place, entry in enumerate(comparison.entries) if entry.source == PAPER)
    return Table(comparison.title, tuple(name for name, _ in columns), tuple(rows), tuple(notes), faint)


def markdown_page(board: Leaderboard, beside: Path | None) -> str:
    """A Markdown page; links to results are relative to the folder ``beside``."""
    parts = ["# Leaderboard", ""]
    parts += [_section(_matrix(one, board), "##") for one in board.boards]
    for comparison in board.comparisons:
        block = _comparison(comparison, MEASURED)
        links = [_link(entry, beside) for entry in comparison.entries]
        parts.append(_section(block, "##", links if any(links) else []))
    if board.notes:
        parts += ["## Counted once", "", *(f"* {escaped(note)}" for note in board.notes), ""]
    return "\n".join(parts)


def _link(entry: Entry, beside: Path | None) -> str:
    address = details(entry, beside)
    return f"[result]({address})" if address else ""


def _section(block: Table, level: str, links: Sequence[str] = ()) -> str:
    head = [*map(escaped, block.header), *(["details"] if links else [])]
    rule = ["---" if place < len(BACKBONE[:4]) else "---:" for place in range(len(head))]
    rows = [[*map(escaped, row), *links[place : place + 1]] for place, row in enumerate(block.rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join([f"{level} {escaped(block.title)}", "", *lines, "", *(f"* {escaped(n)}" for n in block.notes), ""])


def escaped(text: str) -> str:
    """``text`` as Markdown that shows it: what a stranger called a backbone is no link, no HTML and no second line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
