"""The paper's Tables 3, 4 and 5 and its Figure 4 with our results in them, the paper's numbers beside ours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from deapcache.errors import UsageError
from deapcache.results.frame import (
    inner_layer,
    layer_of,
    protocol_mismatches,
    protocols_of,
    rate_note,
    seeds_of,
    tokens_of,
)
from deapcache.results.marks import legend
from deapcache.results.paper import (
    BASE,
    DATA,
    READOUTS,
    PaperNumber,
    paper_ablation,
    paper_backbones,
    paper_parameters,
    paper_score,
    unlike_paper,
)
from deapcache.results.record import Result, plain_json
from deapcache.results.tables import (
    NOTHING,
    OVER_PRIOR,
    TRAIN_TIME,
    Table,
    difference,
    difference_json,
    heading,
    interval,
    make_tables,
    score,
    tables_json,
    three_digits,
)

if TYPE_CHECKING:
    from pandas import DataFrame

Which = Literal["table3", "table4", "table5", "figure4"]
LAYOUTS: tuple[Which, ...] = get_args(Which)
PLAIN = "plain"
"""The layout of :func:`make_tables`: a table for each task and dataset."""


class _Group(NamedTuple):
    """One task of a table of the paper."""

    tasks: tuple[str, ...]
    """The paper's task, then what takes its place on other data."""
    metrics: tuple[str, ...]


_SEMANTIC = ("voc", "segmentation")
_ABLATED = (
    _Group(("detection",), ("ap_large",)),
    _Group(_SEMANTIC, ("mean_iou",)),
    _Group(("depth",), ("rmse",)),
)
_GROUPS: Mapping[str, tuple[_Group, ...]] = {
    "table3": (
        _Group(("discrimination",), ("ari",)),
        _Group(("boundaries",), ("cross_entropy", "iou")),
        _Group(("detection",), ("ap_large",)),
    ),
    "table4": (
        _Group(_SEMANTIC, ("cross_entropy", "mean_iou")),
        _Group(("coco-stuff",), ("cross_entropy", "mean_iou")),
        _Group(("depth",), ("rmse",)),
    ),
    "table5": _ABLATED,
    "figure4": _ABLATED,
}

_TITLES: Mapping[str, str] = {
    "table3": "Table 3: instance awareness",
    "table4": "Table 4: local semantics and spatial understanding",
    "table5": "Table 5: ablation",
    "figure4": "Figure 4: readouts and their parameters",
}
_OF_READOUTS = ("table5", "figure4")
"""Whose rows are readouts; those of the others are backbones."""

_FAMILIES = (*(name for name in READOUTS if ":" not in name), "bicubic", "transposed-conv", "featup")
_SIZE = 16
"""D of a readout whose name does not say it."""

SPREADS = 2
"""A difference is marked where the paper's number is more than so many spreads, and beyond the interval, from ours."""

_FACTS = {"parameters": "P_learn\n[M]", "time": TRAIN_TIME.replace(" ", "\n")}
"""Heads of columns that have no score but a fact about the readout."""
_OURS, _INTERVAL, _PAPER, _DIFFERENCE = "ours", "95% interval", "paper", "difference"
_LINES = (_OURS, _INTERVAL, OVER_PRIOR, _PAPER, _DIFFERENCE)
"""The lines of a row; all but the first only where they say something."""


def layout_tables(rows: DataFrame, layout: str) -> list[Table]:
    """The tables of one layout, ``plain`` or one of :data:`LAYOUTS`, of :func:`deapcache.results.table_rows`.

    The paper's numbers stand beside ours where dataset, numbers of images and output size are the paper's; elsewhere a
    note says why not. There is a table for each kind of data, the paper's first, and one that says so where no result
    fits the layout. What mixed results measured differently is never in one table. Raises :class:`UsageError` for a
    layout that there is not.
    """
    if layout == PLAIN:
        return make_tables(rows)
    filled = _paper_tables(rows, layout)
    return [one.table() for one in filled] or [Table(_TITLES[layout], (), (), ("no result fits it",))]


def layout_json(rows: DataFrame, layout: str) -> list[dict[str, Any]]:
    """The tables of one layout as JSON objects: ``plain`` a list of rows, the others [] where nothing fits."""
    if layout == PLAIN:
        return tables_json(rows)
    return [one.to_json() for one in _paper_tables(rows, layout)]


class _Column(NamedTuple):
    """What stands under one head."""

    task: str
    metric: str = ""
    """Empty: no score but what ``fact`` says of the readout."""
    fact: str = ""
    backbone: str = ""
    """Its display name where columns are backbones too."""


