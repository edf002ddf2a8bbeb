"""The leaderboard as text tables, as a Markdown page, and as CSV with a line for each entry and metric."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deapcache.locations import LocalLocation
from deapcache.recipe import SHORT
from deapcache.results.frame import grouped
from deapcache.results.leaderboard.board import (
    PAPER,
    SPEED_COMMAND,
    SPEED_UNIT,
    Leaderboard,
    comparison_notes,
    origin,
    relative_speed,
    score_text,
    speed_on,
    volume,
)
from deapcache.results.marks import legend
from deapcache.results.record import result_key
from deapcache.results.tables import (
    CHOSEN_RATE,
    MARKS,
    NOTHING,
    OVER_PRIOR,
    Table,
    difference,
    heading,
    interval,
    markdown,
    millions,
    score,
    three_digits,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|!~$])")
_SPREAD = "± is the sample standard deviation over seeds"
_ORDER = "rows with most tasks first, then by their ranks; scores of different columns say nothing about each other"
_NAMES = 4
"""Columns that are names in Markdown; the others are numbers, and stand right."""

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""How cells begin that a spreadsheet computes; the last four are the wide forms of the others."""

_BACKBONE: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("backbone", lambda line: line.display_name),
    ("readout", lambda line: line.name),
    ("from", lambda line: origin([line])),
    ("category", lambda line: line.category),
    ("parameters\n[M]", lambda line: millions(line.backbone_parameters, 1)),
    ("features\nH×W×D", lambda line: volume(line) or NOTHING),
)
"""Heading → text: what an entry is of."""

_MEASURED: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("seeds", lambda line: ", ".join(map(str, line.seeds)) or NOTHING),
    (CHOSEN_RATE, lambda line: line.rate if any(result.is_selected for result in line.results) else NOTHING),
    ("learnable\n[M]", lambda line: millions(line.parameters, 3)),
    ("train\n[ms/image]", lambda line: three_digits(line.cost.get("train_ms_per_image"))),
    ("protocol", lambda line: line.protocol[:SHORT] or NOTHING),
    ("date", lambda line: line.date or NOTHING),
    ("versions", lambda line: line.versions or NOTHING),
)
"""How it was measured."""


def leaderboard_tables(board: Leaderboard) -> list[Table]:
    """A table backbones × tasks for each board, then one with everything for each task."""
    found = [_board_table(lines, board) for lines in board.boards]
    found += [_comparison_table(lines) for lines in board.comparisons]
    if board.notes:
        found.append(Table("counted once", (), (), board.notes))
    return found


def _board_table(lines: Sequence[Any], board: Leaderboard) -> Table:
    columns = [scores[0] for scores in grouped((line for line in lines if line.is_main), "comparison")]
    rows = sorted(grouped(lines, "line"), key=lambda row: int(row[0].line))
    texts = []
    for row in rows:
        cells = {line.comparison: line for line in row if line.is_main}
        texts.append(
            (
                *(origin(row) if name == "from" else text(row[0]) for name, text in _BACKBONE),
                three_digits(relative_speed(row[0], board.device)),
                *(_cell(cells.get(column.comparison)) for column in columns),
            )
        )
    header = (*(name for name, _ in _BACKBONE), f"speed\n{SPEED_UNIT}", *map(_head, columns))
    faint = frozenset(place for place, row in enumerate(rows) if row[0].source == PAPER)
    notes = (_ORDER, _speed_note(board), *legend(line.marks for line in lines))
    return Table(f"backbones × tasks: {lines[0].board}", header, tuple(texts), notes, faint)


def _cell(line: Any) -> str:
    if line is None:
        return NOTHING
    return " ".join(filter(None, (score_text(line), f"({len(line.seeds)})" if line.seeds else "", line.marks)))


def _head(column: Any) -> str:
    dataset = column.dataset if column.dataset != column.task else ""
    return "\n".join(filter(None, (column.task, dataset, column.setting, heading(column._asdict()))))


def _speed_note(board: Leaderboard) -> str:
    """What the column of speeds is, and what to type where it is empty."""
    if not board.device:
        return f"speed: not measured yet, {SPEED_COMMAND} measures it on the device at hand"
    others = len(board.devices) - 1
    more = f"; {others} more device{'s' if others > 1 else ''} measured (--device)" if others else ""
    about = "speed: whole backbone in inference, ViT-B/16 at 224 = 1, higher is faster"
    return f"{about}; on {board.device}{more}; {NOTHING} not measured there ({SPEED_COMMAND})"


