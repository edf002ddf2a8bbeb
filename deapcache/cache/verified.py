"""What was found sound when: ``verified/DIGEST.json`` in the home, beside its caches and in none of them.

It names each shard file with the etag that it had and the time at which it was read whole. A file that was replaced,
copied or restored has another etag and counts as never read; what rots in place keeps it, so that files are read again
after a while (``cache verify --older-than``). It is derived: a copy that is lost or damaged costs one more reading.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time

from deapcache.cache.names import home_of
from deapcache.errors import DeapcacheError
from deapcache.locations import Location
from deapcache.untrusted import parse_json

VERIFIED = "verified"
"""Folder of a home."""

_FORMAT = 1
_SAVE_SECONDS = 60.0


class VerifyLog:
    """When each shard file of a cache was last found sound; nothing where the cache lies in no home."""

    def __init__(self, cache: Location, digest: str) -> None:
        self._cache = cache
        self._home = home_of(cache)
        self._digest = digest
        self._lock = threading.Lock()
        self._changes: dict[str, tuple[str, float] | None] = {}
        self._saved = time.monotonic()
        self._times = _remembered(self._home, digest)

    def last(self, key: str) -> float:
        """Unix seconds at which the file as it is now was found sound; 0 where it never was."""
        etag, moment = self._times.get(key, ("", 0.0))
        return moment if etag and etag == self._cache.etag_or_none(key) else 0.0

    def etag(self, key: str) -> str:
        """What the file is now; empty where that cannot be told. Ask before it is read."""
        return self._cache.etag_or_none(key) or ""

    def note(self, key: str, etag: str, *, sound: bool) -> None:
        """Remember that the file that had this etag was read whole."""
        with self._lock:
            self._changes[key] = (etag, time.time()) if sound and etag else None
            if time.monotonic() - self._saved > _SAVE_SECONDS:
                self._save()

    def save(self) -> None:
        """Write down what was noted; nothing where the home may not be written."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._home is None or not self._changes:
            return
        merged = {
            **_remembered(self._home, self._digest),
            **self._changes,
        }  # another run may verify other shards at the same time
        self._times = {key: value for key, value in merged.items() if value is not None}
        document = {"format": _FORMAT, "files": self._times}
        with contextlib.suppress(DeapcacheError, OSError):
            self._home.publish(_key(self._digest), json.dumps(document, sort_keys=True).encode(), replace=True)


def _remembered(home: Location | None, digest: str) -> dict[str, tuple[str, float]]:
    try:
        document = parse_json(home.read(_key(digest))) if home and digest else {}
        files = document["files"] if document["format"] == _FORMAT else {}
        now = time.time()  # a moment in the future is a clock that was wrong
        return {key: (str(etag), float(at)) for key, (etag, at) in files.items() if float(at) <= now}
    except (DeapcacheError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def last_verified(home: Location, digest: str) -> float:
    """Unix seconds at which a file of a cache was last found sound; 0 where nothing is remembered."""
    return max((at for _, at in _remembered(home, digest).values()), default=0.0)


def forget_verified(home: Location, digest: str) -> None:
    """Forget what was verified of a cache that goes."""
    with contextlib.suppress(DeapcacheError, OSError):
        if digest:
            home.delete(_key(digest))


def _key(digest: str) -> str:
    return f"{VERIFIED}/{digest}.json"
