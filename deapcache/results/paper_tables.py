"""The paper's Tables 3, 4 and 5 and its Figure 4 with our results in them: as text, and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, get_args

from deapcache.errors import UsageError
from deapcache.recipe import SHORT
from deapcache.results.frame import Summary, depth_of, inner_layer, mixture
from deapcache.results.intervals import UncertaintyOf
from deapcache.results.paper import (
    BASE,
    DATA,
    READOUTS,
    SPREADS,
    Cell,
    compared,
    is_of_backbones,
    paper_backbones,
    paper_parameters,
    unlike_paper,
)
from deapcache.results.record import plain_json
from deapcache.results.tables import (
    NOTHING,
    TRAIN_TIME,
    Block,
    heading,
    interval,
    make_blocks,
    print_blocks,
    score,
    train_time,
)

Which = Literal["table3", "table4", "table5", "figure4"]
WHICH: tuple[Which, ...] = get_args(Which)


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
_GROUPS: Mapping[Which, tuple[_Group, ...]] = {
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

_TITLES: Mapping[Which, str] = {
    "table3": "Table 3: instance awareness",
    "table4": "Table 4: local semantics and spatial understanding",
    "table5": "Table 5: ablation",
    "figure4": "Figure 4: readouts and their parameters",
}

_FAMILIES = (*(name for name in READOUTS if ":" not in name), "bicubic", "transposed-conv", "featup")
_SIZE = 16
"""D of a readout whose name does not say it."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What stands under one head."""

    task: str
    metric: str | None
    """``None``: no score but what ``fact`` says of the readout."""
    fact: Literal["", "parameters", "time"] = ""
    backbone: str | None = None
    """Where columns are backbones too."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the paper's table, and its results by (task, backbone)."""

    label: str
    found: Mapping[tuple[str, str], Summary]

    def summary(self, column: Column) -> Summary | None:
        """The result under a column; ``None`` where there is none."""
        fitting = (s for (task, b), s in self.found.items() if task == column.task and column.backbone in (None, b))
        return next(fitting, None)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Rows and columns of one table, before anything is written."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]


def layout_title(which: str) -> str:
    """``Table 3: instance awareness``; raises :class:`UsageError` for a layout that there is not."""
    return _TITLES[_known(which)]


def lay_out(summaries: Sequence[Summary], which: str) -> list[Grid]:
    """One grid for each kind of data: the paper's first, then each other dataset; none where nothing fits.

    What mixed results measured under several conditions is never in one grid. Raises :class:`UsageError` for a layout
    that there is not.
    """
    layout = _known(which)
    groups = _groups(layout, summaries)
    grids = []
    for setting, chosen in _settings(summaries, groups):
        per_backbone = [[s for s in chosen if s.label == b] for b in _backbones(chosen)]
        for part in per_backbone if layout == "figure4" else [chosen]:
            names = [_TITLES[layout], *([part[0].label] if layout == "figure4" else []), *setting]
            grids.append(_grid(" · ".join(names), layout, groups, part))
    return grids


def _known(which: str) -> Which:
    found = next((name for name in WHICH if name == which), None)
    if found is None:
        raise UsageError(f"no layout {which!r}: there are {', '.join(WHICH)}")
    return found


def _groups(which: Which, summaries: Sequence[Summary]) -> list[_Group]:
    """The paper's tasks; where readouts are compared, which any task can do, also the others, by their main metric."""
    groups = list(_GROUPS[which])
    if which in ("table5", "figure4"):
        known = {task for group in groups for task in group.tasks}
        others = {s.task: s.first.main_metric for s in summaries if s.task not in known}
        groups += [_Group((task,), (metric,)) for task, metric in others.items()]
    return groups


