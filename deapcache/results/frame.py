"""Results put together: which are meant, what may be compared, and means over seeds."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deapcache.errors import ResultsError
from deapcache.recipe import SHORT, Difference, Protocol, differences, digest_of
from deapcache.results.record import Result


def layer_of(result: Result) -> str:
    """``last``, a block's number, or how the backbone calls its map; empty in results that do not say."""
    return _layer_in(_recipe(result))


def tokens_of(result: Result) -> str:
    """``none``, or ``cls``, what was kept beside the features that were read."""
    return _tokens_in(_recipe(result))


def inner_layer(result: Result) -> str:
    """``layer 6`` of a run that read a layer by number; empty for the layer that the backbone is registered with."""
    return _inner_layer_in(_recipe(result))


def reading_of(result: Result) -> str:
    """What tells two runs of one backbone apart: ``layer 6``, ``layer 6 without norm``, ``cls kept``; mostly empty.

    It does not depend on what stands beside a run: a backbone's name alone is its last layer everywhere.
    """
    return _reading_in(_recipe(result))


def told_of(result: Result) -> str:
    """Backbone and what was read of it: ``dinov2``, ``dinov2 · layer 6``."""
    return _told(result.backbone, _recipe(result))


def told_in(recipe: Mapping[str, Any]) -> str:
    """:func:`told_of` what has read the features of that recipe."""
    return _told(str(recipe["backbone"]), recipe)


def depth_of(result: Result) -> int:
    """A number by which the layers of a backbone are in order, the last one behind."""
    return depth_in(_recipe(result))


def depth_in(recipe: Mapping[str, Any]) -> int:
    """:func:`depth_of` what has read the features of that recipe."""
    layer = _layer_in(recipe)
    return int(layer) if layer.isdecimal() else 1_000_000


def _recipe(result: Result) -> Mapping[str, Any]:
    recipe: Mapping[str, Any] = result.caches["train"]["recipe"]
    return recipe


def _layer_in(recipe: Mapping[str, Any]) -> str:
    return str(recipe.get("layer", ""))


def _tokens_in(recipe: Mapping[str, Any]) -> str:
    return str(recipe.get("tokens", "none"))


def _inner_layer_in(recipe: Mapping[str, Any]) -> str:
    layer = _layer_in(recipe)
    return f"layer {layer}" if layer.isdecimal() else ""


def _reading_in(recipe: Mapping[str, Any]) -> str:
    norm = " without norm" if recipe.get("final_norm") is False else ""
    layer, tokens = _inner_layer_in(recipe), _tokens_in(recipe)
    return ", ".join(filter(None, (layer and layer + norm, "" if tokens == "none" else f"{tokens} kept")))


def _told(backbone: str, recipe: Mapping[str, Any]) -> str:
    return " · ".join(filter(None, (backbone, _reading_in(recipe))))


_Name = tuple[str, ...]
_Identity = Callable[[Result], dict[str, Any]]

_OF_THE_ROW = ("protocol.readout.", "protocol.readout_options.", "protocol.optimiser.lr.")
"""Protocol fields in which the rows of one table differ, since each row says which readout and learning rate it is."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One readout on one backbone over its seeds."""

    task: str
    dataset: str
    backbone: str
    readout: str
    lr: float
    """Peak learning rate."""
    protocol_digest: str
    conditions: str
    """Digest of what the rows of one table must share: the protocol but for readout and learning rate, the targets."""
    results: tuple[Result, ...]
    """By seed."""
    mean: Mapping[str, float]
    """Metric → mean over seeds."""
    spread: Mapping[str, float]
    """Metric → sample standard deviation over seeds (n − 1); NaN for a single seed."""
    cost: Mapping[str, float]
    """Mean over seeds of what every one of them measured: see :class:`Result`."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that the mean is over."""
        return tuple(result.seed for result in self.results)

    @property
    def label(self) -> str:
        """Backbone, and the layer where it is not the last: ``dinov2``, ``dinov2 · layer 6``."""
        return told_of(self.first)

    @property
    def first(self) -> Result:
        """The result of the lowest seed, for what all seeds share."""
        return self.results[0]


