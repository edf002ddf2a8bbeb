"""``deapcache cache push``, ``pull`` and ``mirror``: copying caches between homes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from deapcache import locations
from deapcache.cli import options
from deapcache.cli.cache_rows import Filter, cache_rows
from deapcache.cli.console import FAILURE, bars, note, out, print_json, size
from deapcache.cli.extract import progress_on
from deapcache.errors import CacheMissError, CorruptCacheError, UsageError
from deapcache.locations import Location, parse_bytes

if TYPE_CHECKING:
    from deapcache.cache import Cache, CacheEntry, TransferReport

_Chosen = tuple["CacheEntry", "Cache | None", range | None]
"""A cache to copy, open or to be opened, with its shards; None: all of them."""

Copied = Annotated[
    str | None, typer.Argument(metavar="CACHE", help="Part of the cache's path, or first characters of its digest.")
]


@dataclass(frozen=True)
class How:
    """How fast caches are copied, and whether they are."""

    filters: Filter = None
    max_rate: Annotated[
        str | None, typer.Option("--max-rate", metavar="SIZE", help="At most so much a second: 20MB.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be copied; copy nothing.")] = False
    home: options.Home = None
    json: options.Json = False

    def copy(self, chosen: list[_Chosen], destination: Location, *, verify: bool) -> int:
        """Copy caches to ``destination``, or say what that would be; the exit code."""
        from deapcache.cache import transfer_cache, transfer_needs

        rate = parse_bytes(self.max_rate) if self.max_rate else None
        if self.dry_run:
            needs = {
                entry.path: transfer_needs(cache or entry.open(), destination / entry.path, shards=shards)
                for entry, cache, shards in chosen
            }
            if self.json:
                print_json([{"path": path, **need} for path, need in needs.items()])
                return 0
            for path, need in needs.items():
                out.print(f"{path}: {need['shards']} shards, {size(need['bytes'])} to copy")
            out.print(f"{len(needs)} caches, {size(sum(need['bytes'] for need in needs.values()))} to copy")
            return 0
        reports: list[TransferReport] = []
        failed = 0
        with destination.batch(), bars() as shown:
            destination.require_writable()
            for entry, cache, shards in chosen:
                place = destination / entry.path
                try:
                    report = transfer_cache(
                        cache or entry.open(),
                        place,
                        shards=shards,
                        rate=rate,
                        verify=verify,
                        progress=progress_on(shown),
                    )
                except (CacheMissError, CorruptCacheError, UsageError) as error:
                    if len(chosen) == 1:
                        raise
                    failed += 1  # of one cache: the others are copied all the same
                    note(f"NOT COPIED: {entry.path}: {error}")
                    continue
                reports.append(report)
                if not self.json:
                    _show_transfer(entry, report)
            if reports and isinstance(destination, locations.HubLocation):
                from deapcache.extraction import write_dataset_card

                write_dataset_card(destination)
        if self.json:
            print_json([report.to_json() for report in reports])
        return FAILURE if failed or any(report.refused for report in reports) else 0


@dataclass(frozen=True)
class Which:
    """What is copied between homes, beside the cache that is named."""

    images: Annotated[
        int | None, typer.Option("--images", help="Only the first N images, rounded up to whole shards.")
    ] = None
    with_targets: Annotated[
        bool, typer.Option("--with-targets", help="Also the base images and the targets of the same images.")
    ] = False
    all_that_fit: Annotated[bool, typer.Option("--all", help="All caches that fit, not exactly one.")] = False
    verify: Annotated[
        bool, typer.Option("--verify", help="Read what was copied again at its new place, every checksum.")
    ] = False

    def caches(self, text: str | None, filters: list[str], source: Location) -> list[_Chosen]:
        """The caches to copy, each with its shards, None being all; what belongs to one follows it."""
        from deapcache.cache import one_listing, related_caches, select_cache, select_caches

        if self.images is not None and self.images < 1:
            raise UsageError(f"--images must be at least 1, found {self.images}")
        if text is None and not filters:
            raise UsageError("say what is copied: a CACHE, or --filter")
        with one_listing():
            if text is not None and not (filters or self.all_that_fit):
                entries = [select_cache(source, text)]
            else:
                entries = fitting(select_caches(source, [text] if text else []), filters)
            related = [[first, *(related_caches(first) if self.with_targets else [])] for first in entries]
        chosen: list[_Chosen] = []
        for entry in {entry.path: entry for group in related for entry in group}.values():
            cache = entry.open()
            images = len(cache) if self.images is None else min(self.images, len(cache))
            chosen.append((entry, cache, range(-(-images // cache.shard_images))))
        return chosen


def fitting(entries: list[CacheEntry], filters: list[str]) -> list[CacheEntry]:
    """The caches that every filter fits, by the fields that ``cache ls --filter`` knows."""
    return [entry for entry, _ in cache_rows(entries, None, filters)] if filters else entries


def push_command(
    cache: Copied = None,
    *,
    to: Annotated[str, typer.Option("--to", help="The home to copy to: a path, s3://, gs:// or hf://.")],
    which: Which,
    how: How,
) -> int:
    """Copy a cache into another home: only what is missing there, every checksum compared on the way.

    After an interruption the same command does the rest. Exit code 1 where a shard could not be copied.
    """
    chosen = which.caches(cache, how.filters or [], options.own_home(how.home))
    return how.copy(chosen, locations.locate(to), verify=which.verify)


def pull_command(
    cache: Copied = None,
    *,
    origin: Annotated[
        str, typer.Option("--from", help="The home to copy from: a path, s3://, gs://, hf:// or https://.")
    ],
    which: Which,
    how: How,
) -> int:
    """Copy a cache, or a part of it, from another home: only what is missing here, every checksum compared.

    After an interruption the same command does the rest. Exit code 1 where a shard could not be copied.
    """
    chosen = which.caches(cache, how.filters or [], locations.locate(origin))
    return how.copy(chosen, options.own_home(how.home), verify=which.verify)


def mirror_command(
    mirror: Annotated[
        str, typer.Argument(metavar="HOME", help="The home to keep in step: a path, s3://, gs:// or hf://.")
    ],
    how: How,
) -> int:
    """Copy to another home everything that fits, as push does, and read it again there: for a nightly job.

    Nothing is removed there: what this home no longer has is named.
    """
    from deapcache.cache import list_caches

    source, target = options.own_home(how.home), locations.locate(mirror)
    begun = time.monotonic()
    entries = fitting(list_caches(source), how.filters or [])
    code = how.copy([(entry, None, None) for entry in entries], target, verify=True)
    there = {entry.path for entry in fitting(list_caches(target), how.filters or [])}
    for path in sorted(there - {entry.path for entry in entries}):
        note(f"{path} is in {target} alone: `deapcache cache rm` removes it")
    if not how.json and not how.dry_run:
        note(f"{len(entries)} caches in step after {time.monotonic() - begun:.0f} s")
    return code


def _show_transfer(entry: CacheEntry, report: TransferReport) -> None:
    text = f"{report.copied} files copied ({size(report.bytes)}), {report.there} were there"
    text += f", {report.absent} of {report.asked} shards are not in the source" if report.absent else ""
    text += "; complete" if report.complete else "; incomplete: what is there can be read"
    out.print(f"{entry.path}: {text}")
    for refused in report.refused:
        out.print(f"  NOT COPIED: {report.destination}/{refused.key}: {refused.reason}")
