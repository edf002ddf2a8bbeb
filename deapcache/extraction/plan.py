"""What an extraction will cost, before it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from deapcache.backbones import Backbone
from deapcache.cache import ORIGINAL, Cache, name_view
from deapcache.errors import StorageFullError
from deapcache.locations import Location
from deapcache.machine import seconds_of

_RESERVE = 1.02
"""Room for metadata and file-system overhead."""


@dataclass(frozen=True, kw_only=True)
class PlannedCache:
    """One cache that an extraction would fill."""

    kind: str
    """``images``, ``targets`` or ``features``."""
    owner: str
    """Dataset under whose name it is cached."""
    split: str
    name: str
    """The backbone of features, the annotation of targets, empty for base images."""
    images: int
    """Images of the whole cache."""
    counted: str
    """How their number is known: ``listed``, ``in the home`` or ``official``."""
    wanted: int
    """Images that this run needs: whole shards."""
    to_do: int
    """Those that it would make, the others being there."""
    files: int
    """Shards that it would write."""
    files_wanted: int
    """Shards that it needs."""
    item_bytes: int | None
    """Uncompressed bytes of one image's entry; None: a table of boxes, whose length only the dataset's files tell."""
    fields: Mapping[str, Any]
    """Recipe fields that its cache must have."""
    view: str = ORIGINAL
    """Of the images that features are from."""

    @property
    def bytes(self) -> int:
        """Uncompressed bytes that this run would write at most, without tables whose length is not known."""
        return self.to_do * (self.item_bytes or 0)

    @property
    def key(self) -> tuple[str, ...]:
        """What two plans must share to mean the same cache."""
        return self.owner, self.kind, self.split, self.name, json.dumps(self.fields, sort_keys=True)

    @property
    def what(self) -> str:
        """For people: ``targets depth``, ``features dinov2 · hflip``, ``features dinov2 · layer 6``."""
        layer = str(self.fields.get("layer", ""))
        named = f"{self.kind} {self.name}".strip() + (f" · layer {layer}" if layer.isdecimal() else "")
        return name_view(named, self.view)


@dataclass(frozen=True, kw_only=True)
class ExtractionPlan:
    """All caches of one command."""

    caches: tuple[PlannedCache, ...]
    images_per_second: dict[str, float]
    """Measured forward rate by backbone, images/s, on ``device``, of those that would be run."""
    device: str
    home: str
    free_bytes: int | None
    omitted: Mapping[str, Mapping[str, str]]
    """Split → id → reason of the images that would be left out since they cannot be read."""

    @property
    def bytes(self) -> int:
        """Bytes that the whole command would write at most."""
        return sum(cache.bytes for cache in self.caches)

    @property
    def forwards(self) -> int:
        """Images that backbones would be run on."""
        return sum(self._to_forward().values())

    def _to_forward(self) -> dict[tuple[str, ...], int]:
        """Images by backbone, owner, split and view: all layers come from one forward."""
        found: dict[tuple[str, ...], int] = {}
        for cache in self.caches:
            if cache.kind == "features":
                key = (cache.name, cache.owner, cache.split, cache.view)
                found[key] = max(cache.to_do, found.get(key, 0))
        return found

    def seconds(self) -> float:
        """Forward time at the measured rates."""
        found = self._to_forward().items()
        return sum(images / self.images_per_second[name] for (name, *_), images in found if images)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        caches = [{**asdict(cache), "bytes": cache.bytes} for cache in self.caches]
        totals = {"bytes": self.bytes, "forwards": self.forwards, "seconds": self.seconds()}
        return {**asdict(self), "caches": caches, **totals}


def measure_rate(backbone: Backbone, base_size: tuple[int, int], batch_size: int) -> float:
    """Forward rate in images/s, preprocessing included, on the backbone's device: the better of two timed batches."""
    images = torch.zeros((batch_size, *base_size, 3), dtype=torch.uint8, device=backbone.device)
    backbone(images[:1])
    return batch_size / min(seconds_of(lambda: backbone(images), backbone.device) for _ in range(2))


def item_bytes(cache: Cache) -> int:
    """Uncompressed bytes of one image's entry in all arrays of a cache."""
    return sum(spec.item_bytes for spec in cache.arrays.values())


def require_space(home: Location, needed: int) -> None:
    """Raise :class:`StorageFullError` where ``needed`` bytes will not fit into ``home``."""
    free = home.free_bytes()
    if free is not None and needed * _RESERVE > free:
        raise StorageFullError(
            f"{home} has {free / 1e9:.2f} GB free, this extraction needs up to {needed / 1e9:.2f} GB: free some space, "
            "choose another --home, a smaller --dtype or fewer images with --limit (--dry-run shows the plan)"
        )
