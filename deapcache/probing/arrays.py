"""The caches of one split as a probe reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deapcache.cache import Cache, FeatureCache

FEATURES, MIRRORED, GUIDANCE = "features", "mirrored features", "base images"
"""Names of arrays that are no targets; those of targets are their annotations."""


@dataclass(frozen=True)
class SplitArrays:
    """The caches of one split and the rows of them that are used."""

    features: FeatureCache
    targets: Mapping[str, Cache]
    """Annotation → target cache, whose rows are those of ``features``."""
    rows: np.ndarray
    images: Cache | None = None
    """Base images, whose rows are those of ``features``; ``None``: no readout needs them."""
    mirrored: FeatureCache | None = None
    """Features of the mirror images, whose rows are those of ``features``; ``None``: no mirror image is drawn."""

    @property
    def draws(self) -> np.ndarray:
        """What an epoch draws once each: the rows and, where there are mirror images, the rows + the number of images.

        A number is a row of the caches and a view in one, so that one permutation goes over rows × views.
        """
        return np.concatenate([self.rows + view * len(self.features) for view in range(len(self.volumes))])

    @property
    def volumes(self) -> dict[str, FeatureCache]:
        """The features of each view, by the names under which they are read."""
        return {FEATURES: self.features, **({} if self.mirrored is None else {MIRRORED: self.mirrored})}

    @property
    def others(self) -> dict[str, Cache]:
        """All caches but the features, by the names under which batches hold them."""
        return {**self.targets, **({} if self.images is None else {GUIDANCE: self.images})}

    def decoded_bytes(self) -> int:
        """Bytes that the used rows take in memory."""
        one = self.rows[:1]
        sample = [cache.read_features(one) for cache in self.volumes.values()]
        sample += [cache.read(one) for cache in self.others.values()]
        return sum(array.nbytes for array in sample) * len(self.rows)
