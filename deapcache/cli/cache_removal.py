"""``deapcache cache rm``, ``prune``, ``pin``, ``unpin`` and ``journal``: what goes, what stays, and what has gone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache.cli import options
from deapcache.cli.cache_rows import (
    Filter,
    UsedBy,
    cache_rows,
    consult,
    moment_of,
    moment_text,
    parse_age,
    people,
)
from deapcache.cli.console import err, note, out, print_json, size, table
from deapcache.errors import CacheInUseError, ResultsError, UsageError
from deapcache.locations import LocalLocation, Location, home_defaults, parse_bytes

if TYPE_CHECKING:
    from deapcache.cache import CacheEntry
    from deapcache.results.last_used import Uses

Rows = dict[str, dict[str, Any]]
"""Path of a cache → what a table shows of it, as far as it is known."""


@dataclass(frozen=True)
class _Removal:
    """Whether caches are removed, and what is said of it."""

    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
    dry_run: Annotated[
        bool | None,
        typer.Option(
            "--dry-run/--no-dry-run",
            help="Say what would be removed; remove nothing. Default: where caches of more than one person would go.",
        ),
    ] = None
    why: Annotated[str | None, typer.Option("--why", help="What the home's journal says. Default: the command.")] = None
    home: options.Home = None
    json: options.Json = False

    def remove(self, place: Location, rows: Rows, command: str, *, skip_busy: bool = False) -> None:
        """Remove the caches at the paths that ``rows`` has, once the user agrees; ``command`` is for the journal.

        With ``skip_busy``, caches that a run is at work on are left with a note.
        """
        from deapcache.cache import remove_cache

        owners = sorted({name for path, row in rows.items() for name in _owners(place, path, row)})
        if (dry_run := self.dry_run) is None and (dry_run := len(owners) > 1):
            note(f"these are caches of {', '.join(owners)}: nothing is removed without --no-dry-run")
        if not self.json:
            _show_rows_to_remove(rows)
        removed = {}
        if rows and not dry_run:
            place.require_writable()
            if not self.yes and not sys.stdin.isatty():
                raise UsageError(
                    "there is no terminal to ask at: give --yes to remove these caches, or --dry-run to look"
                )
            if not self.yes:
                err.print(f"remove {len(rows)} caches? [y/N] ", end="")
                if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                    raise typer.Exit(1)
            for path in rows:
                try:
                    removed[path] = remove_cache(place / path, why=self.why or command)
                except CacheInUseError as error:
                    if not skip_busy:
                        raise
                    note(f"{path} stays: {error}")
        if self.json:
            facts = [{"path": path, **vars(one)} for path, one in removed.items()]
            print_json({"would_remove": list(rows) if dry_run else [], "removed": facts})
            return
        for one in removed.values():
            out.print(f"removed {one.location}: {one.files} files, {size(one.bytes)}")


def rm_command(
    *,
    caches: Annotated[
        list[str], typer.Argument(metavar="CACHE...", help="Part of a path, or first characters of a digest.")
    ],
    all_that_fit: Annotated[
        bool, typer.Option("--all", help="Remove all caches that fit, not exactly one of each.")
    ] = False,
    how: _Removal,
) -> None:
    """Remove caches, or what is left of one whose removal was cut off: the same command then goes on.

    Results that were measured with a cache stay. Caches that somebody has pinned are refused.
    """
    from deapcache.cache import require_one, select_folders

    place = options.own_home(how.home)
    folders = select_folders(place, caches)
    if not all_that_fit:
        folders = [require_one(place, text, folders) for text in caches]
    pinned = _pins(place)
    for folder in folders:
        if folder.digest in pinned:
            raise CacheInUseError(
                f"{folder.path} is {pinned[folder.digest]}. It was not removed; `deapcache cache unpin` first"
            )
    rows: Rows = {folder.path: {} for folder in folders}
    how.remove(place, rows, f"rm {' '.join(caches)}")


def prune_command(
    *,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Last used, or where never used last written, so long ago: 90d, 12w, 36h.",
        ),
    ] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Only caches that no result and no reader's record names.")
    ] = False,
    superseded: Annotated[
        bool,
        typer.Option(
            "--superseded",
            help="Only caches that have a newer, complete one of the same backbone, dataset, split, view and layer.",
        ),
    ] = False,
    until_free: Annotated[
        str | None,
        typer.Option(
            "--until-free",
            metavar="SIZE",
            help="Those used longest ago first, and no more than are needed to have so much free: 2TB.",
        ),
    ] = None,
    filters: Filter = None,
    used_by: UsedBy = None,
    how: _Removal,
) -> None:
    """Remove caches that nobody has used for long; those that somebody has pinned stay.

    Features alone, unless a --filter kind=images or kind=targets says more: these serve many features.
    """
    place = options.own_home(how.home)
    agreed = home_defaults(place)
    if not (older_than or unused or superseded or until_free):
        older_than = agreed.get("prune.older-than")
    asked = {"older-than": older_than, "unused": unused, "superseded": superseded, "until-free": until_free}
    if not any(asked.values()):
        raise UsageError(
            "prune needs --older-than AGE (90d), --unused, --superseded or --until-free SIZE (2TB): it says which "
            "caches may go"
        )
    limit = place.clock() - parse_age(older_than) if older_than else None
    wanted_bytes = parse_bytes(until_free) if until_free else None
    uses = consult(place, [*(used_by or []), *agreed.get("prune.used-by", [])])
    note(f"uses are those that these name: {'; '.join(uses.consulted)}")
    if uses.unreadable:
        raise ResultsError(
            f"{len(uses.unreadable)} result files or readers' records cannot be read, and the caches that they name "
            "may be in use: delete these files or move them away, then prune again; nothing was removed"
        )
    rows = _candidates(place, uses, filters or [], unused=unused, superseded=superseded)
    if limit is not None or wanted_bytes is not None:
        dated = [(row, moment) for row in rows if (moment := _dated(row))]
        rows = [row for row, moment in dated if limit is None or moment < limit]
    rows = _without_pinned(place, rows)
    if wanted_bytes is not None:
        rows = _least_recent(place, rows, wanted_bytes)
    words = [f"--{name}" if value is True else f"--{name} {value}" for name, value in asked.items() if value]
    how.remove(place, {row["path"]: row for row in rows}, f"prune {' '.join(words)}", skip_busy=True)


def _candidates(
    place: Location, uses: Uses, filters: Sequence[str], *, unused: bool, superseded: bool
) -> list[dict[str, Any]]:
    """Rows of the caches that fit, can be opened and are as unused or superseded as is asked for; notes what stays."""
    from deapcache.cache import list_caches, match_filters

    kind = None if any(text.startswith("kind=") for text in filters) else "features"
    found = cache_rows([entry for entry in list_caches(place, kind) if _lies_in_home(entry)], uses, [])
    fits = match_filters([{**entry.fields, **row} for entry, row in found], filters)
    older = _superseded(found) if superseded else {}
    rows = []
    for row in (row for (_, row), wanted in zip(found, fits, strict=True) if wanted):
        if "error" in row:
            note(f"{row['path']} stays, for it cannot be opened: {row['error']}")
        elif not (unused and row["last_use"]) and (not superseded or row["path"] in older):
            rows.append({**row, "newer": older.get(row["path"], "")})
    return rows


def _lies_in_home(entry: CacheEntry) -> bool:
    """Whether a cache lies in the home, or there is a link to it alone, which can be removed."""
    from deapcache.cache import link_target

    real = link_target(entry.location)
    is_link = isinstance(entry.location, LocalLocation) and entry.location.path.is_symlink()
    if real and not is_link:
        note(f"{entry.path} stays, for links lead out of the home to {real}")
        return False
    return True


def _dated(row: dict[str, Any]) -> datetime | None:
    moment = moment_of(row)
    if moment is None:
        note(f"{row['path']} stays, for nothing says how old it is")
    return moment


def _superseded(found: Sequence[tuple[CacheEntry, dict[str, Any]]]) -> dict[str, str]:
    """Path of each cache that has a newer, complete one of the same name, view and layer → path of the newest."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry, row in found:
        if row.get("when"):
            same = [entry.fields.get(field) for field in ("view", "layer", "tokens")]
            groups.setdefault((entry.kind, entry.dataset, entry.split, entry.name, *same), []).append(row)
    older: dict[str, str] = {}
    for rows in groups.values():
        newest = max((row for row in rows if row["complete"]), key=lambda row: row["when"], default=None)
        older |= {row["path"]: newest["path"] for row in rows if newest and row["when"] < newest["when"]}
    return older


