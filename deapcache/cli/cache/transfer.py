"""``deapcache cache push`` and ``pull``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.cache.rows import One, follow
from deapcache.cli.console import bars, out, print_json, size
from deapcache.errors import UsageError
from deapcache.locations import Location

if TYPE_CHECKING:
    from deapcache.cache import Cache, CacheEntry, TransferReport

REFUSED = 1

Shards = Annotated[str | None, typer.Option("--shards", help="Only these shards: 0-9,12.")]
Images = Annotated[int | None, typer.Option("--images", help="Only the first N images, rounded up to whole shards.")]
WithTargets = Annotated[
    bool, typer.Option("--with-targets", help="Also the base images and the targets of the same images.")
]
All = Annotated[bool, typer.Option("--all", help="All caches that fit, not exactly one.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Shards copied at once; each takes its size in memory.")]


def push_command(
    cache: One,
    to: Annotated[str, typer.Option("--to", help="The home to copy to: a path, s3:// or gs://.")],
    shards: Shards = None,
    images: Images = None,
    with_targets: WithTargets = False,
    all_that_fit: All = False,
    threads: Threads = 4,
    home: options.Home = None,
    json: options.Json = False,
) -> int:
    """Copy a cache into another home: only what is missing there, every checksum compared on the way.

    After an interruption the same command does the rest. Exit code 1 where a shard could not be copied.
    """
    source, destination = options.own_home(home), locations.locate(to)
    wish = _Wish(text=cache, shards=shards, images=images, with_targets=with_targets, all_that_fit=all_that_fit)
    return _transfer(source, destination, wish, threads, json)


def pull_command(
    cache: One,
    origin: Annotated[str, typer.Option("--from", help="The home to copy from: a path, s3://, gs:// or https://.")],
    shards: Shards = None,
    images: Images = None,
    with_targets: WithTargets = False,
    all_that_fit: All = False,
    threads: Threads = 4,
    home: options.Home = None,
    json: options.Json = False,
) -> int:
    """Copy a cache, or a part of it, from another home: only what is missing here, every checksum compared.

    After an interruption the same command does the rest. Exit code 1 where a shard could not be copied.
    """
    source, destination = locations.locate(origin), options.own_home(home)
    wish = _Wish(text=cache, shards=shards, images=images, with_targets=with_targets, all_that_fit=all_that_fit)
    return _transfer(source, destination, wish, threads, json)


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is to be copied, as the user says it."""

    text: str
    shards: str | None
    images: int | None
    with_targets: bool
    all_that_fit: bool


def _transfer(source: Location, destination: Location, wish: _Wish, threads: int, json: bool) -> int:
    from deapcache.cache import transfer_cache

    chosen = list(_chosen(source, wish))
    destination.require_writable()
    reports: list[TransferReport] = []
    with bars() as shown:
        for entry, cache, shards in chosen:
            target, heard = destination / entry.path, follow(shown, entry.path)
            report = transfer_cache(cache, target, shards=shards, threads=threads, progress=heard)
            reports.append(report)
            if not json:
                _show(entry, report)
    if json:
        print_json([report.to_json() for report in reports])
    return REFUSED if any(report.refused for report in reports) else 0


def _chosen(source: Location, wish: _Wish) -> Iterator[tuple[CacheEntry, Cache, list[int] | None]]:
    """The caches to copy, each with its shards, None being all; what belongs to one follows it."""
    from deapcache.cache import companions, select_cache, select_caches

    if wish.shards is not None and wish.images is not None:
        raise UsageError("--shards and --images both choose a part: give one of them")
    entries = select_caches(source, [wish.text]) if wish.all_that_fit else [select_cache(source, wish.text)]
    passed: set[str] = set()
    for first in entries:
        rows = _rows(first.open(), wish)
        for entry in [first, *(companions(first) if wish.with_targets else [])]:
            if entry.path not in passed:
                passed.add(entry.path)
                cache = entry.open()
                yield entry, cache, None if rows is None else sorted({row // cache.shard_images for row in rows})


def _rows(cache: Cache, wish: _Wish) -> list[int] | None:
    """The rows of the part that was chosen; None: all."""
    if wish.images is not None:
        if wish.images < 1:
            raise UsageError(f"--images must be at least 1, found {wish.images}")
        return list(range(min(wish.images, len(cache))))
    if wish.shards is None:
        return None
    return [row for shard in parse_shards(wish.shards) for row in cache.shard_rows(shard)]


def parse_shards(text: str) -> list[int]:
    """``0-9,12`` as numbers in order; raises :class:`UsageError` for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"--shards {text!r}: expected numbers and ranges such as 0-9,12")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


def _show(entry: CacheEntry, report: TransferReport) -> None:
    told = f"{report.copied} files copied ({size(report.bytes)}), {report.there} were there"
    told += f", {report.absent} of {report.asked} shards are not in the source" if report.absent else ""
    told += "; complete" if report.complete else "; incomplete: what is there can be read"
    out.print(f"{entry.path}: {told}", markup=False)
    for refused in report.refused:
        out.print(f"  NOT COPIED: {report.destination}/{refused.key}: {refused.reason}", markup=False)
