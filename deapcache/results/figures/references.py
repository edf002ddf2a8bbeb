"""Published scores to compare with: those that ship in ``results/published.json``, and any user's CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from deapcache.errors import DataError, MissingDataError
from deapcache.locations import read_file
from deapcache.results.paper import paper_backbones, paper_score

_KEY = "backbone"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One score of several backbones, as somebody else has published it."""

    name: str
    """For the axis, with the unit."""
    scores: Mapping[str, float]
    """Our name of a backbone → score."""
    source: str
    """Where each number can be looked up."""
    tasks: tuple[str, ...] = ()
    """Our tasks that it is to be compared with; none: all."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that the paper's Figure 6 compares with, and whose numbers do not ship."""

    study: str
    citation: str
    scores: str
    """What it measured."""
    compared_with: str
    why_absent: str


def shipped_references() -> list[Reference]:
    """The references of ``published.json``."""
    return [
        Reference(
            name=entry["name"],
            scores=_printed(entry["task"], entry["metric"]),
            source=entry["source"],
            tasks=tuple(entry["tasks"]),
        )
        for entry in _document()["references"]
    ]


def absent_studies() -> list[Study]:
    """What Figure 6 of the paper shows and does not print."""
    return [Study(**entry) for entry in _document()["absent"]]


def read_reference(file: Path) -> list[Reference]:
    """The references of a user's CSV: a column ``backbone``, and one for each score, whose heading names it.

    An empty cell is a score that is not known; lines that begin with ``#`` are comments. Raises
    :class:`MissingDataError` where the file is not there, and :class:`DataError` that names the line of what cannot be
    read.
    """
    try:
        lines = read_file(file).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MissingDataError(f"--reference {file}: no such file; expected {_expected()}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"--reference {file}: cannot be read as text in UTF-8 ({error}); expected {_expected()}"
        ) from None
    numbered = [(place, line) for place, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    rows = list(csv.reader([line for _, line in numbered]))
    heading = [cell.strip() for cell in rows[0]] if rows else []
    if heading[:1] != [_KEY] or len(heading) < 2 or not all(heading) or len(set(heading)) < len(heading):
        found = ",".join(heading) or "nothing"
        raise DataError(f"--reference {file}: the heading is {found!r}; expected {_expected()}")
    columns: dict[str, dict[str, float]] = {name: {} for name in heading[1:]}
    for (place, _), row in zip(numbered[1:], rows[1:], strict=True):
        _take(columns, heading, row, f"--reference {file}, line {place}")
    return [Reference(name=name, scores=scores, source=file.name) for name, scores in columns.items()]


def _take(columns: Mapping[str, dict[str, float]], heading: Sequence[str], row: Sequence[str], where: str) -> None:
    if len(row) != len(heading):
        raise DataError(f"{where}: {len(row)} cells, expected {len(heading)} as in the heading ({','.join(heading)})")
    backbone = row[0].strip()
    for name, cell in zip(heading[1:], row[1:], strict=True):
        if not cell.strip():
            continue
        if backbone in columns[name]:
            raise DataError(f"{where}: {backbone} has a score of {name} already: keep one of the two lines")
        try:
            columns[name][backbone] = float(cell)
        except ValueError:
            raise DataError(f"{where}: {name} of {backbone} is {cell.strip()!r}, expected a number") from None
        if not math.isfinite(columns[name][backbone]):
            raise DataError(
                f"{where}: {name} of {backbone} is {cell.strip()}: leave the cell empty where it is unknown"
            )


def _expected() -> str:
    return "CSV with the heading backbone,NAME OF SCORE and a line such as dinov2,83.4"


def _printed(task: str, metric: str) -> dict[str, float]:
    """The paper's column, from its one place, ``paper.json``."""
    numbers = {name: paper_score(name, task, metric) for name in paper_backbones()}
    return {name: number.value for name, number in numbers.items() if number is not None}


def _document() -> dict[str, list[dict[str, str]]]:
    return dict(json.loads(files("deapcache.results").joinpath("published.json").read_text(encoding="utf-8")))
