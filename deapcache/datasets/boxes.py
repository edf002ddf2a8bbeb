"""The ``boxes`` annotation: all boxes of an image as one table, the image itself in its first row.

In the table of a cropped image the first row is the region that is seen, still in pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.errors import DataError
from deapcache.regions import Region, seen_region

BOXES = "boxes"
"""The annotation kind that is a table; all others are maps."""

COLUMNS = ("x", "y", "width", "height", "area", "kind", "category")
"""Pixels of the original image (``area``: pixels that the object covers), one of the kinds below, a category's id."""

OBJECT, CROWD, IMAGE = 1.0, 2.0, 3.0
"""Values of the column ``kind``; 0 is a row without a box."""

OUTSIDE = "cut at the region's border, areas by the share of the box that is left; without the rest"
"""Recipe field: what :func:`crop_table` does to boxes that reach beyond what is seen."""


def box_table(size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(n + 1, 7) float64: an image of ``size`` (height, width) itself, then each of ``boxes``, in order."""
    height, width = size
    image = _image_row(Region(top=0, left=0, height=height, width=width))
    return np.array([image, *boxes], dtype=np.float64)


def _image_row(seen: Region) -> tuple[float, ...]:
    return (seen.left, seen.top, seen.width, seen.height, seen.width * seen.height, IMAGE, 0)


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


def crop_table(table: NDArray[np.float64], size: tuple[int, int], fit: str) -> NDArray[np.float64]:
    """The table of the part of an image that an output of ``size`` shows, in pixels of the whole image as before.

    Where that is the whole image, nothing changes. Otherwise its first row becomes the region, and boxes are cut at
    the region's border, as croppings of the field do; those with nothing left go, because nobody can find them. An
    ``area`` is taken to be spread evenly over its box: it shrinks with it.
    """
    width, height = (int(side) for side in table[0, 2:4])
    seen = seen_region((height, width), size, fit)
    if seen.covers((height, width)):
        return table
    corner, opposite = (seen.left, seen.top), (seen.left + seen.width, seen.top + seen.height)
    first = np.clip(table[1:, :2], corner, None)
    last = np.clip(table[1:, :2] + table[1:, 2:4], None, opposite)
    left = (last > first).all(1)
    boxes, sides = table[1:][left], (last - first)[left]
    area = boxes[:, 4] * sides.prod(1) / boxes[:, 2:4].prod(1)
    return np.vstack([_image_row(seen), np.column_stack([first[left], sides, area, boxes[:, 5:]])])


def pad_table(table: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """(rows, 7): ``table`` with rows of zeros after it, so that the tables of all images can be stacked.

    Raises :class:`DataError` where it has more rows.
    """
    if len(table) > rows:
        raise DataError(f"an image has {len(table) - 1} objects; its dataset allows {rows - 1}")
    return np.pad(table, ((0, rows - len(table)), (0, 0)))
