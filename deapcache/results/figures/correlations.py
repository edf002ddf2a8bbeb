"""The paper's Figure 6: our scores against published ones, those of ``results/published.json`` or of a user's CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from deapcache.errors import DataError, MissingDataError, ResultsError
from deapcache.locations import read_file
from deapcache.results.figures.groups import PAPER_SCORES, Group, Panel, common_notes, paper_panel, point_of
from deapcache.results.figures.style import GREY, NORMAL, Canvas, category_handles, name_axes, two_columns
from deapcache.results.frame import inner_layer
from deapcache.results.intervals import Interval
from deapcache.results.paper import paper_backbones, paper_score

FEWEST = 3
"""Points that have a correlation."""

_HOW = (
    "95% intervals: Fisher's z with standard error 1/√(n−3) for Pearson's r, and √((1+ρ²/2)/(n−3)) (Bonett and Wright "
    "2000) for Spearman's ρ; none below four points"
)

_EXPECTED = "expected CSV with the heading backbone,NAME OF SCORE and a line such as dinov2,83.4"


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


def draw_correlations(groups: Sequence[Group], references: Sequence[Reference], *, paper: bool) -> Canvas:
    """A panel for each pair of a task's scores and a reference that share three backbones or more.

    With ``paper`` the scores of its Tables 3 and 4 are compared with the references as well, in panels of their own.
    Raises :class:`ResultsError` where no pair shares enough backbones.
    """
    pairs = [(panel, one) for group in groups for one in references for panel in _ours(group, one)]
    # the paper's own numbers say nothing beside themselves, of which a reference has the tasks
    for one in references if paper else ():
        panels = () if one.tasks else (paper_panel(task).of(one.scores) for task in PAPER_SCORES)
        pairs += [(replace(panel, axis=f"the paper's {panel.axis}"), one) for panel in panels if panel.points]
    enough = [(panel, one) for panel, one in pairs if len(panel.points) >= FEWEST]
    if not enough:
        raise _too_few(pairs, references)
    canvas, axes = two_columns(len(enough), row=3.1, around=1.2)
    for axis, (panel, one) in zip(axes, enough, strict=True):
        _draw(canvas, axis, panel, one)
    shown = [point.category for panel, _ in enough for point in panel.points]
    canvas.legend(category_handles(shown, paper=any(panel.hollow for panel, _ in enough)))
    spread, *left_out = common_notes(groups)
    canvas.note("r: Pearson's, ρ: Spearman's", _HOW, spread)
    canvas.note(*(f"{one.name}: {one.source}" for one in references if any(one is other for _, other in enough)))
    inner = dict.fromkeys(line.display_name for group in groups for line in group.rows if inner_layer(line.result))
    canvas.note(f"published scores are of last layers: without {', '.join(inner)}" if inner else "", *left_out)
    return canvas


def _ours(group: Group, reference: Reference) -> Iterator[Panel]:
    """A panel for each readout."""
    if reference.tasks and group.task not in reference.tasks:
        return
    scored = [line for line in group.rows if not inner_layer(line.result) and not math.isnan(line.mean)]
    readouts = dict.fromkeys(line.readout for line in group.rows)
    for readout in readouts:
        mine = [line for line in scored if line.readout == readout and line.backbone in reference.scores]
        points = [point_of(line, line.backbone) for line in mine]
        title = group.title + (f"\n{readout}" if len(readouts) > 1 else "")
        yield Panel(title, f"our {group.axis}", points)


def _draw(canvas: Canvas, axis: Axes, panel: Panel, reference: Reference) -> None:
    x = [reference.scores[point.backbone] for point in panel.points]
    y = [point.score for point in panel.points]
    canvas.points(axis, x, panel.points, hollow=panel.hollow)
    axis.margins(0.16)
    name_axes(axis, title=panel.title, x=reference.name, y=panel.axis)
    # above the points: the axis grows upwards, so that neither marks nor names meet it
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.42 * (high - low))
    said = "\n".join([_shown("r", *pearson(x, y)), _shown("ρ", *spearman(x, y)), f"n = {len(x)}"])
    axis.text(0.03, 0.98, said, transform=axis.transAxes, va="top", fontsize=NORMAL - 0.5, color=GREY, linespacing=1.25)


def _too_few(pairs: Sequence[tuple[Panel, Reference]], references: Sequence[Reference]) -> ResultsError:
    if not pairs:
        have = "there is no result of a task that they are compared with"
    else:
        best, reference = max(pairs, key=lambda pair: len(pair[0].points))
        names = ", ".join(point.backbone for point in best.points) or "none"
        have = f"{best.title.splitlines()[0]} and {reference.name} share {len(best.points)} ({names})"
    there = ", ".join(dict.fromkeys(name for reference in references for name in reference.scores))
    return ResultsError(
        f"figure correlations needs {FEWEST} backbones that have both our score and a published one: {have}. "
        f"Run deapcache probe for more of {there}, or give scores of your backbones with --reference FILE.csv"
    )


def _shown(kind: str, value: float, interval: Interval | None) -> str:
    if math.isnan(value):
        return f"{kind} not defined"
    return f"{kind} = {value:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def pearson(x: Sequence[float], y: Sequence[float]) -> tuple[float, Interval | None]:
    """Pearson's r of at least :data:`FEWEST` pairs, and its 95% interval by Fisher's z.

    NaN where one of the sides is the same everywhere; no interval below four points, or where there is no value.
    """
    from scipy.stats import pearsonr

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, None
    found = pearsonr(x, y)
    interval = found.confidence_interval() if len(x) > FEWEST else None
    return found.statistic, interval and (interval.low, interval.high)


def spearman(x: Sequence[float], y: Sequence[float]) -> tuple[float, Interval | None]:
    """Spearman's ρ, as :func:`pearson`, ties with their mean rank, and Bonett and Wright's interval.

    Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations",
    Psychometrika 65, 2000: Fisher's z with a standard error of √((1 + ρ²/2) / (n − 3)).
    """
    from scipy.stats import norm, spearmanr

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, None
    value = float(spearmanr(x, y).statistic)
    if len(x) <= FEWEST:
        return value, None
    with np.errstate(divide="ignore"):  # ±1 is infinite, and its interval of no width
        middle = np.arctanh(np.clip(value, -1, 1))
    error = norm.ppf(0.975) * math.sqrt((1 + value**2 / 2) / (len(x) - 3))
    return value, (float(np.tanh(middle - error)), float(np.tanh(middle + error)))


def shipped_references() -> list[Reference]:
    """The references of ``published.json``: columns of the paper's tables, with the numbers of ``paper.json``."""
    document = json.loads(files("deapcache.results").joinpath("published.json").read_text(encoding="utf-8"))
    references = []
    for entry in document["references"]:
        numbers = {name: paper_score(name, entry["task"], entry["metric"]) for name in paper_backbones()}
        scores = {name: number.value for name, number in numbers.items() if number is not None}
        tasks = tuple(entry["tasks"])
        references.append(Reference(name=entry["name"], scores=scores, source=entry["source"], tasks=tasks))
    return references


