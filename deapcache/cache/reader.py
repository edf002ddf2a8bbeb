"""Reading rows of one array, and turning a failed read into an error that names shards and images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deapcache.cache.layout import METADATA_KEY, StoredArray
from deapcache.cache.local_shards import LocalShards, NotReadError, can_read
from deapcache.cache.store import STORE_ERRORS, Failure, failure_of, open_for_reading, reason_of
from deapcache.cache.tiered_shards import TieredShards
from deapcache.errors import (
    CacheMissError,
    CorruptCacheError,
    DeapcacheError,
    IncompleteCacheError,
    LocationError,
    UsageError,
)
from deapcache.locations import LocalLocation, Location

SHOWN = 5
"""Image ids that a message spells out."""


_LARGE = 1 << 30


class Reading:
    """Numbers on their way: :meth:`result` waits for them."""

    def __init__(self, finish: Callable[[], np.ndarray]) -> None:
        self._finish = finish

    def result(self) -> np.ndarray:
        """The array asked for; raises what the blocking read would have raised."""
        return self._finish()


@dataclass(frozen=True)
class FailedRow:
    """A row that cannot be read, and why."""

    row: int
    failure: Failure
    reason: str


class ArrayReader:
    """Reads rows of one array of a cache; safe to share between threads.

    Parameters
    ----------
    location
        The cache.
    stored
        The array to read.
    shard_keys
        All keys that belong to a shard, for the advice to delete them.
    image_ids
        Gives the ids of all images, for messages; called only when a read fails.
    """

    def __init__(
        self,
        location: Location,
        stored: StoredArray,
        shard_keys: Callable[[int], list[str]],
        image_ids: Callable[[], Sequence[str]],
    ) -> None:
        self.location = location
        self.stored = stored
        self._shard_keys = shard_keys
        self._image_ids = image_ids
        self._lock = threading.Lock()
        self._array: Any = None
        self._begin = self._fastest()

    def start(self, rows: np.ndarray) -> Reading:
        """Begin to read ``rows`` (int64), in that order."""
        if not len(rows):
            empty = np.empty((0, *self.stored.spec.item_shape), self.stored.spec.dtype)
            return Reading(lambda: empty)
        self._require_room(len(rows) * self.stored.spec.item_bytes)
        wait = self._begin(rows)

        def finish() -> np.ndarray:
            try:
                return wait()
            except NotReadError:
                return self._retry(rows)
            except STORE_ERRORS as error:
                self._require_reached(error)
                return self._retry(rows)

        return Reading(finish)

    def _require_room(self, size: int) -> None:
        # Asked for here, since a library that is refused memory ends the process; small requests are not worth asking.
        if size < _LARGE:
            return
        try:
            np.empty(size, np.uint8)
        except MemoryError:
            raise UsageError(
                f"{self.location}: so many images at once take {size / 1e9:.0f} GB of memory, at "
                f"{self.stored.spec.item_bytes / 1e6:.0f} MB each, which there are not: read fewer at once"
            ) from None

    def _fastest(self) -> Callable[[np.ndarray], Callable[[], np.ndarray]]:
        """The fastest way to begin reading rows here, through the location's tier where it has one."""
        if not can_read(self.stored):
            return self._start_store
        where, tier = self._start_store, self.location.use.tier
        if isinstance(self.location, LocalLocation):
            where = LocalShards(self.location.path / self.stored.spec.name, self.stored).start
        return where if tier is None else TieredShards(self.location, self.stored, tier, where).start

    def _start_store(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        future = self._opened()[rows].read()
        return lambda: np.asarray(future.result())

    def _opened(self, *, again: bool = False) -> Any:
        with self._lock:
            if self._array is None or again:
                self._array = self._open()
            return self._array

    def _open(self) -> Any:
        folder = self.location / self.stored.spec.name
        try:
            return open_for_reading(folder, self.stored.metadata)
        except STORE_ERRORS as error:
            raise CorruptCacheError(
                f"{folder}/zarr.json describes an array that cannot be opened: {reason_of(error)}. "
                "Restore that file from a copy, or move the cache's folder away and extract again"
            ) from error

    def _retry(self, rows: np.ndarray) -> np.ndarray:
        # A shard may have appeared, or been extracted anew, since this array was opened: opening again looks afresh.
        array = self._opened(again=True)
        try:
            return np.asarray(array[rows].read().result())
        except STORE_ERRORS as error:
            self._require_reached(error)
            failed = [found for row in np.unique(rows).tolist() if (found := self._try_row(array, row))]
            raise self._explain(failed, len(np.unique(rows)), error) from error

    def _require_reached(self, error: Exception) -> None:
        # At once: a server that is gone would be waited for again with every further row.
        if failure_of(error) is Failure.UNREACHABLE:
            raise LocationError(f"cannot read {self.location}: {reason_of(error)}") from error

    def _try_row(self, array: Any, row: int) -> FailedRow | None:
        try:
            array[row].read().result()
        except STORE_ERRORS as error:
            self._require_reached(error)
            return FailedRow(row, failure_of(error), reason_of(error))
        return None

    def _explain(self, failed: list[FailedRow], asked: int, error: Exception) -> DeapcacheError:
        if not failed:
            return LocationError(f"cannot read {self.location}: {reason_of(error)}")
        if not self.location.exists(METADATA_KEY):
            return CacheMissError(
                f"there is no cache at {self.location} any more: it was deleted or moved while it was read. "
                "Extract again, or open it where it is now"
            )
        failed = [self._judged(found) for found in failed]
        damaged = [found for found in failed if found.failure is Failure.DAMAGED]
        return self._damaged(damaged) if damaged else self._missing(failed, asked)

    def _judged(self, found: FailedRow) -> FailedRow:
        """A volume missing from a shard that is there was lost, not left for later."""
        if found.failure is not Failure.MISSING:
            return found
        key = self._key_of(found.row)
        if not self.location.exists(key):
            return found
        return FailedRow(found.row, Failure.DAMAGED, "the shard is there but lacks the image")

    def _damaged(self, damaged: list[FailedRow]) -> CorruptCacheError:
        shards = sorted({found.row // self.stored.shard_images for found in damaged})
        files = ", ".join(f"{self.location}/{self.stored.shard_key(shard)}" for shard in shards)
        doomed = " ".join(f"{self.location}/{key}" for shard in shards for key in self._shard_keys(shard))
        return CorruptCacheError(
            f"{files}: damaged, {self._name([found.row for found in damaged])} cannot be read "
            f"({damaged[0].reason}). Delete {doomed} and extract again: only what is missing is made anew"
        )

    def _missing(self, missing: list[FailedRow], asked: int) -> IncompleteCacheError:
        rows = [found.row for found in missing]
        shards = ", ".join(str(shard) for shard in sorted({row // self.stored.shard_images for row in rows})[:SHOWN])
        return IncompleteCacheError(
            f"{self.location}: {len(rows)} of the {asked} images asked for have no {self.stored.spec.name} yet: "
            f"{self._name(rows)}, first shards without: {shards}. "
            "Extract again with the same options: only what is missing is made"
        )

    def _name(self, rows: list[int]) -> str:
        ids = self._image_ids()
        named = ", ".join(f"{ids[row]!r} (row {row})" for row in rows[:SHOWN])
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        return f"{'image' if len(rows) == 1 else 'images'} {named}{more}"

    def _key_of(self, row: int) -> str:
        return self.stored.shard_key(row // self.stored.shard_images)


def checked_rows(rows: Any, images: int) -> np.ndarray:
    """``rows`` as int64 indices, each from 0 to ``images - 1``; raises :class:`UsageError`."""
    given = np.asarray(rows)
    if given.size == 0:
        return np.empty(0, np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise UsageError(f"rows must be one list of whole numbers, found {given.ndim} axes of {given.dtype}")
    outside = given[(given < 0) | (given >= images)]
    if outside.size:
        raise UsageError(f"row {outside[0]} is outside the cache: it has the rows 0 to {images - 1}")
    return given.astype(np.int64)
