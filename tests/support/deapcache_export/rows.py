"""What is exported of one scene, and how a format says what to do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.scenes import Scenes

_SPLIT_STEP = 100_000
"""Numbers of the second split begin here, so that no two images of an export have the same number."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of ``scenes``."""

    split: str
    row: int
    id: str
    """Its id in ``scenes``: ``train-00003``."""

    @property
    def number(self) -> int:
        """A number for formats that number their images: ``train-00003`` is 4, ``val-00003`` is 100004."""
        return 1 + self.row + _SPLIT_STEP * Scenes.splits.index(self.split)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A rendered row; the maps are as :meth:`deapcache.datasets.Dataset.read_annotation` gives them."""

    image: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    instances: NDArray[np.int32]
    """(h, w), 0 the room, 1..K solids without gaps."""
    classes: NDArray[np.uint8]
    """(h, w), index into ``CLASSES``."""
    depth: NDArray[np.float32]
    """(h, w) metres."""


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """How rows become the files of a layout. Both functions belong to a module, so that they reach other processes."""

    name: str
    write_row: Callable[[Path, Row, Pixels], Any]
    """Writes a row's own files under a folder, in any process; what it returns is handed to ``finish``."""
    finish: Callable[[Path, Sequence[Row], Iterable[Any]], None]
    """Writes the files of all rows; gets what ``write_row`` returned, row by row, in order, while it comes."""


def list_rows(splits: Sequence[str], limit: int | None) -> list[Row]:
    """The first ``limit`` rows (None: all) of each split, in the order of the dataset's splits."""
    scenes = Scenes()
    return [
        Row(split=split, row=row, id=id_)
        for split in Scenes.splits
        if split in splits
        for row, id_ in enumerate(scenes.image_ids(split)[:limit])
    ]


def render(row: Row) -> Pixels:
    """The row's picture and its exact annotations."""
    scenes = Scenes()
    maps = {kind: scenes.read_annotation(row.split, row.row, kind) for kind in ("instances", "classes", "depth")}
    return Pixels(image=scenes.read_image(row.split, row.row), **maps)
