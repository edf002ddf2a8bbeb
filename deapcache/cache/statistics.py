"""Arithmetic over whole caches, lazily and shard by shard, with dask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import compute
from dask.delayed import delayed

from deapcache.cache.cache import FeatureCache


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """What the numbers of a feature cache look like: a broken backbone shows here before any probe."""

    images: int
    """Images that are there and were looked at."""
    mean: float
    std: float
    """Over all numbers."""
    minimum: float
    maximum: float
    constant_channels: tuple[int, ...]
    """Channels with one value at every cell of every image: they carry nothing."""
    outlier_ratio: float
    """Root mean square of the largest channel over that of all: 1 where channels are alike, above 10 where a few hold
    massive activations."""
    peak_ratio: float
    """Largest magnitude of a channel over its own root mean square, of the channel where that is largest."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def lazy_features(cache: FeatureCache) -> da.Array:
    """The feature volumes that are there as a lazy (n, H, W, D) dask array, one chunk a shard, float32.

    Rows of shards that are missing are left out. A chunk is a shard: single images would be a task each.
    """
    shape, dtype = (*cache.grid, cache.dim), np.float32

    @delayed
    def read(shard: int) -> np.ndarray:
        return cache.read_features(cache.shard_rows(shard)).astype(np.float32)

    shards = sorted(cache.present_shards())
    lengths = [len(cache.shard_rows(shard)) for shard in shards]
    pieces = [
        da.from_delayed(read(shard), (length, *shape), dtype) for shard, length in zip(shards, lengths, strict=True)
    ]
    return da.concatenate(pieces) if pieces else da.zeros((0, *shape), dtype=dtype)


def feature_statistics(cache: FeatureCache) -> FeatureStatistics | None:
    """Statistics of all volumes that are there, in memory of a few shards; None for a cache without any."""
    features = lazy_features(cache)
    if not len(features):
        return None
    cells = (0, 1, 2)
    wide = features.astype(np.float64)
    low, high, squares, mean, std = compute(
        features.min(axis=cells),
        features.max(axis=cells),
        (wide * wide).mean(axis=cells),
        wide.mean(),
        wide.std(),
        scheduler="threads",
    )
    present = squares[squares > 0]
    peaks = np.maximum(np.abs(low), np.abs(high))[squares > 0]
    return FeatureStatistics(
        images=len(features),
        mean=float(mean),
        std=float(std),
        minimum=float(low.min()),
        maximum=float(high.max()),
        outlier_ratio=float(np.sqrt(present.max() / squares.mean())) if len(present) else 1.0,
        peak_ratio=float((peaks / np.sqrt(present)).max()) if len(present) else 1.0,
        constant_channels=tuple(int(channel) for channel in np.flatnonzero(low == high)),
    )
