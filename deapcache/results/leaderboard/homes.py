"""The results of several homes as one set: a run that several of them hold is counted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deapcache.errors import ResultsError
from deapcache.locations import Location
from deapcache.results.intervals import HomeIntervals, Uncertainty
from deapcache.results.record import Result, load_results
from deapcache.results.speeds import BackboneSpeed, all_speeds, by_device


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Results and where each of them lies."""

    results: tuple[Result, ...]
    """By run name, each once."""
    homes: Mapping[str, Location]
    """Run → the home it was read from, the first that has it."""
    speeds: Mapping[str, Mapping[str, BackboneSpeed]]
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
            first = found.setdefault(result.run, result)
            place = places.setdefault(result.run, home)
            if first is not result and (note := _disagreement(first, result, place, home)):
                notes.append(note)
    return Collected(
        results=tuple(found[run] for run in sorted(found)),
        homes=places,
        speeds=by_device(speed for home in reversed(given) for speed in all_speeds(home)),
        notes=tuple(notes),
    )


def _disagreement(kept: Result, other: Result, here: Location, there: Location) -> str:
    ours, theirs = (result.scores[result.main_metric] for result in (kept, other))
    if ours == theirs or (ours != ours and theirs != theirs):
        return ""
    return f"{kept.run} is counted once: {kept.main_metric} {ours:.6f} in {here} is shown, {there} has {theirs:.6f}"


class Intervals:
    """Intervals of rows whose seeds may lie in several homes; kept in that of the first seed."""

    def __init__(self, homes: Mapping[str, Location]) -> None:
        self._homes = homes
        self._of: dict[Location, HomeIntervals] = {}

    def __call__(self, results: Sequence[Result]) -> Uncertainty:
        home = self._homes[results[0].run]
        if home not in self._of:
            self._of[home] = HomeIntervals(home, home_of=self._homes.__getitem__)
        return self._of[home](results)