def _pins(place: Location) -> dict[str, Any]:
    from deapcache.cache.records import read_pins

    return {pin.digest: pin for pin in read_pins(place)}


def _without_pinned(place: Location, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    pinned, left = _pins(place), []
    for row in rows:
        if pin := pinned.get(row["digest"]):
            note(f"{row['path']} stays, {pin}")
        else:
            left.append(row)
    return left


def _least_recent(place: Location, rows: Iterable[dict[str, Any]], wanted: int) -> list[dict[str, Any]]:
    """Of caches those used longest ago, as many as must go until ``wanted`` bytes are free."""
    free = place.free_bytes()
    if free is None:
        raise UsageError(f"--until-free: {place} does not tell how much is free; give --older-than AGE instead")
    chosen = []
    for row in sorted(rows, key=lambda row: (moment_of(row), row["path"])):
        if free >= wanted:
            break
        chosen.append(row)
        free += row["bytes"]
    if free < wanted:
        note(f"even without these, only {size(free)} would be free, not {size(wanted)}")
    return chosen


def _owners(place: Location, path: str, row: dict[str, Any]) -> list[str]:
    """Those who wrote a cache, as far as it says so."""
    from deapcache.cache.cache import read_provenance

    if row:
        return [name for name in people(row).split(", ") if name]
    return [str(one["user"]) for one in read_provenance(place / path) if "user" in one]


def _show_rows_to_remove(rows: Rows) -> None:
    if not rows:
        out.print("nothing to remove")
        return
    with_newer = any(row.get("newer") for row in rows.values())
    listed = table("cache", "size", "who", "written", "last use", *["superseded by"] * with_newer, right=("size",))
    for path, row in rows.items():
        times = (moment_text(row["when"]), moment_text(row["last_use"])) if row else ("", "")
        facts = (size(row["bytes"]), people(row), *times) if row else ("", "", *times)
        listed.add_row(path, *facts, *[row.get("newer", "")] * with_newer)
    out.print(listed)


# --- pins and the journal ---------------------------------------------------------------------------------------------


def pin_command(
    cache: Annotated[
        str | None,
        typer.Argument(
            metavar="CACHE", help="Part of the cache's path, or first characters of its digest. Default: list."
        ),
    ] = None,
    why: Annotated[str, typer.Option("--why", help="What it is kept for.")] = "",
    until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="The day on which the pin ends: 2027-01-31.")
    ] = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Keep a cache from prune and rm, or list the pins of a home."""
    from deapcache.cache import select_cache
    from deapcache.cache.records import pin_cache, read_pins

    place = options.own_home(home)
    if cache is None:
        pins = read_pins(place, expired=True)
    else:
        if not why:
            raise UsageError("pin needs --why TEXT: whoever wants to remove the cache reads it")
        entry = select_cache(place, cache)
        pins = [pin_cache(place, entry.path, entry.digest, why=why, until=_day(until))]
    if json:
        print_json([_plain(pin) for pin in pins])
        return
    for pin in pins:
        out.print(f"{pin.path}: {pin}")


def unpin_command(
    cache: Annotated[str, typer.Argument(help="Part of the cache's path, or first characters of its digest.")],
    of_everyone: Annotated[bool, typer.Option("--of-everyone", help="Also the pins of others.")] = False,
    home: options.Home = None,
) -> None:
    """Take away your pin on a cache."""
    from deapcache.cache import select_cache
    from deapcache.cache.records import unpin_cache
    from deapcache.machine import user_name

    place = options.own_home(home)
    entry = select_cache(place, cache)
    gone, left = unpin_cache(place, entry.digest, who=None if of_everyone else user_name())
    for pin in gone:
        out.print(f"{entry.path}: no longer {pin}")
    for pin in left:
        out.print(f"{entry.path}: still {pin}")
    if not gone and not left:
        out.print(f"{entry.path} is not pinned")


def journal_command(home: options.Home = None, json: options.Json = False) -> None:
    """What was removed from a home: who did it, when, what and why."""
    from deapcache.cache.records import read_removals

    records = read_removals(options.own_home(home))
    if json:
        print_json([_plain(record) for record in records])
        return
    listed = table("when", "who", "cache", "size", "why", right=("size",))
    for one in records:
        who = f"{one.who}@{one.host}"
        listed.add_row(moment_text(one.when.isoformat()), who, one.path, size(one.bytes), one.why)
    out.print(listed)


def _day(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"--until {text!r}: expected a day such as 2027-01-31") from None


def _plain(record: Any) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in vars(record).items()}
