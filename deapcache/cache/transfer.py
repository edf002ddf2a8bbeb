"""Copying caches between homes: only what is missing, each shard checked on the way, each published whole.

Metadata comes first, the root last of it, and shards after that: at any moment the copy is a valid cache that lacks
some shards, so that a transfer that was cut off is resumed by doing it again, or by extracting the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deapcache.cache.cache import Cache, open_cache, provenance_keys, restore_metadata
from deapcache.cache.format import METADATA_KEY, StoredArray
from deapcache.cache.image_ids import IMAGE_ID_KEYS
from deapcache.cache.parallel import ShardListener, ShardProgress, each, unheard
from deapcache.cache.shards import Scratch, WholeShard, shard_faults
from deapcache.cache.web_index import refresh_manifest, require_own
from deapcache.errors import CacheMissError, StorageFullError, UsageError
from deapcache.locations import LocalLocation, Location
from deapcache.recipe import differences

_THREADS = 4
"""Each holds a whole shard in memory."""

_ROOM = 1.02
"""Room for metadata and file-system overhead."""


@dataclass(frozen=True, kw_only=True)
class Refused:
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
    refused: tuple[Refused, ...]
    """Files that were not copied, since the source's are damaged or the destination's are others."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def transfer_cache(
    source: Cache,
    destination: Location,
    *,
    shards: Collection[int] | None = None,
    threads: int | None = None,
    progress: ShardListener = unheard,
) -> TransferReport:
    """Copy a cache, or some of its shards, to ``destination``, the cache's own folder there.

    Every index's and every chunk's checksum is compared before a shard is published. A shard that is there already is
    left alone: where its size is another, or the source's is damaged, the report says so, and the others are copied.

    Raises :class:`UsageError` where ``destination`` holds another cache, :class:`StorageFullError` where the rest will
    not fit, :class:`CorruptCacheError` where the source's metadata is damaged, and what reading and publishing raise.
    What was published until then is whole and stays.
    """
    if source.location == destination:
        raise UsageError(f"{destination} is both source and destination: name another home")
    if isinstance(destination, LocalLocation) and destination.path.is_symlink():
        require_own(destination)
    target = _prepared(source, destination)
    wanted = sorted(set(range(source.shard_count) if shards is None else shards))
    present = sorted(source.present_shards() & set(wanted))
    destination.sweep()
    copy = _Copy(source, target, present, threads or _THREADS)
    copy.require_space()
    with refresh_manifest(target):
        copy.run(progress)
        _copy_provenance(source.location, destination)
        restore_metadata(target)  # somebody may have removed the copy meanwhile
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


def _prepared(source: Cache, destination: Location) -> Cache:
    """The destination as an open cache, made where there is none."""
    try:
        target = open_cache(destination)
    except CacheMissError:
        _copy_metadata(source, destination)
        target = open_cache(destination)
    if target.digest != source.digest:
        differing = "; ".join(str(one) for one in differences(source.recipe, target.recipe))
        raise UsageError(f"{destination} holds another cache than {source.location} ({differing}): nothing was copied")
    same = target.image_ids == source.image_ids and _cut(target) == _cut(source)
    if not same:
        raise UsageError(
            f"{destination} holds the same recipe as {source.location}, but is cut into other shards or compressed in "
            "another way, so that shards cannot be copied: remove one of them (deapcache cache rm), or extract the rest"
        )
    return target


def _cut(cache: Cache) -> list[dict[str, Any]]:
    return [stored.metadata for stored in cache.stored_arrays]


def _copy_metadata(source: Cache, destination: Location) -> None:
    _ = source.image_ids  # damaged ones are an error before anything is published
    arrays = [f"{stored.spec.name}/{METADATA_KEY}" for stored in source.stored_arrays]
    for key in (*arrays, *IMAGE_ID_KEYS, METADATA_KEY):
        destination.publish(key, source.location.read(key))


