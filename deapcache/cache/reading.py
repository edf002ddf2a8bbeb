"""Reading rows of one array, and turning a failed read into an error that names shards and images.

Shards of a file system are read by :class:`LocalShards`: bytes go straight to where the row belongs, several threads at
once. Those of stores and web servers are read by :class:`RangeShards`: the index of a shard once, then the chunks asked
for. Either leaves the interpreter lock to other threads. Where a read fails, the rows are read one by one, with indexes
fetched anew, to know which image of which shard it was: a shard may have appeared, or been extracted anew, meanwhile.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import numpy as np
from crc32c import crc32c

from deapcache.cache.format import METADATA_KEY, UNCOMPRESSED, StoredArray
from deapcache.cache.parallel import thread_pool
from deapcache.cache.shards import (
    ABSENT,
    BLOSC_HEADER_BYTES,
    BLOSC_STORED,
    CHECKSUM_BYTES,
    SCRATCH,
    decode_chunk,
    decode_index,
    ends_in_checksum,
    index_bytes,
    unpack_chunk,
    unpacked_bytes,
)
from deapcache.errors import (
    CacheMissError,
    CorruptCacheError,
    DeapcacheError,
    IncompleteCacheError,
    UsageError,
)
from deapcache.locations import Location, access_error, file_state

SHOWN = 5
"""Image ids that a message spells out."""

_LARGE = 1 << 30

_REQUESTS = 32
"""Shards of stores and servers that are read at once."""

Start = Callable[[np.ndarray], Callable[[], np.ndarray]]
"""Begins to read rows (int64), in that order; what it returns waits for them."""


class NotReadError(Exception):
    """A row could not be read this way; reading it by itself says why."""


class Reading:
    """Numbers on their way: :meth:`result` waits for them."""

    def __init__(self, finish: Callable[[], np.ndarray]) -> None:
        self._finish = finish

    def result(self) -> np.ndarray:
        """The array asked for; raises what the blocking read would have raised."""
        return self._finish()


# --- a file system ----------------------------------------------------------------------------------------------------


class LocalShards:
    """The shards of one array in ``folder``; safe to share between threads."""

    def __init__(self, folder: Path, stored: StoredArray) -> None:
        self._folder = str(folder)
        self._stored = stored
        self._packed = stored.spec.compression != UNCOMPRESSED

    @staticmethod
    def works_here() -> bool:
        """Whether this machine can."""
        return hasattr(os, "preadv") and sys.byteorder == "little"

    def start(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to read ``rows`` (int64), in that order; what is returned waits for them.

        It raises :class:`NotReadError` where a row is missing or its bytes are not what the checksum says.
        """
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        pool = thread_pool("read")
        places = np.array_split(np.arange(len(rows)), min(len(rows), pool._max_workers))
        jobs = [pool.submit(self._read, rows[some], found, some) for some in places]

        def finish() -> np.ndarray:
            for job in jobs:
                job.result()
            return found

        return finish

    def _read(self, rows: np.ndarray, found: np.ndarray, places: np.ndarray) -> None:
        raw = found.reshape(len(found), -1).view(np.uint8)
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            shard, number = divmod(row, self._stored.shard_images)
            path = f"{self._folder}/{self._stored.shard_key(shard).rpartition('/')[2]}"
            try:
                file = open_shard(path, self._stored.shard_images)
                self._read_row(file.descriptor, *file.chunk(number), memoryview(raw[place]))
            except (OSError, ValueError, RuntimeError) as error:
                raise NotReadError(str(error)) from error

    def _read_row(self, file: int, offset: int, length: int, row: memoryview) -> None:
        """One chunk into ``row``, uint8; ``ValueError`` or ``RuntimeError`` where it is not what was written.

        Numbers that are stored as they are, also by Blosc where they do not shrink, are read to where the row belongs
        and checked there. Others go through a buffer that stays in the processor's cache.
        """
        header = BLOSC_HEADER_BYTES if self._packed else 0
        if length == header + len(row) + CHECKSUM_BYTES:
            _read_stored(file, offset, header, row)
        elif self._packed:
            unpack_chunk(_read_checked(file, offset, length), row, packed=True)
        else:
            raise ValueError("the chunk has another size")


