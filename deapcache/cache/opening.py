"""Creating and opening caches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deapcache.cache.cache import Cache
from deapcache.cache.feature_cache import FeatureCache
from deapcache.cache.format import (
    METADATA_KEY,
    ArraySpec,
    Group,
    StoredArray,
    array_metadata,
    new_group,
    read_group,
    shard_images_for,
    stored_array,
)
from deapcache.cache.image_ids import image_id_files
from deapcache.errors import CacheMissError, CorruptCacheError, UsageError
from deapcache.locations import Location
from deapcache.recipe import Recipe, differences

MakeFeatures = Callable[[Location, Group, Sequence[StoredArray]], FeatureCache]


def open_cache(location: Location, *, features: MakeFeatures = FeatureCache) -> Cache:
    """The cache at ``location``; what ``features`` makes of it, a :class:`FeatureCache`, where it holds features.

    Raises :class:`CacheMissError` where there is none, :class:`CorruptCacheError` where its metadata is not what
    deapcache writes, :class:`FormatVersionError` where another version wrote it.
    """
    group = read_group(location)
    arrays = [stored_array(location, name, group.images) for name in group.arrays]
    for stored in arrays:
        if (stored.images, stored.shard_images) != (group.images, arrays[0].shard_images):
            raise CorruptCacheError(
                f"{location}/{stored.spec.name}/{METADATA_KEY} speaks of {stored.images} images in shards of "
                f"{stored.shard_images}, expected {group.images} in shards of {arrays[0].shard_images}: restore it "
                "from a copy, or move the folder away and extract again"
            )
    return (features if group.kind == "features" else Cache)(location, group, arrays)


def create_cache(
    home: Location,
    path: str,
    *,
    recipe: Recipe,
    arrays: Sequence[ArraySpec],
    image_ids: Sequence[str],
    attributes: Mapping[str, Any] = {},
) -> Cache:
    """The cache at ``path`` below ``home``, made where there is none; several processes may do so at once.

    Parameters
    ----------
    recipe
        What the cache holds; its digest must be that of a cache found there.
    arrays
        The arrays of a shard in the order in which they are published; the last one commits the shard.
    image_ids
        Ids of all images, in row order; at least one.
    attributes
        JSON facts to keep beside the recipe, such as the data set's name.

    Raises
    ------
    UsageError
        Where another recipe, other images or other arrays are there already.
    ReadOnlyError, StorageFullError
        Where it cannot be written; no cache is there then.
    """
    if not image_ids:
        raise UsageError(f"a cache needs at least one image: {path} would have none")
    location = home / path
    group = new_group(recipe, [spec.name for spec in arrays], len(image_ids), attributes)
    try:
        found = open_cache(location)
    except CacheMissError:
        _publish(location, group, arrays, image_ids)
        found = open_cache(location)
    _require_same(found, group, arrays, image_ids)
    return found


def _publish(location: Location, group: Group, arrays: Sequence[ArraySpec], image_ids: Sequence[str]) -> None:
    # The first one published stays, key by key, and all that a recipe decides is equal in every process. The root
    # comes last: until then there is no cache, so a kill on the way leaves nothing that could be opened.
    for key, data in _array_keys(arrays, image_ids):
        location.publish(key, data)
    location.publish(METADATA_KEY, group.to_bytes())


def restore_metadata(cache: Cache) -> None:
    """Publish again those small files of ``cache`` that somebody has removed since it was opened, the root last.

    Raises :class:`CorruptCacheError` where another cache has taken its place.
    """
    location, arrays = cache.location, cache.stored_arrays
    for key, data in (*_small_files(arrays, cache.image_ids), (METADATA_KEY, cache.group.to_bytes())):
        if not location.exists(key):
            location.publish(key, data)
    found = open_cache(location)
    if found.digest != cache.digest or found.stored_arrays != arrays:
        raise CorruptCacheError(
            f"{location} was removed and made anew in another form while it was extracted: remove it, and extract again"
        )


def _array_keys(arrays: Sequence[ArraySpec], image_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    images, shard_images = len(image_ids), shard_images_for(arrays, len(image_ids))
    described = [(spec, array_metadata(spec, images, shard_images)) for spec in arrays]
    stored = [StoredArray(spec=s, images=images, shard_images=shard_images, metadata=found) for s, found in described]
    return _small_files(stored, image_ids)


def _small_files(arrays: Sequence[StoredArray], image_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """All that says what the shards are, but for the root."""
    for stored in arrays:
        yield f"{stored.spec.name}/{METADATA_KEY}", json.dumps(stored.metadata, indent=2).encode()
    yield from image_id_files(image_ids)


def _require_same(found: Cache, group: Group, arrays: Sequence[ArraySpec], image_ids: Sequence[str]) -> None:
    if found.digest != group.digest:
        differing = "; ".join(str(each) for each in differences(group.recipe, found.recipe))
        raise UsageError(f"{found.location} holds another recipe ({differing}): choose another path or home")
    if found.image_ids != tuple(image_ids):
        raise UsageError(
            f"{found.location} holds {len(found)} images, {len(image_ids)} were given, or their ids or order differ: "
            "an image set's digest must cover its ids; move that folder away, or choose another home"
        )
    if list(found.arrays.values()) != list(arrays):
        raise UsageError(
            f"{found.location} holds {list(found.arrays.values())}, expected {list(arrays)}: "
            "move that folder away, or choose another home"
        )
