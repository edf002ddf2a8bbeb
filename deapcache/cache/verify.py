"""Reading a cache whole, to know that every byte of it is as it was written; and what was found sound when."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from deapcache.cache.cache import Cache, has_shard, open_cache, provenance_keys, shards_present
from deapcache.cache.format import METADATA_KEY, MOST_METADATA, StoredArray, read_group, stored_array
from deapcache.cache.image_ids import BYTES, OFFSETS, check_image_id_metadata, read_image_ids, read_offsets
from deapcache.cache.names import home_of, relative_path
from deapcache.cache.parallel import map_unordered
from deapcache.cache.progress import Progress, ProgressEvent, no_progress
from deapcache.cache.shards import Fault, ShardFile, WholeShard, most_bytes, shard_faults
from deapcache.errors import CacheMissError, CorruptCacheError, DeapcacheError, FormatVersionError, NotAFileError
from deapcache.locations import LocalLocation, Location, reading
from deapcache.untrusted import parse_json

_REMOTE_THREADS = 4
"""Each holds a whole shard in memory."""


@dataclass(frozen=True, kw_only=True)
class VerifyScope:
    """How much is read, by what the home remembers of earlier times; by default everything."""

    since: float = math.inf
    """Unix seconds: a file that was found sound after that, and is still the same, is not read again."""
    deadline: float = math.inf
    """Of ``time.monotonic``: no file is begun after it. Those that were not read for longest come first."""
    share: float = 1.0
    """Of the shards, drawn anew each time."""


@dataclass(frozen=True, kw_only=True)
class BadShard:
    """A shard file with a fault."""

    shard: int
    key: str
    """The damaged file, relative to the cache."""
    keys: tuple[str, ...]
    """All files of the shard, the one that commits it first: they go together."""
    rows: tuple[int, ...]
    """The images that are lost, by row."""
    image_ids: tuple[str, ...]
    """Their ids; empty where the ids themselves cannot be read."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a cache looks like when all of it is read; of one whose root cannot be read only the problems are known."""

    location: str
    digest: str = ""
    """Empty where the root cannot be read."""
    images: int = 0
    shards: int = 0
    """Shards that a complete cache has."""
    missing: tuple[int, ...] = ()
    """Shards that were not there: not damage, but not yet extracted, or lost."""
    files: int = 0
    """Shard files that were read."""
    bytes: int = 0
    """Bytes that were read."""
    remembered: int = 0
    """Shard files that were not read, since they were found sound before and are still the same."""
    left: int = 0
    """Shard files that were not read, for want of time or since they were not drawn."""
    seconds: float
    bad: tuple[BadShard, ...] = ()
    problems: dict[str, str]
    """Small files (``zarr.json``, image ids, provenance) → what is wrong with them."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing that is there is damaged."""
        return not self.bad and not self.problems

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "sound": self.is_sound}


