"""Image ids at rest: UTF-8 bytes end to end and the offsets between them, two arrays that are one chunk each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deapcache.cache.format import (
    METADATA_KEY,
    RESTORE,
    chunk_codecs,
    difference,
    plain_metadata,
    read_json,
    require_size,
    whole_numbers,
)
from deapcache.cache.shards import BLOSC_HEADER_BYTES, CHECKSUM_BYTES, decode_chunk, encode_chunk
from deapcache.errors import CorruptCacheError, NotAFileError
from deapcache.locations import Location

BYTES = "image_id"
OFFSETS = "image_id_offsets"
_CHUNK = "c.0"
IMAGE_ID_KEYS = tuple(f"{name}/{key}" for name in (BYTES, OFFSETS) for key in (METADATA_KEY, _CHUNK))
"""Every key that keeps the ids."""

_DTYPES = {BYTES: "uint8", OFFSETS: "int64"}


def image_id_files(image_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every key, and its bytes, that keeps ``image_ids``: arrays ``image_id`` (uint8), ``image_id_offsets`` (int64)."""
    encoded = [image_id.encode() for image_id in image_ids]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    yield from plain_array_files(BYTES, np.frombuffer(b"".join(encoded), np.uint8))
    yield from plain_array_files(OFFSETS, offsets)


def plain_array_files(name: str, values: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """The keys and bytes of one of the two arrays; an empty one has no chunk."""
    metadata = image_id_metadata(name, len(values))
    yield f"{name}/{METADATA_KEY}", json.dumps(metadata, indent=2).encode()
    if len(values):
        yield f"{name}/{_CHUNK}", encode_chunk(metadata["codecs"], values)


def image_id_metadata(name: str, length: int) -> dict[str, Any]:
    """The content of ``zarr.json`` of ``image_id`` or ``image_id_offsets`` with so many entries."""
    return plain_metadata(
        shape=(length,),
        chunk_shape=(max(1, length),),
        dtype=_DTYPES[name],
        dimensions=("byte" if name == BYTES else "offset",),
        codecs=chunk_codecs(_DTYPES[name], "zstd+shuffle"),
    )


def read_image_ids(location: Location, images: int) -> tuple[str, ...]:
    """The ids of all ``images`` images, in order; raises :class:`CorruptCacheError`."""
    offsets = read_offsets(location, images)
    joined = _read_array(location, BYTES, int(offsets[-1])).tobytes()
    try:
        return tuple(joined[start:stop].decode() for start, stop in itertools.pairwise(offsets.tolist()))
    except UnicodeDecodeError as error:
        raise _damaged(f"{location}/{BYTES} is no UTF-8 ({error.reason})") from None


def read_offsets(location: Location, images: int) -> np.ndarray:
    """(images + 1,) int64: where each id begins among the bytes; raises :class:`CorruptCacheError`."""
    offsets = _read_array(location, OFFSETS, images + 1)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise _damaged(f"{location}/{OFFSETS} does not rise from 0")
    return offsets


def check_image_id_metadata(location: Location, name: str, length: int | None) -> None:
    """Raise :class:`CorruptCacheError` unless ``zarr.json`` of one of the arrays is of ``length`` entries."""

    def parse(metadata: dict[str, Any]) -> None:
        (own,) = whole_numbers(metadata["shape"], "the shape", least=0)
        require_size([own], np.dtype(_DTYPES[name]).itemsize, "it")
        if length is not None and own != length:
            raise ValueError(f"it is of {own} {_DTYPES[name]}, expected {length}")
        if found := difference(metadata, json.loads(json.dumps(image_id_metadata(name, own)))):
            raise ValueError(found)

    read_json(location, f"{name}/{METADATA_KEY}", parse)


def _read_array(location: Location, name: str, length: int) -> np.ndarray:
    check_image_id_metadata(location, name, length)
    values = np.empty(length, np.dtype(_DTYPES[name]).newbyteorder("<"))
    if not length:
        return values
    key = f"{name}/{_CHUNK}"
    try:
        chunk = location.read(key, most=values.nbytes + BLOSC_HEADER_BYTES + CHECKSUM_BYTES)
        decode_chunk(memoryview(chunk), values.view(np.uint8), packed=True)
    except FileNotFoundError:
        raise _damaged(f"{location}/{key} cannot be read: it is missing") from None
    except (NotAFileError, ValueError, RuntimeError) as error:
        raise _damaged(f"{location}/{key} cannot be read: {error}") from None
    return values


def _damaged(problem: str) -> CorruptCacheError:
    return CorruptCacheError(f"{problem}. {RESTORE}")
