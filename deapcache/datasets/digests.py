"""sha256 of image files, remembered between runs."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.io import dataset_error
from deapcache.errors import LEAVE_OUT, DeapcacheError, MissingDataError, ReadOnlyError
from deapcache.locations import Location
from deapcache.machine import cpu_count
from deapcache.recipe import SHORT, canonical_json, digest_of

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


class Digests(Sequence[str]):
    """sha256 digests, 64 hexadecimal characters each, kept in 32 bytes each."""

    def __init__(self, raw: NDArray[np.uint8]) -> None:
        """``raw``: (n, 32)."""
        self._raw = raw

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Digests: ...
    def __getitem__(self, place: int | slice) -> str | Digests:
        return Digests(self._raw[place]) if isinstance(place, slice) else self._raw[place].tobytes().hex()

    def __iter__(self) -> Iterator[str]:
        return (row.tobytes().hex() for row in self._raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


class DigestIndex:
    """Digests of the files of a folder, or of parts of a file, valid while its name and :func:`file_fingerprint` stay.

    One file per folder, or file with parts, under ``digests/`` of ``location`` (the user's cache home), of 64 bytes an
    entry; nothing is remembered without one. An index that is lost, unreadable or cannot be written costs time and
    nothing else. ``rehash`` makes it read every file again and trust nothing but what it has read itself.
    """

    def __init__(self, location: Location | None = None, *, rehash: bool = False) -> None:
        self._location = location
        self._rehash = rehash
        self.hashed_files = 0
        """Files, and parts of files, whose bytes this object had to read."""

    def digests(self, folder: Path, names: Sequence[str]) -> Digests:
        """sha256 of ``folder / name`` for each name, in order; raises :class:`MissingDataError`."""
        path = functools.partial(os.path.join, folder)  # no path object for each of a million files
        return self._digests(folder, names, path, lambda name: file_digest(folder / name))

    def part_digests(self, path: Path, parts: Sequence[str], digest_part: Callable[[str], str]) -> Digests:
        """``digest_part(part)``, a sha256, for each named part of one file, in order.

        Remembered while its :func:`file_fingerprint` stays: after a change anywhere in it all parts are read again.
        ``digest_part`` is called from several threads. Raises :class:`MissingDataError`.
        """
        return self._digests(path, parts, lambda _: str(path), digest_part)

    def _digests(
        self, place: Path, names: Sequence[str], file_of: Callable[[str], str], digest: Callable[[str], str]
    ) -> Digests:
        """``digest(name)`` for each name, unless it is known and ``file_of(name)`` still as it was."""
        known = _NOTHING if self._rehash or self._location is None else _load(self._location, place)
        keys, settled = bytearray(), bytearray()
        for name in names:
            try:
                facts = os.stat(file_of(name))  # noqa: PTH116 - as above
            except OSError as error:
                raise _unread(error, Path(file_of(name))) from None
            keys += _hash(os.fsencode(name)) + _hash(repr(file_fingerprint(facts)).encode())
            settled.append(is_settled(facts))
        asked = np.frombuffer(keys, np.uint8).reshape(-1, 2, _HASH)
        rows, is_known = _find(known, asked)
        found = np.empty((len(asked), 32), np.uint8)
        found[is_known] = known["digest"][rows[is_known]]
        if not is_known.all():
            found[~is_known] = self._read(names, ~is_known, digest)
            self.hashed_files += int((~is_known).sum())
        is_new = ~is_known & np.frombuffer(settled, np.bool_)
        if self._location is not None and is_new.any():
            new = np.empty(int(is_new.sum()), _ENTRY)
            new["key"], new["digest"] = asked[is_new], found[is_new]
            # a line of JSON, then the entries, sorted by name; new ones take the place of others
            merged = np.concatenate([new, known]) if len(known) else new
            _, first = np.unique(_sorting_key(merged["key"]), return_index=True)
            content = b"".join([_header(place), merged[first].view(np.uint8).data])
            with suppress(ReadOnlyError):
                self._location.publish(_key(place), content, replace=True)
        return Digests(found)

    def _read(self, names: Sequence[str], wanted: NDArray[np.bool_], digest: Callable[[str], str]) -> NDArray[np.uint8]:
        """(n, 32) uint8: the digests of the ``wanted`` names; threads take blocks of them, not one each."""
        size = max(1, min(_BLOCK, len(wanted) // (8 * cpu_count())))

        def read(block: Sequence[str]) -> bytes:
            return b"".join(bytes.fromhex(digest(name)) for name in block)

        lacking = itertools.compress(names, wanted)
        blocks = iter(lambda: list(itertools.islice(lacking, size)), [])
        with ThreadPoolExecutor() as pool:
            found = bytearray().join(pool.map(read, blocks))
        return np.frombuffer(found, np.uint8).reshape(-1, 32)


_HASH = 16
_ENTRY = np.dtype([("key", "u1", (2, _HASH)), ("digest", "u1", (32,))])
"""What is remembered of a file or part: hashes of its name and of :func:`file_fingerprint`, and the digest."""

_NOTHING = np.zeros(0, _ENTRY)

_BLOCK = 64
"""Files that a thread reads in turn."""

_COMPARED = 65_536
"""Entries that are compared together."""


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_HASH).digest()


def _find(known: NDArray[Any], asked: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where each of the keys ``asked`` (n, 2, 16) is among the known, sorted by name; and whether it is there."""
    if not len(known):
        return np.zeros(len(asked), np.intp), np.zeros(len(asked), np.bool_)
    rows = np.minimum(np.searchsorted(_sorting_key(known["key"]), _sorting_key(asked)), len(known) - 1)
    is_there = np.empty(len(asked), np.bool_)
    for start in range(0, len(asked), _COMPARED):
        block = slice(start, start + _COMPARED)
        is_there[block] = (known["key"][rows[block]] == asked[block]).all(axis=(1, 2))
    return rows, is_there


def _sorting_key(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys[:, 0, :8]).view(np.uint64)[:, 0]


def _header(place: Path) -> bytes:
    return canonical_json({"folder": str(place.resolve())}) + b"\n"


def _key(place: Path, ending: str = "sha256") -> str:
    return f"digests/{digest_of(str(place.resolve()))[:SHORT]}.{ending}"


def _load(location: Location, place: Path) -> NDArray[Any]:
    with suppress(OSError, ValueError):
        data, header = location.read(_key(place)), _header(place)
        entries = np.frombuffer(data, _ENTRY, offset=len(header))
        names = _sorting_key(entries["key"])
        if data.startswith(header) and (names[1:] > names[:-1]).all():
            return entries
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # as earlier versions wrote it
        files = json.loads(location.read(_key(place, "json")))["files"]
        entries = np.zeros(len(files), _ENTRY)
        for row, (name, (*state, digest)) in enumerate(files.items()):
            key = _hash(os.fsencode(name)) + _hash(repr(tuple(state)).encode())
            entries["key"][row] = np.frombuffer(key, np.uint8).reshape(2, _HASH)
            entries["digest"][row] = np.frombuffer(bytes.fromhex(digest), np.uint8).reshape(32)
        return entries[np.argsort(_sorting_key(entries["key"]))]
    return _NOTHING


def _unread(error: OSError, path: Path) -> DeapcacheError:
    if isinstance(error, FileNotFoundError):
        return MissingDataError(f"image {path} is missing; put the file back, {LEAVE_OUT}", path=path)
    return dataset_error(error, path)
