"""What features and passes take: amounts of work with a speed."""

from __future__ import annotations

from dataclasses import dataclass

from deapcache.experiments.planning.speeds import Speed
from deapcache.experiments.planning.work import PassWork
from deapcache.extraction import PlannedCache


@dataclass(frozen=True, kw_only=True)
class FeatureWork:
    """All features of one backbone in one precision."""

    backbone: str
    precision: str
    caches: tuple[PlannedCache, ...]
    speed: Speed
    """Of one image."""

    @property
    def wanted(self) -> int:
        """Images whose features the pipelines need."""
        return sum(cache.wanted for cache in self.caches)

    @property
    def to_do(self) -> int:
        """Images to be forwarded, the others' features being there."""
        return sum(cache.to_do for cache in self.caches)

    @property
    def bytes(self) -> int:
        """To be written, uncompressed."""
        return sum(cache.bytes for cache in self.caches)

    @property
    def files(self) -> int:
        """To be written."""
        return sum(cache.files for cache in self.caches)

    @property
    def read(self) -> int:
        """Bytes of base images that are read for it, uncompressed; none where images are taken at native size."""
        return sum(cache.to_do * _base_image_bytes(cache.fields["base_size"]) for cache in self.caches)

    @property
    def gpu_seconds(self) -> float | None:
        """On one GPU; None where no speed is known."""
        if not self.to_do:
            return 0.0
        return None if self.speed.seconds is None else self.speed.seconds * self.to_do


@dataclass(frozen=True, kw_only=True)
class PricedPass:
    """A pass, and what it takes."""

    work: PassWork
    speeds: tuple[Speed, ...]
    """Of one step of each of its groups."""

    @property
    def gpu_seconds(self) -> float | None:
        """On one GPU, reading aside; a batch that is scored is taken for a step. None where a speed is not known."""
        total = 0.0
        for group, speed in zip(self.work.groups, self.speeds, strict=True):
            if speed.seconds is None:
                return None
            total += speed.seconds * (group.iterations + self.work.batches_scored)
        return total


def _base_image_bytes(size: str) -> int:
    if size == "native":
        return 0
    height, width = size.split("x")
    return int(height) * int(width) * 3
