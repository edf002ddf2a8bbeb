"""The views of an extraction: which are made of which split, and mirrored images as a source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deapcache.cache import HFLIP, ORIGINAL, mirror
from deapcache.datasets import Dataset
from deapcache.extraction.filling import IMAGES
from deapcache.extraction.outline import Outline
from deapcache.extraction.prepare import PreparedSplit, check_splits
from deapcache.extraction.sources import Batch, CachedImages, ImageSource, NativeImages


def split_views(
    dataset: Dataset | Outline, splits: Sequence[str] | None, views: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The splits to work on, all by default, with the views to be made of each.

    Only training draws from mirrored images: unless ``splits`` names others, they are made of the training split alone.
    Raises :class:`UsageError` for a split that the dataset lacks.
    """
    chosen = check_splits(dataset, splits)
    mirrored = chosen if splits else dataset.splits[:1]
    wanted = {split: tuple(v for v in views if v == ORIGINAL or split in mirrored) for split in chosen}
    return {split: of_split for split, of_split in wanted.items() if of_split}


def image_source(prepared: PreparedSplit, image_size: tuple[int, int]) -> ImageSource:
    """The images that a backbone of that image size sees of a split, in its view."""
    if prepared.images is None:
        return viewed(NativeImages(prepared.dataset, prepared.split, image_size, prepared.fit), prepared.view)
    return viewed(CachedImages(prepared.images), prepared.view)


def viewed(source: ImageSource, view: str) -> ImageSource:
    """The images of ``source`` in a view."""
    return MirroredImages(source) if view == HFLIP else source


class MirroredImages:
    """The images of another source, mirrored left to right as they are read: they are stored once, for both views."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def request(self, rows: Sequence[int]) -> Batch:
        """Start reading ``rows``."""
        return _Mirrored(self._source.request(rows))


class _Mirrored:
    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def result(self) -> np.ndarray:
        return mirror(IMAGES, self._batch.result())
