"""What is told of a cache in one row, and options that the commands of this group share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli.console import Bars, note
from deapcache.errors import CorruptCacheError, DeapcacheError, LocationError, UnreadableError, UsageError
from deapcache.locations import Location, redacted

if TYPE_CHECKING:
    from deapcache.cache import Cache, CacheEntry, ShardListener
    from deapcache.results.uses import Uses

One = Annotated[str, typer.Argument(help="Part of the cache's path, or first characters of its digest.")]
UsedBy = Annotated[
    list[str] | None,
    typer.Option("--used-by", metavar="HOME", help="A further home whose results count as uses; may be repeated."),
]
Filter = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="Only caches with this TEXT in the path or at the beginning of the digest, or with FIELD=VALUE: dataset, "
        "split, backbone, storage, complete=false, …; may be repeated.",
    ),
]


def summary(entry: CacheEntry, last_use: datetime | None) -> dict[str, Any] | None:
    """One cache in JSON: what, how much of it, who made it and when, and when it was last used.

    None where it was removed since it was listed.
    """
    known = {"path": entry.path, "kind": entry.kind, "dataset": entry.dataset, "split": entry.split, "name": entry.name}
    known |= {"home": str(entry.home), "view": entry.fields.get("view", ""), "digest": entry.digest}
    try:
        cache = entry.open()
        present = cache.present_shards()
        size = cache.stored_bytes()
    except DeapcacheError as error:
        if isinstance(error, LocationError) and not isinstance(error, UnreadableError):
            raise
        return {**known, "error": str(error)} if entry.location.exists("zarr.json") else None
    return {
        **known,
        "images": len(cache),
        "present": sum(len(cache.shard_rows(k)) for k in present),
        "complete": len(present) == cache.shard_count,
        "bytes": size,
        "who": _who(cache),
        "when": _moment(_written(entry.location)),
        "last_use": _moment(last_use),
    }


def uses(home: Location, others: Sequence[str] | None) -> Uses:
    """When caches were last used, by the results in ``home`` and in ``others``; says what could not be read.

    Raises :class:`UsageError` for one of ``others`` that has no results: mistyped, not mounted, or a web server.
    """
    from deapcache.results.uses import last_uses

    places = (*home.layers, *map(_with_results, others or ()))
    homes = [place for place in places if not isinstance(place, locations.WebLocation)]  # which lists no results
    found = last_uses(homes)
    for file in found.unreadable:
        note(f"{file} is not a result, so that it cannot be told which caches it used")
    return found


def _with_results(text: str) -> Location:
    place = locations.locate(text)
    if isinstance(place, locations.WebLocation):
        raise UsageError(f"--used-by {redacted(text)}: a web server lists no results; give a path, s3:// or gs://")
    if not place.keys("results"):
        raise UsageError(
            f"--used-by {redacted(text)}: there are no results in {place}/results. Is it mistyped, or not mounted? "
            "Leave it out if nothing was ever measured there"
        )
    return place


def shown_moment(text: str | None) -> str:
    """A time in JSON as a table shows it: to the minute, in UTC."""
    return text[:16].replace("T", " ") if text else "–"


def follow(shown: Bars, stage: str) -> ShardListener:
    """Progress of work on shards as a bar, with MB/s."""
    from deapcache.cache import ShardProgress

    def show(event: ShardProgress) -> None:
        seconds = shown.seconds(stage)
        rate = f"{event.bytes / seconds / 1e6:.0f} MB/s" if seconds > 0 else ""
        shown.show(stage, event.done, event.total, "files", rate)

    return show


def _who(cache: Cache) -> str:
    """Those who wrote it, as user@host; empty where nothing says so."""
    facts: list[dict[str, Any]] = []
    with suppress(CorruptCacheError, UnreadableError):  # verify says so, and repair clears it away
        facts = cache.provenance()
    names = {f"{one['user']}@{one['host']}" for one in facts if {"user", "host"} <= one.keys()}
    return ", ".join(sorted(names))


def _written(location: Location) -> datetime | None:
    from deapcache.cache import last_written

    return last_written(location)


def _moment(when: datetime | None) -> str | None:
    return when.isoformat(timespec="seconds") if when else None
