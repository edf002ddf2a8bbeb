"""A dataset less some of its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import Dataset
from deapcache.datasets.digests import DigestIndex, Progress
from deapcache.recipe import digest_of

_OF_THE_WHOLE = (
    "name", "images_name", "splits", "base_size", "annotations", "classes", "colour", "computes_images",
)  # fmt: skip


class Selection(Dataset):
    """Any dataset less some of its images; the others move up.

    Its digests are made from those of the whole. A dataset that reads each image from a file of its own has a
    :meth:`Dataset.without` that does better: what was left out may then be missing, too.
    """

    def __init__(self, whole: Dataset, omitted: Mapping[str, Mapping[str, str]]) -> None:
        vars(self).update({name: getattr(whole, name) for name in _OF_THE_WHOLE})
        self.omitted = whole.omitted_and(omitted)
        self._whole = whole
        self._kept: dict[str, list[int]] = {}

    def tolerant(self) -> Selection:
        return Selection(self._whole.tolerant(), self.omitted)

    def image_ids(self, split: str) -> tuple[str, ...]:
        ids = self._whole.image_ids(split)
        return tuple(ids[row] for row in self._rows(split))

    def image_digests(
        self, split: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> tuple[str, ...]:
        digests = self._whole.image_digests(split, index=index, progress=progress)
        return tuple(digests[row] for row in self._rows(split))

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        return self._whole.read_image(split, self._rows(split)[row])

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        return self._whole.read_annotation(split, self._rows(split)[row], kind)

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        return self._whole.row_files(split, self._rows(split)[row])

    def box_rows(self, split: str) -> int:
        return self._whole.box_rows(split)

    def annotation_digest(
        self, split: str, kind: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> str:
        whole = self._whole.annotation_digest(split, kind, index=index, progress=progress)
        return digest_of([whole, self.image_ids(split)]) if self.omitted.get(split) else whole

    def target_options(self, kind: str) -> dict[str, Any]:
        return self._whole.target_options(kind)

    def _rows(self, split: str) -> list[int]:
        if split not in self._kept:
            left_out = self.omitted.get(split, {})
            rows = [row for row, name in enumerate(self._whole.image_ids(split)) if name not in left_out]
            self._kept[split] = rows
        return self._kept[split]
