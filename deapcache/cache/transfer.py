"""Copying caches between homes: only what is missing, each shard checked on the way, each published whole.

Metadata comes first, the root last of it, and shards after that: at any moment the copy is a valid cache that lacks
some shards, so that a transfer that was cut off is resumed by doing it again, or by extracting the rest.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deapcache.cache.cache import Cache, open_cache, provenance_keys, restore_metadata
from deapcache.cache.format import METADATA_KEY
from deapcache.cache.image_ids import IMAGE_ID_KEYS
from deapcache.cache.names import relative_path
from deapcache.cache.parallel import map_unordered
from deapcache.cache.progress import Progress, ProgressEvent, no_progress
from deapcache.cache.shards import WholeShard, shard_faults
from deapcache.cache.verify import VerifyScope, verify_cache
from deapcache.cache.web_index import refresh_manifest, require_inside_home
from deapcache.errors import CacheMissError, UsageError
from deapcache.locations import LocalLocation, Location
from deapcache.recipe import differences

_THREADS = 4
"""Each holds a whole shard in memory."""


@dataclass(frozen=True, kw_only=True)
class RefusedFile:
    """A shard file that was not copied."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What a transfer of one cache came to."""

    source: str
    destination: str
    digest: str
    asked: int
    """Shards that were asked for."""
    absent: int
    """Of them, those that the source does not have."""
    copied: int
    """Shard files copied now."""
    there: int
    """Shard files that the destination had already, of the same size."""
    bytes: int
    """Bytes copied."""
    complete: bool
    """Whether the destination now has every shard of the cache."""
    refused: tuple[RefusedFile, ...]
    """Files that were not copied, since the source's are damaged or the destination's are others."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def transfer_cache(
    source: Cache,
    destination: Location,
    *,
    shards: Collection[int] | None = None,
    rate: int | None = None,
    verify: bool = False,
    progress: Progress = no_progress,
) -> TransferReport:
    """Copy a cache, or some of its shards, to ``destination``, the cache's own folder there.

    Every index's and every chunk's checksum is compared before a shard is published. A shard that is there already is
    left alone: where its size is another, or the source's is damaged, the report says so, and the others are copied.
    At most ``rate`` bytes a second are copied; with ``verify``, what was copied is read again at its new place.

    Raises :class:`UsageError` where ``destination`` holds another cache, :class:`StorageFullError` where the rest will
    not fit, :class:`CorruptCacheError` where the source's metadata is damaged, and what reading and publishing raise.
    What was published until then is whole and stays.
    """
    if source.location == destination:
        raise UsageError(f"{destination} is both source and destination: name another home")
    if isinstance(destination, LocalLocation) and destination.path.is_symlink():
        require_inside_home(destination)
    target = _prepare(source, destination)
    wanted = set(range(source.shard_count) if shards is None else shards)
    present = source.present_shards() & wanted
    destination.sweep()
    copy = _Copy(source, target, present, rate)
    copy.require_space()
    with refresh_manifest(target):
        copy.run(progress)
        for key in provenance_keys(source.location):
            destination.publish(key, source.location.read(key))
        restore_metadata(target)  # somebody may have removed the copy meanwhile
    if verify and copy.shards_copied:
        report = verify_cache(destination, shards=copy.shards_copied, scope=VerifyScope(), progress=progress)
        copy.refused += [RefusedFile(key=key, reason=reason) for key, reason in report.problems.items()]
        copy.refused += [
            RefusedFile(key=bad.key, reason=f"the copy is damaged ({bad.reason}): deapcache cache repair it there")
            for bad in report.bad
        ]
    return TransferReport(
        source=str(source.location),
        destination=str(destination),
        digest=source.digest,
        asked=len(wanted),
        absent=len(wanted) - len(present),
        copied=copy.copied,
        there=copy.there,
        bytes=copy.bytes,
        complete=target.is_complete(),
        refused=tuple(sorted(copy.refused, key=lambda one: one.key)),
    )


def transfer_needs(source: Cache, destination: Location, *, shards: Collection[int] | None = None) -> dict[str, int]:
    """How many ``shards`` and ``bytes`` a transfer would copy now; writes nothing, raises what opening raises."""
    lacking = source.present_shards() & set(range(source.shard_count) if shards is None else shards)
    with contextlib.suppress(CacheMissError):
        lacking -= open_cache(destination).present_shards()
    keys = [stored.shard_key(shard) for shard in lacking for stored in source.stored_arrays]
    return {"shards": len(lacking), "bytes": sum(source.location.sizes_of(keys).values())}


def _prepare(source: Cache, destination: Location) -> Cache:
    """The destination as an open cache, made where there is none."""
    try:
        target = open_cache(destination)
    except CacheMissError:
        _ = source.image_ids  # damaged ones are an error before anything is published
        arrays = [f"{stored.spec.name}/{METADATA_KEY}" for stored in source.stored_arrays]
        for key in (*arrays, *IMAGE_ID_KEYS, METADATA_KEY):
            destination.publish(key, source.location.read(key))
        target = open_cache(destination)
    if target.digest != source.digest:
        differing = "; ".join(str(one) for one in differences(source.recipe, target.recipe))
        raise UsageError(f"{destination} holds another cache than {source.location} ({differing}): nothing was copied")
    same_arrays = [s.metadata for s in target.stored_arrays] == [s.metadata for s in source.stored_arrays]
    if target.image_ids != source.image_ids or not same_arrays:
        raise UsageError(
            f"{destination} holds the same recipe as {source.location}, but is cut into other shards or compressed in "
            "another way, so that shards cannot be copied: remove one of them (deapcache cache rm), or extract the rest"
        )
    return target


class _Copy:
    """One pass over the shards that the source has; a shard is one file an array."""

    def __init__(self, source: Cache, target: Cache, shards: Collection[int], rate: int | None) -> None:
        self.copied = self.there = self.bytes = 0
        self.shards_copied: list[int] = []
        self._rate = rate
        self._begun = time.monotonic()
        self._promised = 0
        self.refused: list[RefusedFile] = []
        self._source = source
        self._target = target
        self._present = target.present_shards()
        self._lock = threading.Lock()
        keys = [stored.shard_key(shard) for shard in shards for stored in source.stored_arrays]
        self._shards = sorted(shards)
        self._sizes = Counter(source.location.sizes_of(keys))

    def require_space(self) -> None:
        """Raise :class:`StorageFullError` where what is missing will not fit."""
        lacking = [shard for shard in self._shards if shard not in self._present]
        needed = sum(self._sizes[stored.shard_key(shard)] for shard in lacking for stored in self._source.stored_arrays)
        self._target.location.require_space(
            needed,
            "{place} has {free} GB free, the rest of this cache takes {needed} GB: free some space, or copy a part of "
            "it (--images)",
        )

    def run(self, progress: Progress) -> None:
        """Copy what is missing, several shards at once."""
        stage, total = f"copy {relative_path(self._target.location)}", len(self._shards)
        for done, _ in enumerate(map_unordered(self._copy_shard, self._shards, _THREADS), start=1):
            progress(ProgressEvent(stage=stage, done=done, total=total, bytes=self.bytes, unit="shards"))

    def _copy_shard(self, shard: int) -> None:
        arrays = self._source.stored_arrays
        if shard in self._present:
            self._compare([stored.shard_key(shard) for stored in arrays])
            return
        self._wait_for_turn(sum(self._sizes[stored.shard_key(shard)] for stored in arrays))
        # All of a shard's files are checked before the first is published; the last commits it.
        images = len(self._source.shard_rows(shard))
        read, refused = [], []
        for stored in arrays:
            key = stored.shard_key(shard)
            data = self._source.location.read(key)
            if faults := shard_faults(WholeShard(data), stored, images, decompress=False):
                reason = f"the source's is damaged ({faults[0].reason}): deapcache cache repair it"
                refused.append(RefusedFile(key=key, reason=reason))
            read.append((key, data))
        if refused:
            with self._lock:
                self.refused += refused
            return
        new = [key for key, data in read if self._target.location.publish(key, data)]
        with self._lock:
            self.copied += len(new)
            self.shards_copied += [shard] if new else []
            self.bytes += sum(self._sizes[key] for key in new)
        self._compare([key for key, _ in read if key not in new])

    def _wait_for_turn(self, size: int) -> None:
        """Wait until ``size`` more bytes are within the rate."""
        if self._rate is None:
            return
        with self._lock:
            turn = self._begun + self._promised / self._rate
            self._promised += size
        time.sleep(max(0.0, turn - time.monotonic()))

    def _compare(self, keys: Sequence[str]) -> None:
        """Note what is said of files that the destination has already."""
        found = [(key, self._target.location.size(key)) for key in keys]
        others = [
            RefusedFile(
                key=key,
                reason=f"it is there with {size} bytes, the source's has {self._sizes[key]}: verify both caches, one "
                "of them is damaged, or they were extracted on different devices",
            )
            for key, size in found
            if size != self._sizes[key]
        ]
        with self._lock:
            self.there += len(keys) - len(others)
            self.refused += others
