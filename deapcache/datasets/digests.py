"""sha256 of image files, remembered between runs."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from deapcache.errors import MissingDataError, ReadOnlyError
from deapcache.locations import Location
from deapcache.recipe import SHORT, canonical_json, digest_of

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

_SETTLED_NS = 2_000_000_000
"""A file changed within the clock's grain keeps its time; one this old cannot have."""


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal characters; raises :class:`MissingDataError`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingDataError(f"image {path} is missing; put the file back, or take it out of the listing") from None


class DigestIndex:
    """Digests of the files of a folder, valid while name, size and modification time stay as they were.

    One JSON file per folder under ``digests/`` of ``location`` (the user's cache home). An index that is lost,
    unreadable or cannot be written costs time and nothing else.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self.hashed_files = 0
        """Files whose bytes this object had to read."""

    def digests(self, folder: Path, names: Sequence[str], *, progress: Progress | None = None) -> tuple[str, ...]:
        """sha256 of ``folder / name`` for each name, in order; raises :class:`MissingDataError`."""
        known = self._load(folder)
        found: dict[str, list[object]] = {}
        hashed = _Counter(progress, len(names))

        def look_up(name: str) -> str:
            digest, entry, was_hashed = _look_up(folder / name, known.get(name))
            if entry:
                found[name] = entry
            hashed.add(was_hashed)
            return digest

        with ThreadPoolExecutor() as pool:
            digests = tuple(pool.map(look_up, names))
        self.hashed_files += hashed.positive
        if found != {name: known.get(name) for name in found}:
            self._save(folder, {**known, **found})
        return digests

    def _key(self, folder: Path) -> str:
        return f"digests/{digest_of(str(folder.resolve()))[:SHORT]}.json"

    def _load(self, folder: Path) -> dict[str, list[object]]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return dict(json.loads(self._location.read(self._key(folder)))["files"])
        return {}

    def _save(self, folder: Path, files: dict[str, list[object]]) -> None:
        content = canonical_json({"folder": str(folder.resolve()), "files": files})
        with suppress(ReadOnlyError):
            self._location.publish(self._key(folder), content, replace=True)


def digest_files(folder: Path, names: Sequence[str], *, progress: Progress | None = None) -> tuple[str, ...]:
    """sha256 of ``folder / name`` for each name, in order, without an index; raises :class:`MissingDataError`."""
    done = _Counter(progress, len(names))

    def hash_one(name: str) -> str:
        digest = file_digest(folder / name)
        done.add(True)
        return digest

    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(hash_one, names))


def _look_up(path: Path, known: list[object] | None) -> tuple[str, list[object] | None, bool]:
    """Digest, the entry to remember (None while the file is too fresh to trust its time), whether it was read."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise MissingDataError(f"image {path} is missing; put the file back, or take it out of the listing") from None
    if known is not None and known[:2] == [facts.st_size, facts.st_mtime_ns]:
        return str(known[2]), known, False
    digest = file_digest(path)
    settled = time.time_ns() - facts.st_mtime_ns > _SETTLED_NS
    return digest, [facts.st_size, facts.st_mtime_ns, digest] if settled else None, True


class _Counter:
    """Counts across threads and reports."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._lock = threading.Lock()
        self._done = 0
        self.positive = 0

    def add(self, positive: bool) -> None:
        with self._lock:
            self._done += 1
            self.positive += positive
            if self._progress:
                self._progress(self._done, self._total)
