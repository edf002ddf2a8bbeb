"""Several seeds as one row, and only what was measured the same way beside each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deapcache.errors import ResultsError
from deapcache.recipe import SHORT, differences, digest_of
from deapcache.results.record import Result

_Name = tuple[str, ...]

_OF_THE_READOUT = ("readout", "readout_options")
"""Protocol fields in which the rows of one table differ."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One readout on one backbone over its seeds."""

    task: str
    dataset: str
    backbone: str
    readout: str
    protocol_digest: str
    conditions: str
    """Digest of what the rows of one table must share: the protocol but for the readout, and the targets."""
    results: tuple[Result, ...]
    """By seed."""
    mean: Mapping[str, float]
    """Metric → mean over seeds."""
    spread: Mapping[str, float]
    """Metric → sample standard deviation over seeds (n − 1); NaN for a single seed."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that the mean is over."""
        return tuple(result.seed for result in self.results)

    @property
    def first(self) -> Result:
        """The result of the lowest seed, for what all seeds share."""
        return self.results[0]


def summarise(results: Iterable[Result], *, allow_mixed: bool = False) -> list[Summary]:
    """Group results by task, dataset, backbone, readout, protocol and caches; sorted by these names.

    Raises :class:`ResultsError` that lists the differing fields where one backbone and readout has results from
    different protocols or caches, or where the rows of one task and dataset were not measured under the same
    conditions (protocol but for the readout, targets). ``allow_mixed`` gives a summary for each of them instead.
    """
    ordered = sorted(results, key=lambda r: (r.task, r.dataset, r.backbone, r.readout, r.run))
    if not allow_mixed:
        _refuse_mixture(ordered, name=_row_of, identity=_row_identity)
        _refuse_mixture(ordered, name=_block_of, identity=_block_identity)
    groups: dict[tuple[_Name, str], list[Result]] = defaultdict(list)
    for result in ordered:
        groups[(_row_of(result), digest_of(_row_identity(result)))].append(result)
    return [_summary(sorted(group, key=lambda r: r.seed)) for group in groups.values()]


def _row_of(result: Result) -> _Name:
    return result.task, result.dataset, result.backbone, result.readout


def _block_of(result: Result) -> _Name:
    return result.task, result.dataset


def _row_identity(result: Result) -> dict[str, Any]:
    recipes = {name: cache["recipe"] for name, cache in result.caches.items()}
    return dict(_flat({"protocol": result.protocol, **recipes}))


def _block_identity(result: Result) -> dict[str, Any]:
    protocol = {name: value for name, value in result.protocol.items() if name not in _OF_THE_READOUT}
    targets = {name: cache["recipe"] for name, cache in result.caches.items() if name.endswith("targets")}
    return dict(_flat({"protocol": protocol, **targets}))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as one, ``outer.inner`` → value, so that a difference can be named."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))


def _refuse_mixture(
    results: Iterable[Result], *, name: Callable[[Result], _Name], identity: Callable[[Result], dict[str, Any]]
) -> None:
    first: dict[_Name, Result] = {}
    for result in results:
        other = first.setdefault(name(result), result)
        if found := differences(identity(other), identity(result)):
            listed = "; ".join(f"{d.field}: {d.left!r} or {d.right!r}" for d in found)
            raise ResultsError(
                f"results of {' · '.join(name(result))} were not measured the same way and are not put together: "
                f"{other.run} and {result.run} differ in {listed}. Keep those of one protocol "
                f"({other.protocol_digest[:SHORT]} or {result.protocol_digest[:SHORT]}), or allow mixed results"
            )


def _summary(results: Sequence[Result]) -> Summary:
    first = results[0]
    values = {metric: [result.scores[metric] for result in results] for metric in first.scores}
    return Summary(
        task=first.task,
        dataset=first.dataset,
        backbone=first.backbone,
        readout=first.readout,
        protocol_digest=first.protocol_digest,
        conditions=digest_of(_block_identity(first)),
        results=tuple(results),
        mean={metric: float(np.mean(found)) for metric, found in values.items()},
        spread={
            metric: float(np.std(found, ddof=1)) if len(found) > 1 else math.nan for metric, found in values.items()
        },
    )