def summarise(results: Iterable[Result], *, allow_mixed: bool = False) -> list[Summary]:
    """Group results by task, dataset, backbone, layer, readout, learning rate, protocol and caches; sorted by these.

    Raises :class:`ResultsError` that lists the differing fields where one layer of a backbone, readout and learning
    rate has results from different protocols or caches, or where the rows of one task and dataset were not measured
    under the same conditions (protocol but for readout and learning rate, targets). ``allow_mixed`` gives a summary for
    each of them instead.
    """
    ordered = sorted(results, key=_place)
    if not allow_mixed:
        # tables first: the error then names the protocols of all their rows
        _refuse_mixture(ordered, name=_block_of, identity=block_identity)
        _refuse_mixture(ordered, name=_row_of, identity=row_identity)
    groups: dict[tuple[_Name, str], list[Result]] = defaultdict(list)
    for result in ordered:
        groups[(_row_of(result), digest_of(row_identity(result)))].append(result)
    return [_summary(sorted(group, key=lambda r: r.seed)) for group in groups.values()]


def row_identity(result: Result) -> dict[str, Any]:
    """What the seeds of one row share: protocol and the recipes of all caches, as ``outer.inner`` → value."""
    recipes = {name: cache["recipe"] for name, cache in result.caches.items()}
    return dict(_flat({"protocol": _protocol(result), **recipes}))


def block_identity(result: Result) -> dict[str, Any]:
    """What the rows of one table share: the protocol but for readout and learning rate, and the targets' recipes."""
    targets = {name: cache["recipe"] for name, cache in result.caches.items() if "targets" in name}
    flat = _flat({"protocol": _protocol(result), **targets})
    return {name: value for name, value in flat if not f"{name}.".startswith(_OF_THE_ROW)}


def _protocol(result: Result) -> dict[str, Any]:
    """The protocol with all its fields, also those that were added after it was written."""
    return {**Protocol.omitted_defaults(), **result.protocol}


def mixture(shown: Sequence[Summary], summaries: Sequence[Summary]) -> list[str]:
    """For each of ``shown`` in what it was measured unlike the first of ``summaries`` that it could be taken for.

    That is the first of its task and dataset where conditions differ, else of its row. Empty where nothing is mixed.
    """
    block: dict[_Name, Summary] = {}
    row: dict[_Name, Summary] = {}
    for summary in summaries:
        block.setdefault(_block_of(summary.first), summary)
        row.setdefault(_row_of(summary.first), summary)
    notes: list[str] = []
    for summary in shown:
        for name, first, identity in ((_block_of, block, block_identity), (_row_of, row, row_identity)):
            found = differences(identity(summary.first), identity(first[name(summary.first)].first))
            if found:
                named = " · ".join(name(summary.first))
                notes.append(f"mixed: {named} measured unlike the first, {_listed(found, 'here, there')}")
                break
    return list(dict.fromkeys(notes))


def _listed(found: Sequence[Difference], joined: str = "or") -> str:
    """Differences in one line: ``protocol.iterations: 100 or 7; train.storage: 'float16' or 'int8'``."""
    return "; ".join(f"{d.field}: {d.left!r} {joined} {d.right!r}" for d in found)


def _lr(result: Result) -> float:
    return float(result.protocol["optimiser"]["lr"])


def _row_of(result: Result) -> _Name:
    return result.task, result.dataset, told_of(result), result.readout, f"lr {_lr(result):g}"


def _place(result: Result) -> tuple[str | int, ...]:
    """By which results are in order: layer 3 before layer 12, and both before the last."""
    task, dataset, told, *further = _row_of(result)
    return task, dataset, result.backbone, depth_of(result), told, *further, result.run


def _block_of(result: Result) -> _Name:
    return result.task, result.dataset


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as one, ``outer.inner`` → value, so that a difference can be named."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))


