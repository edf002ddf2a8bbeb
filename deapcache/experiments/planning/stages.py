"""The stages of a plan, done one after the other."""

from __future__ import annotations

from dataclasses import dataclass

BASE_IMAGES, TARGETS, FEATURES, PROBING = "base images", "targets", "features", "probing"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage comes to."""

    name: str
    unit: str
    """What is counted: ``images`` or ``runs``."""
    wanted: int
    to_do: int
    """Of those wanted; the others are there."""
    files: int
    """Shards to be written."""
    written: int
    """Bytes, uncompressed."""
    read: int
    """Bytes from the cache, uncompressed."""
    gpu_seconds: float | None
    """On one GPU; None where a speed is not known."""
    wall_seconds: float | None
    """On the stated number of GPUs; None as above. Decoding, reading and writing are in no stage."""
