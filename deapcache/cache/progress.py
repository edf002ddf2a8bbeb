"""Progress of long work: how far it is, which new caches it made, and sentences for the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deapcache.recipe import SHORT, Difference

_SHORT_VALUE = 24
"""Characters of a recipe value that a line still shows; digests are longer."""


@dataclass(frozen=True, kw_only=True)
class NewCache:
    """A cache that was made where the home had others of the same kind, dataset, split, name and view."""

    what: str
    """``features coco/val dinov2``."""
    path: str
    """Relative to the home."""
    digest: str
    other: str
    """Digest of the nearest of those that were there: the one with the fewest differences."""
    differences: tuple[Difference, ...]
    """Recipe fields, here and there."""

    def __str__(self) -> str:
        """One line, which shows short values."""
        fields = []
        for difference in self.differences:
            here, there = (v if isinstance(v, str) else json.dumps(v) for v in difference[1:])
            is_short = max(len(here), len(there)) <= _SHORT_VALUE
            fields.append(f"{difference.field} ({here} here, {there} there)" if is_short else difference.field)
        return f"{self.what}: new cache {self.digest[:SHORT]}; differs from {self.other[:SHORT]} in {', '.join(fields)}"

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        differing = {each.field: {"here": each.left, "there": each.right} for each in self.differences}
        facts = {"what": self.what, "path": self.path, "digest": self.digest, "differs_from": self.other}
        return {**facts, "differences": differing}


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """How far one stage is."""

    stage: str
    """What is being done, for the user: ``dinov2 · coco/train``."""
    done: int
    """Units done in this run."""
    total: int
    """Units this run has to do."""
    bytes: int = 0
    """Bytes published, read or copied in this run."""
    unit: str = "images"
    """What is counted: ``images``, ``shards``, or ``files``, of which a shard has one an array."""
    new_cache: NewCache | None = None
    """A new cache that the user could confuse with others."""
    message: str = ""
    """A sentence for the user, in place of the numbers."""


Progress = Callable[[ProgressEvent], None]


def no_progress(_: ProgressEvent) -> None:
    """Ignore all events."""


def message(stage: str, text: str) -> ProgressEvent:
    """An event that tells the user a sentence."""
    return ProgressEvent(stage=stage, done=0, total=0, message=text)
