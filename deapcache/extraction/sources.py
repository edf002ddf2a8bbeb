"""Where a backbone's images come from: the cached base images, or the files at their own size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from deapcache.cache import Cache
from deapcache.datasets import Dataset, resize_image
from deapcache.extraction.filling import offering_to_skip
from deapcache.machine import cpu_count


class Batch(Protocol):
    """Images that were asked for and may still be under way."""

    def result(self) -> np.ndarray:
        """(n, h, w, 3) uint8 RGB."""
        ...


class ImageSource(Protocol):
    """Gives batches of images by row."""

    def request(self, rows: Sequence[int]) -> Batch:
        """Start reading ``rows``."""
        ...


class CachedImages:
    """Base images, decoded once before: nothing but array reads."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def request(self, rows: Sequence[int]) -> Batch:
        """Start reading ``rows`` of the base-image cache."""
        return self._cache.read_async(rows)


class NativeImages:
    """Files decoded at their own size and scaled straight to the backbone's (``--base-size native``)."""

    def __init__(self, dataset: Dataset, split: str, image_size: tuple[int, int], fit: str) -> None:
        self._dataset = dataset
        self._split = split
        self._size = image_size
        self._fit = fit
        self._pool = ThreadPoolExecutor(cpu_count())

    def request(self, rows: Sequence[int]) -> Batch:
        """Start decoding ``rows``."""
        return _Decoded([self._pool.submit(self._read, row) for row in rows])

    def _read(self, row: int) -> np.ndarray:
        with offering_to_skip():
            return resize_image(self._dataset.read_image(self._split, row), self._size, self._fit)


class _Decoded:
    def __init__(self, images: Sequence[Future[np.ndarray]]) -> None:
        self._images = images

    def result(self) -> np.ndarray:
        return np.stack([image.result() for image in self._images])