def _settings(summaries: Sequence[Summary], groups: Sequence[_Group]) -> Iterator[tuple[list[str], list[Summary]]]:
    """The results of each kind of data and, where mixed, of each set of conditions; with what a title says of them."""
    variants: dict[tuple[str, int], list[str]] = defaultdict(list)
    grids: dict[tuple[str, int], list[Summary]] = defaultdict(list)
    placed = ((s, place) for s in summaries for place, group in enumerate(groups) if s.task in group.tasks)
    for summary, place in placed:
        setting = _setting(summary)
        met = variants[setting, place]
        variant = f"{summary.task} {summary.conditions}"
        if variant not in met:
            met.append(variant)
        grids[setting, met.index(variant)].append(summary)
    mixed = {setting for setting, place in grids if place > 0}
    for (setting, place), chosen in sorted(grids.items(), key=lambda item: item[0]):
        yield [*([setting] if setting else []), *([f"conditions {place + 1}"] if setting in mixed else [])], chosen


def _setting(summary: Summary) -> str:
    """The dataset; empty where it is the paper's for this task, so that these stand in one table, as in the paper."""
    data = DATA.get(summary.task)
    return "" if data and data.dataset == summary.dataset else summary.dataset


def _grid(title: str, which: Which, groups: Sequence[_Group], summaries: Sequence[Summary]) -> Grid:
    rows = _ablation_rows(summaries) if which in ("table5", "figure4") else _backbone_rows(summaries)
    return Grid(title=title, columns=tuple(_columns(which, groups, summaries)), rows=rows, summaries=tuple(summaries))


def _columns(which: Which, groups: Sequence[_Group], summaries: Sequence[Summary]) -> Iterator[Column]:
    present = {summary.task for summary in summaries}
    for group in groups:
        for task in (task for task in group.tasks if task in present):
            if which == "table5":
                for backbone in _backbones([s for s in summaries if s.task == task]):
                    yield from (Column(task=task, metric=metric, backbone=backbone) for metric in group.metrics)
                continue
            yield from (Column(task=task, metric=metric) for metric in group.metrics)
            yield Column(task=task, metric=None, fact="parameters")
            if which == "figure4":
                yield Column(task=task, metric=None, fact="time")


def _backbone_rows(summaries: Sequence[Summary]) -> tuple[Row, ...]:
    """A row for each backbone; also for each readout and learning rate, where there are several."""
    several = len({s.readout for s in summaries}) > 1 or READOUTS.get(summaries[0].readout) != BASE
    order = _backbones(summaries)
    ordered = sorted(summaries, key=lambda s: (order.index(s.label), _readout_order(s.readout), -s.lr))
    return _rows(ordered, lambda s: f"{s.label} · {s.readout}" if several else s.label)


def _ablation_rows(summaries: Sequence[Summary]) -> tuple[Row, ...]:
    """A row for each readout; also for each learning rate, where there are several."""
    ordered = sorted(summaries, key=lambda s: (_readout_order(s.readout), -s.lr))
    return _rows(ordered, lambda s: s.readout)


def _rows(ordered: Sequence[Summary], name: Callable[[Summary], str]) -> tuple[Row, ...]:
    """Summaries of one name in one row, and where mixed results would meet in a cell, in further rows."""
    rates = len({s.lr for s in ordered}) > 1
    rows: dict[str, list[dict[tuple[str, str], Summary]]] = {}
    for summary in ordered:
        label = f"{name(summary)} · lr {summary.lr:g}" if rates else name(summary)
        rivals = rows.setdefault(label, [])
        place = (summary.task, summary.label)
        free = next((found for found in rivals if place not in found), None)
        if free is None:
            rivals.append(free := {})
        free[place] = summary
    return tuple(
        Row(label=f"{label} ({number})" if len(rivals) > 1 else label, found=found)
        for label, rivals in rows.items()
        for number, found in enumerate(rivals, 1)
    )


def _backbones(summaries: Sequence[Summary]) -> list[str]:
    """Labels of backbones in the paper's order, others after by name, the layers of each from the first."""
    paper = paper_backbones()

    def place(summary: Summary) -> tuple[int, str, int, str]:
        name = summary.backbone
        return paper.index(name) if name in paper else len(paper), name, depth_of(summary.first), summary.label

    return list(dict.fromkeys(summary.label for summary in sorted(summaries, key=place)))


def _readout_order(readout: str) -> tuple[int, str, int]:
    """The paper's order, others after by name; sizes of one readout from small to large."""
    family, _, size = readout.partition(":")
    known = _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)
    return known, family, int(size) if size.isdigit() else _SIZE


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