class _OpenShard:
    """An open shard file and its index; closed when nobody uses it."""

    def __init__(self, path: str, images: int) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.state = file_state(os.fstat(self.descriptor))
        length = index_bytes(images)
        self._index = np.frombuffer(_read_checked(self.descriptor, self.state[1] - length, length), "<u8").tolist()

    def chunk(self, number: int) -> tuple[int, int]:
        """(offset, length) of an image's chunk."""
        offset, length = self._index[2 * number : 2 * number + 2]
        if length <= CHECKSUM_BYTES or offset + length > self.state[1]:  # of an absent one, both are 2^64 - 1
            raise ValueError("absent")
        return offset, length

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self.descriptor)


_MOST_OPEN = 256
"""Shards kept open: opening one costs a network file system a round trip."""

_SHARE_OPEN = 4
"""At most one in so many of the files that the process may have open is a shard that is kept."""

_OPEN: OrderedDict[str, _OpenShard] = OrderedDict()
_OPENING = threading.Lock()


def open_shard(path: str, images: int) -> _OpenShard:
    """The shard file at ``path``, kept open while it is not replaced; raises ``OSError`` or ``ValueError``."""
    state = file_state(os.stat(path))  # noqa: PTH116 - a Path costs as much as the call
    with _OPENING:
        known = _OPEN.get(path)
        if known is not None:
            _OPEN.move_to_end(path)
    if known is None or known.state != state:
        known = _OpenShard(path, images)
        with _OPENING:
            _OPEN[path] = known
            while len(_OPEN) > _open_limit():
                _OPEN.popitem(last=False)
    return known