def _paper_tables(rows: DataFrame, which: str) -> list[_PaperTable]:
    if which not in _GROUPS:
        raise UsageError(f"no layout {which!r}: there are {', '.join(LAYOUTS)}")
    groups = list(_GROUPS[which])
    if which in _OF_READOUTS:  # any task can compare them
        known = {task for group in groups for task in group.tasks}
        others = rows[rows["is_main"] & ~rows["task"].isin(known)].drop_duplicates("task")
        groups += [_Group((task,), (metric,)) for task, metric in zip(others["task"], others["metric"], strict=True)]
    group_of = {task: place for place, group in enumerate(groups) for task in group.tasks}
    fitting = rows[rows["task"].isin(group_of)]
    tables = []
    for names, part in _settings(fitting, group_of):
        by_backbone = [([name, *names], part[part["display_name"] == name]) for name in _backbones(part)]
        for title, lines in by_backbone if which == "figure4" else [(names, part)]:
            labels, cells = _lay_out(which, lines)
            tables.append(
                _PaperTable(
                    which=which,
                    title=" · ".join([_TITLES[which], *title]),
                    columns=_columns(which, groups, lines),
                    labels=labels,
                    cells=cells,
                    rows=lines.drop_duplicates("row"),
                    mismatches=protocol_mismatches(lines, rows),
                )
            )
    return tables


def _settings(rows: DataFrame, group_of: Mapping[str, int]) -> Iterator[tuple[list[str], DataFrame]]:
    """The rows of each kind of data and, where mixed, of each set of conditions; with what a title says of them."""
    if rows.empty:
        return
    data = zip(rows["task"], rows["dataset"], strict=True)
    # the paper's data for its tasks stand in one table, as in the paper
    settings = ["" if task in DATA and DATA[task].dataset == dataset else dataset for task, dataset in data]
    rows = rows.assign(setting=settings, group=rows["task"].map(group_of))
    keys = ["setting", "group", "task", "comparison_key"]
    conditions = rows.drop_duplicates(keys)[keys]
    conditions["conditions"] = conditions.groupby(["setting", "group"]).cumcount() + 1
    rows = rows.merge(conditions, on=keys)
    mixed = set(rows["setting"][rows["conditions"] > 1])
    for (setting, number), lines in rows.groupby(["setting", "conditions"]):
        yield [*([setting] if setting else []), *([f"conditions {number}"] if setting in mixed else [])], lines


def _backbones(rows: DataFrame) -> list[str]:
    """Display names in the paper's order, others after by name, the layers of each from the first."""
    paper = paper_backbones()
    lines = rows.drop_duplicates("display_name").itertuples()
    places = {
        line.display_name: (
            paper.index(line.backbone) if line.backbone in paper else len(paper),
            line.backbone,
            line.depth,
        )
        for line in lines
    }
    return sorted(places, key=lambda name: (*places[name], name))


def _columns(which: str, groups: Sequence[_Group], rows: DataFrame) -> list[_Column]:
    columns = []
    for group in groups:
        for task in (task for task in group.tasks if (rows["task"] == task).any()):
            backbones = _backbones(rows[rows["task"] == task]) if which == "table5" else [""]
            columns += [_Column(task, metric, backbone=name) for name in backbones for metric in group.metrics]
            columns += [_Column(task, fact="parameters")] if which != "table5" else []
            columns += [_Column(task, fact="time")] if which == "figure4" else []
    return columns


def _lay_out(which: str, lines: DataFrame) -> tuple[list[str], dict[tuple[str, _Column], Any]]:
    """Labels of the rows from top to bottom, and the line of the frame under each (label, column).

    A label is backbone or readout, and the learning rate where there are several; in Tables 3 and 4 with the readout
    where not all are the paper's. Where mixed results would meet in a cell they have further rows, numbered.
    """
    backbones, of_readouts = _backbones(lines), which in _OF_READOUTS
    with_readout = lines["readout"].nunique() > 1 or READOUTS.get(lines["readout"].iloc[0]) != BASE
    with_rate = lines.loc[lines["lr"].notna(), "lr_text"].nunique() > 1

    def order(row: Any) -> tuple[Any, ...]:
        return (
            0 if of_readouts else backbones.index(row.display_name),
            _readout_order(row.readout),
            0 if math.isnan(row.lr) else -row.lr,
        )

    def label_of(row: Any) -> str:
        name = f"{row.display_name} · {row.readout}" if with_readout else row.display_name
        return (row.readout if of_readouts else name) + (f" · {row.lr_text}" if with_rate else "")

    numbers: Counter[tuple[str, str, str]] = Counter()
    most: Counter[str] = Counter()
    placed = {}
    for row in sorted(lines.drop_duplicates("row").itertuples(), key=order):
        label = label_of(row)
        numbers[label, row.task, row.display_name] += 1
        placed[row.row] = label, numbers[label, row.task, row.display_name]
        most[label] = max(most[label], placed[row.row][1])

    def numbered(label: str, number: int) -> str:
        return f"{label} ({number})" if most[label] > 1 else label

    cells: dict[tuple[str, _Column], Any] = {}
    for line in lines.itertuples():
        label = numbered(*placed[line.row])
        for backbone in ("", line.display_name):
            cells[label, _Column(line.task, line.metric, backbone=backbone)] = line
            cells[label, _Column(line.task, fact="parameters", backbone=backbone)] = line
            cells[label, _Column(line.task, fact="time", backbone=backbone)] = line
    return [numbered(label, place + 1) for label in most for place in range(most[label])], cells