def _refuse_mixture(results: Sequence[Result], *, name: Callable[[Result], _Name], identity: _Identity) -> None:
    first: dict[_Name, Result] = {}
    for result in results:
        other = first.setdefault(name(result), result)
        if found := differences(identity(other), identity(result)):
            alike = [r for r in results if name(r) == name(result)]
            raise ResultsError(
                f"results of {' · '.join(name(result))} were not measured the same way and are not put together: "
                f"{other.run} and {result.run} differ in {_listed(found)}. "
                f"{_keep_one(alike, other, result, identity)}, or show them apart with deapcache results --allow-mixed"
            )


def _keep_one(alike: Sequence[Result], one: Result, other: Result, identity: _Identity) -> str:
    """How to keep one side, as options of ``deapcache results``: by protocol, by cache where protocols agree."""
    sides = [[r for r in alike if identity(r) == identity(kept)] for kept in (one, other)]
    flag, digests = "--protocol", [{r.protocol_digest for r in side} for side in sides]
    if digests[0] & digests[1]:
        differing = {d.field.partition(".")[0] for d in differences(identity(one), identity(other))}
        flag, digests = "--cache", [{r.caches[name]["digest"] for name in differing} for r in (one, other)]
    ways = (f"{flag} {','.join(sorted(digest[:SHORT] for digest in side))}" for side in digests)
    return f"Keep one side with {' or '.join(ways)}"


def _all_known(found: Sequence[float | None]) -> list[float]:
    """The values, or none of them where one is missing."""
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else []


def _summary(results: Sequence[Result]) -> Summary:
    first = results[0]
    # another version of the task may have left a score out
    values = {metric: [result.scores.get(metric, math.nan) for result in results] for metric in first.scores}
    costs = {name: [result.cost.get(name) for result in results] for name in first.cost}
    return Summary(
        task=first.task,
        dataset=first.dataset,
        backbone=first.backbone,
        readout=first.readout,
        lr=_lr(first),
        protocol_digest=first.protocol_digest,
        conditions=digest_of(block_identity(first)),
        results=tuple(results),
        mean={metric: float(np.mean(found)) for metric, found in values.items()},
        spread={
            metric: float(np.std(found, ddof=1)) if len(found) > 1 else math.nan for metric, found in values.items()
        },
        cost={name: statistics.fmean(known) for name, found in costs.items() if (known := _all_known(found))},
    )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What results must have; an empty list asks for nothing."""

    tasks: Sequence[str] = ()
    datasets: Sequence[str] = ()
    backbones: Sequence[str] = ()
    readouts: Sequence[str] = ()
    protocols: Sequence[str] = ()
    """First characters of protocol digests."""
    caches: Sequence[str] = ()
    """First characters of digests of feature or target caches that a result has read."""


def select(results: Iterable[Result], wanted: Selection) -> list[Result]:
    """The results that have everything that is wanted: of each list, one of its entries.

    Raises :class:`ResultsError` where nothing is left, with what there is instead.
    """
    left = list(results)
    for kind, names in vars(wanted).items():
        kept = [result for result in left if not names or _fits(result, kind, names)]
        if left and not kept:
            there = sorted({value[:SHORT] if kind in _DIGESTS else value for r in left for value in _values(r, kind)})
            raise ResultsError(f"no result of the {kind} {', '.join(names)}: there are {', '.join(there)}")
        left = kept
    return left


_DIGESTS = ("protocols", "caches")


def _fits(result: Result, kind: str, names: Sequence[str]) -> bool:
    if kind in _DIGESTS:
        return any(digest.startswith(name) for digest in _values(result, kind) for name in names)
    return not set(_values(result, kind)).isdisjoint(names)


def _values(result: Result, kind: str) -> list[str]:
    if kind == "protocols":
        return [result.protocol_digest]
    if kind == "caches":
        return [cache["digest"] for cache in result.caches.values()]
    return [getattr(result, kind.removesuffix("s"))]
