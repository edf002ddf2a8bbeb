"""One row a cache, for ``cache ls``, ``info`` and ``prune``: what, how much of it, who made it, and its last use."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache import locations
from deapcache.cli.console import note, size, table
from deapcache.errors import DeapcacheError, LocationError, UnreadableError, UsageError
from deapcache.locations import LocalLocation, Location, WebLocation, redacted

if TYPE_CHECKING:
    from deapcache.cache import CacheEntry
    from deapcache.results.last_used import Uses

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

_AGE_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

GROUPS = {"user": "who", "dataset": "dataset", "backbone": "name", "kind": "kind"}
"""What ``ls --by`` adds up, and the field of a row that it goes by."""


def parse_age(text: str, option: str = "--older-than") -> timedelta:
    """``90m``, ``36h``, ``90d`` or ``12w``; raises :class:`UsageError` for anything else."""
    found = re.fullmatch(r"(\d+)([mhdw])", text)
    if not found:
        raise UsageError(f"{option} {text!r}: expected hours, days or weeks such as 36h, 90d or 12w")
    try:
        age = timedelta(**{_AGE_UNITS[found[2]]: int(found[1])})
        _ = datetime.now(UTC) - age
    except OverflowError:
        raise UsageError(f"{option} {text!r} is longer ago than there are dates") from None
    return age


def cache_rows(
    entries: Sequence[CacheEntry], uses: Uses | None, filters: Sequence[str]
) -> list[tuple[CacheEntry, dict[str, Any]]]:
    """A row for each cache that is still there and that every filter fits."""
    from deapcache.cache import match_filters
    from deapcache.cache.parallel import map_requests

    last, entries = uses.last if uses else {}, _narrowed(entries, filters)
    is_local = all(isinstance(entry.home, LocalLocation) for entry in entries)
    rows = map_requests(lambda entry: cache_row(entry, last.get(entry.digest)), entries, is_local=is_local)
    found = [(entry, row) for entry, row in zip(entries, rows, strict=True) if row]
    wanted = match_filters([{**entry.fields, **row} for entry, row in found], filters)
    return [pair for pair, fits in zip(found, wanted, strict=True) if fits]


def _narrowed(entries: Sequence[CacheEntry], filters: Sequence[str]) -> Sequence[CacheEntry]:
    """Those that fit as far as their recipes tell, so that the others are not opened; all, where none does."""
    from deapcache.cache.catalog import cache_facts, filter_fits

    facts = [cache_facts(entry) for entry in entries]
    fields = {name for one in facts for name in one} - {"images"}  # of a row that is a number
    known = [text for text in filters if "=" not in text or text.partition("=")[0] in fields]
    fitting = [all(filter_fits(one, text) for text in known) for one in facts]
    return list(itertools.compress(entries, fitting)) or entries


def cache_row(entry: CacheEntry, last_use: datetime | None) -> dict[str, Any] | None:
    """One cache in JSON: what, how much of it, who made it and when, and when it was last used.

    None where it was removed since it was listed.
    """
    from deapcache.cache import cache_contents, last_written

    known = {"path": entry.path, "kind": entry.kind, "dataset": entry.dataset, "split": entry.split, "name": entry.name}
    known |= {"home": str(entry.home), "view": entry.fields.get("view", ""), "digest": entry.digest}
    try:
        found = cache_contents(entry.location, entry.digest)
        facts = _provenance(entry)
        written = last_written(entry.location, facts)
    except DeapcacheError as error:
        if isinstance(error, LocationError) and not isinstance(error, UnreadableError):
            raise
        return {**known, "error": str(error)} if entry.location.exists("zarr.json") else None
    names = {f"{one['user']}@{one['host']}" for one in facts if {"user", "host"} <= one.keys()}
    return {
        **known,
        "images": found.total,
        "present": found.images,
        "complete": found.is_complete,
        "bytes": found.bytes,
        "who": ", ".join(sorted(names)),
        "when": written.isoformat(timespec="seconds") if written else None,
        "last_use": last_use.isoformat(timespec="seconds") if last_use else None,
    }


def _provenance(entry: CacheEntry) -> list[dict[str, Any]]:
    """What the writers of a cache have recorded; a damaged record is left out with a warning."""
    from deapcache.cache.cache import read_provenance

    try:
        return read_provenance(entry.location)
    except UnreadableError as error:
        note(f"who wrote {entry.location} is not known: {error}")
        return []


def row_table(rows: list[dict[str, Any]], *, several_homes: bool) -> Any:
    """The rows, and in the last line how many caches, images and bytes they are."""
    names = ("kind", "dataset", "split", "name", "view", *(("home",) if several_homes else ()))
    listed = table(*names, "images", "size", "who", "when", "last use", "digest", right=("images", "size"))
    for row in rows:
        which = [row[name] for name in names]
        if "error" in row:
            listed.add_row(*which, "unreadable", "–", "–", "–", "–", row["error"])
            continue
        images = f"{row['present']:,}" if row["complete"] else f"{row['present']:,} of {row['images']:,}"
        made = (row["who"] or "–", moment_text(row["when"]), moment_text(row["last_use"]))
        listed.add_row(*which, images, size(row["bytes"]), *made, row["digest"][:12])
    total = add_up(rows, "")[0]
    sums = (f"{total['images']:,}", size(total["bytes"]))
    listed.add_row(f"{total['caches']:,} caches", *[""] * (len(names) - 1), *sums, "", "", "", "")
    return listed


def add_up(rows: Iterable[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """Caches, images and bytes of all rows with one value of ``field``, largest first; of all where it is empty.

    A cache that several users wrote counts for all of them together.
    """
    groups: dict[str, dict[str, Any]] = {} if field else {"": {"": "", "caches": 0, "images": 0, "bytes": 0}}
    for row in rows:
        name = people(row) if field == "who" else row[field] if field else ""
        group = groups.setdefault(name, {field: name or "–", "caches": 0, "images": 0, "bytes": 0})
        group["caches"] += 1
        group["images"] += row.get("present", 0)
        group["bytes"] += row.get("bytes", 0)
    return sorted(groups.values(), key=lambda group: -group["bytes"])


def people(row: dict[str, Any]) -> str:
    """Who wrote a cache, without the hosts: ``ada, ben``; empty where nothing says so."""
    return ", ".join(sorted({one.partition("@")[0] for one in (row.get("who") or "").split(", ")}))


def index_rows(home: Location, filters: Sequence[str]) -> list[dict[str, Any]] | None:
    """What :func:`add_up` needs, from ``index.json`` alone, of a home that is far away: one request.

    None for a folder, for several homes, where there is no index that can be used, and where a filter asks for what the
    index does not say: there the caches themselves are looked at.
    """
    from deapcache.cache import IndexEntry, match_filters, read_index

    known = {*IndexEntry.__dataclass_fields__, "present", "complete"}
    asked = {text.partition("=")[0] for text in filters if "=" in text}
    if isinstance(home, LocalLocation) or len(home.layers) > 1 or not asked <= known:
        return None
    try:
        entries = read_index(home)
    except LocationError:
        if not home.can_list:
            raise
        return None
    facts = [
        {**vars(one), "images": one.total, "present": one.images, "complete": one.images == one.total}
        for one in entries
    ]
    return [row for row, fits in zip(facts, match_filters(facts, filters), strict=True) if fits]


def consult(home: Location, others: Sequence[str] | None) -> Uses:
    """When caches were last used, by results and readers' records in ``home`` and in ``others``.

    Says which files could not be read. Raises :class:`UsageError` for one of ``others`` that has neither: mistyped, not
    mounted, or a web server.
    """
    from deapcache.cache.records import USES
    from deapcache.results.last_used import last_uses

    places = list(home.layers)
    for text in others or ():
        place = locations.locate(text)
        if isinstance(place, WebLocation):
            raise UsageError(f"--used-by {redacted(text)}: a web server lists no results; give a path, s3:// or gs://")
        if not (place.keys("results") or place.keys(USES)):
            raise UsageError(
                f"--used-by {redacted(text)}: there are no results in {place}/results. Is it mistyped, or not mounted? "
                "Leave it out if nothing was ever measured there"
            )
        places.append(place)
    found = last_uses([place for place in places if not isinstance(place, WebLocation)])  # lists no results
    for file in found.unreadable:
        note(f"{file} is not a result or a reader's record, so that it cannot be told which caches it used")
    return found


def moment_text(text: str | None) -> str:
    """A time in JSON as a table shows it: to the minute, in UTC."""
    return text[:16].replace("T", " ") if text else "–"


def moment_of(row: dict[str, Any]) -> datetime | None:
    """When a cache was last used, or where it never was last written; None: nothing says so."""
    last = row["last_use"] or row["when"]
    moment = datetime.fromisoformat(last) if last else None
    return moment.replace(tzinfo=UTC) if moment and not moment.tzinfo else moment
