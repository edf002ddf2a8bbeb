"""Rows of one array straight from the shard files of a file system, several times as fast as through a store.

A shard ends in an index of (offset, length) of each image's chunk and the index's crc32c; a chunk is what Blosc made,
followed by its crc32c (Zarr v3, sharding and crc32c codecs). So a row is one ``pread`` into a buffer that stays in the
processor's cache, one checksum over it and one decompression to where the row belongs, and all three leave the
interpreter lock to other threads.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from crc32c import crc32c
from numcodecs import blosc

from deapcache.cache.layout import StoredArray

_CHECKSUM_BYTES = 4
_MOST_BYTES = 2**62
"""No chunk is as long: an absent one has the length 2^64 - 1."""

_LEAST_THREADS, _MOST_THREADS = 4, 32

Stamp = tuple[int, int, int]
"""What changes when a file is replaced: inode, size, modification time."""


class NotReadError(Exception):
    """A row could not be read this way; the store says why, or can read it."""


def can_read(stored: StoredArray) -> bool:
    """Whether this machine and this array's codecs suit :class:`LocalShards`."""
    sharding = stored.metadata["codecs"][0]["configuration"]
    names = [codec["name"] for codec in sharding["codecs"]]
    at_end = sharding.get("index_location", "end") == "end"
    return hasattr(os, "preadv") and sys.byteorder == "little" and at_end and names == ["bytes", "blosc", "crc32c"]


class LocalShards:
    """The shards of one array in ``folder``; safe to share between threads."""

    def __init__(self, folder: Path, stored: StoredArray) -> None:
        self._folder = folder
        self._stored = stored
        self._indexes: dict[int, tuple[Stamp, np.ndarray]] = {}

    def start(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to read ``rows`` (int64), in that order; what is returned waits for them.

        It raises :class:`NotReadError` where a row is missing or its bytes are not what the checksum says.
        """
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        places = np.array_split(np.arange(len(rows)), min(len(rows), 2 * _threads()))
        jobs = [_pool(os.getpid()).submit(self._read, rows[some], found, some) for some in places]

        def finish() -> np.ndarray:
            for job in jobs:
                job.result()
            return found

        return finish

    def _read(self, rows: np.ndarray, found: np.ndarray, places: np.ndarray) -> None:
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            shard, number = divmod(row, self._stored.shard_images)
            try:
                with (self._folder / self._stored.shard_key(shard).rpartition("/")[2]).open("rb", buffering=0) as file:
                    offset, length = self._index(shard, file.fileno())[number].tolist()
                    _unpack(_checked(file.fileno(), offset, length), found[place])
            except (OSError, ValueError, RuntimeError) as error:
                raise NotReadError(str(error)) from error

    def _index(self, shard: int, file: int) -> np.ndarray:
        facts = os.fstat(file)
        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        known = self._indexes.get(shard)
        if known is None or known[0] != stamp:
            length = 16 * self._stored.shard_images + _CHECKSUM_BYTES
            entries = np.frombuffer(_checked(file, facts.st_size - length, length), "<u8").reshape(-1, 2)
            known = self._indexes[shard] = stamp, entries.copy()
        return known[1]


def _checked(file: int, offset: int, length: int) -> memoryview:
    """So many bytes of a file less their checksum, in this thread's buffer; ``ValueError`` where it is not theirs."""
    if not _CHECKSUM_BYTES < length < _MOST_BYTES or offset < 0:
        raise ValueError("absent")
    read = _buffer(length)
    if os.preadv(file, [read], offset) != length:
        raise ValueError("the file ends early")
    data = read[:-_CHECKSUM_BYTES]
    if crc32c(data) != int.from_bytes(read[-_CHECKSUM_BYTES:], "little"):
        raise ValueError("the checksum is another")
    return data


def _unpack(packed: memoryview, row: np.ndarray) -> None:
    if int.from_bytes(packed[4:8], "little") != row.nbytes:  # of Blosc's header: bytes when unpacked
        raise ValueError("the chunk has another size")
    blosc.decompress(packed, row.reshape(-1).view(np.uint8))


_OF_THREAD = threading.local()


def _buffer(length: int) -> memoryview:
    """The first bytes of a buffer that the thread uses again and again."""
    kept: np.ndarray | None = getattr(_OF_THREAD, "buffer", None)
    if kept is None or len(kept) < length:
        kept = _OF_THREAD.buffer = np.empty(length + length // 8, np.uint8)
    return memoryview(kept)[:length]  # type: ignore[arg-type]


def _threads() -> int:
    """Twice the cores: some wait for a disk while others unpack."""
    return max(_LEAST_THREADS, min(_MOST_THREADS, 2 * (os.cpu_count() or 1)))


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork: a child process gets a pool of its own.
    return ThreadPoolExecutor(_threads(), thread_name_prefix=f"deapcache-read-{process}")
