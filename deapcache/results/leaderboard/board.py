"""From the results of several homes to the lines of a leaderboard: what stands beside what, in which order.

A leaderboard is one data frame, ``Leaderboard.lines``: a line for each entry (a readout on a backbone, ours or the
paper's) and metric. Entries of one ``comparison`` were measured the same way; each is a column of a ``board``, a table
backbones × tasks.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deapcache.backbones import describe
from deapcache.errors import ResultsError
from deapcache.locations import Location
from deapcache.recipe import digest_of
from deapcache.results.frame import (
    Identity,
    about_backbone,
    comparison_identity,
    entry_category,
    feature_recipe,
    grouped,
    layer_of,
    model_of,
    protocols_of,
    rate_note,
    reading_in,
    row_identity,
    table_rows,
    tokens_of,
)
from deapcache.results.intervals import HomeIntervals
from deapcache.results.marks import legend
from deapcache.results.paper import (
    DATA,
    READOUTS,
    PaperData,
    paper_ablation,
    paper_backbones,
    paper_features,
    paper_metrics,
    paper_parameters,
    paper_score,
    unlike_paper,
)
from deapcache.results.record import Result, load_results
from deapcache.results.speeds import Speed, all_speeds, by_device, most_measured, speed_of
from deapcache.results.tables import score
from deapcache.tasks import get_task

if TYPE_CHECKING:
    from pandas import DataFrame

MEASURED, PAPER = "measured", "paper"
"""Where an entry's scores are from: result files, or the paper's tables."""

PAPERS_DATA = "the paper's data"
"""Title of the board that has the paper's rows."""

SPEED_COMMAND = "deapcache speed --backbone NAME"
SPEED_UNIT = "[× ViT-B/16]"

_FULL_READOUT = "deap"
"""Ours that the paper's Tables 3 and 4 are of."""
_ABLATED = tuple(dict.fromkeys(ours for ours, row in READOUTS.items() if ours == row))
_LONGEST = 16
"""Characters of a value in a name: a digest's first ones tell it apart as well."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Results and where each of them lies."""

    results: tuple[Result, ...]
    """By run name, each once."""
    homes: Mapping[str, Location]
    """Run → the home it was read from, the first that has it."""
    speeds: Mapping[str, Mapping[str, Speed]]
    """Device → backbone → speed, of the first home that has it."""
    notes: tuple[str, ...]
    """Where homes have other scores for the same run."""