def verify_cache(
    location: Location,
    *,
    shards: Collection[int] | None = None,
    scope: VerifyScope | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> VerifyReport:
    """Read every byte of the cache at ``location``, or of some of its shards, and report all damage.

    Of each shard that is there: the size, the index's checksum, each chunk's checksum, that each image's chunk is
    there, unpacks to the right size and holds finite numbers. Of the small files: that they say what deapcache writes.
    Each file is read once, by several threads, in flat memory: on a file system a few megabytes a thread, elsewhere one
    shard a thread. With a ``scope`` less is read, and what was read is remembered in the home, where it may be written.

    Raises :class:`CacheMissError` where there is no cache, and :class:`LocationError` where bytes cannot be reached:
    what could not be looked at is not called damaged.
    """
    start = time.perf_counter()
    problems = metadata_problems(location)
    try:
        cache = open_cache(location)
    except CorruptCacheError as error:
        problems = problems or {METADATA_KEY: str(error)}
        return VerifyReport(location=str(location), seconds=time.perf_counter() - start, problems=problems)
    scan = _Scan(cache, shards, scope, threads, progress)
    bad = tuple(sorted(scan.run(), key=lambda one: (one.shard, one.key)))
    return VerifyReport(
        location=str(location),
        digest=cache.digest,
        images=len(cache),
        shards=cache.shard_count,
        missing=tuple(sorted(scan.missing)),
        files=scan.files,
        bytes=scan.bytes,
        remembered=scan.remembered,
        left=scan.left,
        seconds=time.perf_counter() - start,
        bad=bad,
        problems=problems,
    )


class _Scan:
    """One pass over the shard files of a cache."""

    def __init__(
        self,
        cache: Cache,
        shards: Collection[int] | None,
        scope: VerifyScope | None,
        threads: int | None,
        progress: Progress,
    ) -> None:
        self.files = self.bytes = self.left = 0
        self._log = None if scope is None else VerifyLog(cache.location, cache.digest)
        self._deadline = math.inf if scope is None else scope.deadline
        self._cache = cache
        self._threads = threads or (None if isinstance(cache.location, LocalLocation) else _REMOTE_THREADS)
        self._progress = progress
        self._stage = f"verify {relative_path(cache.location)}"
        wanted = range(cache.shard_count) if shards is None else shards
        # One that lacks only a file before the last is damaged, and no shard that was not made yet.
        self._commit = cache.stored_arrays[-1:]
        present = shards_present(cache.location, self._commit, range(cache.shard_count))
        self.missing = set(wanted) - present
        tasks = [(shard, stored) for shard in sorted(present & set(wanted)) for stored in cache.stored_arrays]
        self._tasks = tasks if scope is None else self._choose(tasks, scope)
        self.remembered = len(tasks) - len(self._tasks) - self.left

    def _choose(self, tasks: list[tuple[int, StoredArray]], scope: VerifyScope) -> list[tuple[int, StoredArray]]:
        """The files to be read, those that were not read for longest first."""
        assert self._log is not None
        last = {(key := stored.shard_key(shard)): self._log.last(key) for shard, stored in tasks}
        due = [(shard, stored) for shard, stored in tasks if last[stored.shard_key(shard)] < scope.since]
        if scope.share < 1.0:
            shards = sorted({shard for shard, _ in due})
            drawn = set(random.sample(shards, math.ceil(scope.share * len(shards))))
            self.left = sum(shard not in drawn for shard, _ in due)
            due = [task for task in due if task[0] in drawn]
        return sorted(due, key=lambda task: last[task[1].shard_key(task[0])])

    def run(self) -> Iterator[BadShard]:
        """Read all; yields each damaged file."""
        try:
            for done, (size, bad) in enumerate(map_unordered(self._check, self._tasks, self._threads), start=1):
                self.files += size is not None
                self.left += size is None
                self.bytes += size or 0
                self._progress(
                    ProgressEvent(stage=self._stage, done=done, total=len(self._tasks), bytes=self.bytes, unit="files")
                )
                if bad:
                    yield bad
        finally:
            if self._log is not None:
                self._log.save(left=self.left)

    def _check(self, task: tuple[int, StoredArray]) -> tuple[int | None, BadShard | None]:
        """Bytes of one shard file, and what is wrong with it; None where the time is over."""
        if time.monotonic() > self._deadline:
            return None, None
        key = task[1].shard_key(task[0])
        etag = "" if self._log is None else self._log.etag(key)
        size, bad = self._read_whole(task)
        if self._log is not None:
            self._log.note(key, etag, sound=bad is None)
        return size, bad

    def _read_whole(self, task: tuple[int, StoredArray]) -> tuple[int, BadShard | None]:
        shard, stored = task
        rows = self._cache.shard_rows(shard)
        whole = tuple(range(len(rows)))
        size = 0
        faults: list[Fault] = []
        try:
            size, faults = self._read(stored.shard_key(shard), stored, shard, len(rows))
        except NotAFileError as error:
            faults = [Fault(numbers=whole, reason=str(error))]
        except FileNotFoundError:
            if has_shard(self._cache.location, self._commit, shard):
                faults = [Fault(numbers=whole, reason="it is missing while the rest of the shard is there")]
        if not faults:
            return size, None
        lost = tuple(sorted({rows.start + number for fault in faults for number in fault.numbers}))
        return size, BadShard(
            shard=shard,
            key=stored.shard_key(shard),
            keys=tuple(array.shard_key(shard) for array in reversed(self._cache.stored_arrays)),
            rows=lost,
            image_ids=self._names(lost),
            reason="; ".join(dict.fromkeys(fault.reason for fault in faults)),
        )

    def _read(self, key: str, stored: StoredArray, shard: int, images: int) -> tuple[int, list[Fault]]:
        location = self._cache.location
        if isinstance(location, LocalLocation):
            path = location.path / key
            with reading(path), ShardFile(path) as file:
                return file.size, shard_faults(file, stored, images)
        data = location.read(key, most=most_bytes(stored))
        return len(data), shard_faults(WholeShard(data), stored, images)

    def _names(self, rows: tuple[int, ...]) -> tuple[str, ...]:
        try:
            return tuple(self._cache.image_ids[row] for row in rows)
        except (CorruptCacheError, ValueError, IndexError):
            return ()  # the report has the image ids among its problems


def metadata_problems(location: Location) -> dict[str, str]:
    """Key → what is wrong with it, of all small files of the cache at ``location``; {} where nothing is.

    Raises :class:`CacheMissError` where there is no cache and :class:`LocationError` where it cannot be reached.
    """
    found: dict[str, str] = {}

    def check(key: str, look: Callable[[], object]) -> None:
        try:
            look()
        except FormatVersionError:
            raise
        except (CorruptCacheError, NotAFileError, ValueError) as error:
            found[key] = str(error)

    images: int | None = None
    names: tuple[str, ...] = ()
    try:
        group = read_group(location)
        images, names = group.images, group.arrays
    except CacheMissError:
        raise
    except CorruptCacheError as error:
        found[METADATA_KEY] = str(error)
    for name in names:
        check(f"{name}/{METADATA_KEY}", functools.partial(stored_array, location, name, images))
    for array, length in ((BYTES, None), (OFFSETS, None if images is None else images + 1)):
        check(f"{array}/{METADATA_KEY}", functools.partial(check_image_id_metadata, location, array, length))
    if images is not None and not found:
        check(f"{OFFSETS}/c.0", functools.partial(read_offsets, location, images))
    if images is not None and not found:
        check(f"{BYTES}/c.0", functools.partial(read_image_ids, location, images))
    for key in provenance_keys(location):
        check(key, functools.partial(_require_object, location, key))
    return found


def _require_object(location: Location, key: str) -> None:
    try:
        if not isinstance(json.loads(location.read(key, most=MOST_METADATA)), dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:  # removed since it was listed
        return
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON object ({error})") from None


# --- what was found sound when ----------------------------------------------------------------------------------------

VERIFIED = "verified"
"""Folder of a home: ``verified/DIGEST.json`` names each shard file of a cache with the etag that it had, and the time
at which it was read whole. A file that was replaced, copied or restored has another etag and counts as never read; what
rots in place keeps it, so that files are read again after a while (``cache verify --older-than``). It is derived: one
that is lost or damaged costs one more reading."""

_FORMAT = 1
_SAVE_SECONDS = 60.0


class VerifyLog:
    """When each shard file of a cache was last found sound; nothing where the cache lies in no home."""

    def __init__(self, cache: Location, digest: str) -> None:
        self._cache = cache
        self._home = home_of(cache)
        self._digest = digest
        self._lock = threading.Lock()
        self._changes: dict[str, tuple[str, float] | None] = {}
        self._saved = time.monotonic()
        self._times = _remembered(self._home, digest)[0]

    def last(self, key: str) -> float:
        """Unix seconds at which the file as it is now was found sound; 0 where it never was."""
        etag, moment = self._times.get(key, ("", 0.0))
        return moment if etag and etag == self._cache.etag_or_none(key) else 0.0

    def etag(self, key: str) -> str:
        """What the file is now; empty where that cannot be told. Ask before it is read."""
        return self._cache.etag_or_none(key) or ""

    def note(self, key: str, etag: str, *, sound: bool) -> None:
        """Remember that the file that had this etag was read whole."""
        with self._lock:
            self._changes[key] = (etag, time.time()) if sound and etag else None
            if time.monotonic() - self._saved > _SAVE_SECONDS:
                self._save(left=1)

    def save(self, *, left: int) -> None:
        """Write down what was noted, and that so many files were left; nothing where the home may not be written."""
        with self._lock:
            self._save(left)

    def _save(self, left: int) -> None:
        self._saved = time.monotonic()
        before = _remembered(self._home, self._digest)  # another run may verify other shards at the same time
        files = {key: value for key, value in {**before[0], **self._changes}.items() if value is not None}
        if self._home is None or (files, left) == before:
            return
        document = {"format": _FORMAT, "left": left, "files": files}
        with contextlib.suppress(DeapcacheError, OSError):
            self._home.publish(_key(self._digest), json.dumps(document, sort_keys=True).encode(), replace=True)


def _remembered(home: Location | None, digest: str) -> tuple[dict[str, tuple[str, float]], int]:
    """What a home remembers of one cache: shard file → its etag, and the Unix seconds at which it was found sound; and
    how many files the last run did not come to."""
    try:
        document = parse_json(home.read(_key(digest))) if home and digest else {}
        files = document["files"] if document["format"] == _FORMAT else {}
        now = time.time()  # a moment in the future is a clock that was wrong
        kept = {key: (str(etag), float(at)) for key, (etag, at) in files.items() if float(at) <= now}
        return kept, int(document["left"])
    except (DeapcacheError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}, 0


def last_verified(home: Location, digest: str) -> float:
    """Unix seconds at which a cache was last verified; 0 where a run has left files of it, or nothing is remembered."""
    files, left = _remembered(home, digest)
    return 0.0 if left else max((at for _, at in files.values()), default=0.0)


def forget_verified(home: Location, digest: str) -> None:
    """Forget what was verified of a cache that goes."""
    with contextlib.suppress(DeapcacheError, OSError):
        if digest:
            home.delete(_key(digest))


def _key(digest: str) -> str:
    return f"{VERIFIED}/{digest}.json"
