"""Which of a home's results are meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deapcache.errors import ResultsError
from deapcache.recipe import SHORT
from deapcache.results.record import Result


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
