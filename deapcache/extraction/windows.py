"""What one pass over the files fills: caches of base images and targets, cut into windows of rows.

The caches of a split have shards of different lengths, and a file is read once for all of them. So the unit of work is
a window of rows, and to it belong all shards that begin in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from deapcache.cache import ArraySpec, Cache
from deapcache.locations import Location

_SHARDS = 8
"""Of the longest ones, in a window where lengths differ: rows at its end are read again by the next one."""


class Form(NamedTuple):
    """What one entry of a cache is to be."""

    name: str
    """``images``, or an annotation kind."""
    shape: tuple[int, ...]
    """Of the entry, as it is stored."""
    size: tuple[int, int]
    """Height and width that the image is brought to."""
    fit: str
    """How it is brought there."""


@dataclass(kw_only=True)
class Part:
    """One cache to fill, and the rows of its shards that are still under way."""

    name: str
    """``images``, or an annotation kind."""
    cache: Cache
    waiting: dict[int, np.ndarray] = field(default_factory=dict)
    """Shard → its content, filled as far as its rows have come."""
    to_come: dict[int, int] = field(default_factory=dict)
    """Shard → how many of its rows have not."""

    @property
    def array(self) -> ArraySpec:
        """The cache's one array."""
        return next(iter(self.cache.arrays.values()))

    @property
    def form(self) -> Form:
        """What its entries are to be."""
        height, width = self.cache.recipe["size"]
        return Form(self.name, self.array.item_shape, (height, width), self.cache.recipe["fit"])

    def accept(self, row: int, value: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Keep one row; the shard and its whole content once its last row has come."""
        shard = self.cache.shard_of(row)
        rows = self.cache.shard_rows(shard)
        if shard not in self.waiting:
            # rows that are put together at the end are there twice then
            self.waiting[shard] = np.empty((len(rows), *self.array.item_shape), self.array.dtype)
            self.to_come[shard] = len(rows)
        self.waiting[shard][row - rows.start] = value
        self.to_come[shard] -= 1
        if self.to_come[shard]:
            return None
        del self.to_come[shard]
        return shard, self.waiting.pop(shard)


class Windows:
    """The windows of a split's caches, from 0."""

    def __init__(self, parts: Sequence[Part]) -> None:
        lengths = {part.cache.shard_images for part in parts}
        self.parts = tuple(parts)
        self.written = tuple(part.cache for part in parts if not part.cache.location.use.read_only)
        """Those that are not in another's home, where all that is wanted of them is there."""
        self.location: Location = (*self.written, parts[0].cache)[0].location
        """Where claims on windows are kept: the base images, or the first annotation."""
        self._images = len(parts[0].cache)
        self._length = max(lengths) * (1 if len(lengths) == 1 else _SHARDS)

    def of_rows(self, rows: Sequence[int]) -> set[int]:
        """The windows to be made so that the whole shards of ``rows`` are there."""
        lengths = {part.cache.shard_images for part in self.parts}
        return {shard * n // self._length for n in lengths for shard in {row // n for row in rows}}

    def shards(self, part: Part, window: int) -> range:
        """The shards of a part that begin in a window."""
        start, stop = window * self._length, min((window + 1) * self._length, self._images)
        length = part.cache.shard_images
        return range(-(-start // length), -(-stop // length))

    def missing(self, windows: Collection[int]) -> set[int]:
        """Those of ``windows`` of which some part lacks a shard."""
        present = self._present()
        return {window for window in windows if any(shards for _, shards in self._lacking(window, present))}

    def lacking(self, window: int) -> Lacking:
        """The parts with the shards that a window still lacks."""
        return self._lacking(window, self._present())

    def to_do(self, windows: Collection[int]) -> dict[int, ToDo]:
        """What it takes to make what each of ``windows`` lacks."""
        present = self._present()
        return {window: _to_do(self._lacking(window, present)) for window in windows}

    def _present(self) -> dict[str, set[int]]:
        return {part.name: part.cache.present_shards() for part in self.parts}

    def _lacking(self, window: int, present: Mapping[str, set[int]]) -> Lacking:
        return [(part, sorted(set(self.shards(part, window)) - present[part.name])) for part in self.parts]


Lacking = list[tuple[Part, list[int]]]


class ToDo(NamedTuple):
    """What a window takes."""

    rows: int
    """To be read."""
    bytes: int
    """To be written, uncompressed."""


def _to_do(lacking: Lacking) -> ToDo:
    rows = [(part, part.cache.shard_rows(shard)) for part, shards in lacking for shard in shards]
    return ToDo(
        rows=len({row for _, some in rows for row in some}),
        bytes=sum(len(some) * part.array.item_bytes for part, some in rows),
    )
