"""What long work says of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """How far one stage has come."""

    stage: str
    """What is being done, for people: ``dinov2 · coco/train``."""
    done: int
    """Images done in this run."""
    total: int
    """Images this run has to do."""
    bytes: int = 0
    """Bytes published in this run."""


Progress = Callable[[ProgressEvent], None]


def silent(_: ProgressEvent) -> None:
    """Progress that nobody looks at."""
