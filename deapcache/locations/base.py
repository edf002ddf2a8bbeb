"""What every location offers."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Self

from deapcache.errors import NotAFileError, ReadOnlyError, StorageFullError, UnreadableError, UsageError
from deapcache.locations.addresses import redacted


@dataclass(frozen=True, kw_only=True)
class LocalTier:
    """Where shards are kept that were read from elsewhere, and how many bytes they may take in all."""

    folder: Path
    bytes: int

    @property
    def shards(self) -> Path:
        """The one folder below the tier's that deapcache writes to, counts and deletes from."""
        return self.folder / "deapcache-shards"


@dataclass(frozen=True, kw_only=True)
class LocationOptions:
    """What a location is used for; its sub-folders are used alike."""

    read_only: bool = False
    """Whether it is another's home: nothing is ever written there, whatever the permissions."""
    tier: LocalTier | None = None
    """Where shards that are read from here are kept as well."""
    own: Location | None = None
    """Of a home that is read beside another: that other one, which may be written."""


DEFAULT_OPTIONS = LocationOptions()
"""A location that is read and written, and nothing kept beside it."""

_REQUESTS = 16
"""Small requests on their way at once."""

_RESERVE = 1.02
"""Room for metadata and file-system overhead."""


class Location(ABC):
    """A folder of keys (relative POSIX paths) with atomic, whole writes."""

    def __init__(self, url: str, *, options: LocationOptions = DEFAULT_OPTIONS) -> None:
        self.url = url.rstrip("/")
        self.options = options
        self._layers: tuple[Location, ...] = ()

    @property
    def layers(self) -> tuple[Location, ...]:
        """The homes whose caches are found here, in the order in which they are searched; the first one is written."""
        return self._layers or (self,)

    def with_read_homes(self, others: Iterable[Location]) -> Self:
        """The same location, beside which caches are also found in ``others``; these are never written to."""
        made = self._copy()
        made._layers = (self, *(other.with_options(read_only=True, own=self) for other in others))
        return made

    def with_options(self, **changes: Any) -> Self:
        """The same location with other :class:`LocationOptions`."""
        made = self._copy()
        made.options = replace(self.options, **changes)
        return made

    def _copy(self) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)  # what a web server has listed is shared
        return made

    def __str__(self) -> str:
        return redacted(self.url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    @abstractmethod
    def __truediv__(self, part: str) -> Location:
        """The sub-folder ``part``; raises :class:`UsageError` where that would leave this folder."""

    @abstractmethod
    def read(self, key: str, *, most: int | None = None) -> bytes:
        """The bytes of ``key``; raises ``FileNotFoundError``.

        Raises :class:`NotAFileError` for what is no plain file, and for one of more than ``most`` bytes, which is not
        read.
        """

    def read_with_etag(self, key: str) -> tuple[bytes, str | None]:
        """The bytes of ``key`` and their :meth:`etag`; raises ``FileNotFoundError``."""
        etag = self.etag(key)
        return self.read(key), etag

    def etag(self, key: str) -> str | None:
        """What changes when ``key`` is replaced, without reading it; None where the store does not say.

        Raises ``FileNotFoundError``.
        """
        return None

    @abstractmethod
    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        """Write ``key`` whole, in one step.

        Without ``replace`` the first one published stays: False says that the key was there already. Raises
        :class:`ReadOnlyError` or :class:`StorageFullError`; the key then does not exist.
        """

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """What is published in the block belongs together: a place that writes in commits needs to know."""
        yield

    def publish_unless_changed(self, key: str, data: bytes, etag: str | None) -> bool:
        """Replace ``key`` whole if its :meth:`etag` is still ``etag``; else False, and nothing is written.

        Two writers in the same moment may both pass where the store has no such step of its own; the last one stays.
        """
        return self.etag_or_none(key) == etag and self.publish(key, data, replace=True)

    def etag_or_none(self, key: str) -> str | None:
        """The :meth:`etag` of ``key``; None where it is no file that can be read."""
        try:
            return self.etag(key)
        except (FileNotFoundError, NotAFileError, UnreadableError):
            return None

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether ``key`` is there."""

    @abstractmethod
    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        """All keys below the folder ``prefix``, relative to this location, sorted.

        Names that begin with a dot are left out unless ``hidden`` says otherwise: deapcache's temporaries, and what
        desktops, file servers and sync programs put beside files. Raises :class:`LocationError` where a folder cannot
        be listed: what could not be looked at is not absent.
        """

    @property
    def can_list(self) -> bool:
        """Whether :meth:`keys` works here; a web server does not list its folders."""
        return True

    def refresh(self) -> bool:
        """Forget what :meth:`keys` and :meth:`find` remember; whether anything was remembered."""
        return False

    def find(self, pattern: str) -> list[str]:
        """The keys that fit a pattern such as ``features/*/*/*.zarr/zarr.json``, sorted; ``*`` stays within a part."""
        parts = PurePosixPath(pattern).parts
        below = self.keys("/".join(itertools.takewhile(lambda part: "*" not in part, parts[:-1])))
        paths = ((key, PurePosixPath(key)) for key in below)
        return [key for key, path in paths if len(path.parts) == len(parts) and path.match(pattern)]

    def folders(self, pattern: str, fits: Callable[[str], bool] = lambda _: True) -> list[str]:
        """The folders that fit a pattern such as ``features/*/*/*.zarr`` and ``fits``, and that hold a key, sorted."""
        depth = len(PurePosixPath(pattern).parts)
        keys = self.keys(pattern.partition("/")[0])
        above = {"/".join(parts[:depth]) for key in keys if len(parts := PurePosixPath(key).parts) > depth}
        return sorted(folder for folder in above if PurePosixPath(folder).match(pattern) and fits(folder))

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of ``key``; raises ``FileNotFoundError``."""

    def sizes_of(self, keys: Iterable[str]) -> dict[str, int]:
        """Bytes of each of ``keys`` that is there."""

        def size(key: str) -> tuple[str, int | None]:
            try:
                return key, self.size(key)
            except FileNotFoundError:
                return key, None

        with ThreadPoolExecutor(_REQUESTS) as pool:
            return {key: found for key, found in pool.map(size, keys) if found is not None}

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The keys that :meth:`keys` gives, each with its bytes."""
        return self.sizes_of(self.keys(prefix))

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is absent."""

    @property
    def origin(self) -> str:
        """Where the bytes are, the server included: two locations with one origin hold the same."""
        return self.url

    @abstractmethod
    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes of each (offset, length) of ``key``, less where the key ends; raises ``FileNotFoundError``."""

    @abstractmethod
    def read_tail(self, key: str, length: int) -> memoryview:
        """The last ``length`` bytes of ``key``, all of it where it has less; raises ``FileNotFoundError``."""

    def free_bytes(self) -> int | None:
        """Bytes that can still be written here; None where that is not known."""
        return None

    def clock(self) -> datetime:
        """The time by which what is written here is dated; the host's own where the place tells none."""
        return datetime.now(UTC)

    def require_space(self, needed: int, message: str) -> None:
        """Raise :class:`StorageFullError` where ``needed`` bytes will not fit.

        ``message`` has the fields ``{place}``, ``{free}`` and ``{needed}``, the last two in GB.
        """
        free = self.free_bytes()
        if free is not None and needed * _RESERVE > free:
            raise StorageFullError(message.format(place=self, free=f"{free / 1e9:.2f}", needed=f"{needed / 1e9:.2f}"))

    @abstractmethod
    def require_writable(self) -> None:
        """Raise :class:`ReadOnlyError` where nothing can be written here."""

    def require_names(self, keys: Iterable[str]) -> None:
        """Raise :class:`LocationError` where the last part of one of ``keys`` is longer than a name may be here."""
        return

    def _require_not_read_only(self) -> None:
        if self.options.read_only:
            raise ReadOnlyError(f"{self.url} is a read-home, which is never written to: only --home is")

    def sweep(self) -> int:
        """Remove temporaries that killed writers left a day ago; returns how many."""
        return 0


def relative_key(part: str) -> str:
    """``part`` as a relative path; raises :class:`UsageError` where it would leave the location."""
    path = PurePosixPath(part)
    if path.is_absolute() or ".." in path.parts or "\\" in part or "\0" in part:
        raise UsageError(f"{part!r} is no name inside a location: it must be relative and without '..'")
    return str(path)
