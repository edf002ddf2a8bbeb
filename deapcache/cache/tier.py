"""A local tier: shards that came from elsewhere, kept in a bounded folder, the least recently used ones given up.

Whole shards are fetched on first need, then read as local files are. Every shard has a note beside it
(``c.0.0.0.json``): which file it was noted for, and what its origin's etag was. Several processes share the folder
without locks. A shard is put in place in one step and its note after it, so that a reader between the two finds a note
that is of another file, and fetches again. Room is reserved by a file of the shard's size before what is there is
counted: of two processes that want the last room at least one sees the other.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from deapcache.cache.format import StoredArray
from deapcache.cache.parallel import thread_pool
from deapcache.cache.reading import LocalShards, NotReadError, RangeShards, Start
from deapcache.cache.shards import WholeShard, read_index
from deapcache.errors import LocationError
from deapcache.locations import TEMPORARY_SUFFIX, LocalLocation, LocalTier, Location

CONFIRM_SECONDS = 86_400.0
"""A shard of a store or server is compared with its origin once in this time: one small request."""

_CONFIRM_LOCAL_SECONDS = 60.0
"""That of a folder costs no more than looking at a file, and so is compared more often."""

_FETCHES = 4
"""Whole shards on their way at once: each is in memory until it is written."""

IDLE_SECONDS = 600.0
"""A shard that was read within this time is not given up for another.

A shuffled epoch over a cache that is larger than the tier would otherwise fetch a whole shard for almost every image.
"""

_USED_EVERY = 60.0
"""Seconds after which a use of the same shard is noted again."""

_FULL_FOR = 30.0
"""Seconds for which a tier without room is not asked for any."""

_ABANDONED_AFTER = 3600.0
"""Seconds after which a file that is being written belongs to a process that was killed."""

_NOTE = ".json"
_NOTE_BYTES = 1024
"""More than a note takes: it is counted too."""


class TierFolder:
    """The shards that a tier keeps; safe to share between threads, and the folder between processes."""

    def __init__(self, tier: LocalTier) -> None:
        self.tier = tier
        self._lock = threading.Lock()
        self._used: dict[Path, float] = {}
        self._full_until = 0.0
        self._warned: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether there was no room a moment ago."""
        return time.monotonic() < self._full_until

    def note_of(self, path: Path) -> tuple[str | None, float] | None:
        """The etag of the shard at ``path``, None where its origin has none, and when that was last so, in seconds.

        Since 1970. None where the shard is not there, or the note is of another file.
        """
        try:
            kept = json.loads(_note_path(path).read_bytes())
            confirmed = _note_path(path).stat().st_mtime
            if kept["file"] != _identity(path.stat()):
                return None
            return kept["stamp"], confirmed
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def confirm(self, path: Path) -> None:
        """Note that the origin still has what is kept."""
        with contextlib.suppress(OSError):
            os.utime(_note_path(path))

    def use(self, path: Path) -> None:
        """Note that the shard at ``path`` is read, so that others are given up before it."""
        now = time.time()
        if now - self._used.get(path, 0.0) < _USED_EVERY:
            return
        self._used[path] = now
        with contextlib.suppress(OSError):  # another process may have given it up
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def discard(self, path: Path) -> None:
        """Throw a shard away, with its note."""
        with contextlib.suppress(OSError):
            _note_path(path).unlink()
        with contextlib.suppress(OSError):
            os.truncate(path, 0)  # readers, of other processes too, keep it open: its room is wanted now
            path.unlink()

    def keep(self, path: Path, data: bytes, etag: str | None) -> bool:
        """Put a shard in place, giving up others where there is no room; False where it is not kept."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.truncate(len(data) + _NOTE_BYTES)
                # dated by the file system's own clock, as the others are: a host's may be days off
                if not self._make_room(len(data) + _NOTE_BYTES, now=os.fstat(file.fileno()).st_mtime):
                    return False
                file.write(data)
                file.truncate()
                file.flush()
                identity = _identity(os.fstat(file.fileno()))
            temporary.replace(path)
            self._write_note(path, {"file": identity, "stamp": etag})
        except OSError as error:
            self._warn("written", f"the local tier {self.tier.folder} cannot be written ({error.strerror})")
            self._full_until = time.monotonic() + _FULL_FOR
            return False
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.use(path)
        return True

    def _write_note(self, path: Path, known: dict[str, str | int | None]) -> None:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_NOTE}{TEMPORARY_SUFFIX}")
        try:
            temporary.write_text(json.dumps(known))
            temporary.replace(_note_path(path))
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, needed: int, *, now: float) -> bool:
        """Give up idle shards until what is there, the reserved room included, is within the tier's size."""
        with self._lock:
            found = list(_files(self.tier.shards, now))
            excess = sum(size for _, size, _ in found) - self.tier.bytes
            shards = [one for one in found if one[0].name.startswith("c.") and not one[0].name.endswith(_NOTE)]
            idle = [one for one in shards if one[2] < time.time() - IDLE_SECONDS]
            if excess > sum(size for _, size, _ in idle):
                self._warn_full(needed)
                return False
            for path, size, _ in sorted(idle, key=lambda one: one[2]):
                if excess <= 0:
                    break
                self.discard(path)
                excess -= size
            return True

    def _warn_full(self, needed: int) -> None:
        self._full_until = time.monotonic() + _FULL_FOR
        limit = f"the local tier {self.tier.folder} may hold {self.tier.bytes / 1e9:.3g} GB"
        if needed > self.tier.bytes:
            self._warn("small", f"{limit}, and a shard has {needed / 1e9:.3g} GB")
        else:
            self._warn("full", f"{limit}, and all of it was read within the last {IDLE_SECONDS / 60:.0f} minutes")

    def _warn(self, kind: str, problem: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{problem}: further shards are read where they are, image by image", stacklevel=2)


@functools.cache
def tier_folder(tier: LocalTier) -> TierFolder:
    """The one :class:`TierFolder` of a tier in this process."""
    return TierFolder(tier)


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + _NOTE)


