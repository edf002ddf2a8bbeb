"""Which file of a home a request means, if any: caches and the index, nothing else, nothing outside the home."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from deapcache.cache.names import DEPTH, KINDS, SUFFIX
from deapcache.locations import INDEX, MANIFEST, not_reached

_PART = re.compile(r"[A-Za-z0-9_@+=~-][A-Za-z0-9_.@+=~-]*", re.ASCII)
"""One part of a key: what names and shards are made of. No dot comes first, so neither ``..`` nor a temporary fits."""

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
"""Of what is not there, or is no file: a socket is ENXIO."""

_SHARD = re.compile(r"c\.\d+(\.0)*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """A file to be sent; whoever holds it closes ``content``."""

    content: BinaryIO
    size: int
    etag: str


def key_of(target: str) -> str | None:
    """The key that a request's target means; None for anything that is no key of a cache or the index."""
    path = unquote(target.partition("?")[0].partition("#")[0], errors="replace").removeprefix("/")
    parts = path.split("/")
    if path == INDEX:
        return path
    belongs = len(parts) > DEPTH and parts[0] in KINDS and parts[DEPTH - 1].endswith(SUFFIX)
    return path if belongs and all(_PART.fullmatch(part) for part in parts) else None


def cache_of(key: str) -> str | None:
    """The path of the cache whose manifest ``key`` is."""
    cache, _, name = key.rpartition("/")
    return cache if name == MANIFEST and cache.count("/") == DEPTH - 1 else None


def is_shard(key: str) -> bool:
    """Whether ``key`` holds a chunk or a shard, which is written once."""
    return bool(_SHARD.fullmatch(key.rpartition("/")[2]))


def open_key(home: Path, key: str) -> OpenFile | None:
    """The file of ``key``; None where there is none, or where links lead out of ``home``.

    Raises ``PermissionError`` where it may not be read, :class:`LocationError` where one could not look.
    """
    try:
        path = (home / key).resolve(strict=True)
        if not path.is_relative_to(home.resolve()):
            return None
        content = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0)
    except RuntimeError:  # links in a circle
        return None
    except OSError as error:
        if error.errno not in _ABSENT:
            raise not_reached(error, home / key) from error
        return None
    facts = os.fstat(content.fileno())
    if not stat.S_ISREG(facts.st_mode):
        content.close()
        return None
    # A file is never changed in place: a new one has another inode or time.
    etag = f'"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}"'
    return OpenFile(content=content, size=facts.st_size, etag=etag)
