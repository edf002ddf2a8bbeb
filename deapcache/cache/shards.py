"""Whole shards: which are there, how large they are, and publishing one in a single step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deapcache.cache.layout import ArraySpec, StoredArray
from deapcache.cache.store import encode_chunks, size_by_index
from deapcache.cache.work import REQUESTS
from deapcache.errors import UsageError
from deapcache.locations import Location


def shards_present(location: Location, arrays: Sequence[StoredArray], wanted: Collection[int]) -> set[int]:
    """Those of the ``wanted`` shards that have a key in each of ``arrays``, which is to say that they are whole."""
    if location.can_list:
        found = _listed(location, arrays, wanted)
        if len(found) < len(wanted) and location.look_again():
            found = _listed(location, arrays, wanted)
        return found
    with ThreadPoolExecutor(REQUESTS) as pool:
        exists = pool.map(lambda shard: has_shard(location, arrays, shard), wanted)
        return {shard for shard, there in zip(wanted, exists, strict=True) if there}


def has_shard(location: Location, arrays: Sequence[StoredArray], shard: int) -> bool:
    """Whether a shard has a key in each of ``arrays``."""
    return all(location.exists(stored.shard_key(shard)) for stored in reversed(arrays))


def _listed(location: Location, arrays: Sequence[StoredArray], wanted: Collection[int]) -> set[int]:
    found = set(wanted)
    for stored in arrays:
        found &= {shard for key in location.keys(stored.spec.name) if (shard := stored.shard_of_key(key)) is not None}
    return found


def stored_size(location: Location, stored: StoredArray) -> int:
    """Bytes of the shards of one array."""
    keys = [stored.shard_key(shard) for shard in shards_present(location, [stored], _all_shards(stored))]
    with ThreadPoolExecutor(REQUESTS) as pool:
        return sum(pool.map(lambda key: _size_or_none(location, key, stored.shard_images), keys))


def _size_or_none(location: Location, key: str, shard_images: int) -> int:
    try:
        return shard_size(location, key, shard_images)
    except FileNotFoundError:  # removed since it was listed
        return 0


def shard_size(location: Location, key: str, shard_images: int) -> int:
    """Bytes of the shard at ``key``: what the location tells, else what the shard's own index says."""
    told = location.size(key)
    return size_by_index(location, key, shard_images) if told is None else told


def check_shard(specs: Mapping[str, ArraySpec], rows: range, k: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise :class:`UsageError` unless ``arrays`` are all arrays of shard ``k``, in their shapes and dtypes."""
    if set(arrays) != set(specs):
        raise UsageError(f"shard {k} needs the arrays {', '.join(specs)}; found {', '.join(arrays) or 'none'}")
    for name, spec in specs.items():
        expected = ((len(rows), *spec.item_shape), spec.dtype)
        found = (arrays[name].shape, arrays[name].dtype.name)
        if found != expected:
            raise UsageError(
                f"array {name!r} of shard {k} must be {expected[0]} {expected[1]}; found {found[0]} {found[1]}"
            )


def publish_shard(
    location: Location, stored: Sequence[StoredArray], k: int, rows: range, arrays: Mapping[str, np.ndarray]
) -> bool:
    """Encode shard ``k`` and publish it, array by array; False where it was there already.

    The last array commits the shard: a kill before that leaves no shard. Two writers of an ``int8`` cache may thus pair
    one's scales with the other's features; both come from one recipe, so they are equal, or close where devices differ.
    Where the last one is there and another is not, which a removal that was cut off leaves, the other is made again.
    """
    if has_shard(location, stored, k):
        return False
    published = [location.publish(each.shard_key(k), _encode(each, k, rows, arrays)) for each in stored]
    return published[-1]


def _encode(stored: StoredArray, k: int, rows: range, arrays: Mapping[str, np.ndarray]) -> bytes:
    name = stored.spec.name
    return encode_chunks(stored.metadata, rows, arrays[name])[stored.shard_key(k).removeprefix(f"{name}/")]


def _all_shards(stored: StoredArray) -> range:
    return range(-(-stored.images // stored.shard_images))
