"""When a cache was last used: by the results that name it, so that no reader ever writes into a cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from deapcache.locations import Location


@dataclass(frozen=True, kw_only=True)
class Uses:
    """What the results of a home say about caches."""

    last: dict[str, datetime]
    """Digest of a cache → date of the newest result that names it."""
    unreadable: tuple[str, ...]
    """Files that are no results: what they name may be in use."""


def last_uses(homes: Sequence[Location]) -> Uses:
    """The newest use of every cache that a result in one of ``homes`` names.

    Results of any version count: only their date and the digests are read. Raises :class:`LocationError` where a home
    could not be looked at.
    """
    last: dict[str, datetime] = {}
    unreadable = []
    for home in homes:
        for key in home.keys("results"):
            if not key.endswith(".json"):
                continue
            try:
                date, digests = _read(home, key)
            except FileNotFoundError:  # deleted since it was listed
                continue
            except (ValueError, KeyError, TypeError, AttributeError):
                unreadable.append(f"{home}/{key}")
                continue
            last |= {digest: max(date, last.get(digest, date)) for digest in digests}
    return Uses(last=last, unreadable=tuple(unreadable))


def _read(home: Location, key: str) -> tuple[datetime, list[str]]:
    document = json.loads(home.read(key))
    date = datetime.fromisoformat(document["date"])
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return date, [str(cache["digest"]) for cache in document["caches"].values()]
