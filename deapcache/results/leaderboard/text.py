"""The leaderboard as text tables, as a Markdown page, and as CSV with a line for each entry and metric."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deapcache.locations import LayeredHome, LocalLocation
from deapcache.recipe import SHORT
from deapcache.results.leaderboard.board import (
    PAPER,
    SPEED_COMMAND,
    Leaderboard,
    comparison_notes,
    line_origin,
    relative_speed,
    speed_on,
)
from deapcache.results.record import result_key
from deapcache.results.tables import NOTHING, Table, heading, interval, score

if TYPE_CHECKING:
    from pandas import DataFrame

SPEED_UNIT = "[× ViT-B/16]"

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#|!~$])")
_SPREAD = "± is the sample standard deviation over seeds; 95% interval: of their mean, bootstrap over val images"
_ORDER = "rows with most tasks first, then by their ranks; scores of different columns say nothing about each other"
_NAMES = 4
"""Columns that are names in Markdown; the others are numbers, and stand right."""

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""How cells begin that a spreadsheet computes; the last four are the wide forms of the others."""

_BACKBONE: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("backbone", lambda line: line.display_name),
    ("readout", lambda line: line.name),
    ("from", lambda line: line_origin([line.printed])),
    ("category", lambda line: line.category),
    ("parameters\n[M]", lambda line: millions(line.backbone_parameters, 1)),
    ("features\nH×W×D", lambda line: volume(line) or NOTHING),
)
"""Heading → text: what an entry is of."""

_MEASURED: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("seeds", lambda line: ", ".join(map(str, line.seeds)) or NOTHING),
    ("learnable\n[M]", lambda line: millions(line.parameters, 3)),
    ("train\n[ms/image]", lambda line: three_digits(line.cost.get("train_ms_per_image"))),
    ("protocol", lambda line: line.protocol[:SHORT] or NOTHING),
    ("date", lambda line: line.date or NOTHING),
    ("versions", lambda line: line.versions or NOTHING),
)
"""How it was measured."""


def millions(count: float | None, decimals: int) -> str:
    """``85.8`` from a count; a dash where it is not known."""
    return NOTHING if count is None else f"{count / 1e6:.{decimals}f}"


def three_digits(value: float | None) -> str:
    """``0.333``; a dash where it was not measured."""
    return NOTHING if value is None else f"{value:.3g}"


def volume(line: Any) -> str:
    """``14×14×768`` of the features; empty where it is not known."""
    return "×".join(map(str, line.features))


def score_text(line: Any) -> str:
    """Mean and spread, with the decimals that are known."""
    return score(line.mean, line.spread, line.decimals)


def leaderboard_tables(board: Leaderboard) -> list[Table]:
    """A table backbones × tasks for each board, then one with everything for each task."""
    found = [_board_table(title, lines, board) for title, lines in board.boards]
    found += [_comparison_table(lines) for lines in board.comparisons]
    if board.notes:
        found.append(Table("counted once", (), (), board.notes))
    return found


def _board_table(title: str, lines: DataFrame, board: Leaderboard) -> Table:
    columns = lines[lines["is_main"]].drop_duplicates("comparison")
    main = lines[lines["is_main"]]
    seeds = [f" ({len(seeds)})" if seeds else "" for seeds in main["seeds"]]
    texts = [score_text(line) + count for line, count in zip(main.itertuples(), seeds, strict=True)]
    cells = main.assign(text=texts).pivot(index="line", columns="comparison", values="text")
    firsts = lines.drop_duplicates("line").sort_values("line")
    cells = cells.reindex(index=firsts["line"], columns=columns["comparison"]).fillna(NOTHING)
    origins = lines.groupby("line")["printed"].agg(line_origin)
    rows = [
        (
            *(origins[first.line] if name == "from" else text(first) for name, text in _BACKBONE),
            three_digits(relative_speed(first, board.device)),
            *texts,
        )
        for first, texts in zip(firsts.itertuples(), cells.to_numpy(), strict=True)
    ]
    header = (*(name for name, _ in _BACKBONE), f"speed\n{SPEED_UNIT}", *map(_head, columns.itertuples()))
    faint = frozenset(place for place, source in enumerate(firsts["source"]) if source == PAPER)
    return Table(f"backbones × tasks: {title}", header, tuple(rows), (_ORDER, _speed_note(board)), faint)


def _head(column: Any) -> str:
    dataset = column.dataset if column.dataset != column.task else ""
    return "\n".join(filter(None, (column.task, dataset, column.told_apart, heading(column._asdict()))))


def _speed_note(board: Leaderboard) -> str:
    """What the column of speeds is, and what to type where it is empty."""
    if not board.device:
        return f"speed: not measured yet, {SPEED_COMMAND} measures it on the device at hand"
    others = len(board.devices) - 1
    more = f"; {others} more device{'s' if others > 1 else ''} measured (--device)" if others else ""
    about = "speed: whole backbone in inference, ViT-B/16 at 224 = 1, higher is faster"
    return f"{about}; on {board.device}{more}; {NOTHING} not measured there ({SPEED_COMMAND})"


