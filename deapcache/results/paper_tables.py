"""The paper's Tables 3, 4 and 5 and its Figure 4 with our results in them, the paper's numbers beside ours."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from deapcache.errors import UsageError
from deapcache.results.frame import (
    grouped,
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


_Group = tuple[tuple[str, ...], tuple[str, ...]]
"""The paper's task, then what takes its place on other data; and the metrics that are shown of them."""

_SEMANTIC = ("voc", "segmentation")
_ABLATED: tuple[_Group, ...] = ((("detection",), ("ap_large",)), (_SEMANTIC, ("mean_iou",)), (("depth",), ("rmse",)))
_GROUPS: Mapping[str, tuple[_Group, ...]] = {
    "table3": (
        (("discrimination",), ("ari",)),
        (("boundaries",), ("cross_entropy", "iou")),
        (("detection",), ("ap_large",)),
    ),
    "table4": (
        (_SEMANTIC, ("cross_entropy", "mean_iou")),
        (("coco-stuff",), ("cross_entropy", "mean_iou")),
        (("depth",), ("rmse",)),
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

_PARAMETERS, _TIME = "parameters", "time"
_FACTS = {_PARAMETERS: "P_learn\n[M]", _TIME: TRAIN_TIME.replace(" ", "\n")}
"""Heads of columns that have no score but a fact about the readout."""

_Column = tuple[str, str, str]
"""What stands under one head: task; metric, or one of :data:`_FACTS`; the backbone's display name where columns are
backbones too."""

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


def _paper_tables(rows: DataFrame, which: str) -> list[_PaperTable]:
    if which not in _GROUPS:
        raise UsageError(f"no layout {which!r}: there are {', '.join(LAYOUTS)}")
    groups = list(_GROUPS[which])
    if which in _OF_READOUTS:  # any task can compare them
        known = {task for tasks, _ in groups for task in tasks}
        others = rows[rows["is_main"] & ~rows["task"].isin(known)].drop_duplicates("task")
        groups += [((task,), (metric,)) for task, metric in zip(others["task"], others["metric"], strict=True)]
    group_of = {task: place for place, (tasks, _) in enumerate(groups) for task in tasks}
    fitting = rows[rows["task"].isin(group_of)]
    tables = []
    for names, part in _settings(fitting, group_of):
        by_backbone = [([name, *names], part[part["display_name"] == name]) for name in _backbones(part)]
        for title, lines in by_backbone if which == "figure4" else [(names, part)]:
            tables.append(
                _PaperTable(
                    which=which,
                    title=" · ".join([_TITLES[which], *title]),
                    columns=_columns(which, groups, lines),
                    cells=_lay_out(which, lines),
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
    columns: list[_Column] = []
    for tasks, metrics in groups:
        for task in (task for task in tasks if (rows["task"] == task).any()):
            backbones = _backbones(rows[rows["task"] == task]) if which == "table5" else [""]
            columns += [(task, metric, name) for name in backbones for metric in metrics]
            columns += [(task, _PARAMETERS, "")] if which != "table5" else []
            columns += [(task, _TIME, "")] if which == "figure4" else []
    return columns


def _lay_out(which: str, lines: DataFrame) -> dict[str, dict[_Column, Any]]:
    """Label of a row → column → the line of the frame; the rows from top to bottom.

    A label is backbone or readout, and the learning rate where there are several; in Tables 3 and 4 with the readout
    where not all are the paper's. Where mixed results would meet in a cell they have further rows, numbered.
    """
    backbones, of_readouts = _backbones(lines), which in _OF_READOUTS
    with_readout = lines["readout"].nunique() > 1 or READOUTS.get(lines["readout"].iloc[0]) != BASE
    with_rate = lines.loc[lines["lr"].notna(), "lr_text"].nunique() > 1

    def order(scores: Sequence[Any]) -> tuple[Any, ...]:
        """The paper's order, other readouts after by name; sizes of one readout from small to large."""
        row = scores[0]
        family, _, size = row.readout.partition(":")
        known = _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)
        place = 0 if of_readouts else backbones.index(row.display_name)
        of_readout = known, family, int(size) if size.isdigit() else _SIZE
        return place, of_readout, 0 if math.isnan(row.lr) else -row.lr

    placed: dict[str, list[dict[_Column, Any]]] = defaultdict(list)
    numbers: Counter[tuple[str, str, str]] = Counter()
    for scores in sorted(grouped(lines.itertuples(), "row"), key=order):
        row = scores[0]
        name = f"{row.display_name} · {row.readout}" if with_readout else row.display_name
        label = (row.readout if of_readouts else name) + (f" · {row.lr_text}" if with_rate else "")
        number = numbers[label, row.task, row.display_name]
        numbers[label, row.task, row.display_name] += 1
        if number == len(placed[label]):
            placed[label].append({})
        cells = {(row.task, line.metric): line for line in scores} | {(row.task, fact): row for fact in _FACTS}
        for backbone in ("", row.display_name):
            placed[label][number] |= {(*column, backbone): line for column, line in cells.items()}
    return {
        f"{label} ({number})" if len(alike) > 1 else label: cells
        for label, alike in placed.items()
        for number, cells in enumerate(alike, start=1)
    }


@dataclass(frozen=True, kw_only=True)
class _PaperTable:
    """One table before anything is written."""

    which: str
    title: str
    columns: list[_Column]
    cells: Mapping[str, Mapping[_Column, Any]]
    """See :func:`_lay_out`; only where there is one."""
    rows: DataFrame
    mismatches: list[str]
    """What of mixed results was measured differently from what stands in an earlier row or table."""

    def table(self) -> Table:
        """As text: several lines for each row, ours first, then what it is compared with."""
        lines = []
        for label, cells in self.cells.items():
            texts = [self._texts(column, cells.get(column)) for column in self.columns]
            for source in _LINES:
                if source == _OURS or any(text.get(source) for text in texts):
                    lines.append((label if source == _OURS else "", source, *(text.get(source, "") for text in texts)))
        faint = frozenset(place for place, line in enumerate(lines) if line[1] in (_INTERVAL, OVER_PRIOR, _PAPER))
        first = "readout" if self.which in _OF_READOUTS else "backbone"
        return Table(self.title, (first, "", *map(self._head, self.columns)), tuple(lines), tuple(self._notes()), faint)

    def to_json(self) -> dict[str, Any]:
        """For each row its scores with spread, interval, paper's number and difference."""
        rows = [
            {"label": label, "cells": [_cell_json(line, self.which) for line in self._scores(cells)]}
            for label, cells in self.cells.items()
        ]
        document = {"table": self.which, "title": self.title, "rows": rows, "notes": list(self._notes())}
        return dict(plain_json(document))

    def _scores(self, cells: Mapping[_Column, Any]) -> list[Any]:
        return [cells[column] for column in self.columns if column[1] not in _FACTS and column in cells]

    def _head(self, column: _Column) -> str:
        task, metric, backbone = column
        if metric in _FACTS:
            return _FACTS[metric]
        results = self.rows["result"]
        about = next(one.metrics[metric] for one in results if one.task == task and metric in one.metrics)
        return "\n".join(filter(None, (task, backbone, heading(about))))

    def _texts(self, column: _Column, line: Any) -> dict[str, str]:
        """Source → text of a cell; without those of which there is nothing to say."""
        if line is None:
            return {_OURS: NOTHING}
        if column[1] == _TIME:
            return {_OURS: three_digits(line.cost.get("train_ms_per_image"))}
        if column[1] == _PARAMETERS:
            paper = paper_parameters(line.backbone, line.task) if _is_papers_row(line, self.which) else None
            return {_OURS: f"{line.parameters / 1e6:.3f}", _PAPER: str(paper or "")}
        paper, distance, is_better, is_beyond = compare(line, self.which)
        differs = f"{'▲' if is_better else '▼'} {abs(distance):.1%}{' *' if is_beyond else ''}"
        return {
            _OURS: " ".join(filter(None, (score(line.mean, line.spread), f"({len(line.seeds)})", line.marks))),
            _INTERVAL: interval(line.interval) if line.interval else "",
            OVER_PRIOR: difference(line.difference) if line.difference else "",
            _PAPER: str(paper or ""),
            _DIFFERENCE: "" if paper is None else "=" if is_better is None else differs,
        }

    def _notes(self) -> Iterator[str]:
        scores = [line for cells in self.cells.values() for line in self._scores(cells)]
        compared = ""
        if any(_paper_number(line, self.which) for line in scores):
            compared = f"; ▲ better, ▼ worse than the paper, = equal within its rounding; * beyond {SPREADS} spreads"
            compared += " and the interval" if any(line.interval for line in scores) else ""
        yield f"ours: mean over (n) seeds ± their sample standard deviation{compared}"
        for _, rows in self.rows.groupby(["task", "dataset"], sort=False):
            yield from _task_notes(rows)
        yield from rate_note(self.rows["results"])
        yield from self.mismatches
        if self.which == "figure4":
            # the paper's largest bicubic run on detection is the best of three; so the best stands beside our mean
            bicubic = [line for line in scores if (line.task, line.readout[:7]) == ("detection", "bicubic")]
            for line in sorted(bicubic, key=lambda line: int(line.parameters), reverse=True)[:1]:
                best = max(result.scores[line.metric] for result in line.results)
                yield f"detection · {line.readout}: best of {len(line.seeds)} seeds {best:.4f}"
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


def compare(line: Any, which: str) -> tuple[PaperNumber | None, float, bool | None, bool | None]:
    """The paper's number for a line of :func:`table_rows`, where it was measured on the same data, and how ours is.

    The difference, ours minus the paper's as a share of the paper's; whether ours is better, ``None`` where they agree
    within the paper's rounding; and whether the paper's number, with its rounding, is outside both two spreads and the
    interval, ``None`` where there is nothing to judge by: neither several seeds nor an interval.
    """
    paper = _paper_number(line, which)
    if paper is None:
        return None, math.nan, None, None
    is_better = None
    if not math.isnan(line.mean) and abs(line.mean - paper.value) > paper.rounding:
        is_better = (line.mean > paper.value) == line.higher_is_better
    limits = [(line.mean - SPREADS * line.spread, line.mean + SPREADS * line.spread), line.interval]
    known = [found for found in limits if found is not None and not math.isnan(found[0])]
    is_beyond = None
    if known:
        low, high = min(found[0] for found in known), max(found[1] for found in known)
        is_beyond = paper.value + paper.rounding < low or paper.value - paper.rounding > high
    return paper, (line.mean - paper.value) / abs(paper.value), is_better, is_beyond


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
    paper, distance, is_better, is_beyond = compare(line, which)
    return {
        **{name: getattr(line, name) for name in ("task", "dataset", "backbone", "readout", "lr", "seeds")},
        "layer": layer_of(line.result),
        "tokens": tokens_of(line.result),
        **{name: getattr(line, name) for name in ("metric", "mean", "spread", "interval", "prior")},
        "over_prior": difference_json(line),
        "marks": line.marks,
        "paper": None if paper is None else {"value": paper.value, "source": paper.source},
        "difference": distance,
        "is_better": is_better,
        "is_beyond": is_beyond,
        "parameters": line.parameters,
        "protocol_digest": line.protocol,
        "runs": [result.run for result in line.results],
    }
