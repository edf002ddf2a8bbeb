"""``deapcache cache rm`` and ``prune``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deapcache.cli import options
from deapcache.cli.cache.rows import Filter, UsedBy, shown_moment, summary, uses
from deapcache.cli.console import err, note, out, print_json, size, table
from deapcache.errors import CacheInUseError, ResultsError, UsageError
from deapcache.locations import LocalLocation

if TYPE_CHECKING:
    from deapcache.cache import CacheEntry, Removal
    from deapcache.locations import Location

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")]


def rm_command(
    caches: Annotated[
        list[str], typer.Argument(metavar="CACHE...", help="Part of a path, or first characters of a digest.")
    ],
    all_that_fit: Annotated[
        bool, typer.Option("--all", help="Remove all caches that fit, not exactly one of each.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Remove caches, or what is left of one whose removal was cut off: the same command then goes on.

    Results that were measured with a cache stay.
    """
    from deapcache.cache import select_folder, select_folders

    place = options.own_home(home)
    if all_that_fit:
        folders = select_folders(place, caches)
    else:
        folders = list({folder.path: folder for folder in (select_folder(place, text) for text in caches)}.values())
    _remove(place, [folder.path for folder in folders], yes=yes, dry_run=dry_run, json=json)


def prune_command(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Last used, or where never used last written, so long ago: 90d, 12w, 36h.",
        ),
    ] = None,
    unused: Annotated[bool, typer.Option("--unused", help="Only caches that no result names.")] = False,
    kinds: Annotated[
        str, typer.Option("--kind", help="features, images, targets: images and targets serve many features.")
    ] = "features",
    filters: Filter = None,
    used_by: UsedBy = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Remove caches that nobody has used for long."""
    if older_than is None and not unused:
        raise UsageError("prune needs --older-than AGE (90d), --unused, or both: it says which caches may go")
    place = options.own_home(home)
    limit = datetime.now(UTC) - parse_age(older_than) if older_than else None
    rows = list(_candidates(place, _kinds(kinds), filters or [], used_by))
    doomed = [row for row in rows if _is_doomed(row, limit, unused)]
    paths = [row["path"] for row in doomed]
    _remove(place, paths, yes=yes, dry_run=dry_run, json=json, rows=doomed, passing=True)


def parse_age(text: str) -> timedelta:
    """``36h``, ``90d`` or ``12w``; raises :class:`UsageError` for anything else."""
    found = re.fullmatch(r"(\d+)([hdw])", text)
    if not found:
        raise UsageError(f"--older-than {text!r}: expected hours, days or weeks such as 36h, 90d or 12w")
    try:
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        raise UsageError(f"--older-than {text!r} is longer ago than there are dates") from None


def _kinds(text: str) -> list[str]:
    from deapcache.cache.names import KINDS

    chosen = options.names(text)
    if unknown := [kind for kind in chosen if kind not in KINDS]:
        raise UsageError(f"--kind {unknown[0]!r}: choose among {', '.join(KINDS)}")
    return chosen


def _candidates(
    place: Location, kinds: list[str], filters: list[str], used_by: list[str] | None
) -> Iterator[dict[str, Any]]:
    from deapcache.cache import are_wanted, list_caches

    found = uses(place, used_by)
    if found.unreadable:
        raise ResultsError(
            f"{len(found.unreadable)} result files cannot be read, and the caches that they name may be in use: delete "
            "these files or move them away, then prune again; nothing was removed"
        )
    entries = [entry for kind in kinds for entry in list_caches(place, kind)]
    asked = [(entry, summary(entry, found.last.get(entry.digest))) for entry in entries if _is_own(entry)]
    fields = [{**entry.fields, **row} for entry, row in asked if row]
    told = [row for _, row in asked if row]
    for row, wanted in zip(told, are_wanted(fields, filters), strict=True):
        if "error" in row:
            note(f"{row['path']} stays, for it cannot be opened: {row['error']}")
        elif wanted:
            yield row


def _is_own(entry: CacheEntry) -> bool:
    """Whether a cache lies in the home, or there is a link to it alone, which can be removed."""
    from deapcache.cache import lies_elsewhere

    real = lies_elsewhere(entry.location)
    is_link = isinstance(entry.location, LocalLocation) and entry.location.path.is_symlink()
    if real and not is_link:
        note(f"{entry.path} stays, for links lead out of the home to {real}")
        return False
    return True


def _is_doomed(row: dict[str, Any], limit: datetime | None, unused: bool) -> bool:
    if unused and row["last_use"]:
        return False
    if limit is None:
        return True
    last = row["last_use"] or row["when"]
    if last is None:
        note(f"{row['path']} stays, for nothing says how old it is")
        return False
    moment = datetime.fromisoformat(last)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) < limit


def _remove(
    place: Location,
    paths: list[str],
    *,
    yes: bool,
    dry_run: bool,
    json: bool,
    rows: list[dict[str, Any]] | None = None,
    passing: bool = False,
) -> None:
    """Remove caches; where ``passing``, those that a run is at work on are passed over with a note."""
    from deapcache.cache import remove_cache

    if not json:
        _show(paths, rows)
    if dry_run or not paths:
        _tell({}, paths if dry_run else [], json)
        return
    place.require_writable()
    _ask(len(paths), yes)
    removed = {}
    for path in paths:
        try:
            removed[path] = remove_cache(place / path)
        except CacheInUseError as error:
            if not passing:
                raise
            note(f"{path} stays: {error}")
    _tell(removed, [], json)


def _ask(count: int, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at: give --yes to remove these caches, or --dry-run to look")
    err.print(f"remove {count} caches? [y/N] ", end="", markup=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise typer.Exit(1)


def _show(paths: list[str], rows: list[dict[str, Any]] | None) -> None:
    """What is to go."""
    if not paths:
        out.print("nothing to remove")
        return
    shown = table("cache", "size", "written", "last use", right=("size",))
    known = {row["path"]: row for row in rows or []}
    for path in paths:
        row = known.get(path)
        facts = (size(row["bytes"]), shown_moment(row["when"]), shown_moment(row["last_use"])) if row else ("", "", "")
        shown.add_row(path, *facts)
    out.print(shown)


def _tell(removed: dict[str, Removal], would_remove: list[str], json: bool) -> None:
    if json:
        facts = [{"path": path, **vars(one)} for path, one in removed.items()]
        print_json({"would_remove": would_remove, "removed": facts})
        return
    for one in removed.values():
        out.print(f"removed {one.location}: {one.files} files, {size(one.bytes)}", markup=False)
