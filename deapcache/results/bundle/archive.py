"""Reading a zip file that anybody may have sent: nothing is unpacked to disk, and nothing larger than it says it is."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deapcache.errors import BundleError
from deapcache.locations import require_reached
from deapcache.results.bundle.contents import (
    LIMITS,
    MANIFEST,
    MANIFEST_LIMIT,
    MOST_BYTES,
    MOST_RUNS,
    MOST_SPEEDS,
    Manifest,
)
from deapcache.untrusted import is_hidden, parse_json

_END = b"PK\x05\x06"
_END_BYTES = 22
_ZIP64 = b"PK\x06\x07"
_ZIP64_BYTES = 20
_MOST_ENTRIES = 1 + len(LIMITS) * MOST_RUNS + MOST_SPEEDS
_MOST_LISTING = 400 * _MOST_ENTRIES
"""Bytes of a zip file's own table of contents."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)
"""What zipfile raises for a damaged or encrypted entry."""


class Archive:
    """An opened bundle, whose entries are those that its manifest lists."""

    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._zip = opened
        self._entries = _entries(opened)
        self.manifest = _manifest(self._read(MANIFEST, MANIFEST_LIMIT))
        listed = {MANIFEST, *self.manifest.files}
        if strange := sorted(set(self._entries) - listed):
            raise BundleError(f"it holds {strange[0]!r}, which its manifest does not list")

    def read(self, name: str) -> bytes:
        """The bytes of a listed file; raises :class:`BundleError` where they are not what the manifest says."""
        facts = self.manifest.files[name]
        data = self._read(name, facts.bytes)
        if len(data) != facts.bytes or hashlib.sha256(data).hexdigest() != facts.sha256:
            raise BundleError(f"{name} is not what {MANIFEST} says: its sha256 or its length differs")
        return data

    def _read(self, name: str, limit: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise BundleError(f"it lacks {name}")
        if entry.file_size > limit:
            raise BundleError(f"{name} unpacks to {entry.file_size:,} bytes, expected at most {limit:,}")
        try:
            with self._zip.open(entry) as file:
                return file.read(limit + 1)
        except _BROKEN as error:
            raise BundleError(f"{name} cannot be unpacked: {error}") from None


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The bundle in ``path``; raises :class:`BundleError` that names it, also for what is raised in the block."""
    try:
        with path.open("rb") as file:
            _check_end(file)
            with zipfile.ZipFile(file) as opened:
                yield Archive(opened)
    except FileNotFoundError:
        raise BundleError(f"bundle {path}: no such file; `deapcache submit RUN --out FILE.zip` makes one") from None
    except BundleError as error:
        raise BundleError(f"bundle {path} is refused: {error}") from None
    except (zipfile.BadZipFile, OSError) as error:
        require_reached(error, path)
        raise BundleError(f"bundle {path} is refused: it is no zip file that can be read: {error}") from None


def _check_end(file: IO[bytes]) -> None:
    # zipfile reads the whole table of contents before one can look at it: how large it is stands at the file's end
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - _ZIP64_BYTES))
    tail = file.read()
    end = tail[-_END_BYTES:]
    if not end.startswith(_END) or end[-2:] != b"\0\0" or tail.startswith(_ZIP64):
        raise BundleError("it is no plain zip file as `deapcache submit` makes them")
    entries, listing = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if entries > _MOST_ENTRIES or listing > _MOST_LISTING:
        raise BundleError(f"it lists {entries:,} files, at most {_MOST_ENTRIES:,} are taken")


def _entries(opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in opened.infolist():
        if is_hidden(entry.filename) or entry.filename.startswith("__MACOSX/"):
            continue  # what a Mac adds to every zip file that it makes
        if entry.filename in found:
            raise BundleError(f"it holds {entry.filename!r} twice")
        if entry.compress_type not in _METHODS or entry.flag_bits & 0x1:
            raise BundleError(f"{entry.filename!r} is encrypted, or packed otherwise than deapcache does")
        found[entry.filename] = entry
    if (total := sum(entry.file_size for entry in found.values())) > MOST_BYTES:
        raise BundleError(f"it unpacks to {total:,} bytes, at most {MOST_BYTES:,} are taken")
    return found


def _manifest(data: bytes) -> Manifest:
    try:
        return Manifest.from_json(parse_json(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{MANIFEST} is not one of deapcache: {type(error).__name__}: {error}") from None
