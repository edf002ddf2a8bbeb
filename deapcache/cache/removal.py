"""Taking things away: whole caches, and single shards that are damaged.

A cache is one by its root ``zarr.json``, which is deleted first. What a kill leaves is then no cache to anyone, and
removing it again, by its path, goes on. Shards are deleted before the ``zarr.json`` that says how they are cut: an
extraction that comes in between finds whole shards, or none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deapcache.cache.cache import Cache
from deapcache.cache.identifiers import IDENTIFIER_KEYS
from deapcache.cache.index import home_of, write_index
from deapcache.cache.layout import METADATA_KEY
from deapcache.cache.manifest import withdraw
from deapcache.cache.opening import open_cache
from deapcache.cache.verifying import BadShard, verify_cache
from deapcache.errors import CorruptCacheError, DeapcacheError
from deapcache.locations import MANIFEST, LocalLocation, Location, reading

SET_ASIDE = ".damaged"
"""Ending of a small file that was moved out of the way."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was taken away."""

    location: str
    files: int
    bytes: int
    """0 for those whose size the store does not tell."""


def remove_cache(location: Location) -> Removal:
    """Remove all that is at ``location``, be it a cache, a damaged one or the rest of one.

    Raises :class:`ReadOnlyError` or :class:`LocationError` where something cannot be removed; calling it again goes on.
    """
    keys = location.keys()
    size = sum(_size(location, key) for key in keys)
    home = home_of(location)
    if home:  # readers over HTTP must not be sent to what is going
        write_index(home, without=[location.url.removeprefix(f"{home.url}/")])
    for key in sorted(keys, key=_rank):
        location.delete(key)
    if isinstance(location, LocalLocation):
        location.sweep(older_than_seconds=0.0)
        _remove_empty_folders(location.path)
    return Removal(location=str(location), files=len(keys), bytes=size)


def _rank(key: str) -> tuple[int, str]:
    """The root first, then all that is no ``zarr.json``, then those of the arrays."""
    if key == METADATA_KEY:
        return 0, key
    return (2 if key.endswith(f"/{METADATA_KEY}") else 1), key


def _size(location: Location, key: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return location.size(key) or 0
    return 0


def _remove_empty_folders(path: Path) -> None:
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):  # not empty: somebody writes into it
            Path(folder).rmdir()


def remove_bad_shards(cache: Cache, bad: Iterable[BadShard]) -> tuple[int, ...]:
    """Delete damaged shards, and nothing else; returns their numbers.

    Each is looked at once more just before: a shard that somebody has made anew meanwhile stays. The file that commits
    a shard goes first, so that a kill leaves a shard that is not there.
    """
    files = {one.shard: one.keys for one in bad}
    removed = []
    for shard, keys in sorted(files.items()):
        if verify_cache(cache.location, shards=[shard]).bad:
            withdraw(cache.location, keys)
            for key in keys:
                cache.location.delete(key)
            removed.append(shard)
    if removed:
        cache.settle()
    return tuple(removed)


def set_aside(location: Location, keys: Sequence[str]) -> tuple[str, ...]:
    """Move damaged small files of a cache out of the way, and with them its root, so that it can be made anew.

    They are kept beside, their names ending in ``.damaged``. Whole shards stay, and an extraction of the same recipe
    finds them. Returns the keys that were moved.
    """
    of_ids = IDENTIFIER_KEYS if set(keys) & set(IDENTIFIER_KEYS) else ()  # which of them lies cannot be told
    doomed = [key for key in dict.fromkeys([METADATA_KEY, *keys, *of_ids]) if location.exists(key)]
    location.delete(MANIFEST)  # of what is no cache for now; written again with the cache
    for key in doomed:
        location.publish(f"{key}{SET_ASIDE}", location.read(key), replace=True)
        location.delete(key)
    return tuple(doomed)


def last_written(location: Location) -> datetime | None:
    """When the cache was last written to: by its provenance, or on a file system by its files; None: not known."""
    times = list(_provenance_times(location))
    if isinstance(location, LocalLocation):
        times += [_modified(location.path)]
    return max(times, default=None)


def _provenance_times(location: Location) -> Iterable[datetime]:
    with contextlib.suppress(CorruptCacheError, ValueError):
        for facts in open_cache(location).provenance():
            for name in ("started", "finished"):
                with contextlib.suppress(KeyError, TypeError, ValueError, DeapcacheError):
                    yield datetime.fromisoformat(facts[name])


def _modified(folder: Path) -> datetime:
    """The newest of the folders of a cache: a shard that is put in place changes its folder."""
    with reading(folder):
        stamps = [path.stat().st_mtime for path in (folder, *folder.iterdir())]
    return datetime.fromtimestamp(max(stamps), UTC)