def _comparison_table(lines: DataFrame) -> Table:
    entries = lines.drop_duplicates("entry")
    columns = [(name, [text(entry) for entry in entries.itertuples()]) for name, text in _BACKBONE[:3]]
    metrics = lines.drop_duplicates("metric").sort_values("place")
    main = metrics[metrics["is_main"]]
    for metric in (*main.itertuples(), *metrics[~metrics["is_main"].astype(bool)].itertuples()):
        of_metric = lines[lines["metric"] == metric.metric].set_index("entry")
        shown = {entry.Index: entry for entry in of_metric.itertuples()}
        texts = [score_text(shown[entry]) if entry in shown else NOTHING for entry in entries["entry"]]
        columns.append((heading(metric._asdict()), texts))
        if metric.is_main and of_metric["interval"].notna().any():
            intervals = [interval(shown[entry].interval) if entry in shown else NOTHING for entry in entries["entry"]]
            columns.append(("95% interval", intervals))
    columns += [(name, [text(entry) for entry in entries.itertuples()]) for name, text in _MEASURED]
    columns = [(name, texts) for name, texts in columns if set(texts) != {NOTHING}]
    notes = comparison_notes(lines)
    if lines["comparison_key"].iloc[0] != PAPER:
        prior = main.iloc[0]
        notes = [f"image-independent prior: {prior['label']} {score(prior['prior'])}", *notes, _SPREAD]
    faint = frozenset(place for place, source in enumerate(entries["source"]) if source == PAPER)
    header, rows = zip(*columns, strict=True)
    return Table(lines["title"].iloc[0], header, tuple(zip(*rows, strict=True)), tuple(notes), faint)


def markdown_page(board: Leaderboard, beside: Path | None) -> str:
    """A Markdown page; links to results are relative to the folder ``beside``."""
    parts = ["# Leaderboard", ""]
    parts += [_section(_board_table(title, lines, board)) for title, lines in board.boards]
    for lines in board.comparisons:
        entries = lines.drop_duplicates("entry").itertuples()
        links = [f"[result]({address})" if (address := details(entry, beside)) else "" for entry in entries]
        parts.append(_section(_comparison_table(lines), links if any(links) else []))
    if board.notes:
        parts += ["## Counted once", "", *(f"* {escaped(note)}" for note in board.notes), ""]
    return "\n".join(parts)


def _section(table: Table, links: Sequence[str] = ()) -> str:
    head = [*map(escaped, table.header), *(["details"] if links else [])]
    rule = ["---" if place < _NAMES else "---:" for place in range(len(head))]
    rows = [[*map(escaped, row), *links[place : place + 1]] for place, row in enumerate(table.rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join([f"## {escaped(table.title)}", "", *lines, "", *(f"* {escaped(n)}" for n in table.notes), ""])


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
    if isinstance(home, LayeredHome):
        home = home.own
    if not isinstance(home, LocalLocation):
        return quote(f"{home}/{key}", safe=":/@")
    folder = home.path
    return quote(f"{os.path.relpath(folder, beside.absolute()) if beside else folder}/{key}", safe="/@")


def csv_text(board: Leaderboard, beside: Path | None) -> str:
    """CSV with a header; numbers in full, empty where unknown, several seeds, runs and versions joined by spaces."""
    rows = [dict(_csv_row(line, board.device, beside)) for line in board.lines.itertuples()]
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
    yield "readout_parameters", line.parameters
    yield from ((name, getattr(line, name)) for name in ("metric", "unit"))
    yield from ((name, str(bool(getattr(line, name))).lower()) for name in ("higher_is_better", "is_main"))
    yield from ((name, getattr(line, name)) for name in ("mean", "spread"))
    yield from zip(("low", "high"), line.interval or (None, None), strict=True)
    yield "prior", line.prior
    yield "seeds", " ".join(map(str, line.seeds))
    yield from ((name, line.cost.get(name)) for name in ("train_ms_per_image", "predict_ms_per_image"))
    yield from ((name, getattr(line, name)) for name in ("protocol", "date", "versions"))
    yield "runs", " ".join(result.run for result in line.results)
    yield "details", details(line, beside) or line.printed
    speed = speed_on(line, device)
    yield "speed_relative", speed.relative if speed else None
    yield "speed_images_per_second", speed.images_per_second if speed else None
    yield "speed_device", device if speed else ""


def _plain(value: str | float | None) -> str | float | None:
    """A text that a spreadsheet would run as a formula is quoted; a number that is none is empty."""
    if isinstance(value, str):
        value = " ".join(value.split("\n"))
        return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
    return None if value is None or math.isnan(value) else value