def _comparison_table(lines: Sequence[Any]) -> Table:
    scores = [{line.metric: line for line in entry} for entry in grouped(lines, "entry")]
    entries = [entry[0] for entry in grouped(lines, "entry")]
    columns = [(name, [text(entry) for entry in entries]) for name, text in _BACKBONE[:3]]
    metrics, prior = [of_metric[0] for of_metric in grouped(lines, "metric")], ""
    for metric in sorted(metrics, key=lambda metric: (not metric.is_main, metric.place)):
        found = [entry.get(metric.metric) for entry in scores]
        columns.append((heading(metric._asdict()), [score_text(line) if line else NOTHING for line in found]))
        if metric.is_main:
            columns.append((MARKS, [line.marks or NOTHING if line else NOTHING for line in found]))
            columns.append(("95% interval", [interval(line.interval) if line else NOTHING for line in found]))
            columns.append((OVER_PRIOR, [difference(line.difference) if line else NOTHING for line in found]))
            prior = f"image-independent prior: {metric.label} {score(metric.prior)}" if metric.prior is not None else ""
    columns += [(name, [text(entry) for entry in entries]) for name, text in _MEASURED]
    columns = [(name, texts) for name, texts in columns if set(texts) != {NOTHING}]
    notes = comparison_notes(lines)
    notes = [prior, *notes, _SPREAD] if prior else notes
    faint = frozenset(place for place, entry in enumerate(entries) if entry.source == PAPER)
    header, texts = zip(*columns, strict=True)
    return Table(entries[0].title, header, tuple(zip(*texts, strict=True)), tuple(notes), faint)


def markdown_page(board: Leaderboard, beside: Path | None) -> str:
    """A Markdown page; links to results are relative to the folder ``beside``."""
    parts = ["# Leaderboard", ""]
    section = partial(markdown, level=2, names=_NAMES, escape=escaped)
    parts += [section(_board_table(lines, board)) for lines in board.boards]
    for lines in board.comparisons:
        addresses = [details(entry[0], beside) for entry in grouped(lines, "entry")]
        links = [f"[result]({address})" if address else "" for address in addresses]
        parts.append(section(_comparison_table(lines), links=links if any(links) else ()))
    if board.notes:
        parts += ["## Counted once", "", *(f"* {escaped(note)}" for note in board.notes), ""]
    return "\n".join(parts)


def escaped(text: str) -> str:
    """``text`` as Markdown that shows it: what a stranger called a backbone is no link, no HTML and no second line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def details(line: Any, beside: Path | None) -> str:
    """Where the result of the first seed lies: an address, relative to the folder ``beside`` for a local home.

    Empty for the paper's. Reserved characters are quoted, so that it is safe in Markdown and HTML.
    """
    if not line.results:
        return ""
    home, key = line.homes[0], result_key(line.results[0].run)
    if not isinstance(home, LocalLocation):
        return quote(f"{home}/{key}", safe=":/@")
    folder = home.path
    return quote(f"{os.path.relpath(folder, beside.absolute()) if beside else folder}/{key}", safe="/@")


def csv_text(board: Leaderboard, beside: Path | None) -> str:
    """CSV with a header; numbers in full, empty where unknown, several seeds, runs and versions joined by spaces."""
    rows = [dict(_csv_row(line, board.device, beside)) for lines in board.comparisons for line in lines]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["task"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_row(line: Any, device: str, beside: Path | None) -> Iterator[tuple[str, str | float | None]]:
    yield from ((name, getattr(line, name)) for name in ("task", "dataset"))
    yield "conditions", line.comparison_key[:SHORT]
    yield from ((name, getattr(line, name)) for name in ("source", "backbone", "category", "backbone_parameters"))
    yield "features", volume(line)
    yield from ((name, getattr(line, name)) for name in ("layer", "tokens", "readout", "variant", "lr"))
    yield "lr_range", line.results[0].selection.get("range") if line.results else None
    yield "readout_parameters", line.parameters
    yield from ((name, getattr(line, name)) for name in ("metric", "unit"))
    yield from ((name, str(bool(getattr(line, name))).lower()) for name in ("higher_is_better", "is_main"))
    yield from ((name, getattr(line, name)) for name in ("mean", "spread"))
    yield from zip(("low", "high"), line.interval or (None, None), strict=True)
    yield "prior", line.prior
    ends = (None,) * 3 if line.difference is None else (line.difference.value, *line.difference.interval)
    yield from zip(("over_prior", "over_prior_low", "over_prior_high"), ends, strict=True)
    yield from ((name, getattr(line, name)) for name in ("p_holm", "marks"))
    yield "seeds", " ".join(map(str, line.seeds))
    yield from ((name, line.cost.get(name)) for name in ("train_ms_per_image", "predict_ms_per_image"))
    yield from ((name, getattr(line, name)) for name in ("protocol", "date", "versions"))
    yield "runs", " ".join(result.run for result in line.results)
    yield "details", details(line, beside) or line.printed
    speed = speed_on(line, device)
    yield "speed_relative", speed.relative if speed else None
    yield "speed_images_per_second", speed.images_per_second["median"] if speed else None
    yield "speed_device", device if speed else ""


def _plain(value: str | float | None) -> str | float | None:
    """A text that a spreadsheet would run as a formula is quoted; a number that is none is empty."""
    if isinstance(value, str):
        value = " ".join(value.split("\n"))
        return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
    return None if value is None or math.isnan(value) else value
