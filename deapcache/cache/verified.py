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
from typing import NamedTuple

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
        self._times = _remembered(self._home, digest).files

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
                self._save(left=1)

    def save(self, *, left: int) -> None:
        """Write down what was noted, and that so many files were left; nothing where the home may not be written."""
        with self._lock:
            self._save(left)

    def _save(self, left: int) -> None:
        self._saved = time.monotonic()
        before = _remembered(self._home, self._digest)  # another run may verify other shards at the same time
        files = {**before.files, **self._changes}
        now = _Memory({key: value for key, value in files.items() if value is not None}, left)
        if self._home is None or now == before:
            return
        document = {"format": _FORMAT, "left": left, "files": now.files}
        with contextlib.suppress(DeapcacheError, OSError):
            self._home.publish(_key(self._digest), json.dumps(document, sort_keys=True).encode(), replace=True)


class _Memory(NamedTuple):
    """What a home remembers of one cache."""

    files: dict[str, tuple[str, float]]
    """Shard file → its etag, and the Unix seconds at which it was found sound."""
    left: int
    """Files that the last run did not come to."""


def _remembered(home: Location | None, digest: str) -> _Memory:
    try:
        document = parse_json(home.read(_key(digest))) if home and digest else {}
        files = document["files"] if document["format"] == _FORMAT else {}
        now = time.time()  # a moment in the future is a clock that was wrong
        kept = {key: (str(etag), float(at)) for key, (etag, at) in files.items() if float(at) <= now}
        return _Memory(kept, int(document["left"]))
    except (DeapcacheError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return _Memory({}, 0)


def last_verified(home: Location, digest: str) -> float:
    """Unix seconds at which a cache was last verified; 0 where a run has left files of it, or nothing is remembered."""
    memory = _remembered(home, digest)
    return 0.0 if memory.left else max((at for _, at in memory.files.values()), default=0.0)


def forget_verified(home: Location, digest: str) -> None:
    """Forget what was verified of a cache that goes."""
    with contextlib.suppress(DeapcacheError, OSError):
        if digest:
            home.delete(_key(digest))


def _key(digest: str) -> str:
    return f"{VERIFIED}/{digest}.json"
