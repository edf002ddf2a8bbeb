"""Rows of one array through a local tier: whole shards are fetched on first need, then read as local files are."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from deapcache.cache.layout import StoredArray
from deapcache.cache.local_shards import LocalShards, NotReadError
from deapcache.cache.shard_index import WholeShard, read_index
from deapcache.cache.tier import TierFolder, tier_folder
from deapcache.errors import LocationError
from deapcache.locations import LocalLocation, LocalTier, Location

CONFIRM_SECONDS = 86_400.0
"""A shard of a store or server is compared with its origin once in this time: one small request."""

_CONFIRM_LOCAL_SECONDS = 60.0
"""That of a folder costs no more than looking at a file, and so is compared more often."""

_FETCHES = 4
"""Whole shards on their way at once: each is in memory until it is written."""

Start = Callable[[np.ndarray], Callable[[], np.ndarray]]
"""Begins to read rows, and gives what waits for them."""


class TieredShards:
    """The shards of one array of the cache at ``location``, kept in its tier; safe to share between threads.

    ``origin`` reads rows where they are: those of shards for which the tier has no room.
    """

    def __init__(self, location: Location, stored: StoredArray, tier: LocalTier, origin: Start) -> None:
        self._location = location
        self._stored = stored
        self._origin = origin
        self._tier: TierFolder = tier_folder(tier)
        self._folder = tier.shards / _folder_name(location, stored) / stored.spec.name
        self._kept = LocalShards(self._folder, stored)
        self._lock = threading.Lock()
        self._coming: dict[tuple[int, int], Future[bool]] = {}
        self._confirmed: dict[int, float] = {}
        self._patience = _CONFIRM_LOCAL_SECONDS if isinstance(location, LocalLocation) else CONFIRM_SECONDS

    def start(self, rows: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to read ``rows`` (int64), in that order; what is returned waits for them.

        It raises what ``origin`` raises, and :class:`NotReadError` where bytes are damaged wherever they are read.
        """
        shards = rows // self._stored.shard_images
        wanted = np.unique(shards).tolist()
        ready = {shard for shard in wanted if self._is_ready(shard)}
        if len(ready) == len(wanted):
            begun = self._kept.start(rows)
            return lambda: self._finish(begun, rows)
        coming = {shard: self._bring(shard) for shard in wanted if shard not in ready}

        def finish() -> np.ndarray:
            here = ready | {shard for shard, arriving in coming.items() if arriving.result()}
            return self._mixed(rows, np.isin(shards, list(here)))

        return finish

    def _mixed(self, rows: np.ndarray, here: np.ndarray) -> np.ndarray:
        """``rows``, those that are ``here`` from the tier and the others from where they are."""
        if here.all():
            return self._finish(self._kept.start(rows), rows)
        elsewhere = self._origin(rows[~here])
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        if here.any():
            found[here] = self._finish(self._kept.start(rows[here]), rows[here])
        found[~here] = elsewhere()
        return found

    def _finish(self, begun: Callable[[], np.ndarray], rows: np.ndarray) -> np.ndarray:
        try:
            return begun()
        except NotReadError:
            return self._again(rows)

    def _again(self, rows: np.ndarray) -> np.ndarray:
        """Read shard by shard; one that was given up meanwhile, or is damaged, is fetched anew."""
        found = np.empty((len(rows), *self._stored.spec.item_shape), self._stored.spec.dtype)
        shards = rows // self._stored.shard_images
        for shard in np.unique(shards).tolist():
            places = shards == shard
            try:
                found[places] = self._kept.start(rows[places])()
            except NotReadError:
                self._forget(shard)
                found[places] = self._afresh(shard, rows[places])
        return found

    def _afresh(self, shard: int, rows: np.ndarray) -> np.ndarray:
        if not self._bring(shard).result():
            return self._origin(rows)()
        try:
            return self._kept.start(rows)()
        except NotReadError:
            self._forget(shard)  # damaged at its origin too, which then says so
            return self._origin(rows)()

    def _is_ready(self, shard: int) -> bool:
        """Whether a shard is there and need not be compared with its origin."""
        path = self._path(shard)
        known = self._confirmed.get(shard)
        if known is None or time.time() - known > self._patience or not os.path.exists(path):  # noqa: PTH110 - False on any error: then it is read at its origin
            return False
        self._tier.use(path)
        return True

    def _bring(self, shard: int) -> Future[bool]:
        """Fetch a shard, or compare what is kept with its origin; whether it is there then."""
        key = os.getpid(), shard  # after a fork nothing is on its way
        with self._lock:
            if key not in self._coming:
                self._coming[key] = _pool(os.getpid()).submit(self._brought, key)
            return self._coming[key]

    def _brought(self, key: tuple[int, int]) -> bool:
        shard = key[1]
        try:
            if self._is_still_good(shard) or self._fetch(shard):
                self._tier.use(self._path(shard))
                return True
            return False
        except (OSError, LocationError):  # reading at the origin will say what is wrong there
            return False
        finally:
            with self._lock:
                self._coming.pop(key, None)

    def _is_still_good(self, shard: int) -> bool:
        path = self._path(shard)
        note = self._tier.note_of(path)
        if note is None:
            return False
        if time.time() - note.confirmed > self._patience or isinstance(self._location, LocalLocation):
            stamp = self._stamp(shard)
            if stamp is None or stamp != note.stamp:
                self._forget(shard)
                return False
            self._tier.confirm(path)
            self._confirmed[shard] = time.time()
        else:
            self._confirmed[shard] = note.confirmed
        return True

    def _stamp(self, shard: int) -> str | None:
        try:
            return self._location.stamp(self._stored.shard_key(shard))
        except FileNotFoundError:
            return None

    def _fetch(self, shard: int) -> bool:
        if self._tier.is_full:
            return False
        data, stamp = self._location.read_stamped(self._stored.shard_key(shard))
        if not _is_whole(data, self._stored) or not self._tier.keep(self._path(shard), data, stamp):
            return False
        self._confirmed[shard] = time.time()
        return True

    def _forget(self, shard: int) -> None:
        self._confirmed.pop(shard, None)
        self._tier.discard(self._path(shard))

    def _path(self, shard: int) -> Path:
        return self._folder / self._stored.shard_key(shard).rpartition("/")[2]


def _is_whole(shard: bytes, stored: StoredArray) -> bool:
    """Whether a shard ends in an index that has its checksum and whose chunks lie within the shard."""
    try:
        read_index(WholeShard(shard), stored.shard_images)
    except ValueError:
        return False
    return True


def _folder_name(location: Location, stored: StoredArray) -> str:
    """A readable name, and a digest of where the cache is and how its array is cut into shards."""
    described = json.dumps([location.kvstore(), stored.metadata], sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9_@+=-]+", "-", location.url.rpartition("/")[2])[:80]
    return f"{readable}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork: a child process gets a pool of its own.
    return ThreadPoolExecutor(_FETCHES, thread_name_prefix=f"deapcache-fetch-{process}")
