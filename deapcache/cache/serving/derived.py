"""Index and manifests of a home that lacks them: listed when asked for, kept for some seconds, written nowhere."""

from __future__ import annotations

import threading
import time
from typing import BinaryIO

from deapcache.cache.index import IndexEntry, index_bytes, is_index, list_home
from deapcache.cache.manifest import list_cache, manifest_bytes, parse_manifest
from deapcache.cache.serving.files import cache_of
from deapcache.locations import INDEX, LocalLocation

LIFE = 5.0
"""Seconds for which a listing is kept."""


class Derived:
    """What ``index.json`` and ``manifest.json`` would say; safe between threads, one of which lists at a time."""

    def __init__(self, home: LocalLocation) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}
        self._entries: tuple[float, list[IndexEntry]] | None = None

    def entries(self) -> list[IndexEntry]:
        """The caches of the home."""
        with self._lock:
            if self._entries is None or _old(self._entries[0]):
                entries = list_home(self._home)
                self._entries = time.monotonic(), entries
            return self._entries[1]

    def document(self, key: str) -> bytes | None:
        """The content of a document; None where ``key`` is none. Raises what listing a cache raises."""
        if key == INDEX:
            return index_bytes(self.entries())
        cache = cache_of(key)
        return None if cache is None else self._manifest(cache)

    def can_be_sent(self, key: str, content: BinaryIO) -> bool:
        """Whether a file can be sent as it is: not one of these documents where it is damaged. It is left rewound."""
        if key != INDEX and cache_of(key) is None:
            return True
        data = content.read()
        content.seek(0)
        return is_index(data) if key == INDEX else parse_manifest(data) is not None

    def _manifest(self, cache: str) -> bytes:
        with self._lock:
            if cache not in self._kept or _old(self._kept[cache][0]):
                listed = list_cache(self._home / cache)
                self._kept[cache] = time.monotonic(), manifest_bytes(listed)
            return self._kept[cache][1]


def _old(then: float) -> bool:
    return time.monotonic() - then > LIFE
