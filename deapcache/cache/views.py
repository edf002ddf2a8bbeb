"""Views: the image as it is, and its mirror image; what mirroring does to whatever is cached of an image.

Features are never mirrored. Position embeddings and learned filters tell left from right, so that the mirrored feature
map of an image is not the feature map of the mirrored image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.errors import UsageError

ORIGINAL, HFLIP = "original", "hflip"
VIEWS = (ORIGINAL, HFLIP)
"""All views, in the order in which they are named and extracted."""

_WIDTH_AXIS = 2
"""Of a batch of images (n, h, w, 3) and of one of maps (n, h, w)."""

_BOXES = "boxes"
"""The annotation whose targets are tables."""

_X, _WIDTH, _KIND = 0, 2, 5
"""Columns of these tables."""


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


def mirror(kind: str, values: NDArray[Any]) -> NDArray[Any]:
    """What belongs to the mirror images: the same shape, contiguous, in memory of its own.

    ``values`` belong to n images: base images (n, h, w, 3), maps (n, h, w), or where ``kind`` is ``boxes`` tables
    (n, rows, 7). Maps and images are exactly reversed along their width; ids, classes and depths stay as they are.
    """
    if kind == _BOXES:
        return _mirror_boxes(values)
    return np.ascontiguousarray(np.flip(values, _WIDTH_AXIS))


def _mirror_boxes(tables: NDArray[Any]) -> NDArray[Any]:
    """Boxes in pixels of the mirrored original: x becomes image width - x - width; rows without a box stay 0.

    The first row is the image; were it a part of the image, boxes would be mirrored about the middle of that part.
    """
    image = tables[:, :1]
    right = image[..., _X] + image[..., _WIDTH]
    x = image[..., _X] + right - tables[..., _X] - tables[..., _WIDTH]
    mirrored = tables.copy()
    mirrored[..., _X] = np.where(tables[..., _KIND] > 0, x, tables[..., _X])
    return mirrored
