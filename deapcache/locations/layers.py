"""Several homes as one: the own, which is written, and those of others, from which caches are read as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deapcache.locations.base import Location


class LayeredHome(Location):
    """``own`` in every respect, except that :attr:`layers` names further homes whose caches are found as well.

    These are never written to: publishing to them, or deleting from them, raises :class:`ReadOnlyError`.
    """

    def __init__(self, own: Location, others: Sequence[Location]) -> None:
        super().__init__(own.url, use=own.use)
        self.own = own
        self._others = tuple(other.used(read_only=True) for other in others)

    @property
    def layers(self) -> tuple[Location, ...]:
        return (self.own, *self._others)

    def __truediv__(self, part: str) -> Location:
        return self.own / part

    def read(self, key: str, *, most: int | None = None) -> bytes:
        return self.own.read(key, most=most)

    def read_stamped(self, key: str) -> tuple[bytes, str | None]:
        return self.own.read_stamped(key)

    def stamp(self, key: str) -> str | None:
        return self.own.stamp(key)

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        return self.own.publish(key, data, replace=replace)

    def exists(self, key: str) -> bool:
        return self.own.exists(key)

    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        return self.own.keys(prefix, hidden=hidden)

    @property
    def can_list(self) -> bool:
        return self.own.can_list

    def find(self, pattern: str) -> list[str]:
        return self.own.find(pattern)

    def folders(self, pattern: str) -> list[str]:
        return self.own.folders(pattern)

    def look_again(self) -> bool:
        return bool(sum([place.look_again() for place in self.layers]))  # each of them looks

    def size(self, key: str) -> int | None:
        return self.own.size(key)

    def delete(self, key: str) -> None:
        self.own.delete(key)

    @property
    def origin(self) -> str:
        return self.own.origin

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self.own.read_ranges(key, ranges)

    def read_tail(self, key: str, length: int) -> memoryview:
        return self.own.read_tail(key, length)

    def free_bytes(self) -> int | None:
        return self.own.free_bytes()

    def require_writable(self) -> None:
        self.own.require_writable()

    def require_names(self, keys: Iterable[str]) -> None:
        self.own.require_names(keys)

    def sweep(self, *, older_than_seconds: float = 86_400.0) -> int:
        return self.own.sweep(older_than_seconds=older_than_seconds)