def _open_limit() -> int:
    if resource is None:
        return _MOST_OPEN
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if limit == resource.RLIM_INFINITY else min(_MOST_OPEN, limit // _SHARE_OPEN)


def _read_stored(file: int, offset: int, header_bytes: int, row: memoryview) -> None:
    """Numbers that are stored as they are, after a header of Blosc's or none."""
    header, checksum = bytearray(header_bytes), bytearray(CHECKSUM_BYTES)
    length = header_bytes + len(row) + CHECKSUM_BYTES
    if os.preadv(file, [header, row, checksum], offset) != length:
        raise ValueError("the file ends early")
    if crc32c(row, crc32c(header)) != int.from_bytes(checksum, "little"):
        raise ValueError("the checksum is another")
    if header_bytes and not (header[2] & BLOSC_STORED and unpacked_bytes(header) == len(row)):
        raise ValueError("the chunk has another size")


def _read_checked(file: int, offset: int, length: int) -> memoryview:
    """So many bytes of a file less their checksum, in this thread's buffer; ``ValueError`` where it is not theirs."""
    if offset < 0:
        raise ValueError("the file ends early")
    read = SCRATCH.packed(length)
    if os.preadv(file, [read], offset) != length:
        raise ValueError("the file ends early")
    if not ends_in_checksum(read):
        raise ValueError("the checksum is another")
    return read[:-CHECKSUM_BYTES]


# --- any location -----------------------------------------------------------------------------------------------------


class RangeShards:
    """The shards of one array of the cache at ``location``, by byte ranges; safe to share between threads."""

    def __init__(self, location: Location, stored: StoredArray) -> None:
        self._location = location
        self._stored = stored
        self._origin = location.origin
        self._packed = stored.spec.compression != UNCOMPRESSED

    def start(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to read ``rows`` (int64), in that order; what is returned waits for them.

        It raises :class:`NotReadError` where a row is missing or damaged, :class:`LocationError` where the location
        cannot be reached.
        """
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        shards, pool = rows // self._stored.shard_images, thread_pool("fetch", _REQUESTS)
        jobs = [pool.submit(self._read, shard, rows, found, shards == shard) for shard in np.unique(shards).tolist()]

        def finish() -> np.ndarray:
            try:
                for job in jobs:
                    job.result()
            finally:
                for job in jobs:
                    job.cancel()
            return found

        return finish

    def _read(self, shard: int, rows: np.ndarray, found: np.ndarray, wanted: np.ndarray) -> None:
        places = np.flatnonzero(wanted).tolist()
        try:
            self.read_rows(shard, [int(rows[place]) for place in places], [found[place] for place in places])
        except (FileNotFoundError, ValueError, RuntimeError) as error:
            raise NotReadError(str(error)) from error

    def read_rows(self, shard: int, rows: Sequence[int], into: Sequence[np.ndarray]) -> None:
        """Rows of one shard, each into its array.

        Raises ``FileNotFoundError`` where the shard is not there, ``ValueError`` or ``RuntimeError`` where it is not
        what was written, :class:`LocationError` where it cannot be reached.
        """
        key, first = self._stored.shard_key(shard), shard * self._stored.shard_images
        entries = self._index(shard)
        chunks = [(int(offset), int(length)) for offset, length in entries[[row - first for row in rows]]]
        if any(offset == ABSENT for offset, _ in chunks):
            raise ValueError("the shard is there but lacks the image")
        if any(length > self._stored.spec.item_bytes + BLOSC_HEADER_BYTES + CHECKSUM_BYTES for _, length in chunks):
            raise ValueError("its index points outside of it")
        for chunk, row in zip(self._location.read_ranges(key, chunks), into, strict=True):
            decode_chunk(chunk, row.reshape(-1).view(np.uint8), packed=self._packed)

    def forget(self, shard: int) -> None:
        """Fetch the index of a shard anew when it is next needed."""
        with _INDEXES_LOCK:
            _INDEXES.pop((self._origin, self._stored.shard_key(shard)), None)

    def _index(self, shard: int) -> np.ndarray:
        place = (self._origin, self._stored.shard_key(shard))
        with _INDEXES_LOCK:
            known = _INDEXES.get(place)
            if known is not None:
                _INDEXES.move_to_end(place)
                return known
        tail = self._location.read_tail(place[1], index_bytes(self._stored.shard_images))
        entries = decode_index(tail, self._stored.shard_images)
        with _INDEXES_LOCK:
            _INDEXES[place] = entries
            while sum(each.nbytes for each in _INDEXES.values()) > _INDEX_BYTES:
                _INDEXES.popitem(last=False)
        return entries


_INDEX_BYTES = 256 << 20
"""Indexes of remote shards that stay in memory, so that an image costs one request and not two."""

_INDEXES: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
_INDEXES_LOCK = threading.Lock()


# --- either, with errors that name what failed ------------------------------------------------------------------------


class ArrayReader:
    """Reads rows of one array of a cache; safe to share between threads.

    Parameters
    ----------
    location
        The cache.
    stored
        The array to read.
    begin
        Begins to read rows, as fast as it can be done there.
    shard_keys
        All keys that belong to a shard, for the advice to delete them.
    image_ids
        Gives the ids of all images, for messages; called only when a read fails.
    """

    def __init__(
        self,
        location: Location,
        stored: StoredArray,
        begin: Start,
        shard_keys: Callable[[int], list[str]],
        image_ids: Callable[[], Sequence[str]],
    ) -> None:
        self.location = location
        self.stored = stored
        self._shard_keys = shard_keys
        self._image_ids = image_ids
        self._ranges = RangeShards(location, stored)
        self._begin = begin

    def start(self, rows: np.ndarray) -> Reading:
        """Begin to read ``rows`` (int64), in that order."""
        if not len(rows):
            empty = np.empty((0, *self.stored.spec.item_shape), self.stored.spec.dtype)
            return Reading(lambda: empty)
        self._require_room(len(rows) * self.stored.spec.item_bytes)
        wait = self._begin(rows)

        def finish() -> np.ndarray:
            try:
                return wait()
            except NotReadError:
                return self._read_row_by_row(rows)

        return Reading(finish)

    def _require_room(self, size: int) -> None:
        # Asked for here, since a library that is refused memory ends the process; small requests are not worth asking.
        if size < _LARGE:
            return
        try:
            np.empty(size, np.uint8)
        except MemoryError:
            raise UsageError(
                f"{self.location}: so many images at once take {size / 1e9:.0f} GB of memory, at "
                f"{self.stored.spec.item_bytes / 1e6:.0f} MB each, which there are not: read fewer at once"
            ) from None

    def _read_row_by_row(self, rows: np.ndarray) -> np.ndarray:
        """Read row by row; raises what is wrong with those that cannot be read."""
        for shard in np.unique(rows // self.stored.shard_images).tolist():
            self._ranges.forget(shard)
        found = np.empty((len(rows), *self.stored.spec.item_shape), self.stored.spec.dtype)
        missing: set[int] = set()
        damaged: dict[int, str] = {}
        """Row → reason."""
        for row, into in zip(rows.tolist(), found, strict=True):
            shard = row // self.stored.shard_images
            try:
                self._ranges.read_rows(shard, [row], [into])
            except FileNotFoundError:
                missing.add(row)
            except (ValueError, RuntimeError) as error:
                damaged[row] = str(error)
            except OSError as error:
                if isinstance(error, DeapcacheError):
                    raise
                raise access_error(error, f"{self.location}/{self.stored.shard_key(shard)}") from error
        if not missing and not damaged:
            return found
        if not self.location.exists(METADATA_KEY):
            raise CacheMissError(
                f"there is no cache at {self.location} any more: it was deleted or moved while it was read. "
                "Extract again, or open it where it is now"
            )
        if damaged:
            raise self._damage_error(damaged)
        raise self._incomplete_error(sorted(missing), len(np.unique(rows)))

    def _damage_error(self, damaged: dict[int, str]) -> CorruptCacheError:
        rows = sorted(damaged)
        shards = sorted({row // self.stored.shard_images for row in rows})
        files = ", ".join(f"{self.location}/{self.stored.shard_key(shard)}" for shard in shards)
        bad = " ".join(f"{self.location}/{key}" for shard in shards for key in self._shard_keys(shard))
        return CorruptCacheError(
            f"{files}: damaged, {self._name(rows)} cannot be read ({damaged[rows[0]]}). "
            f"Delete {bad} and extract again: only what is missing is made anew"
        )

    def _incomplete_error(self, rows: list[int], asked: int) -> IncompleteCacheError:
        shards = ", ".join(str(shard) for shard in sorted({row // self.stored.shard_images for row in rows})[:SHOWN])
        return IncompleteCacheError(
            f"{self.location}: {len(rows)} of the {asked} images asked for have no {self.stored.spec.name} yet: "
            f"{self._name(rows)}, first shards without: {shards}. "
            "Extract again with the same options: only what is missing is made"
        )

    def _name(self, rows: list[int]) -> str:
        ids = self._image_ids()
        named = ", ".join(f"{ids[row]!r} (row {row})" for row in rows[:SHOWN])
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        return f"{'image' if len(rows) == 1 else 'images'} {named}{more}"


def check_rows(rows: object, images: int) -> np.ndarray:
    """``rows`` as int64 indices, each from 0 to ``images - 1``; raises :class:`UsageError`."""
    given = np.asarray(rows)
    if given.size == 0:
        return np.empty(0, np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise UsageError(f"rows must be one list of whole numbers, found {given.ndim} axes of {given.dtype}")
    outside = given[(given < 0) | (given >= images)]
    if outside.size:
        raise UsageError(f"row {outside[0]} is outside the cache: it has the rows 0 to {images - 1}")
    return given.astype(np.int64)