def _identity(facts: os.stat_result) -> str:
    # Not the times: a write that is still on its way to the disk, and every use, change them.
    return f"{facts.st_ino}-{facts.st_size}"


def _files(folder: Path, now: float) -> Iterator[tuple[Path, int, float]]:
    """Every file below ``folder``: path, bytes, last use; what killed writers left is removed."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(OSError):  # another process may remove it meanwhile
                facts = path.stat()
                if name.endswith(TEMPORARY_SUFFIX) and facts.st_mtime < now - _ABANDONED_AFTER:
                    path.unlink()
                    continue
                yield path, facts.st_size, facts.st_atime


class TieredShards:
    """The shards of one array of the cache at ``location``, kept in its tier; safe to share between threads.

    ``origin`` reads rows where they are: those of shards for which the tier has no room.
    """

    def __init__(self, location: Location, stored: StoredArray, tier: LocalTier, origin: Start) -> None:
        self._location = location
        self._stored = stored
        self._origin = origin
        self._tier: TierFolder = tier_folder(tier)
        described = json.dumps([location.origin, stored.metadata], sort_keys=True)
        readable = re.sub(r"[^A-Za-z0-9_@+=-]+", "-", location.url.rpartition("/")[2])[:80]
        name = f"{readable}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
        self._folder = tier.shards / name / stored.spec.name
        self._kept = LocalShards(self._folder, stored)
        self._lock = threading.Lock()
        self._coming: dict[tuple[int, int], Future[bool]] = {}
        self._confirmed: dict[int, float] = {}
        self._patience = _CONFIRM_LOCAL_SECONDS if isinstance(location, LocalLocation) else CONFIRM_SECONDS

    def start(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to read ``rows`` (int64), in that order; what is returned waits for them.

        It raises what ``origin`` raises, and :class:`NotReadError` where bytes are damaged wherever they are read.
        """
        shards = rows // self._stored.shard_images
        wanted = np.unique(shards).tolist()
        ready = {shard for shard in wanted if self._is_ready(shard)}
        if len(ready) == len(wanted):
            begun = self._kept.start(rows)
            return lambda: self._finish(begun, rows)
        coming = {shard: self._bring(shard) for shard in wanted if shard not in ready}

        def finish() -> np.ndarray:
            here = ready | {shard for shard, arriving in coming.items() if arriving.result()}
            return self._read_mixed(rows, np.isin(shards, list(here)))

        return finish

    def _read_mixed(self, rows: np.ndarray, here: np.ndarray) -> np.ndarray:
        """``rows``, those that are ``here`` from the tier and the others from where they are."""
        if here.all():
            return self._finish(self._kept.start(rows), rows)
        elsewhere = self._origin(rows[~here])
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        if here.any():
            found[here] = self._finish(self._kept.start(rows[here]), rows[here])
        found[~here] = elsewhere()
        return found

    def _finish(self, begun: Callable[[], np.ndarray], rows: np.ndarray) -> np.ndarray:
        try:
            return begun()
        except NotReadError:
            return self._read_shard_by_shard(rows)

    def _read_shard_by_shard(self, rows: np.ndarray) -> np.ndarray:
        """Read shard by shard; one that was given up meanwhile, or is damaged, is fetched anew."""
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        shards = rows // self._stored.shard_images
        for shard in np.unique(shards).tolist():
            places = shards == shard
            found[places] = self._read_one_shard(shard, rows[places])
        return found

    def _read_one_shard(self, shard: int, rows: np.ndarray) -> np.ndarray:
        for is_fetched in (False, True):
            with contextlib.suppress(NotReadError):
                return self._kept.start(rows)()
            self._forget(shard)
            if is_fetched or not self._bring(shard).result():  # damaged at its origin too, which then says so
                break
        return self._origin(rows)()

    def _is_ready(self, shard: int) -> bool:
        """Whether a shard is there and need not be compared with its origin."""
        path = self._path(shard)
        known = self._confirmed.get(shard)
        if known is None or time.time() - known > self._patience:
            return False
        if not os.path.exists(path):  # noqa: PTH110 - False on any error: then it is read at its origin
            return False
        self._tier.use(path)
        return True

    def _bring(self, shard: int) -> Future[bool]:
        """Fetch a shard, or compare what is kept with its origin; whether it is there then."""
        key = os.getpid(), shard  # after a fork nothing is on its way
        with self._lock:
            if key not in self._coming:
                self._coming[key] = thread_pool("tier", _FETCHES).submit(self._fetch_or_confirm, key)
            return self._coming[key]

    def _fetch_or_confirm(self, key: tuple[int, int]) -> bool:
        shard = key[1]
        try:
            if self._is_still_good(shard) or self._fetch(shard):
                self._tier.use(self._path(shard))
                return True
            return False
        except (OSError, LocationError):  # reading at the origin will say what is wrong there
            return False
        finally:
            with self._lock:
                self._coming.pop(key, None)

    def _is_still_good(self, shard: int) -> bool:
        path = self._path(shard)
        note = self._tier.note_of(path)
        if note is None:
            return False
        known, confirmed = note
        if time.time() - confirmed > self._patience or isinstance(self._location, LocalLocation):
            etag = None
            with contextlib.suppress(FileNotFoundError):
                etag = self._location.etag(self._stored.shard_key(shard))
            if etag is None or etag != known:
                self._forget(shard)
                return False
            self._tier.confirm(path)
            confirmed = time.time()
        self._confirmed[shard] = confirmed
        return True

    def _fetch(self, shard: int) -> bool:
        if self._tier.is_full:
            return False
        data, etag = self._location.read_with_etag(self._stored.shard_key(shard))
        if not _is_whole(data, self._stored) or not self._tier.keep(self._path(shard), data, etag):
            return False
        self._confirmed[shard] = time.time()
        return True

    def _forget(self, shard: int) -> None:
        self._confirmed.pop(shard, None)
        self._tier.discard(self._path(shard))

    def _path(self, shard: int) -> Path:
        return self._folder / self._stored.shard_key(shard).rpartition("/")[2]


def _is_whole(shard: bytes, stored: StoredArray) -> bool:
    """Whether a shard ends in an index that has its checksum and whose chunks lie within the shard."""
    try:
        read_index(WholeShard(shard), stored.shard_images)
    except ValueError:
        return False
    return True


def begin_reading(location: Location, stored: StoredArray) -> Start:
    """The fastest way to begin reading rows of an array, through the location's tier where it has one."""
    begin: Start = RangeShards(location, stored).start
    if not LocalShards.works_here():
        return begin
    if isinstance(location, LocalLocation):
        begin = LocalShards(location.path / stored.spec.name, stored).start
    return (
        begin if location.options.tier is None else TieredShards(location, stored, location.options.tier, begin).start
    )
