"""When a cache was last used: by the results that name it, so that no reader ever writes into a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from deapcache.errors import NotAFileError
from deapcache.locations import Location
from deapcache.results.documents import UseDocument
from deapcache.results.files import MOST_BYTES, keys_below

_USE: TypeAdapter[UseDocument] = TypeAdapter(UseDocument)


@dataclass(frozen=True, kw_only=True)
class Uses:
    """What the results of a home say about caches."""

    last: dict[str, datetime]
    """Digest of a cache → date of the newest result that names it."""
    unreadable: tuple[str, ...]
    """Files that are no results: what they name may be in use."""


def last_uses(homes: Sequence[Location]) -> Uses:
    """The newest use of every cache that a result in one of ``homes`` names.

    Results of any version count: only their date and the digests are read. What is no result but looks
    like one, such as a copy under another name, counts as well: a cache is in use as long as anything says so.
    Raises :class:`LocationError` where a home could not be looked at.
    """
    last: dict[str, datetime] = {}
    unreadable = []
    for home in homes:
        for key in keys_below(home, "results", ".json"):
            try:
                use = _USE.validate_json(home.read(key, most=MOST_BYTES), strict=True)
            except FileNotFoundError:  # deleted since it was listed
                continue
            except (NotAFileError, ValueError):
                unreadable.append(f"{home}/{key}")
                continue
            date = datetime.fromisoformat(use["date"])
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            for cache in use["caches"].values():
                last[cache["digest"]] = max(date, last.get(cache["digest"], date))
    return Uses(last=last, unreadable=tuple(unreadable))