def _readout_order(readout: str) -> tuple[int, str, int]:
    """The paper's order, others after by name; sizes of one readout from small to large."""
    family, _, size = readout.partition(":")
    known = _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)
    return known, family, int(size) if size.isdigit() else _SIZE


@dataclass(frozen=True, kw_only=True)
class _PaperTable:
    """One table before anything is written."""

    which: str
    title: str
    columns: list[_Column]
    labels: list[str]
    cells: Mapping[tuple[str, _Column], Any]
    """(label, column) → line of :func:`table_rows`; only where there is one."""
    rows: DataFrame
    mismatches: list[str]
    """What of mixed results was measured differently from what stands in an earlier row or table."""

    def table(self) -> Table:
        """As text: several lines for each row, ours first, then what it is compared with."""
        lines = []
        for label in self.labels:
            texts = [self._texts(label, column) for column in self.columns]
            for source in _LINES:
                if source == _OURS or any(text.get(source) for text in texts):
                    lines.append((label if source == _OURS else "", source, *(text.get(source, "") for text in texts)))
        faint = frozenset(place for place, line in enumerate(lines) if line[1] in (_INTERVAL, OVER_PRIOR, _PAPER))
        first = "readout" if self.which in _OF_READOUTS else "backbone"
        return Table(self.title, (first, "", *map(self._head, self.columns)), tuple(lines), tuple(self._notes()), faint)

    def to_json(self) -> dict[str, Any]:
        """For each row its scores with spread, interval, paper's number and difference."""
        rows = [
            {"label": label, "cells": [_cell_json(line, self.which) for line in self._scores(label)]}
            for label in self.labels
        ]
        document = {"table": self.which, "title": self.title, "rows": rows, "notes": list(self._notes())}
        return dict(plain_json(document))

    def _scores(self, label: str) -> list[Any]:
        return [self.cells[label, column] for column in self.columns if column.metric and (label, column) in self.cells]

    def _head(self, column: _Column) -> str:
        if column.fact:
            return _FACTS[column.fact]
        about = next(
            result.metrics[column.metric]
            for result in self.rows["result"]
            if result.task == column.task and column.metric in result.metrics
        )
        return "\n".join(filter(None, (column.task, column.backbone, heading(about))))

    def _texts(self, label: str, column: _Column) -> dict[str, str]:
        """Source → text of a cell; without those of which there is nothing to say."""
        line = self.cells.get((label, column))
        if line is None:
            return {_OURS: NOTHING}
        if column.fact == "time":
            return {_OURS: three_digits(line.cost.get("train_ms_per_image"))}
        if column.fact == "parameters":
            paper = paper_parameters(line.backbone, line.task) if _is_papers_row(line, self.which) else None
            return {_OURS: f"{line.parameters / 1e6:.3f}", _PAPER: str(paper or "")}
        found = compare(line, self.which)
        return {
            _OURS: " ".join(filter(None, (score(line.mean, line.spread), f"({len(line.seeds)})", line.marks))),
            _INTERVAL: interval(line.interval) if line.interval else "",
            OVER_PRIOR: difference(line.difference) if line.difference else "",
            _PAPER: str(found.paper or ""),
            _DIFFERENCE: str(found),
        }

    def _notes(self) -> Iterator[str]:
        scores = [line for label in self.labels for line in self._scores(label)]
        compared = ""
        if any(compare(line, self.which).paper for line in scores):
            compared = f"; ▲ better, ▼ worse than the paper, = equal within its rounding; * beyond {SPREADS} spreads"
            compared += " and the interval" if any(line.interval for line in scores) else ""
        yield f"ours: mean over (n) seeds ± their sample standard deviation{compared}"
        for _, rows in self.rows.groupby(["task", "dataset"], sort=False):
            yield from _task_notes(rows)
        yield from rate_note(self.rows["results"])
        yield from self.mismatches
        if self.which == "figure4":
            yield from _best_of_seeds(scores)
        yield from legend(line.marks for line in scores)
        problems = (one.problem for one in self.rows["uncertainty"] if one and one.problem)
        yield from (f"no interval: {problem}" for problem in dict.fromkeys(problems))


