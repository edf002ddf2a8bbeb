"""What long work says of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deapcache.extraction.creating import NewCache


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
    new_cache: NewCache | None = None
    """A cache that was made beside others that could be taken for it."""


Progress = Callable[[ProgressEvent], None]


def silent(_: ProgressEvent) -> None:
    """Progress that nobody looks at."""
