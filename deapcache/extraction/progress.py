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
    message: str = ""
    """A sentence for people, in place of how far the stage has come."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Called as units of work come along, from whichever thread does them."""

    forwarded: Callable[[int], None] = lambda _: None
    """So many images more have been forwarded."""
    published: Callable[[int, int], None] = lambda *_: None
    """A shard, and the bytes of it."""


Progress = Callable[[ProgressEvent], None]


def silent(_: ProgressEvent) -> None:
    """Progress that nobody looks at."""


def said(stage: str, message: str) -> ProgressEvent:
    """An event that tells people something in words."""
    return ProgressEvent(stage=stage, done=0, total=0, message=message)
