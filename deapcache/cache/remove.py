"""Taking things away: whole caches, and single shards that are damaged.

A cache is one by its root ``zarr.json``, which is deleted first. What a kill leaves is then no cache to anyone, and
removing it again, by its path, goes on. Of a shard the file that commits it goes before its others, and all shards
before the ``zarr.json`` that says how they are cut: an extraction that comes in between finds whole shards, or none.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deapcache.cache.cache import Cache, read_provenance
from deapcache.cache.claims import live_runs
from deapcache.cache.format import METADATA_KEY, read_group
from deapcache.cache.image_ids import IMAGE_ID_KEYS
from deapcache.cache.names import home_of, relative_path
from deapcache.cache.records import record_removal
from deapcache.cache.verify import BadShard, forget_verified, verify_cache
from deapcache.cache.web_index import flush, remove_from_index, remove_from_manifest, require_inside_home, write_index
from deapcache.errors import CacheInUseError, CacheMissError, CorruptCacheError, StorageFullError
from deapcache.locations import INDEX, MANIFEST, LocalLocation, Location, reading
from deapcache.untrusted import is_hidden

SET_ASIDE = ".damaged"
"""Ending of a small file that was moved out of the way."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was taken away."""

    location: str
    files: int
    bytes: int


def remove_cache(location: Location, *, why: str = "") -> Removal:
    """Remove all that is at ``location``, be it a cache, a damaged one or the rest of one; strays go with it.

    The home's journal says who did it, when and ``why``, before anything goes. A link is removed, and what it leads to
    stays: it may be another's. Raises :class:`CacheInUseError` where a run is
    at work on the cache, :class:`ReadOnlyError` or :class:`LocationError` where something may not or cannot be removed;
    calling it again goes on.
    """
    if isinstance(location, LocalLocation) and location.path.is_symlink():
        return _remove_link(location, why)
    require_inside_home(location)
    if runs := live_runs(location):
        raise CacheInUseError(
            f"{location} is being extracted by {', '.join(runs)}: wait for that run, or end it; it was not removed"
        )
    sizes = location.sizes()
    note = functools.partial(_note_removal, location, len(sizes), sum(sizes.values()), why, _digest(location))
    is_noted = not sizes or note()
    home = None if _leave_index(location) else home_of(location)
    for key in sorted(sizes, key=_order(location)):
        location.delete(key)
    for stray in location.keys(hidden=True):
        location.delete(stray)
    if isinstance(location, LocalLocation):
        _remove_empty_folders(location.path)
    if home is not None:  # the disk was full, and has room now
        write_index(home)
    if not is_noted and not note():
        warnings.warn(f"{location} was removed, and the home's journal does not say so", stacklevel=2)
    return Removal(location=str(location), files=len(sizes), bytes=sum(sizes.values()))


def _leave_index(location: Location) -> bool:
    """Take a cache out of its home's index; False where there is no room for that, and the index is gone instead."""
    try:
        remove_from_index(location)
    except StorageFullError:
        if home := home_of(location):
            home.delete(INDEX)
        return False
    return True


def _digest(location: Location) -> str:
    with contextlib.suppress(CacheMissError, CorruptCacheError):
        return read_group(location).digest
    return ""


def _note_removal(location: Location, files: int, size: int, why: str, digest: str) -> bool:
    """Write a removal down; False where there is no room. What lies in no home has no journal."""
    if (home := home_of(location)) is None:
        return True
    forget_verified(home, digest)
    try:
        record_removal(home, relative_path(location), digest, files=files, size=size, why=why)
    except StorageFullError:
        return False
    return True


def _remove_link(location: LocalLocation, why: str) -> Removal:
    require_inside_home(LocalLocation(location.path.parent) / "itself")
    _note_removal(location, 1, 0, why, "")
    remove_from_index(location)
    location.path.unlink()
    return Removal(location=str(location), files=1, bytes=0)


def _order(location: Location) -> Callable[[str], tuple[int, str]]:
    """The root first, then what names shards, then shards, last array first, then the ``zarr.json`` of arrays."""
    try:
        arrays = read_group(location).arrays
    except (CacheMissError, CorruptCacheError):  # the rest of a cache, or a damaged one
        arrays = ()
    places = {name: 2 + place for place, name in enumerate(reversed(arrays))}

    def order(key: str) -> tuple[int, str]:
        if key in (METADATA_KEY, MANIFEST):
            return (0 if key == METADATA_KEY else 1), key
        folder, _, name = key.rpartition("/")
        last = 2 + len(arrays)
        return (last + 1 if name == METADATA_KEY else places.get(folder, last)), key

    return order


def _remove_empty_folders(path: Path) -> None:
    for folder, names, _ in os.walk(path, topdown=False):
        for link in (each for name in names if (each := Path(folder, name)).is_symlink()):
            link.unlink(missing_ok=True)  # what it leads to may be another's
        with contextlib.suppress(OSError):  # not empty: somebody writes into it
            Path(folder).rmdir()


def remove_bad_shards(cache: Cache, bad: Iterable[BadShard]) -> tuple[int, ...]:
    """Delete damaged shards, and nothing else; returns their numbers.

    Each is looked at once more just before: a shard that somebody has made anew meanwhile stays. The file that commits
    a shard goes first, so that a kill leaves a shard that is not there.
    """
    require_inside_home(cache.location)
    files = {one.shard: one.keys for one in bad}
    removed = []
    for shard, keys in sorted(files.items()):
        if verify_cache(cache.location, shards=[shard]).bad:
            remove_from_manifest(cache.location, keys)
            for key in keys:
                cache.location.delete(key)
            removed.append(shard)
    if removed:
        flush(cache)
    return tuple(removed)


def set_aside(location: Location, keys: Sequence[str]) -> tuple[str, ...]:
    """Move damaged small files of a cache out of the way, and with them its root, so that it can be made anew.

    They are kept beside, their names ending in ``.damaged``. Whole shards stay, and an extraction of the same recipe
    finds them. Returns the keys that were moved.
    """
    require_inside_home(location)
    of_ids = IMAGE_ID_KEYS if set(keys) & set(IMAGE_ID_KEYS) else ()  # which of them lies cannot be told
    moved = [key for key in dict.fromkeys([METADATA_KEY, *keys, *of_ids]) if location.exists(key)]
    location.delete(MANIFEST)  # of what is no cache for now; written again with the cache
    for key in moved:
        location.publish(f"{key}{SET_ASIDE}", location.read(key), replace=True)
        location.delete(key)
    return tuple(moved)


def last_written(location: Location, provenance: Sequence[Mapping[str, Any]] | None = None) -> datetime | None:
    """When the cache was last written to: by its provenance, or on a file system by its files; None: not known."""
    times = list(_provenance_times(read_provenance(location) if provenance is None else provenance))
    if isinstance(location, LocalLocation):
        with contextlib.suppress(FileNotFoundError, ValueError):
            times += [_newest_folder_time(location.path)]
    return max(times, default=None)


def _provenance_times(provenance: Iterable[Mapping[str, Any]]) -> Iterable[datetime]:
    for facts in provenance:
        for name in ("started", "finished"):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                moment = datetime.fromisoformat(facts[name])
                yield moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _newest_folder_time(folder: Path) -> datetime:
    """The newest of the folders of a cache: a shard that is put in place changes its folder."""
    times = []
    with reading(folder):
        for path in (folder, *(each for each in folder.iterdir() if not is_hidden(each.name))):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                times.append(path.stat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC)
