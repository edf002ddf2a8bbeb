"""Views: the image as it is, and its mirror image; ``deapcache.annotations.mirror`` mirrors images and labels.

Features are never mirrored. Position embeddings and learned filters tell left from right, so that the mirrored feature
map of an image is not the feature map of the mirrored image.
"""

from __future__ import annotations

from collections.abc import Iterable

from deapcache.errors import UsageError

ORIGINAL, HFLIP = "original", "hflip"
VIEWS = (ORIGINAL, HFLIP)
"""All views, in the order in which they are named and extracted."""


def check_views(views: Iterable[str]) -> tuple[str, ...]:
    """The views asked for, each once and in the order of :data:`VIEWS`.

    Raises :class:`UsageError` for one that there is not, and where none is given.
    """
    asked = tuple(views)
    if unknown := [view for view in asked if view not in VIEWS]:
        raise UsageError(f"unknown view {unknown[0]!r}: choose among {', '.join(VIEWS)}")
    if not asked:
        raise UsageError(f"no view is given: expected at least one of {', '.join(VIEWS)}")
    return tuple(view for view in VIEWS if view in asked)


def name_view(name: str, view: str) -> str:
    """For people: ``train``, or ``train · hflip``; original images go without saying."""
    return name if view == ORIGINAL else f"{name} · {view}"