def _task_notes(rows: DataFrame) -> Iterator[str]:
    """Where one task's numbers come from."""
    first: Result = rows["result"].iloc[0]
    name = f"{first.task} · {first.dataset}"
    images = f"{first.train_images:,} train and {first.val_images:,} val images"
    yield f"{name}: protocol {protocols_of(rows.itertuples())}; seeds {seeds_of(rows.itertuples())}; {images}"
    if inner := sorted({row.display_name for row in rows.itertuples() if inner_layer(row.result)}):
        yield f"{name}: the paper's are of last layers, not beside {', '.join(inner)}"
    if first.is_selected:
        chosen = (f"{row.display_name} · {row.readout} {row.rate}" for row in rows.itertuples())
        yield f"{name}: lr {', '.join(chosen)}"
    if unlike := unlike_paper(first):
        yield f"{name}: no paper's number beside it: {unlike}"


def _best_of_seeds(scores: Sequence[Any]) -> Iterator[str]:
    """The paper's largest bicubic run on detection is the best of three; so the best stands beside our mean."""
    found = [line for line in scores if (line.task, line.readout[:7]) == ("detection", "bicubic")]
    if found:
        largest = max(found, key=lambda line: line.parameters)
        best = max(result.scores[largest.metric] for result in largest.results)
        yield f"detection · {largest.readout}: best of {len(largest.seeds)} seeds {best:.4f}"


class _Comparison(NamedTuple):
    """A score of ours beside the paper's, where the paper has one that was measured on the same data."""

    paper: PaperNumber | None = None
    difference: float = math.nan
    """Ours minus the paper's, as a share of the paper's."""
    is_better: bool | None = None
    """``None`` where they agree within the paper's rounding."""
    is_beyond: bool | None = None
    """Whether the paper's number, with its rounding, is outside both two spreads and the interval; ``None`` where there
    is nothing to judge by: neither several seeds nor an interval."""

    def __str__(self) -> str:
        if self.paper is None:
            return ""
        if self.is_better is None:
            return "="
        return f"{'▲' if self.is_better else '▼'} {abs(self.difference):.1%}{' *' if self.is_beyond else ''}"


def compare(line: Any, which: str) -> _Comparison:
    """The paper's number for a line of :func:`table_rows`, and how far ours is from it."""
    paper = _paper_number(line, which)
    if paper is None:
        return _Comparison()
    is_better = None
    if not math.isnan(line.mean) and abs(line.mean - paper.value) > paper.rounding:
        is_better = (line.mean > paper.value) == line.higher_is_better
    limits = [(line.mean - SPREADS * line.spread, line.mean + SPREADS * line.spread), line.interval]
    known = [found for found in limits if found is not None and not math.isnan(found[0])]
    is_beyond = None
    if known:
        low, high = min(found[0] for found in known), max(found[1] for found in known)
        is_beyond = paper.value + paper.rounding < low or paper.value - paper.rounding > high
    return _Comparison(paper, (line.mean - paper.value) / abs(paper.value), is_better, is_beyond)


def _paper_number(line: Any, which: str) -> PaperNumber | None:
    if which == "table5" and not unlike_paper(line.result) and not inner_layer(line.result):
        return paper_ablation(line.readout, line.backbone, line.task, line.metric)
    return paper_score(line.backbone, line.task, line.metric) if _is_papers_row(line, which) else None


def _is_papers_row(line: Any, which: str) -> bool:
    """Whether Tables 3 and 4 may have it: they are of the full readout on last layers. Figure 4 prints no numbers."""
    is_full = which in ("table3", "table4") and READOUTS.get(line.readout) == BASE
    return is_full and not unlike_paper(line.result) and not inner_layer(line.result)


def _cell_json(line: Any, which: str) -> dict[str, Any]:
    """Everything about a cell; what is not known is ``None`` or NaN."""
    found = compare(line, which)
    return {
        **{name: getattr(line, name) for name in ("task", "dataset", "backbone", "readout", "lr", "seeds")},
        "layer": layer_of(line.result),
        "tokens": tokens_of(line.result),
        **{name: getattr(line, name) for name in ("metric", "mean", "spread", "interval", "prior")},
        "over_prior": difference_json(line),
        "marks": line.marks,
        "paper": None if found.paper is None else {"value": found.paper.value, "source": found.paper.source},
        "difference": found.difference,
        "is_better": found.is_better,
        "is_beyond": found.is_beyond,
        "parameters": line.parameters,
        "protocol_digest": line.protocol,
        "runs": [result.run for result in line.results],
    }
