"""A cache of feature volumes: what is stored, decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deapcache.cache.cache import Cache
from deapcache.cache.reading import Reading
from deapcache.cache.storage import CLS, decode_features
from deapcache.errors import UsageError


class FeatureCache(Cache):
    """A cache of one backbone's feature volumes (N, H, W, D)."""

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of a feature volume."""
        height, width, _ = self.arrays["features"].item_shape
        return height, width

    @property
    def dim(self) -> int:
        """D, the width of a feature vector."""
        return self.arrays["features"].item_shape[-1]

    @property
    def storage(self) -> str:
        """The storage format, one of ``STORAGE_FORMATS``."""
        return str(self.recipe["storage"])

    @property
    def backbone(self) -> str:
        """The backbone's name."""
        return str(self.recipe["backbone"])

    def read_features(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Feature volumes of ``rows`` in that order: (len(rows), H, W, D), float16 for 16-bit storage, else float32.

        Raises what :meth:`Cache.read` raises.
        """
        return self.read_features_async(rows).result()

    @property
    def has_cls(self) -> bool:
        """Whether the class token is kept beside each volume."""
        return CLS in self.arrays

    def read_cls(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Class tokens of ``rows`` in that order: (len(rows), D), float16 for 16-bit storage, else float32.

        Raises :class:`UsageError` where they were not kept, and what :meth:`Cache.read` raises.
        """
        if not self.has_cls:
            raise UsageError(f"{self.location} holds no class tokens: extract with --tokens cls")
        return self.read(rows, CLS)

    def read_features_async(self, rows: Sequence[int] | np.ndarray) -> Reading:
        """Begin :meth:`read_features` and come back at once; errors are raised by ``result()`` of what is returned."""
        readings = {name: self.read_async(rows, name) for name in self.arrays if name != CLS}
        return Reading(lambda: decode_features({name: each.result() for name, each in readings.items()}, self.storage))
