"""COCO's boxes as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.boxes import CROWD, OBJECT, box_table
from deapcache.datasets.coco_listing import CocoImage, is_crowd
from deapcache.errors import DataError


def read_boxes(image: CocoImage, path: Path) -> NDArray[np.float64]:
    """The table of an image: its annotations' own boxes and areas, crowds too, in the order of the annotations' ids.

    Nothing is cut at the image's border. Two of the 860,001 training boxes have no height: they stay, since COCO's own
    scoring counts them (as objects that nobody can find). Raises :class:`DataError` that names the file ``path``, image
    and annotation where a box is not four finite numbers, a size or area is below 0, or area or category is missing.
    """
    annotations = sorted(image.annotations, key=lambda annotation: int(annotation["id"]))
    return box_table(image.size, [_checked(annotation, image, path) for annotation in annotations])


def _checked(annotation: Mapping[str, Any], image: CocoImage, path: Path) -> list[float]:
    try:
        return _row(annotation)
    except (KeyError, TypeError, ValueError):
        found = ", ".join(f"{name} {annotation.get(name)!r}" for name in ("bbox", "area", "category_id"))
        raise DataError(
            f"{path}: annotation {annotation['id']} of image {image.id} is no box: found {found}; expected a bbox of "
            "four numbers x, y, width, height, an area, none of the last three below 0, and a category_id; "
            "give COCO's original file"
        ) from None


def _row(annotation: Mapping[str, Any]) -> list[float]:
    kind = CROWD if is_crowd(annotation) else OBJECT
    x, y, width, height = map(float, annotation["bbox"])
    row = [x, y, width, height, float(annotation["area"]), kind, float(annotation["category_id"])]
    if not all(map(math.isfinite, row)) or min(row[2:5]) < 0:
        raise ValueError("not finite, or a negative size")
    return row
