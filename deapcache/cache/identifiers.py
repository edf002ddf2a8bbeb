"""Image ids at rest: UTF-8 bytes end to end and the offsets between them (tensorstore opens no string arrays)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deapcache.cache.layout import METADATA_KEY, pack_codecs, plain_metadata
from deapcache.cache.store import encode_chunks, read_whole
from deapcache.errors import CorruptCacheError
from deapcache.locations import Location

BYTES = "image_id"
OFFSETS = "image_id_offsets"
IDENTIFIER_KEYS = (f"{BYTES}/{METADATA_KEY}", f"{BYTES}/c.0", f"{OFFSETS}/{METADATA_KEY}", f"{OFFSETS}/c.0")
"""Every key that keeps the ids."""


def identifier_keys(image_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every key, and its bytes, that keeps ``image_ids``: arrays ``image_id`` (uint8), ``image_id_offsets`` (int64)."""
    encoded = [image_id.encode() for image_id in image_ids]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    for name, values in ((BYTES, np.frombuffer(b"".join(encoded), np.uint8)), (OFFSETS, offsets)):
        metadata = identifier_metadata(name, len(values))
        yield f"{name}/{METADATA_KEY}", json.dumps(metadata, indent=2).encode()
        for key, data in encode_chunks(metadata, range(len(values)), values).items():
            yield f"{name}/{key}", data


def read_identifiers(location: Location, images: int) -> tuple[str, ...]:
    """The ids of all ``images`` images, in order; raises :class:`CorruptCacheError`."""
    offsets = read_whole(location / OFFSETS, "int64", length=images + 1)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise _damaged(f"{location}/{OFFSETS} does not rise from 0")
    joined = read_whole(location / BYTES, "uint8", length=int(offsets[-1])).tobytes()
    try:
        return tuple(joined[start:stop].decode() for start, stop in itertools.pairwise(offsets.tolist()))
    except UnicodeDecodeError as error:
        raise _damaged(f"{location}/{BYTES} is no UTF-8 ({error.reason})") from None


def _damaged(problem: str) -> CorruptCacheError:
    return CorruptCacheError(
        f"{problem}. Restore its files from a copy, or move the cache's folder away and extract again"
    )


def identifier_metadata(name: str, length: int) -> dict[str, Any]:
    """The content of ``zarr.json`` of ``image_id`` or ``image_id_offsets`` with so many entries."""
    dtype, dimension = ("uint8", "byte") if name == BYTES else ("int64", "offset")
    return plain_metadata(
        shape=(length,),
        chunk_shape=(max(1, length),),
        dtype=dtype,
        dimensions=(dimension,),
        codecs=[*pack_codecs(dtype, "zstd+shuffle"), {"name": "crc32c"}],
    )
