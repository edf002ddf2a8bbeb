"""A cache of features as a map-style torch dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from deapcache.cache import HFLIP, Cache, FeatureCache, mirror
from deapcache.errors import UsageError
from deapcache.locations import LocalLocation

DTYPES = ("float16", "float32")
"""What features may be handed out as."""

Form = Literal["features", "pair", "named"]
"""What an item is: features; features and one target; features and targets by name."""


class FeatureDataset(Dataset[Any]):
    """Features and targets of some rows; :meth:`deapcache.api.Features.torch_dataset` makes it.

    A ``DataLoader`` asks for a whole batch at once, which is one read of each cache. Workers open the caches for
    themselves; those of a remote home must be spawned, since what talks to a store does not survive a fork.

    Parameters
    ----------
    features
        Volumes (N, H, W, D).
    targets
        Name → cache of the same images. Those of mirrored features are mirrored as they are read.
    rows
        The rows that make up the dataset, in order.
    dtype
        ``float16`` or ``float32``; None: as read.
    form
        What an item is.
    """

    def __init__(
        self,
        features: FeatureCache,
        targets: Mapping[str, Cache],
        *,
        rows: Sequence[int],
        dtype: str | None,
        form: Form,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f"unknown dtype {dtype!r} of features: choose one of {', '.join(DTYPES)}")
        self.rows = np.asarray(rows, np.int64)
        self._features = features
        self._targets = dict(targets)
        self._dtype = dtype
        self._form = form
        self._mirrored = features.recipe.get("view") == HFLIP
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        """Features (H, W, D), alone or with targets; raises what :meth:`Cache.read` raises."""
        if not -len(self) <= place < len(self):
            raise IndexError(f"{place} is beyond the {len(self)} images")
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[Any]:
        """Items of a batch, read together."""
        self._require_own_process()
        rows = self.rows[np.asarray(places, np.int64)]
        reading = self._features.read_features_async(rows)
        others = {name: cache.read_async(rows) for name, cache in self._targets.items()}
        features = reading.result()
        volumes = torch.from_numpy(features if self._dtype is None else features.astype(self._dtype, copy=False))
        if self._form == "features":
            return list(volumes)
        found = {name: other.result() for name, other in others.items()}
        values = {name: torch.from_numpy(mirror(name, v) if self._mirrored else v) for name, v in found.items()}
        if self._form == "pair":
            return list(zip(volumes, *values.values(), strict=True))
        return [(volume, {name: v[place] for name, v in values.items()}) for place, volume in enumerate(volumes)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_process"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state, _process=os.getpid())

    def _require_own_process(self) -> None:
        if os.getpid() == self._process:
            return
        remote = [c for c in (self._features, *self._targets.values()) if not isinstance(c.location, LocalLocation)]
        if remote:
            raise UsageError(
                f"{remote[0].location} is not local, and cannot be read after a fork: "
                "DataLoader(…, multiprocessing_context='spawn')"
            )
