"""When a cache was last used: by the results that name it, and by the uses that readers have noted in a home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from deapcache.cache.records import read_uses
from deapcache.errors import NotAFileError
from deapcache.locations import Location
from deapcache.results.documents import UseDocument
from deapcache.results.files import MOST_BYTES, keys_below

_USE: TypeAdapter[UseDocument] = TypeAdapter(UseDocument)


@dataclass(frozen=True, kw_only=True)
class Uses:
    """What the results and readers' records of some homes say about caches."""

    last: dict[str, datetime]
    """Digest of a cache → date of the newest result that names it, or of its last reading that was noted."""
    unreadable: tuple[str, ...]
    """Files that are no results or no records: what they name may be in use."""
    consulted: tuple[str, ...]
    """Each home that was looked at, and how much it had to say."""


def last_uses(homes: Sequence[Location]) -> Uses:
    """The newest use of every cache that a result or a reader's record in one of ``homes`` names.

    Results of any version count: only their date and the digests are read. What is no result but looks
    like one, such as a copy under another name, counts as well: a cache is in use as long as anything says so.
    Raises :class:`LocationError` where a home could not be looked at.
    """
    last: dict[str, datetime] = {}
    unreadable, consulted = [], []

    def note(digest: str, date: datetime) -> None:
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        last[digest] = max(date, last.get(digest, date))

    for home in homes:
        results = 0
        for key in keys_below(home, "results", ".json"):
            try:
                use = _USE.validate_json(home.read(key, most=MOST_BYTES), strict=True)
            except FileNotFoundError:  # deleted since it was listed
                continue
            except (NotAFileError, ValueError):
                unreadable.append(f"{home}/{key}")
                continue
            results += 1
            for cache in use["caches"].values():
                note(cache["digest"], datetime.fromisoformat(use["date"]))
        uses, damaged = read_uses(home)
        unreadable += damaged
        for read in uses:
            note(read.digest, read.when)
        readers = len({read.who for read in uses})
        consulted.append(f"{home}: {results:,} results, and the readings of {readers} users")
    return Uses(last=last, unreadable=tuple(unreadable), consulted=tuple(consulted))