def _copy_provenance(source: Location, destination: Location) -> None:
    for key in provenance_keys(source):
        destination.publish(key, source.read(key))


@dataclass(frozen=True)
class _File:
    stored: StoredArray
    shard: int
    images: int
    size: int

    @property
    def key(self) -> str:
        return self.stored.shard_key(self.shard)


@dataclass(frozen=True)
class _Copied:
    """What came of one shard: files and bytes copied, files that were there, and those refused."""

    copied: int = 0
    there: int = 0
    bytes: int = 0
    refused: tuple[Refused, ...] = ()


class _Copy:
    """One pass over the shards that the source has."""

    def __init__(self, source: Cache, target: Cache, shards: Sequence[int], threads: int) -> None:
        self.copied = self.there = self.bytes = 0
        self.refused: list[Refused] = []
        self._source = source
        self._target = target
        self._threads = threads
        self._present = target.present_shards()
        self._files = dict(each(self._files_of, shards, threads))

    def require_space(self) -> None:
        """Raise :class:`StorageFullError` where what is missing will not fit."""
        lacking = [files for shard, files in self._files.items() if shard not in self._present]
        needed = sum(file.size for files in lacking for file in files)
        free = self._target.location.free_bytes()
        if free is not None and needed * _ROOM > free:
            raise StorageFullError(
                f"{self._target.location} has {free / 1e9:.2f} GB free, the rest of this cache takes "
                f"{needed / 1e9:.2f} GB: free some space, or copy a part of it (--images)"
            )

    def run(self, progress: ShardListener) -> None:
        """Copy what is missing, several shards at once."""
        for done, of_shard in enumerate(each(self._copy_shard, sorted(self._files), self._threads), start=1):
            self.copied += of_shard.copied
            self.there += of_shard.there
            self.bytes += of_shard.bytes
            self.refused += of_shard.refused
            progress(ShardProgress(done=done, total=len(self._files), bytes=self.bytes))

    def _files_of(self, shard: int) -> tuple[int, list[_File]]:
        images, source = len(self._source.shard_rows(shard)), self._source.location
        arrays = self._source.stored_arrays
        return shard, [_File(stored, shard, images, _size_of(source, stored, shard)) for stored in arrays]

    def _copy_shard(self, shard: int) -> _Copied:
        files = self._files[shard]
        if shard in self._present:
            return self._compared(files)
        # All of a shard's files are checked before the first is published; the last commits it.
        read = [(file, self._source.location.read(file.key)) for file in files]
        if refused := tuple(found for file, data in read if (found := _damage(file, data))):
            return _Copied(refused=refused)
        return self._published(read)

    def _published(self, read: Sequence[tuple[_File, bytes]]) -> _Copied:
        new = [file for file, data in read if self._target.location.publish(file.key, data)]
        before = self._compared([file for file, _ in read if file not in new])
        return _Copied(
            copied=len(new), there=before.there, bytes=sum(file.size for file in new), refused=before.refused
        )

    def _compared(self, files: Sequence[_File]) -> _Copied:
        """What is said of files that the destination has already."""
        found = [(file, _size_of(self._target.location, file.stored, file.shard)) for file in files]
        others = tuple(
            Refused(
                key=file.key,
                reason=f"it is there with {size} bytes, the source's has {file.size}: verify both caches, one of them "
                "is damaged, or they were extracted on different devices",
            )
            for file, size in found
            if size != file.size
        )
        return _Copied(there=len(files) - len(others), refused=others)


def _size_of(location: Location, stored: StoredArray, shard: int) -> int:
    return location.size(stored.shard_key(shard)) or 0


def _damage(file: _File, data: bytes) -> Refused | None:
    faults = shard_faults(WholeShard(data), file.stored, file.images, Scratch(), decompress=False)
    if not faults:
        return None
    return Refused(key=file.key, reason=f"the source's is damaged ({faults[0].reason}): deapcache cache repair it")
