"""The ``boxes`` annotation: all boxes of an image as one table, the image itself in its first row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.errors import DataError

BOXES = "boxes"
"""The annotation kind that is a table; all others are maps."""

COLUMNS = ("x", "y", "width", "height", "area", "kind", "category")
"""Pixels of the original image (``area``: pixels that the object covers), one of the kinds below, a category's id."""

OBJECT, CROWD, IMAGE = 1.0, 2.0, 3.0
"""Values of the column ``kind``; 0 is a row without a box."""


def box_table(size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(n + 1, 7) float64: an image of ``size`` (height, width) itself, then each of ``boxes``, in order."""
    height, width = size
    image = (0, 0, width, height, width * height, IMAGE, 0)
    return np.array([image, *boxes], dtype=np.float64)


def boxes_of_map(instances: NDArray[np.int32], classes: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The table of an image whose objects are known by their visible pixels.

    instances: (h, w), objects above 0; classes: (h, w), whose value on an object is its category. Boxes are tight:
    pixel i covers the stretch from i to i + 1, so that one pixel has width and height 1. Returns (K + 1, 7) float64, in
    the order of the K numbers that occur.
    """
    boxes = []
    for number in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == number)
        x, y = columns.min(), rows.min()
        size = (columns.max() + 1 - x, rows.max() + 1 - y)
        boxes.append((x, y, *size, len(rows), OBJECT, classes[rows[0], columns[0]]))
    return box_table(instances.shape, boxes)


def pad_table(table: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """(rows, 7): ``table`` with rows of zeros after it, so that the tables of all images can be stacked.

    Raises :class:`DataError` where it has more rows.
    """
    if len(table) > rows:
        raise DataError(f"an image has {len(table) - 1} objects; its dataset allows {rows - 1}")
    return np.pad(table, ((0, rows - len(table)), (0, 0)))
