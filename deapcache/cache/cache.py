"""Caches: creating and opening them, what they hold, reading rows and writing shards."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import threading
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deapcache.cache.features import CLS, decode_features
from deapcache.cache.format import (
    COVERED,
    METADATA_KEY,
    RESTORE,
    ArraySpec,
    Group,
    StoredArray,
    new_arrays,
    read_group,
    stored_array,
)
from deapcache.cache.image_ids import image_id_files, read_image_ids
from deapcache.cache.names import PROVENANCE, escape_name, is_provenance
from deapcache.cache.parallel import map_requests
from deapcache.cache.reading import ArrayReader, Reading, check_rows
from deapcache.cache.records import record_use
from deapcache.cache.shards import encode_shard
from deapcache.cache.tier import begin_reading
from deapcache.errors import CacheMissError, CorruptCacheError, NotAFileError, UsageError
from deapcache.locations import LocalLocation, Location, WebLocation
from deapcache.recipe import Recipe, differences
from deapcache.untrusted import parse_json

_MOST_PROVENANCE = 16_000_000
"""Bytes of one writer's record: it lists the shards that it wrote."""


def provenance_keys(location: Location) -> list[str]:
    """The keys of what writers of the cache at ``location`` have recorded; [] where that cannot be listed."""
    if not location.can_list:
        return []
    return [key for key in location.keys(PROVENANCE) if is_provenance(key)]


