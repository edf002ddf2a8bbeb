"""What an extraction came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deapcache.extraction.creating import NewCache


@dataclass(frozen=True, kw_only=True)
class ExtractionReport:
    """What one backbone over one split came to."""

    backbone: str
    dataset: str
    split: str
    view: str
    layer: str
    path: str
    digest: str
    images: int
    """Images that the cache holds now, of ``total``."""
    total: int
    left: int
    """Images within the limit that are not there: those of other runs, where this one had a portion of the shards."""
    extracted: int
    """Images that this run forwarded and published; 0 where all were there."""
    stored_bytes: int
    seconds: float
    omitted: Mapping[str, str]
    """Id → reason of the images that were left out of the split since they could not be read."""
    new_caches: tuple[NewCache, ...] = ()
    """Features, base images and targets that were made on the way where others of the same name were there."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "new_caches": [new.to_json() for new in self.new_caches]}
