"""The layouts of the paper's Tables 3, 4 and 5 and of its Figure 4, filled with our results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from deapcache.errors import UsageError
from deapcache.results.aggregate import Summary
from deapcache.results.paper import BASE, DATA, READOUTS, paper_backbones
from deapcache.results.reading import depth_of

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
