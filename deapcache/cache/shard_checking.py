"""Whether the bytes of one shard are what was written: its index, each image's chunk, and the numbers in it.

How they are laid out is told in ``deapcache.cache.shard_index``. Chunks are read in the order in which they lie in the
file, about a megabyte at a time, into buffers that a thread uses again and again: a disk sees one long read, and memory
stays flat.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numcodecs import blosc

from deapcache.cache.finite import are_finite
from deapcache.cache.layout import UNCOMPRESSED, StoredArray
from deapcache.cache.shard_index import ABSENT, CHECKSUM_BYTES, ShardBytes, ends_in_checksum, read_index, unpacked_bytes

_SEGMENT_BYTES = 1 << 20
"""Small chunks are read together, up to so many bytes: they stay in the processor's cache while they are checked."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a shard."""

    numbers: tuple[int, ...]
    """The images concerned, counted from the shard's first."""
    reason: str


class ShardFile:
    """A shard that is a file; closed at the end of the block."""

    def __init__(self, path: Path, scratch: Scratch) -> None:
        self._file = path.open("rb", buffering=0)
        self._scratch = scratch
        self.size = os.fstat(self._file.fileno()).st_size
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, offset: int, length: int) -> memoryview:
        """A part of it, in the thread's buffer."""
        buffer = self._scratch.packed(length)
        if os.preadv(self._file.fileno(), [buffer], offset) != length:
            raise ValueError("the file ends early")
        return buffer


class Scratch:
    """Two buffers of one thread: packed bytes, and unpacked ones."""

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


def shard_faults(
    data: ShardBytes, stored: StoredArray, images: int, scratch: Scratch, *, unpack: bool = True
) -> list[Fault]:
    """What is wrong with a shard of ``images`` images; [] where every byte is as it was written.

    Every checksum is compared. With ``unpack``, each chunk is also decompressed, and its numbers must be finite. What
    the operating system raises is passed on: bytes that could not be read are not known to be damaged.
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
        faults += _segment_faults(data, segment, stored, scratch, unpack)
    return faults


@dataclass(frozen=True)
class _Chunk:
    number: int
    offset: int
    length: int


def _segments(entries: np.ndarray) -> Iterator[list[_Chunk]]:
    """The chunks in file order, neighbours together up to some megabytes."""
    there = np.flatnonzero(entries[:, 0] != ABSENT)
    ordered = there[np.argsort(entries[there, 0], kind="stable")]
    segment: list[_Chunk] = []
    for number in ordered.tolist():
        offset, length = entries[number].tolist()
        if segment and offset + length - segment[0].offset > _SEGMENT_BYTES:
            yield segment
            segment = []
        segment.append(_Chunk(number, offset, length))
    if segment:
        yield segment


def _segment_faults(
    data: ShardBytes, segment: list[_Chunk], stored: StoredArray, scratch: Scratch, unpack: bool
) -> list[Fault]:
    start = segment[0].offset
    try:
        read = data.read(start, max(chunk.offset + chunk.length for chunk in segment) - start)
    except ValueError as error:
        return [Fault(numbers=tuple(chunk.number for chunk in segment), reason=str(error))]
    found = ((c, _chunk_problem(read[c.offset - start :][: c.length], stored, scratch, unpack)) for c in segment)
    return [Fault(numbers=(chunk.number,), reason=problem) for chunk, problem in found if problem]


def _chunk_problem(chunk: memoryview, stored: StoredArray, scratch: Scratch, unpack: bool) -> str:
    """What is wrong with one image's chunk; empty where nothing is."""
    if not ends_in_checksum(chunk):
        return "the checksum is another"
    if not unpack:
        return ""
    unpacked = scratch.unpacked(stored.spec.item_bytes)
    try:
        _unpack(chunk[:-CHECKSUM_BYTES], unpacked, packed=stored.spec.compression != UNCOMPRESSED)
    except (ValueError, RuntimeError) as error:
        return str(error)
    finite = are_finite(unpacked, np.dtype(stored.spec.dtype), overwrite=True)
    return "" if finite else "a number in it is not finite"


def _unpack(chunk: memoryview, row: np.ndarray, *, packed: bool) -> None:
    """One image's numbers, as bytes, into ``row``; raises ``ValueError`` or ``RuntimeError``."""
    length = unpacked_bytes(chunk) if packed else len(chunk)
    if length != len(row):
        raise ValueError(f"the chunk does not unpack to {len(row)} bytes")
    if packed:
        blosc.decompress(chunk, row)
    else:
        row[:] = np.frombuffer(chunk, np.uint8)
