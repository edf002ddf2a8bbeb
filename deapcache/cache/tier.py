"""The folder of a local tier: shards that came from elsewhere, the least recently used ones given up for new ones.

Every shard has a note beside it (``c.0.0.0.json``): which file it was noted for, and what its origin's stamp was.
Several processes share the folder without locks. A shard is put in place in one step and its note after it, so that a
reader between the two finds a note that is of another file, and fetches again. Room is reserved by a file of the
shard's size before what is there is counted: of two processes that want the last room at least one sees the other.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deapcache.locations import TEMPORARY_SUFFIX, LocalTier

IDLE_SECONDS = 600.0
"""A shard that was read within this time is not given up for another.

A shuffled epoch over a cache that is larger than the tier would otherwise fetch a whole shard for almost every image.
"""

_USED_EVERY = 60.0
"""Seconds after which a use of the same shard is noted again."""

_FULL_FOR = 30.0
"""Seconds for which a tier without room is not asked for any."""

_ABANDONED_AFTER = 3600.0
"""Seconds after which a file that is being written belongs to a process that was killed."""

_NOTE = ".json"
_NOTE_BYTES = 1024
"""More than a note takes: it is counted too."""


@dataclass(frozen=True)
class Note:
    """What is known of a shard that is kept."""

    stamp: str | None
    """What its origin said when it was fetched; None where that says nothing."""
    confirmed: float
    """When the origin last said so, in seconds since 1970."""


class TierFolder:
    """The shards that a tier keeps; safe to share between threads, and the folder between processes."""

    def __init__(self, tier: LocalTier) -> None:
        self.tier = tier
        self._lock = threading.Lock()
        self._used: dict[Path, float] = {}
        self._full_until = 0.0
        self._warned: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether there was no room a moment ago."""
        return time.monotonic() < self._full_until

    def note_of(self, path: Path) -> Note | None:
        """What is known of the shard at ``path``; None where it is not there, or the note is of another file."""
        try:
            kept = json.loads(_note_path(path).read_bytes())
            confirmed = _note_path(path).stat().st_mtime
            if kept["file"] != _identity(path.stat()):
                return None
            return Note(kept["stamp"], confirmed)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def confirm(self, path: Path) -> None:
        """Note that the origin still has what is kept."""
        with contextlib.suppress(OSError):
            os.utime(_note_path(path))

    def use(self, path: Path) -> None:
        """Note that the shard at ``path`` is read, so that others are given up before it."""
        now = time.time()
        if now - self._used.get(path, 0.0) < _USED_EVERY:
            return
        self._used[path] = now
        with contextlib.suppress(OSError):  # another process may have given it up
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def discard(self, path: Path) -> None:
        """Throw a shard away, with its note."""
        with contextlib.suppress(OSError):
            _note_path(path).unlink()
        with contextlib.suppress(OSError):
            os.truncate(path, 0)  # readers, of other processes too, keep it open: its room is wanted now
            path.unlink()

    def keep(self, path: Path, data: bytes, stamp: str | None) -> bool:
        """Put a shard in place, giving up others where there is no room; False where it is not kept."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.truncate(len(data) + _NOTE_BYTES)
                if not self._make_room(len(data) + _NOTE_BYTES):
                    return False
                file.write(data)
                file.truncate()
                file.flush()
                identity = _identity(os.fstat(file.fileno()))
            temporary.replace(path)
            self._write_note(path, {"file": identity, "stamp": stamp})
        except OSError as error:
            self._warn("written", f"the local tier {self.tier.folder} cannot be written ({error.strerror})")
            self._full_until = time.monotonic() + _FULL_FOR
            return False
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.use(path)
        return True

    def _write_note(self, path: Path, known: dict[str, str | int | None]) -> None:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_NOTE}{TEMPORARY_SUFFIX}")
        try:
            temporary.write_text(json.dumps(known))
            temporary.replace(_note_path(path))
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> bool:
        """Give up idle shards until what is there, the reserved room included, is within the tier's size."""
        with self._lock:
            found = list(_files(self.tier.shards))
            excess = sum(size for _, size, _ in found) - self.tier.bytes
            idle = [one for one in found if one[2] < time.time() - IDLE_SECONDS and _is_shard(one[0])]
            if excess > sum(size for _, size, _ in idle):
                self._say_full(needed)
                return False
            for path, size, _ in sorted(idle, key=lambda one: one[2]):
                if excess <= 0:
                    break
                self.discard(path)
                excess -= size
            return True

    def _say_full(self, needed: int) -> None:
        self._full_until = time.monotonic() + _FULL_FOR
        limit = f"the local tier {self.tier.folder} may hold {self.tier.bytes / 1e9:.3g} GB"
        if needed > self.tier.bytes:
            self._warn("small", f"{limit}, and a shard has {needed / 1e9:.3g} GB")
        else:
            self._warn("full", f"{limit}, and all of it was read within the last {IDLE_SECONDS / 60:.0f} minutes")

    def _warn(self, kind: str, problem: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{problem}: further shards are read where they are, image by image", stacklevel=2)


@functools.cache
def tier_folder(tier: LocalTier) -> TierFolder:
    """The one :class:`TierFolder` of a tier in this process."""
    return TierFolder(tier)


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + _NOTE)


def _is_shard(path: Path) -> bool:
    return path.name.startswith("c.") and not path.name.endswith(_NOTE)


def _identity(facts: os.stat_result) -> str:
    # Not the times: a write that is still on its way to the disk, and every use, change them.
    return f"{facts.st_ino}-{facts.st_size}"


def _files(folder: Path) -> Iterator[tuple[Path, int, float]]:
    """Every file below ``folder``: path, bytes, last use; what killed writers left is removed."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(OSError):  # another process may remove it meanwhile
                facts = path.stat()
                if name.endswith(TEMPORARY_SUFFIX) and facts.st_mtime < time.time() - _ABANDONED_AFTER:
                    path.unlink()
                    continue
                yield path, facts.st_size, facts.st_atime
