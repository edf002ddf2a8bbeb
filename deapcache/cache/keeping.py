"""Keeping manifest and index true while a cache is written, at a bounded rate."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deapcache.cache.manifest import write_manifest
from deapcache.errors import DeapcacheError
from deapcache.locations import Location

if TYPE_CHECKING:
    from deapcache.cache.cache import Cache

MANIFEST_SECONDS = 10.0
"""At least so long between two manifests while shards are published one after another."""
INDEX_SECONDS = 60.0
"""The same for the home's index, which reads of every cache there."""


class ManifestKeeper:
    """Writes the manifest of one cache, and the index of its home, as shards are published; safe between threads.

    Both are written after the first shard, then at a bounded rate, and when the cache is complete. They are derived, so
    a failure to write them is a warning and no reason to lose an extraction.
    """

    def __init__(self, cache: Location) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._left: int | None = None
        """Images still missing, as far as this writer knows."""
        self._manifest_due = 0.0
        self._index_due = 0.0

    def published(self, images: int) -> None:
        """A shard of so many images is there."""
        with self._lock:
            self._left = None if self._left is None else self._left - images
            now, complete = time.monotonic(), self._left == 0
            if complete or now >= self._manifest_due:
                self._write(index=complete or now >= self._index_due)

    def settle(self, *, index: bool = True) -> None:
        """Bring both up to date now."""
        with self._lock:
            self._write(index=index)

    def _write(self, *, index: bool) -> None:
        from deapcache.cache.index import home_of, write_index

        try:
            manifest = write_manifest(self._cache)
            self._left = manifest.total - manifest.images
            if index and (home := home_of(self._cache)):
                write_index(home)
                self._index_due = time.monotonic() + INDEX_SECONDS
        except (DeapcacheError, OSError) as error:
            warnings.warn(
                f"what {self._cache} holds could not be written down for readers over HTTP ({error}); "
                "`deapcache cache index` does it later",
                stacklevel=4,
            )
        self._manifest_due = time.monotonic() + MANIFEST_SECONDS


@contextlib.contextmanager
def kept_true(*caches: Cache) -> Iterator[None]:
    """Leave true manifests of ``caches`` behind, however the block ends."""
    try:
        yield
    finally:
        for cache in caches:
            cache.settle()
