"""sha256 of image files, remembered between runs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from deapcache.datasets.io import dataset_error
from deapcache.errors import LEAVE_OUT, DeapcacheError, MissingDataError, ReadOnlyError
from deapcache.locations import Location
from deapcache.recipe import SHORT, canonical_json, digest_of

_Entry = list[object]
"""What is remembered of a file or part: the numbers of :func:`file_fingerprint`, and the digest."""

SETTLED_NS = 2_000_000_000
"""A file changed within the clock's grain keeps its times; one left alone for so long cannot have."""


def file_fingerprint(facts: os.stat_result) -> tuple[int, int, int, int]:
    """What changes whenever a file does: size in bytes, times of modification and of change in ns, and inode.

    Archives and ``rsync -t`` set the time of modification back; the time of change is the system's own.
    """
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def is_settled(facts: os.stat_result) -> bool:
    """Whether a file is old enough for :func:`file_fingerprint` to differ if it is changed from now on."""
    return time.time_ns() - facts.st_ctime_ns > SETTLED_NS


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 64 hexadecimal characters; raises :class:`MissingDataError`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unread(error, path) from None


class DigestIndex:
    """Digests of the files of a folder, or of parts of a file, valid while its name and :func:`file_fingerprint` stay.

    One JSON file per folder, or file with parts, under ``digests/`` of ``location`` (the user's cache home); nothing is
    remembered without one. An index that is lost, unreadable, of an older form or cannot be written costs time and
    nothing else. ``rehash`` makes it read every file again and trust nothing but what it has read itself.
    """

    def __init__(self, location: Location | None = None, *, rehash: bool = False) -> None:
        self._location = location
        self._rehash = rehash
        self.hashed_files = 0
        """Files, and parts of files, whose bytes this object had to read."""

    def digests(self, folder: Path, names: Sequence[str]) -> tuple[str, ...]:
        """sha256 of ``folder / name`` for each name, in order; raises :class:`MissingDataError`."""
        return self._digests(folder, names, lambda name: folder / name, lambda name: file_digest(folder / name))

    def part_digests(self, path: Path, parts: Sequence[str], digest_part: Callable[[str], str]) -> tuple[str, ...]:
        """``digest_part(part)`` for each named part of one file, in order.

        Remembered while its :func:`file_fingerprint` stays: after a change anywhere in it all parts are read again.
        ``digest_part`` is called from several threads. Raises :class:`MissingDataError`.
        """
        return self._digests(path, parts, lambda _: path, digest_part)

    def _digests(
        self, place: Path, names: Sequence[str], file_of: Callable[[str], Path], digest: Callable[[str], str]
    ) -> tuple[str, ...]:
        """``digest(name)`` for each name, unless it is known and ``file_of(name)`` still as it was."""
        known = {} if self._rehash or self._location is None else _load(self._location, place)

        def look_up(name: str) -> tuple[str, _Entry | None, bool]:
            """Digest, what to remember (None while the file is too fresh to trust its times), whether it was read."""
            path = file_of(name)
            try:
                facts = path.stat()
            except OSError as error:
                raise _unread(error, path) from None
            before, entry = list(file_fingerprint(facts)), known.get(name)
            if isinstance(entry, list) and entry[:-1] == before:
                return str(entry[-1]), entry, False
            found = digest(name)
            return found, [*before, found] if is_settled(facts) else None, True

        with ThreadPoolExecutor() as pool:
            results = list(pool.map(look_up, names))
        self.hashed_files += sum(was_read for _, _, was_read in results)
        found = {name: entry for name, (_, entry, _) in zip(names, results, strict=True) if entry}
        if self._location is not None and found != {name: known.get(name) for name in found}:
            content = canonical_json({"folder": str(place.resolve()), "files": {**known, **found}})
            with suppress(ReadOnlyError):
                self._location.publish(_key(place), content, replace=True)
        return tuple(digest for digest, _, _ in results)


def _key(place: Path) -> str:
    return f"digests/{digest_of(str(place.resolve()))[:SHORT]}.json"


def _load(location: Location, place: Path) -> dict[str, _Entry]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return dict(json.loads(location.read(_key(place)))["files"])
    return {}


def _unread(error: OSError, path: Path) -> DeapcacheError:
    if isinstance(error, FileNotFoundError):
        return MissingDataError(f"image {path} is missing; put the file back, {LEAVE_OUT}", path=path)
    return dataset_error(error, path)
