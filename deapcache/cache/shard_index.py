"""How a shard's bytes are laid out: each image's chunk, and at the end the index of chunks.

The index is (offset, length) of each image's chunk and its own crc32c; a chunk is what Blosc made, or the numbers
themselves, followed by its crc32c (Zarr v3, sharding and crc32c codecs).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from crc32c import crc32c

from deapcache.cache.bounds import CODECS, INDEX_CODECS
from deapcache.cache.layout import StoredArray

CHECKSUM_BYTES = 4
"""Of a crc32c."""

BLOSC_BYTES = 16
"""By how much Blosc can make a chunk longer."""

ABSENT = 2**64 - 1
"""Offset and length of an image that a shard lacks."""


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


def is_known(stored: StoredArray) -> bool:
    """Whether an array's shards are laid out as this file says: all that deapcache writes are."""
    sharding = stored.metadata["codecs"][0]["configuration"]
    names = [codec["name"] for codec in sharding["codecs"]]
    index = [codec["name"] for codec in sharding["index_codecs"]]
    at_end = sharding.get("index_location", "end") == "end"
    return at_end and names in CODECS and index in INDEX_CODECS


def index_bytes(shard_images: int) -> int:
    """Length of the index of a shard with room for so many images."""
    return 16 * shard_images + CHECKSUM_BYTES


def most_bytes(stored: StoredArray) -> int:
    """Length of the longest shard that an array can have: all images, none of which packing made smaller."""
    return stored.shard_images * (stored.spec.item_bytes + BLOSC_BYTES + CHECKSUM_BYTES) + index_bytes(
        stored.shard_images
    )


def index_entries(index: bytes | memoryview) -> np.ndarray:
    """(shard_images, 2) uint64: offset and length of each chunk as the index says, its checksum not compared."""
    return np.frombuffer(index[:-CHECKSUM_BYTES], "<u8").reshape(-1, 2)


def read_index(data: ShardBytes, shard_images: int) -> np.ndarray:
    """(shard_images, 2) uint64: offset and length of each chunk, all within the shard.

    Raises ``ValueError`` where the index is not what was written, and what reading raises.
    """
    length = index_bytes(shard_images)
    if data.size < length:
        raise ValueError(f"it has {data.size} bytes, its index alone takes {length}: it was cut short")
    tail = data.read(data.size - length, length)
    if not ends_in_checksum(tail):
        raise ValueError("the checksum of its index is another: the index was changed, or the file was cut short")
    entries = index_entries(tail).copy()
    room = data.size - length
    there = entries[entries[:, 0] != ABSENT]
    if (there > room).any() or (there.sum(axis=1) > room).any() or (there[:, 1] <= CHECKSUM_BYTES).any():
        raise ValueError("its index points outside of it")
    return entries


def ends_in_checksum(data: memoryview) -> bool:
    """Whether bytes end in the checksum of those before it."""
    return crc32c(data[:-CHECKSUM_BYTES]) == int.from_bytes(data[-CHECKSUM_BYTES:], "little")


def unpacked_bytes(packed: memoryview | bytearray) -> int:
    """How many bytes Blosc's header says that a chunk unpacks to."""
    return int.from_bytes(packed[4:8], "little")
