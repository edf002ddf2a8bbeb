"""Rows of one array straight from the shard files of a file system, several times as fast as through a store.

How the files are laid out is told in ``deapcache.cache.shard_index``. Numbers that are stored as they are, also by
Blosc where they do not shrink, are read to where the row belongs and checked there. Others are read into a buffer that
stays in the processor's cache, checked, and decompressed to where the row belongs. All of it leaves the interpreter
lock to other threads.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import numpy as np
from crc32c import crc32c
from numcodecs import blosc

from deapcache.cache.layout import UNCOMPRESSED, StoredArray
from deapcache.cache.shard_index import CHECKSUM_BYTES, ends_in_checksum, index_bytes, is_known, unpacked_bytes

_BLOSC_HEADER_BYTES = 16
_BLOSC_STORED = 0x2
"""Flag of Blosc's header: the numbers follow as they are."""

_MOST_THREADS = 32


Stamp = tuple[int, int, int]
"""What changes when a file is replaced: inode, size, modification time."""


class NotReadError(Exception):
    """A row could not be read this way; the store says why, or can read it."""


def can_read(stored: StoredArray) -> bool:
    """Whether this machine and this array's codecs suit :class:`LocalShards`."""
    return hasattr(os, "preadv") and sys.byteorder == "little" and is_known(stored)


class LocalShards:
    """The shards of one array in ``folder``; safe to share between threads."""

    def __init__(self, folder: Path, stored: StoredArray) -> None:
        self._folder = str(folder)
        self._stored = stored
        self._packed = stored.spec.compression != UNCOMPRESSED

    def start(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to read ``rows`` (int64), in that order; what is returned waits for them.

        It raises :class:`NotReadError` where a row is missing or its bytes are not what the checksum says.
        """
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        places = np.array_split(np.arange(len(rows)), min(len(rows), _threads()))
        jobs = [_pool(os.getpid()).submit(self._read, rows[some], found, some) for some in places]

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
        """One chunk into ``row``, uint8; ``ValueError`` or ``RuntimeError`` where it is not what was written."""
        header = _BLOSC_HEADER_BYTES if self._packed else 0
        if length == header + len(row) + CHECKSUM_BYTES:
            _read_stored(file, offset, header, row)
        elif self._packed:
            _unpack(_checked(file, offset, length), row)
        else:
            raise ValueError("the chunk has another size")


class _OpenShard:
    """An open shard file and its index; closed when nobody uses it."""

    def __init__(self, path: str, images: int) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.stamp = _stamp(os.fstat(self.descriptor))
        length = index_bytes(images)
        self._index = np.frombuffer(_checked(self.descriptor, self.stamp[1] - length, length), "<u8").tolist()

    def chunk(self, number: int) -> tuple[int, int]:
        """(offset, length) of an image's chunk."""
        offset, length = self._index[2 * number : 2 * number + 2]
        if length <= CHECKSUM_BYTES or offset + length > self.stamp[1]:  # of an absent one, both are 2^64 - 1
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
    stamp = _stamp(os.stat(path))  # noqa: PTH116 - a Path costs as much as the call
    with _OPENING:
        known = _OPEN.get(path)
        if known is not None:
            _OPEN.move_to_end(path)
    if known is None or known.stamp != stamp:
        known = _OpenShard(path, images)
        with _OPENING:
            _OPEN[path] = known
            while len(_OPEN) > _most_open():
                _OPEN.popitem(last=False)
    return known


def _most_open() -> int:
    if resource is None:
        return _MOST_OPEN
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if limit == resource.RLIM_INFINITY else min(_MOST_OPEN, limit // _SHARE_OPEN)


def _stamp(facts: os.stat_result) -> Stamp:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _read_stored(file: int, offset: int, header_bytes: int, row: memoryview) -> None:
    """Numbers that are stored as they are, after a header of Blosc's or none."""
    header, checksum = bytearray(header_bytes), bytearray(CHECKSUM_BYTES)
    length = header_bytes + len(row) + CHECKSUM_BYTES
    if os.preadv(file, [header, row, checksum], offset) != length:
        raise ValueError("the file ends early")
    if crc32c(row, crc32c(header)) != int.from_bytes(checksum, "little"):
        raise ValueError("the checksum is another")
    if header_bytes and not (header[2] & _BLOSC_STORED and unpacked_bytes(header) == len(row)):
        raise ValueError("the chunk has another size")


def _checked(file: int, offset: int, length: int) -> memoryview:
    """So many bytes of a file less their checksum, in this thread's buffer; ``ValueError`` where it is not theirs."""
    if offset < 0:
        raise ValueError("the file ends early")
    read = _buffer(length)
    if os.preadv(file, [read], offset) != length:
        raise ValueError("the file ends early")
    if not ends_in_checksum(read):
        raise ValueError("the checksum is another")
    return read[:-CHECKSUM_BYTES]


def _unpack(packed: memoryview, row: memoryview) -> None:
    if unpacked_bytes(packed) != len(row):
        raise ValueError("the chunk has another size")
    blosc.decompress(packed, row)


_OF_THREAD = threading.local()


def _buffer(length: int) -> memoryview:
    """The first bytes of a buffer that the thread uses again and again."""
    kept: np.ndarray | None = getattr(_OF_THREAD, "buffer", None)
    if kept is None or len(kept) < length:
        kept = _OF_THREAD.buffer = np.empty(length + length // 8, np.uint8)
    return memoryview(kept)[:length]  # type: ignore[arg-type]


def _threads() -> int:
    """A thread a core, and two at least: one waits for a disk while the other checks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(_MOST_THREADS, cores))


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork: a child process gets a pool of its own.
    return ThreadPoolExecutor(_threads(), thread_name_prefix=f"deapcache-read-{process}")