def collect(homes: Iterable[Location]) -> Collected:
    """The results of all ``homes``.

    A run's name says its protocol, caches and seed, so that two of one name are the same probe: the first home's is
    kept, and a note tells where another one's score differs. Files that are no result or speed are left out with a
    warning. Raises :class:`ResultsError` for a home whose files cannot be listed or that has no results.
    """
    found: dict[str, Result] = {}
    places: dict[str, Location] = {}
    notes = []
    given = list(dict.fromkeys(homes))
    for home in given:
        if not home.can_list:
            raise ResultsError(f"{home} is a web server that does not list its files: copy its results/ here first")
        results = load_results(home)
        if not results:
            raise ResultsError(f"no results in {home}: make one with deapcache probe --task NAME")
        for result in results:
            kept = found.setdefault(result.run, result)
            place = places.setdefault(result.run, home)
            ours, theirs = (one.scores[one.main_metric] for one in (kept, result))
            if ours != theirs and not (math.isnan(ours) and math.isnan(theirs)):
                counted = f"{kept.run} is counted once: {kept.main_metric} {ours:.6f} in {place} is shown"
                notes.append(f"{counted}, {home} has {theirs:.6f}")
    return Collected(
        results=tuple(found[run] for run in sorted(found)),
        homes=places,
        speeds=by_device(speed for home in reversed(given) for speed in all_speeds(home)),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Everything that is shown."""

    lines: DataFrame
    """Sorted by board, comparison, rank and metric. ``setting`` tells a comparison from others of its task and dataset,
    ``variant`` an entry from others of its backbone and readout; both are mostly empty. ``key`` is a digest of what an
    entry is, for addresses, ``line`` the place in its board. ``printed`` is the paper's table, empty for ours;
    ``features`` (H, W, D); ``speeds`` of the backbone on each device, that of the shown one first; ``place`` of the
    metric in its comparison; ``decimals`` that are known of the score; ``homes`` of each of ``results``. What is not
    known is ``None``, an empty tuple or an empty text."""
    device: str = ""
    """Whose speeds are shown; empty where none was measured."""
    devices: tuple[str, ...] = ()
    """On which any backbone was measured, the shown one first."""
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def boards(self) -> list[list[Any]]:
        """The lines of each board, as ``itertuples`` gives them."""
        return grouped(self.lines.itertuples(), "board")

    @functools.cached_property
    def comparisons(self) -> list[list[Any]]:
        """The lines of each comparison, likewise."""
        return [lines for board in self.boards for lines in grouped(board, "comparison")]


def leaderboard(
    collected: Collected,
    *,
    intervals: bool = True,
    over_seeds: bool = False,
    paper: bool = True,
    device: str | None = None,
) -> Leaderboard:
    """Boards of everything collected: the paper's data on one, each other dataset on its own.

    Only what shares its comparison key stands in one column. The paper's rows stand beside results that were measured
    on its data, and alone where there are none. Speeds are those on ``device``, by default the one with the most
    backbones; raises :class:`ResultsError` where it has none.
    """
    import pandas as pd

    if device is not None and device not in collected.speeds:
        known = ", ".join(sorted(collected.speeds)) or f"none, {SPEED_COMMAND} measures them"
        raise ResultsError(f"there are no speeds on {device!r}: devices are {known}")
    shown = device or most_measured(collected.speeds)
    devices = tuple(sorted(collected.speeds, key=lambda name: (name != shown, name)))
    uncertainty = HomeIntervals(collected.homes.__getitem__, over_seeds=over_seeds) if intervals else None
    rows = table_rows(collected.results, allow_mixed=True, uncertainty=uncertainty)
    rows = [row for row in rows.itertuples() if row.is_metric]
    variants = _variants(rows)
    lines: list[dict[str, Any]] = []
    for same_data in grouped(rows, "task", "dataset"):
        groups = grouped(same_data, "comparison_key")
        identities = [comparison_identity(group[0].result) for group in groups]
        for group, setting in zip(groups, disambiguate(identities, _differing([identities])), strict=True):
            lines += _comparison(group, setting, variants, collected.homes, paper)
    if paper:
        there = {line["task"] for line in lines if line["source"] == PAPER}
        measured = {(line["task"], line["dataset"]) for line in lines}
        for task, data in DATA.items():
            if task not in there:
                lines += _papers_comparison(task, data, "the paper's" if (task, data.dataset) in measured else "")
    for line in lines:
        line["speeds"] = tuple(filter(None, (speed_of(collected.speeds[each], line["model"]) for each in devices)))
    frame = pd.DataFrame(_sorted(lines), dtype=object)
    return Leaderboard(lines=frame, device=shown, devices=devices, notes=collected.notes)


def _variants(lines: Sequence[Any]) -> dict[int, str]:
    """Row → what tells it from others that share dataset and readout.

    That is how it was trained wherever rows of one comparison differ in it, and everything in which rows of one
    layer of a backbone differ.
    """
    rows = [scores[0] for scores in grouped(lines, "row")]
    identities = {row.row: row_identity(row.result) for row in rows}
    trained = {
        row: {name: value for name, value in identity.items() if name.startswith("protocol.")}
        for row, identity in identities.items()
    }

    named: dict[int, str] = {}
    for same in grouped(rows, "dataset", "readout"):
        fields = _differing([[trained[row.row] for row in group] for group in grouped(same, "task", "comparison_key")])
        for own in grouped(same, "display_name"):
            groups = grouped(own, "task", "comparison_key")
            further = _differing([[identities[row.row] for row in group] for group in groups])
            for group in groups:
                found = disambiguate([identities[row.row] for row in group], list(dict.fromkeys([*fields, *further])))
                named |= {row.row: name for row, name in zip(group, found, strict=True)}
    return named


def _differing(groups: Iterable[Sequence[Identity]]) -> list[str]:
    """The fields in which identities of one group differ, over all groups."""
    found: dict[str, None] = {}
    for group in groups:
        names = dict.fromkeys(name for identity in group for name in identity)
        found |= {name: None for name in names if any(one.get(name) != group[0].get(name) for one in group)}
    return list(found)


def disambiguate(group: Sequence[Identity], fields: Sequence[str]) -> list[str]:
    """``lr 0.001, storage int8`` for each identity: these fields, by the last part of their names, with their values.

    Where such names are still equal for different identities of the group they are numbered.
    """

    def text(field: str, value: Any) -> str:
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        cut = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
        return f"{field.rpartition('.')[2]} {cut}"

    texts = [", ".join(dict.fromkeys(text(field, one[field]) for field in fields if field in one)) for one in group]
    rivals: dict[str, list[Identity]] = defaultdict(list)
    for name, identity in zip(texts, group, strict=True):
        if identity not in rivals[name]:
            rivals[name].append(identity)
    return [
        f"{name} #{rivals[name].index(identity) + 1}" if len(rivals[name]) > 1 else name
        for name, identity in zip(texts, group, strict=True)
    ]


def _comparison(
    group: Sequence[Any], setting: str, variants: Mapping[int, str], homes: Mapping[str, Location], paper: bool
) -> list[dict[str, Any]]:
    """The lines of rows that may stand beside each other, and of the paper's where these may as well."""
    first: Result = group[0].result
    comparison = _comparison_columns(first.task, first.dataset, group[0].comparison_key, setting)
    comparison |= {"train_images": max(row.train_images for row in group), "val_images": first.val_images}
    comparison |= {"output_size": tuple(first.protocol["output_size"])}
    metrics = {
        name: {fact: about[fact] for fact in ("label", "unit", "higher_is_better")}
        | {"metric": name, "place": place, "is_main": name == first.main_metric, "prior": first.prior[name]}
        for place, (name, about) in enumerate(first.metrics.items())
    }
    scores = ("mean", "spread", "interval", "difference", "p_holm")
    lines = []
    for own in grouped(group, "row"):
        row = own[0]
        entry = _measured_entry(row, variants[row.row], [homes[result.run] for result in row.results])
        lines += [
            comparison | entry | metrics[line.metric] | {name: getattr(line, name) for name in scores} | {"decimals": 4}
            for line in own
            if line.metric in metrics
        ]
    if paper and not any(unlike_paper(row.result) for row in group):
        comparison |= {"board": PAPERS_DATA}
        lines = [line | {"board": PAPERS_DATA} for line in lines]
        lines += [
            comparison | line | metrics[line["metric"]]
            for line in _paper_lines(first.task)
            if line["metric"] in metrics
        ]
    return lines


def _papers_comparison(task: str, data: PaperData, setting: str) -> list[dict[str, Any]]:
    """The lines of a task of the paper of which there are no results that they may stand beside."""
    ours = get_task(task)
    comparison = _comparison_columns(task, data.dataset, PAPER, setting) | {"board": PAPERS_DATA}
    comparison |= {name: getattr(data, name) for name in ("train_images", "val_images", "output_size")}
    printed = [(name, ours.metrics[name]) for name in ours.metrics if name in paper_metrics(task)]
    main = ours.main_metric if ours.main_metric in paper_metrics(task) else printed[-1][0]
    metrics = {
        name: {"metric": name, "place": place, "label": about.label, "unit": about.unit}
        | {"higher_is_better": about.higher_is_better, "is_main": name == main, "prior": None}
        for place, (name, about) in enumerate(printed)
    }
    return [comparison | line | metrics[line["metric"]] for line in _paper_lines(task) if line["metric"] in metrics]


def _comparison_columns(task: str, dataset: str, comparison_key: str, setting: str) -> dict[str, Any]:
    return {
        "board": dataset,
        "comparison": digest_of([task, dataset, comparison_key])[:10],
        "title": " · ".join(filter(None, (task, dataset, setting))),
        "setting": setting,
        "comparison_key": comparison_key,
        "task": task,
        "dataset": dataset,
    }


def _measured_entry(row: Any, variant: str, homes: Sequence[Location]) -> dict[str, Any]:
    first: Result = row.result
    model, about = model_of(first), about_backbone(first)
    found = [f"{name} {number}" for result in row.results for name, number in result.versions.items()]
    return {
        "key": digest_of([MEASURED, row.backbone, row.readout, row.protocol, [one.run for one in row.results]])[:10],
        "source": MEASURED,
        "printed": "",
        "backbone": row.backbone,
        "model": row.backbone if model == first.backbone else model,
        "display_name": row.display_name,
        "reading": reading_in(feature_recipe(first)),
        "category": about["category"],
        "backbone_parameters": about["parameters"],
        "features": (*first.build["grid"], first.build["feature_dim"]),
        "training_data": about["training_data"],
        "variant": variant,
        "name": f"{row.readout} ({variant})" if variant else row.readout,
        **{
            name: getattr(row, name)
            for name in ("row", "readout", "lr", "parameters", "results", "seeds", "cost", "protocol", "rate", "marks")
        },
        "layer": layer_of(first),
        "tokens": tokens_of(first),
        "homes": tuple(homes),
        "date": max(result.date for result in row.results)[:10],
        "versions": ", ".join(dict.fromkeys(found)),
        "problem": row.uncertainty.problem if row.uncertainty else "",
        "over": row.uncertainty.over if row.uncertainty else "",
    }


def _paper_lines(task: str) -> Iterator[dict[str, Any]]:
    """Tables 3 and 4 of one task, and Table 5's other readouts, as the paper prints them."""
    for backbone in paper_backbones():
        for readout in (_FULL_READOUT, *_ABLATED):
            found = {
                metric: paper_score(backbone, task, metric)
                if readout == _FULL_READOUT
                else paper_ablation(readout, backbone, task, metric)
                for metric in paper_metrics(task)
            }
            numbers = {metric: number for metric, number in found.items() if number}
            if not numbers:
                continue
            printed = next(iter(numbers.values())).source
            known, (parameters, side) = describe(backbone), paper_features(backbone)
            learnable = paper_parameters(backbone, task) if readout == _FULL_READOUT else None
            entry: dict[str, Any] = {
                "key": digest_of([PAPER, backbone, readout, printed, sorted(numbers)])[:10],
                "source": PAPER,
                "printed": printed,
                "backbone": backbone,
                "model": backbone,
                "display_name": backbone,
                "category": entry_category(known),
                "backbone_parameters": parameters,
                "features": (side, side, known.dim),
                "training_data": known.training_data,
                "readout": readout,
                "name": readout,
                "parameters": learnable.value * 1e6 if learnable else None,
                **dict.fromkeys(("reading", "variant", "layer", "tokens", "protocol", "date", "versions"), ""),
                **dict.fromkeys(("problem", "over", "rate", "marks"), ""),
                **dict.fromkeys(("results", "homes", "seeds"), ()),
                "cost": {},
                "lr": None,
                **dict.fromkeys(("row", "difference", "p_holm")),
            }
            for metric, number in numbers.items():
                score = {"mean": number.value, "spread": math.nan, "decimals": number.decimals, "interval": None}
                yield entry | score | {"metric": metric}


def _sorted(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines in order: boards with ours first; tasks as in the paper; entries from the best, without score last.

    With the number of each ``entry``, and of the ``line`` of its board: those with most tasks first, then by ranks.
    """
    lines = list(lines)
    measured = {line["board"] for line in lines if line["source"] == MEASURED}
    boards = sorted(dict.fromkeys(line["board"] for line in lines), key=lambda board: board not in measured)
    tasks = {task: place for place, task in enumerate(DATA)}
    worse = {
        (line["comparison"], line["key"]): -line["mean"] if line["higher_is_better"] else line["mean"]
        for line in lines
        if line["is_main"] and not math.isnan(line["mean"])
    }

    def order(line: Mapping[str, Any]) -> tuple[Any, ...]:
        column = tasks.get(line["task"], len(tasks)), line["task"], line["dataset"], line["setting"]
        entry = line["comparison"], line["key"]
        return boards.index(line["board"]), *column, entry not in worse, worse.get(entry, 0)

    entries: dict[tuple[str, str], int] = {}
    ranks: dict[tuple[str, ...], list[int]] = defaultdict(list)
    best: dict[str, int] = {}
    # a stable sort: metrics stay in their order, and of equal scores the entry that came first is first
    for line in (ordered := sorted(lines, key=order)):
        entry = line["comparison"], line["key"]
        if entry not in entries:
            entries[entry] = len(entries)
            rank = entries[entry] - best.setdefault(line["comparison"], entries[entry])
            ranks[_line_of(line)].append(rank)
    numbers = sorted(ranks, key=lambda row: (boards.index(row[0]), -len(ranks[row]), sum(ranks[row]), row))
    places = {row: place for place, row in enumerate(numbers)}
    return [
        line | {"entry": entries[line["comparison"], line["key"]], "line": places[_line_of(line)]} for line in ordered
    ]


def _line_of(line: Mapping[str, Any]) -> tuple[str, ...]:
    """What the entries of one line of a board share."""
    return tuple(line[name] for name in ("board", "source", "display_name", "readout", "variant"))


def volume(line: Any) -> str:
    """``14×14×768`` of the features; empty where it is not known."""
    return "×".join(map(str, line.features))


def score_text(line: Any) -> str:
    """Mean and spread, with the decimals that are known."""
    return score(line.mean, line.spread, line.decimals)


def relative_speed(line: Any, device: str) -> float | None:
    """Times as fast as ViT-B/16 at 224 the backbone of a line is on ``device``; ``None`` where it was not measured."""
    found = speed_on(line, device)
    return found.relative if found else None


def speed_on(line: Any, device: str) -> Speed | None:
    """The speed of the backbone of a line on that device."""
    return next((one for one in line.speeds if one.device == device), None)


def origin(lines: Iterable[Any]) -> str:
    """Where the scores of an entry, or of those in a line of a board, are from: ``results``, ``paper, Tables 3, 4``."""
    tables = sorted({line.printed for line in lines})
    if tables == [""]:
        return "results"
    return (
        f"paper, {tables[0]}"
        if len(tables) == 1
        else f"paper, Tables {', '.join(t.removeprefix('Table ') for t in tables)}"
    )


def comparison_notes(lines: Sequence[Any]) -> list[str]:
    """Images, protocols and problems of one comparison."""
    first, (height, width) = lines[0], lines[0].output_size
    ours = sorted((line for line in lines if line.source == MEASURED), key=lambda line: line.row)
    notes = [f"images: {first.train_images:,} train, {first.val_images:,} val, output {height}×{width}"]
    if ours:
        notes.append(f"protocol: {protocols_of(ours)}")
    notes += [f"no interval: {problem}" for problem in dict.fromkeys(line.problem for line in ours) if problem]
    over = [
        f"95% interval: of the mean over seeds, over {over}"
        for over in dict.fromkeys(line.over for line in ours)
        if over
    ]
    return notes + over + rate_note(line.results for line in ours) + legend(line.marks for line in ours)
