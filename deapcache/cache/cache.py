"""An open cache: what it holds, which shards are there, reading rows and writing shards."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from deapcache.cache.group import Group
from deapcache.cache.identifiers import read_identifiers
from deapcache.cache.keeping import ManifestKeeper
from deapcache.cache.layout import ArraySpec, StoredArray
from deapcache.cache.names import PROVENANCE, is_provenance, safe
from deapcache.cache.reader import ArrayReader, Reading, checked_rows
from deapcache.cache.shards import check_shard, publish_shard, shards_present, stored_size
from deapcache.errors import CorruptCacheError, NotAFileError, UsageError
from deapcache.locations import Location


def provenance_keys(location: Location) -> list[str]:
    """The keys of what writers of the cache at ``location`` have recorded; [] where that cannot be listed."""
    if not location.can_list:
        return []
    return [key for key in location.keys(PROVENANCE) if is_provenance(key)]


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
            stored.spec.name: ArrayReader(location, stored, self._shard_keys, lambda: self.image_ids)
            for stored in arrays
        }
        self._manifest = ManifestKeeper(location)
        self._writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def __repr__(self) -> str:
        arrays = ", ".join(f"{s.name} {s.dtype} {s.item_shape}" for s in self.arrays.values())
        return f"<{type(self).__name__} {self.location}: {self._images} images, {arrays}>"

    def __len__(self) -> int:
        return self._images

    def __reduce__(self) -> tuple[Callable[..., Cache], tuple[Location | None, ...]]:
        """Another process opens the cache for itself."""
        from deapcache.cache.opening import open_cache

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
                self._image_ids = read_identifiers(self.location, self._images)
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
        return int(checked_rows([row], self._images)[0]) // self.shard_images

    def present_shards(self) -> set[int]:
        """The shards that are there now, whole."""
        return shards_present(self.location, self.stored_arrays, range(self.shard_count))

    def missing_shards(self, rows: Sequence[int] | np.ndarray | None = None) -> list[int]:
        """The shards still to be written, in order; only those that ``rows`` need, where given."""
        wanted: Collection[int] = range(self.shard_count)
        if rows is not None:
            wanted = np.unique(checked_rows(rows, self._images) // self.shard_images).tolist()
        present = shards_present(self.location, self.stored_arrays, wanted)
        return [shard for shard in wanted if shard not in present]

    def is_complete(self, rows: Sequence[int] | np.ndarray | None = None) -> bool:
        """Whether every image (of ``rows``) is there."""
        return not self.missing_shards(rows)

    def stored_bytes(self) -> int:
        """Bytes that the shards of all arrays take."""
        return sum(stored_size(self.location, stored) for stored in self._stored.values())

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
        check_shard(self.arrays, rows, k, arrays)
        written = publish_shard(self.location, list(self._stored.values()), k, rows, arrays)
        if written:
            self._manifest.published(len(rows))
        return written

    def settle(self) -> None:
        """Bring ``manifest.json`` and the home's ``index.json`` up to date now; a failure to is a warning.

        :meth:`write_shard` does so at a bounded rate and when it completes the cache: call this after the last shard
        of a part.
        """
        self._manifest.settle()

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
        return self._readers[name].start(checked_rows(rows, self._images))

    def record_provenance(self, facts: Mapping[str, Any], *, writer: str | None = None) -> None:
        """Record circumstances (device, host, versions, times) as ``provenance/<writer>.json``.

        Each open cache is one writer, named after host and process, unless ``writer`` says otherwise; recording again
        replaces that writer's facts, and only those.
        """
        data = json.dumps(dict(facts), indent=2, sort_keys=True).encode()
        self.location.publish(f"{PROVENANCE}/{safe(writer or self._writer)}.json", data, replace=True)
        self._manifest.settle(index=False)

    def provenance(self) -> list[dict[str, Any]]:
        """What each writer recorded, sorted by writer; raises :class:`CorruptCacheError` naming a damaged file."""
        recorded = (self._recorded(key) for key in provenance_keys(self.location))
        return [facts for facts in recorded if facts is not None]

    def _recorded(self, key: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.location.read(key)))
        except FileNotFoundError:  # removed since it was listed
            return None
        except (ValueError, TypeError, RecursionError, NotAFileError) as error:
            raise CorruptCacheError(
                f"{self.location}/{key} is no JSON object ({error}): nothing depends on it, delete it"
            ) from None

    def _shard_keys(self, shard: int) -> list[str]:
        return [stored.shard_key(shard) for stored in self._stored.values()]