def read_provenance(location: Location) -> list[dict[str, Any]]:
    """What the writers of the cache at ``location`` have recorded, as :meth:`Cache.provenance`."""
    found = []
    for key in provenance_keys(location):
        try:
            facts = parse_json(location.read(key, most=_MOST_PROVENANCE))
            if not isinstance(facts, dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:  # removed since it was listed
            continue
        except (NotAFileError, ValueError) as error:
            warnings.warn(f"left out: {location}/{key}: {error}; nothing depends on it, delete it", stacklevel=3)
            continue
        found.append(facts)
    return found


class Cache:
    """One cache of features, base images or targets; :func:`open_cache` and :func:`create_cache` make it.

    Opening reads a few small files; image ids are read when first asked for. Reads are safe from several threads.
    """

    def __init__(self, location: Location, group: Group, arrays: Sequence[StoredArray]) -> None:
        self.location = location
        self.group = group
        self.kind = group.kind
        self.recipe = group.recipe
        self.digest = group.digest
        self.attributes = group.attributes
        self.shard_images = arrays[0].shard_images
        """Images per shard, as ``zarr.json`` says."""
        self._images = group.images
        self._stored = {stored.spec.name: stored for stored in arrays}
        self._commit = arrays[-1]
        self._lock = threading.Lock()
        self._image_ids: tuple[str, ...] | None = None
        self._readers = {
            stored.spec.name: ArrayReader(
                location, stored, begin_reading(location, stored), self._shard_keys, lambda: self.image_ids
            )
            for stored in arrays
        }
        self._writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def __repr__(self) -> str:
        arrays = ", ".join(f"{s.name} {s.dtype} {s.item_shape}" for s in self.arrays.values())
        return f"<{type(self).__name__} {self.location}: {self._images} images, {arrays}>"

    def __len__(self) -> int:
        return self._images

    def __reduce__(self) -> tuple[Callable[..., Cache], tuple[Location | None, ...]]:
        """Another process opens the cache for itself."""
        return open_cache, (self.location,)

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays by name, in the order in which a shard's are published."""
        return {name: stored.spec for name, stored in self._stored.items()}

    @property
    def stored_arrays(self) -> tuple[StoredArray, ...]:
        """The arrays as their ``zarr.json`` describe them, in that order."""
        return tuple(self._stored.values())

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of all images, in row order; raises :class:`CorruptCacheError` where they cannot be read."""
        with self._lock:
            if self._image_ids is None:
                self._image_ids = read_image_ids(self.location, self._images)
            return self._image_ids

    @property
    def shard_count(self) -> int:
        """Shards of a complete cache."""
        return -(-self._images // self.shard_images)

    def shard_rows(self, k: int) -> range:
        """The rows of shard ``k``; the last shard may have fewer."""
        if not 0 <= k < self.shard_count:
            raise UsageError(f"{self.location} has the shards 0 to {self.shard_count - 1}, not {k}")
        return range(k * self.shard_images, min((k + 1) * self.shard_images, self._images))

    def shard_of(self, row: int) -> int:
        """The shard that holds ``row``."""
        return int(check_rows([row], self._images)[0]) // self.shard_images

    def present_shards(self, wanted: Collection[int] | None = None) -> set[int]:
        """The shards that are there now, whole; of those that are ``wanted``, where given."""
        return shards_present(self.location, self.stored_arrays, range(self.shard_count) if wanted is None else wanted)

    def missing_shards(self, rows: Sequence[int] | np.ndarray | None = None) -> list[int]:
        """The shards still to be written, in order; only those that ``rows`` need, where given."""
        wanted: Collection[int] = range(self.shard_count)
        if rows is not None:
            wanted = np.unique(check_rows(rows, self._images) // self.shard_images).tolist()
        return sorted(set(wanted) - self.present_shards(wanted))

    def is_complete(self, rows: Sequence[int] | np.ndarray | None = None) -> bool:
        """Whether every image (of ``rows``) is there."""
        return not self.missing_shards(rows)

    def stored_bytes(self) -> int:
        """Bytes that the shards of all arrays take."""
        keys = [stored.shard_key(shard) for stored in self._stored.values() for shard in range(self.shard_count)]
        one_by_one = isinstance(self.location, LocalLocation) or not self.location.can_list
        sizes = self.location.sizes_of(keys) if one_by_one else self.location.sizes()
        return sum(sizes.get(key, 0) for key in keys)

    def write_shard(self, k: int, arrays: Mapping[str, np.ndarray]) -> bool:
        """Write shard ``k`` whole.

        Parameters
        ----------
        k
            The shard, from 0 to ``shard_count - 1``.
        arrays
            Every array of the cache, (len(shard_rows(k)), ``*item_shape``) in the stored dtype.

        Returns
        -------
        False where the shard was there already: the first one published stays.

        Raises
        ------
        UsageError
            Where names, shapes or dtypes are not those of the cache.
        ReadOnlyError, StorageFullError
            Where it cannot be written; the shard then is not there.
        """
        rows = self.shard_rows(k)
        _check_shard(self.arrays, rows, k, arrays)
        # The last array commits the shard: a kill before that leaves no shard. Two writers of an int8 cache may thus
        # pair one's scales with the other's features; both come from one recipe, so they are equal, or close where
        # devices differ. Where the last one is there and another is not, which a removal that was cut off leaves, the
        # other is made again.
        if has_shard(self.location, self.stored_arrays, k):
            return False
        files = ((stored.shard_key(k), encode_shard(stored, arrays[name])) for name, stored in self._stored.items())
        return [self.location.publish(key, data) for key, data in files][-1]

    def read(self, rows: Sequence[int] | np.ndarray, array: str | None = None) -> np.ndarray:
        """Entries of ``rows``, in that order, repeats included: (len(rows), ``*item_shape``) in the stored dtype.

        ``array`` is the last one of the cache unless named. Raises :class:`IncompleteCacheError` naming images that
        were never written, :class:`CorruptCacheError` naming shards and images whose bytes fail their checksum,
        :class:`LocationError` where the location cannot be reached and :class:`UsageError` for rows that do not exist.
        """
        return self.read_async(rows, array).result()

    def read_async(self, rows: Sequence[int] | np.ndarray, array: str | None = None) -> Reading:
        """Begin :meth:`read` and come back at once; errors are raised by ``result()`` of what is returned."""
        name = self._commit.spec.name if array is None else array
        if name not in self._readers:
            raise UsageError(f"{self.location} has no array {name!r}: it has {', '.join(self._readers)}")
        if self.location.options.read_only:
            record_use(self.location, self.digest)
        return self._readers[name].start(check_rows(rows, self._images))

    def record_provenance(self, facts: Mapping[str, Any], *, writer: str | None = None) -> None:
        """Record circumstances (device, host, versions, times) as ``provenance/<writer>.json``.

        Each open cache is one writer, named after host and process, unless ``writer`` says otherwise; recording again
        replaces that writer's facts, and only those.
        """
        data = json.dumps(dict(facts), indent=2, sort_keys=True).encode()
        self.location.publish(f"{PROVENANCE}/{escape_name(writer or self._writer)}.json", data, replace=True)

    def provenance(self) -> list[dict[str, Any]]:
        """What each writer recorded, sorted by writer; a damaged file is left out with a warning that names it."""
        return read_provenance(self.location)

    def _shard_keys(self, shard: int) -> list[str]:
        return [stored.shard_key(shard) for stored in self._stored.values()]


_FEW = 4
"""Shards that are asked for one by one: a listing for each shard of a cache takes the square of their number."""


def shards_present(location: Location, arrays: Sequence[StoredArray], wanted: Collection[int]) -> set[int]:
    """Those of the ``wanted`` shards that have a key in each of ``arrays``, which is to say that they are whole."""
    shards = -(-arrays[0].images // arrays[0].shard_images)
    is_listed = isinstance(location, WebLocation)
    if isinstance(location, LocalLocation):  # below a link that leads nowhere everything seems absent; a listing tells
        is_listed = any((location.path / stored.spec.name).is_symlink() for stored in arrays)
    if len(wanted) <= _FEW and len(wanted) < shards and not is_listed:
        return {shard for shard in wanted if has_shard(location, arrays, shard)}
    if location.can_list:
        found = _listed_shards(location, arrays, wanted)
        if len(found) < len(wanted) and location.refresh():
            found = _listed_shards(location, arrays, wanted)
        return found
    exists = map_requests(lambda shard: has_shard(location, arrays, shard), wanted, is_local=False)
    return set(itertools.compress(wanted, exists))


def has_shard(location: Location, arrays: Sequence[StoredArray], shard: int) -> bool:
    """Whether a shard has a key in each of ``arrays``."""
    return all(location.exists(stored.shard_key(shard)) for stored in reversed(arrays))


def _listed_shards(location: Location, arrays: Sequence[StoredArray], wanted: Collection[int]) -> set[int]:
    found = set(wanted)
    for stored in arrays:
        found &= {shard for key in location.keys(stored.spec.name) if (shard := stored.shard_of_key(key)) is not None}
    return found


def _check_shard(specs: Mapping[str, ArraySpec], rows: range, k: int, arrays: Mapping[str, np.ndarray]) -> None:
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


class FeatureCache(Cache):
    """A cache of one backbone's feature volumes (N, H, W, D)."""

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of a feature volume."""
        height, width, _ = self.arrays["features"].item_shape
        return height, width

    @property
    def dim(self) -> int:
        """D, the width of a feature vector."""
        return self.arrays["features"].item_shape[-1]

    @property
    def storage(self) -> str:
        """The storage format, one of ``STORAGE_FORMATS``."""
        return str(self.recipe["storage"])

    @property
    def backbone(self) -> str:
        """The backbone's name: that of its model, or the label that it was extracted under."""
        return self.group.name

    @property
    def covered(self) -> tuple[float, float]:
        """Share of the image's height and width that the cells cover, from the upper left corner.

        Less than 1 where the backbone's image size is no multiple of its patches. Caches of before say nothing of it:
        it then follows from the patch in the architecture's name, or is 1.
        """
        if (found := self.attributes.get(COVERED)) is not None:
            height, width = found
            return float(height), float(width)
        named = re.search(r"patch(\d+)", str(self.recipe["architecture"]))
        patch = int(named[1]) if named else 1
        height, width = (
            cells * patch / side if cells == side // patch else 1.0
            for cells, side in zip(self.grid, self.recipe["image_size"], strict=True)
        )
        return height, width

    def read_features(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Feature volumes of ``rows`` in that order: (len(rows), H, W, D), float16 for 16-bit storage, else float32.

        Raises what :meth:`Cache.read` raises.
        """
        return self.read_features_async(rows).result()

    @property
    def has_cls(self) -> bool:
        """Whether the class token is kept beside each volume."""
        return CLS in self.arrays

    def read_cls(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Class tokens of ``rows`` in that order: (len(rows), D), float16 for 16-bit storage, else float32.

        Raises :class:`UsageError` where they were not kept, and what :meth:`Cache.read` raises.
        """
        if not self.has_cls:
            raise UsageError(f"{self.location} holds no class tokens: extract with --tokens cls")
        return self.read(rows, CLS)

    def read_features_async(self, rows: Sequence[int] | np.ndarray) -> Reading:
        """Begin :meth:`read_features` and come back at once; errors are raised by ``result()`` of what is returned."""
        readings = {name: self.read_async(rows, name) for name in self.arrays if name != CLS}
        return Reading(lambda: decode_features({name: each.result() for name, each in readings.items()}, self.storage))


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
                f"{stored.shard_images}, expected {group.images} in shards of {arrays[0].shard_images}. {RESTORE}"
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
    group = Group(
        kind=recipe.kind,
        recipe=recipe.to_json(),
        digest=recipe.digest,
        arrays=tuple(spec.name for spec in arrays),
        images=len(image_ids),
        attributes=dict(attributes),
    )
    try:
        found = open_cache(location)
    except CacheMissError:
        # The first one published stays, key by key, and all that a recipe decides is equal in every process.
        for key, data in _metadata_files(group, new_arrays(arrays, len(image_ids)), image_ids):
            location.publish(key, data)
        found = open_cache(location)
    _require_same(found, group, arrays, image_ids)
    return found


def restore_metadata(cache: Cache) -> None:
    """Publish again those small files of ``cache`` that somebody has removed since it was opened, the root last.

    Raises :class:`CorruptCacheError` where another cache has taken its place.
    """
    location, arrays = cache.location, cache.stored_arrays
    for key, data in _metadata_files(cache.group, arrays, cache.image_ids):
        if not location.exists(key):
            location.publish(key, data)
    found = open_cache(location)
    if found.digest != cache.digest or found.stored_arrays != arrays:
        raise CorruptCacheError(
            f"{location} was removed and made anew in another form while it was extracted: remove it, and extract again"
        )


def _metadata_files(
    group: Group, arrays: Sequence[StoredArray], image_ids: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Every small file of a cache that a recipe decides, the root last: until it is there, there is no cache."""
    for stored in arrays:
        yield f"{stored.spec.name}/{METADATA_KEY}", json.dumps(stored.metadata, indent=2).encode()
    yield from image_id_files(image_ids)
    yield METADATA_KEY, group.to_bytes()


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
