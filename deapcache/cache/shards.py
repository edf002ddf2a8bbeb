"""The bytes of a shard: encoding, the index, decoding, and what is wrong with one.

A shard is each image's chunk, one after another, and at the end the index of chunks: (offset, length) of each, and the
index's own crc32c. A chunk is what Blosc made of an image's numbers (or the numbers themselves) followed by its crc32c.
That is Zarr v3 with the codecs ``sharding_indexed``, ``bytes``, ``blosc`` and ``crc32c``; bytes are as tensorstore
writes them. Arrays that are not sharded (image ids) are one chunk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from crc32c import crc32c
from numcodecs import blosc

from deapcache.cache.features import are_finite
from deapcache.cache.format import UNCOMPRESSED, StoredArray
from deapcache.cache.parallel import thread_pool

CHECKSUM_BYTES = 4
"""Of a crc32c."""

ABSENT = 2**64 - 1
"""Offset and length of an image that a shard lacks."""

BLOSC_HEADER_BYTES = 16
BLOSC_STORED = 0x2
"""Flag of Blosc's header: the numbers follow as they are."""

_SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}

_UNPACKED_FREELY = 2**26
_MOST_RATIO = 2_000
"""Bytes that unpack to more are meant for nothing but memory: offsets of ids of one length, the most regular of what
deapcache writes, become 720 times smaller; zeros 8,000."""

_SEGMENT_BYTES = 1 << 20
"""Small chunks are checked together, up to so many bytes: they stay in the processor's cache meanwhile."""


class ShardBytes(Protocol):
    """A shard's bytes, wherever they are."""

    size: int

    def read(self, offset: int, length: int) -> memoryview:
        """So many bytes, valid until the next call; ``ValueError`` or ``OSError`` where they cannot be read."""
        ...


class WholeShard:
    """A shard that is in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = memoryview(data)

    def read(self, offset: int, length: int) -> memoryview:
        """A part of it, without a copy."""
        return self._data[offset : offset + length]


class ShardFile:
    """A shard that is a file, read in order by one thread; closed at the end of the block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, offset: int, length: int) -> memoryview:
        """A part of it, in the thread's buffer."""
        buffer = SCRATCH.packed(length)
        self._file.seek(offset)
        if self._file.readinto(buffer) != length:
            raise ValueError("the file ends early")
        return buffer