def read_reference(file: Path) -> list[Reference]:
    """The references of a user's CSV: a column ``backbone``, and one for each score, whose heading names it.

    An empty cell is a score that is not known; lines that begin with ``#`` are comments. Raises
    :class:`MissingDataError` where the file is not there, and :class:`DataError` that names the line of what cannot be
    read.
    """
    try:
        lines = read_file(file).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MissingDataError(f"--reference {file}: no such file; {_EXPECTED}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"--reference {file}: cannot be read as text in UTF-8 ({error}); {_EXPECTED}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    rows = list(csv.reader([line for _, line in numbered]))
    heading = [cell.strip() for cell in rows[0]] if rows else []
    if heading[:1] != ["backbone"] or len(heading) < 2 or not all(heading) or len(set(heading)) < len(heading):
        found = ",".join(heading) or "nothing"
        raise DataError(f"--reference {file}: the heading is {found!r}; {_EXPECTED}")
    columns: dict[str, dict[str, float]] = {name: {} for name in heading[1:]}
    for (number, _), (first, *cells) in zip(numbered[1:], rows[1:], strict=True):
        where, backbone = f"--reference {file}, line {number}", first.strip()
        if len(cells) != len(columns):
            raise DataError(
                f"{where}: {len(cells) + 1} cells, expected {len(heading)} as in the heading ({','.join(heading)})"
            )
        for name, cell in zip(columns, cells, strict=True):
            if cell.strip() and backbone in columns[name]:
                raise DataError(f"{where}: {backbone} has a score of {name} already: keep one of the two lines")
            if cell.strip():
                columns[name][backbone] = _score(cell.strip(), f"{where}: {name} of {backbone}")
    return [Reference(name=name, scores=scores, source=file.name) for name, scores in columns.items()]


def _score(cell: str, what: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise DataError(f"{what} is {cell!r}, expected a number") from None
    if not math.isfinite(value):
        raise DataError(f"{what} is {cell}: leave the cell empty where it is unknown")
    return value
