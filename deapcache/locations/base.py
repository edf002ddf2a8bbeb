"""What every location offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import PurePosixPath
from typing import Any

from deapcache.errors import UsageError


class Location(ABC):
    """A folder of keys (relative POSIX paths) with atomic, whole writes."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    @abstractmethod
    def __truediv__(self, part: str) -> Location:
        """The sub-folder ``part``; raises :class:`UsageError` where that would leave this folder."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of ``key``; raises ``FileNotFoundError``."""

    @abstractmethod
    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        """Write ``key`` whole, in one step.

        Without ``replace`` the first one published stays: False says that the key was there already. Raises
        :class:`ReadOnlyError` or :class:`StorageFullError`; the key then does not exist.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether ``key`` is there."""

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """All keys below the folder ``prefix``, relative to this location, sorted; temporaries are left out."""

    @property
    def can_list(self) -> bool:
        """Whether :meth:`keys` works here; a web server does not list its folders."""
        return True

    def look_again(self) -> bool:
        """Forget what :meth:`keys` and :meth:`find` remember; whether anything was remembered."""
        return False

    def find(self, pattern: str) -> list[str]:
        """The keys that fit a pattern such as ``features/*/*/*.zarr/zarr.json``, sorted; ``*`` stays within a part."""
        parts = len(PurePosixPath(pattern).parts)
        below = self.keys(pattern.partition("/")[0])
        return [key for key in below if len(PurePosixPath(key).parts) == parts and PurePosixPath(key).match(pattern)]

    def size(self, key: str) -> int | None:
        """Bytes of ``key``, None where the store does not say; raises ``FileNotFoundError``."""
        return None

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is absent."""

    @abstractmethod
    def kvstore(self) -> dict[str, Any]:
        """tensorstore's key-value store specification of this folder."""

    def free_bytes(self) -> int | None:
        """Bytes that can still be written here; None where that is not known."""
        return None

    def require_writable(self) -> None:  # noqa: B027 - a remote store says so at the first put
        """Raise :class:`ReadOnlyError` where nothing can be written here."""

    def sweep(self, *, older_than_seconds: float = 86_400.0) -> int:
        """Remove temporaries that killed writers left, by age; returns how many."""
        return 0


def inside(part: str) -> str:
    """``part`` as a relative path; raises :class:`UsageError` where it would leave the location."""
    path = PurePosixPath(part)
    if path.is_absolute() or ".." in path.parts or "\\" in part or "\0" in part:
        raise UsageError(f"{part!r} is no name inside a location: it must be relative and without '..'")
    return str(path)