class Scratch(threading.local):
    """Two buffers of each thread: packed bytes, and unpacked ones."""

    def __init__(self) -> None:
        self._packed = np.empty(0, np.uint8)
        self._unpacked = np.empty(0, np.uint8)

    def packed(self, length: int) -> memoryview:
        """The first bytes of the buffer for what is read."""
        if len(self._packed) < length:
            self._packed = np.empty(length + length // 8, np.uint8)
        return memoryview(self._packed)[:length]  # type: ignore[arg-type]

    def unpacked(self, length: int) -> np.ndarray:
        """The first bytes of the buffer for what is unpacked: (length,) uint8."""
        if len(self._unpacked) < length:
            self._unpacked = np.empty(length, np.uint8)
        return self._unpacked[:length]


SCRATCH = Scratch()
"""Used again and again: memory that is new for every chunk costs more than reading it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a shard."""

    numbers: tuple[int, ...]
    """The images concerned, counted from the shard's first."""
    reason: str


def encode_shard(stored: StoredArray, values: np.ndarray) -> bytes:
    """A whole shard: ``values`` are (n, ``*item_shape``), the images beyond n (of the last shard) being absent."""
    codecs = stored.metadata["codecs"][0]["configuration"]["codecs"]
    chunks = list(thread_pool("encode").map(lambda image: encode_chunk(codecs, image), values))
    entries = np.full((stored.shard_images, 2), ABSENT, "<u8")
    ends = np.cumsum([len(chunk) for chunk in chunks], dtype="<u8")
    entries[: len(chunks), 1] = [len(chunk) for chunk in chunks]
    entries[: len(chunks), 0] = ends - entries[: len(chunks), 1]
    index = entries.tobytes()
    return b"".join([*chunks, index, _checksum(index)])


def encode_chunk(codecs: list[dict[str, Any]], values: np.ndarray) -> bytes:
    """One chunk, of the codecs ``bytes`` (little-endian), ``blosc`` where it is among them, and ``crc32c``."""
    raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    packing = next((codec["configuration"] for codec in codecs if codec["name"] == "blosc"), None)
    if packing is None:
        data = raw.tobytes()
    else:
        data = blosc.compress(
            raw,
            packing["cname"].encode(),
            packing["clevel"],
            _SHUFFLES[packing["shuffle"]],
            packing["blocksize"],
            packing["typesize"],
        )
    return data + _checksum(data)


def decode_chunk(chunk: memoryview, row: np.ndarray | memoryview, *, packed: bool) -> None:
    """One chunk into ``row``, its numbers as uint8; raises ``ValueError`` or ``RuntimeError``."""
    if not ends_in_checksum(chunk):
        raise ValueError("the checksum is another")
    unpack_chunk(chunk[:-CHECKSUM_BYTES], row, packed=packed)


def unpack_chunk(data: memoryview, row: np.ndarray | memoryview, *, packed: bool) -> None:
    """The bytes of a chunk, less their checksum, into ``row``, uint8; raises ``ValueError`` or ``RuntimeError``."""
    _require_size(data, len(row), packed=packed)
    _unpack(data, row, packed=packed)


def _unpack(data: memoryview, row: np.ndarray | memoryview, *, packed: bool) -> None:
    if packed:
        blosc.decompress(data, row)
    else:
        np.asarray(row)[:] = np.frombuffer(data, np.uint8)


def _require_size(data: memoryview, length: int, *, packed: bool) -> None:
    """Raise ``ValueError`` unless a chunk, less its checksum, is of ``length`` bytes and not packed absurdly well."""
    found = unpacked_bytes(data) if packed else len(data)
    if found != length:
        raise ValueError(f"the chunk has another size: it does not unpack to {length} bytes")
    if found > _UNPACKED_FREELY and found > len(data) * _MOST_RATIO:
        raise ValueError(f"the chunk has {len(data)} bytes, which would become {found}")


def unpacked_bytes(packed: memoryview | bytearray) -> int:
    """How many bytes Blosc's header says that a chunk unpacks to; 0 where there is no header."""
    return int.from_bytes(packed[4:8], "little") if len(packed) >= BLOSC_HEADER_BYTES else 0


def index_bytes(shard_images: int) -> int:
    """Length of the index of a shard with room for so many images."""
    return 16 * shard_images + CHECKSUM_BYTES


def most_bytes(stored: StoredArray) -> int:
    """Length of the longest shard that an array can have: all images, none of which packing made smaller."""
    chunk = stored.spec.item_bytes + BLOSC_HEADER_BYTES + CHECKSUM_BYTES
    return stored.shard_images * chunk + index_bytes(stored.shard_images)


def decode_index(tail: memoryview, shard_images: int, size: int | None = None) -> np.ndarray:
    """(shard_images, 2) uint64: offset and length of each chunk, from the last bytes of a shard.

    Raises ``ValueError`` where the index is not what was written, or points outside of a shard of ``size`` bytes.
    """
    if len(tail) != index_bytes(shard_images):
        raise ValueError(f"it has {len(tail)} bytes, its index has {index_bytes(shard_images)}: it was cut short")
    if not ends_in_checksum(tail):
        raise ValueError("the checksum of its index is another: the index was changed, or the file was cut short")
    entries = np.frombuffer(tail[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2).copy()
    room = (2**63 if size is None else size) - len(tail)
    there = entries[entries[:, 0] != ABSENT]
    if (there > room).any() or (there.sum(axis=1) > room).any() or (there[:, 1] <= CHECKSUM_BYTES).any():
        raise ValueError("its index points outside of it")
    return entries


def read_index(data: ShardBytes, shard_images: int) -> np.ndarray:
    """:func:`decode_index` of a shard's bytes; raises what reading them raises, too."""
    length = min(data.size, index_bytes(shard_images))
    return decode_index(data.read(data.size - length, length), shard_images, data.size)


def ends_in_checksum(data: memoryview) -> bool:
    """Whether bytes end in the checksum of those before it."""
    return crc32c(data[:-CHECKSUM_BYTES]) == int.from_bytes(data[-CHECKSUM_BYTES:], "little")


def shard_faults(data: ShardBytes, stored: StoredArray, images: int, *, decompress: bool = True) -> list[Fault]:
    """What is wrong with a shard of ``images`` images; [] where every byte is as it was written.

    Every checksum is compared. With ``decompress``, each chunk is also unpacked, and its numbers must be finite. What
    the operating system raises is passed on: bytes that could not be read are not known to be damaged. Chunks
    are read in the order in which they lie in the file, about a megabyte at a time: a disk sees one long read, and
    memory stays flat.
    """
    everything = tuple(range(images))
    try:
        entries = read_index(data, stored.shard_images)
    except ValueError as error:
        return [Fault(numbers=everything, reason=str(error))]
    faults = []
    if absent := tuple(number for number in everything if int(entries[number, 0]) == ABSENT):
        faults.append(Fault(numbers=absent, reason="the shard is there but lacks the image"))
    for segment in _segments(entries):
        start = segment[0][1]
        try:
            read = data.read(start, max(offset + length for _, offset, length in segment) - start)
        except ValueError as error:
            faults.append(Fault(numbers=tuple(number for number, _, _ in segment), reason=str(error)))
            continue
        for number, offset, length in segment:
            if problem := _chunk_problem(read[offset - start :][:length], stored, decompress):
                faults.append(Fault(numbers=(number,), reason=problem))
    return faults


def _segments(entries: np.ndarray) -> Iterator[list[tuple[int, int, int]]]:
    """(image, offset, length) of the chunks in file order, neighbours together up to some megabytes."""
    there = np.flatnonzero(entries[:, 0] != ABSENT)
    ordered = there[np.argsort(entries[there, 0], kind="stable")]
    segment: list[tuple[int, int, int]] = []
    for number in ordered.tolist():
        offset, length = entries[number].tolist()
        if segment and offset + length - segment[0][1] > _SEGMENT_BYTES:
            yield segment
            segment = []
        segment.append((number, offset, length))
    if segment:
        yield segment


def _chunk_problem(chunk: memoryview, stored: StoredArray, decompress: bool) -> str:
    """What is wrong with one image's chunk; empty where nothing is."""
    if not ends_in_checksum(chunk):
        return "the checksum is another"
    if not decompress:
        return ""
    data, packed = chunk[:-CHECKSUM_BYTES], stored.spec.compression != UNCOMPRESSED
    try:
        _require_size(data, stored.spec.item_bytes, packed=packed)  # before memory is taken for it
        row = SCRATCH.unpacked(stored.spec.item_bytes)
        _unpack(data, row, packed=packed)
    except (ValueError, RuntimeError) as error:
        return str(error)
    finite = are_finite(row, np.dtype(stored.spec.dtype), overwrite=True)
    return "" if finite else "a number in it is not finite"


def _checksum(data: bytes) -> bytes:
    return crc32c(data).to_bytes(CHECKSUM_BYTES, "little")
