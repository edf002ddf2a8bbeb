"""tensorstore, the hot path: encode chunks in memory, open arrays for reading, and say what a failure was."""

from __future__ import annotations

import functools
import json
from enum import Enum
from typing import Any

import numpy as np
import tensorstore

from deapcache.cache.bounds import require_codecs, require_size, whole_numbers
from deapcache.cache.layout import METADATA_KEY
from deapcache.cache.shard_index import ABSENT, index_bytes, index_entries
from deapcache.errors import CorruptCacheError, LocationError
from deapcache.locations import LocalLocation, Location
from deapcache.locations.remote import ignores_ranges, remote_reason

STORE_ERRORS = (ValueError, OSError, RuntimeError, KeyError, IndexError)
"""What tensorstore raises: it has no class of its own, the message begins with a status name."""

REMOTE_CACHE_BYTES = 1 << 30
"""Shard indexes of remote stores stay in memory, so that an image costs one request and not two. Volumes read pass
through the same pool, hence its size: with less, a shuffled epoch would push the indexes out before they are used."""


class Failure(Enum):
    """Why a read failed."""

    MISSING = "missing"
    DAMAGED = "damaged"
    UNREACHABLE = "unreachable"


_DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "OUT_OF_RANGE")

_OF_THE_SYSTEM = "[OS error "
"""How tensorstore tells an error of the operating system, whatever the status that it gives it."""


def failure_of(error: Exception) -> Failure:
    """What a tensorstore error says."""
    message = str(error)
    if ignores_ranges(error):  # the bytes may be fine
        return Failure.UNREACHABLE
    if message.startswith("NOT_FOUND"):
        return Failure.MISSING
    if _OF_THE_SYSTEM in message:  # EIO, EMFILE and the like say nothing about what the file holds
        return Failure.UNREACHABLE
    return Failure.DAMAGED if message.startswith(_DAMAGED) else Failure.UNREACHABLE


def reason_of(error: Exception) -> str:
    """The part of a tensorstore error that is meant for people."""
    return remote_reason(error)


@functools.cache
def _context(remote: bool) -> Any:
    # A local file is in the page cache already: a second copy would only cost memory, and hide shards that appear.
    limit = REMOTE_CACHE_BYTES if remote else 0
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": limit}})


def open_for_reading(folder: Location, metadata: dict[str, Any]) -> Any:
    """The array at ``folder`` as a tensorstore; an absent chunk is an error. Reads nothing yet.

    What was cached before this call is checked again once, then trusted: open again to see shards that appeared.
    """
    spec = {
        "driver": "zarr3",
        "kvstore": folder.kvstore(),
        "metadata": _driver_metadata(metadata),
        "fill_missing_data_reads": False,
        "recheck_cached_data": "open",
    }
    context = _context(not isinstance(folder, LocalLocation))
    return tensorstore.open(spec, context=context, open=True, assume_metadata=True, read=True).result()


def encode_chunks(metadata: dict[str, Any], rows: range, values: np.ndarray) -> dict[str, bytes]:
    """The keys that hold ``values``, as ``rows`` of the array, and their bytes: whole chunks, encoded in memory."""
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory"},
        "metadata": _driver_metadata(metadata),
        # A black image or an empty target equals the fill value: without this it would leave no key at all.
        "store_data_equal_to_fill_value": True,
    }
    # A context of its own: memory:// is shared by all that use one context.
    context = tensorstore.Context()
    array = tensorstore.open(spec, context=context, create=True).result()
    array[rows.start : rows.stop].write(values).result()
    store = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
    keys = (key.decode() for key in store.list().result())
    return {key: store.read(key).result().value for key in keys if key != METADATA_KEY}


def size_by_index(location: Location, key: str, shard_images: int) -> int:
    """Bytes of a shard by its index, for stores that do not tell a key's size: one small request."""
    length = index_bytes(shard_images)
    store = tensorstore.KvStore.open(location.kvstore()).result()
    entries = index_entries(store.read(key, byte_range=slice(-length, None)).result().value)
    return int(entries[entries[:, 0] != ABSENT, 1].sum()) + length


def read_whole(folder: Location, dtype: str, *, length: int) -> np.ndarray:
    """All of a small unsharded array of that many numbers.

    Raises :class:`CorruptCacheError` naming its folder, :class:`LocationError` where it cannot be reached.
    """
    try:
        metadata = json.loads(folder.read(METADATA_KEY))
        _require_whole(metadata, dtype, length)
    except FileNotFoundError:
        raise _unreadable(folder, f"{METADATA_KEY} is missing") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(folder, f"{METADATA_KEY}: {error}") from None
    if length == 0:
        return np.empty(0, dtype)
    try:
        return np.asarray(open_for_reading(folder, metadata).read().result())
    except STORE_ERRORS as error:
        if failure_of(error) is Failure.UNREACHABLE:
            raise LocationError(f"cannot read {folder}: {reason_of(error)}") from error
        raise _unreadable(folder, reason_of(error)) from error


def _unreadable(folder: Location, reason: str) -> CorruptCacheError:
    return CorruptCacheError(
        f"{folder} cannot be read: {reason}. "
        "Restore its files from a copy, or move the cache's folder away and extract again"
    )


def _require_whole(metadata: dict[str, Any], dtype: str, length: int) -> None:
    """Raise ``ValueError`` unless it is one chunk of just that many numbers."""
    shape = whole_numbers(metadata["shape"], "the shape", least=0)
    chunk = whole_numbers(metadata["chunk_grid"]["configuration"]["chunk_shape"], "a chunk's shape")
    if (shape, chunk, metadata["data_type"]) != ([length], [max(1, length)], dtype):
        raise ValueError(
            f"it is {shape} {metadata['data_type']} in chunks of {chunk}, expected {length} {dtype} in one"
        )
    require_size(shape, np.dtype(dtype).itemsize, "it")
    require_codecs(metadata["codecs"])


def _driver_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Less the fields that only describe the file."""
    dropped = ("storage_transformers",)
    return {name: value for name, value in metadata.items() if name not in dropped}
