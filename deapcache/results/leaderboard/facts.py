"""What a leaderboard says of a backbone: category, size, the volume it gives."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from deapcache.backbones import BackboneEntry, describe
from deapcache.errors import DeapcacheError
from deapcache.results.frame import reading_in
from deapcache.results.paper import paper_features
from deapcache.results.record import Result
from deapcache.results.speeds import BackboneSpeed

CATEGORIES = ("supervised", "self-supervised", "vision-language", "untrained", "other")
"""The paper's three (Table 2), the control, and what is not known."""


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """Facts about a backbone as far as they are known here."""

    name: str
    category: str
    """One of :data:`CATEGORIES`."""
    parameters: float | None
    """Without the classifier."""
    features: tuple[int, ...]
    """(H, W, D) of the feature volume, (H, W) where the paper says no more; empty where it is not known."""
    training_data: str = ""
    reading: str = ""
    """Which layer a run read, where it is not the last: ``layer 6``; see :func:`reading_in`."""
    speeds: tuple[BackboneSpeed, ...] = ()
    """On each device that it was measured on, the one that is shown first."""

    @property
    def label(self) -> str:
        """``dinov2``, ``dinov2 · layer 6``."""
        return " · ".join(filter(None, (self.name, self.reading)))

    @property
    def size(self) -> str:
        """``14×14×768``."""
        return "×".join(map(str, self.features))


def measured_backbone(result: Result) -> BackboneFacts:
    """Of a result: the volume is what was probed; the rest is from the registry, else what the result says."""
    known = known_entry(result.backbone)
    told = result.about
    parameters = known.parameters if known else told.get("parameters")
    category = _category(known) if known else told.get("category")
    return BackboneFacts(
        name=result.backbone,
        category=category if category in CATEGORIES else "other",
        parameters=parameters or None,
        features=(*result.build["grid"], result.build["feature_dim"]),
        training_data=known.training_data if known else told.get("training_data", ""),
        reading=reading_in(result.caches["train"]["recipe"]),
    )


def paper_backbone(name: str) -> BackboneFacts:
    """Of a row of the paper: as it prints them."""
    known, printed = known_entry(name), paper_features(name)
    return BackboneFacts(
        name=name,
        category=_category(known),
        parameters=printed.parameters,
        features=(printed.side, printed.side, *([known.dim] if known else [])),
        training_data=known.training_data if known else "",
    )


def _category(entry: BackboneEntry | None) -> str:
    if entry is None:
        return "other"
    return "untrained" if entry.untrained else entry.category or "other"


@functools.cache
def known_entry(name: str) -> BackboneEntry | None:
    """``None`` for a backbone that is not known on this machine: a plug-in's, or of another version."""
    try:
        return describe(name)
    except DeapcacheError:
        return None
