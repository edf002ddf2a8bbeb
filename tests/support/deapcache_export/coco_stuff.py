"""Scenes as COCO-Stuff 164k is distributed: COCO's files, and a PNG map of classes for each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deapcache.datasets.scenes import CLASSES
from deapcache_export import coco
from deapcache_export.pictures import save_png
from deapcache_export.rows import ExportFormat, Pixels, Row

_ROOM = {"wall": 173, "floor": 118, "ceiling": 102}
"""Category ids of wall-other, floor-wood and ceiling-other (``labels.txt`` of github.com/nightrome/cocostuff)."""

VALUES = np.array([{**_ROOM, **coco.CATEGORY_OF}[name] - 1 for name in CLASSES], np.uint8)
"""By class of ``scenes``: the value in the PNG, one less than the category id. Every class has one: no pixel is 255."""


def write_row(root: Path, row: Row, pixels: Pixels) -> coco.Described:
    """The image file and its map; returns what the JSON file says of the image."""
    path = root / "stuffthingmaps_trainval2017" / f"{row.split}2017" / f"{row.number:012d}.png"
    save_png(VALUES[pixels.classes], path)
    return coco.write_row(root, row, pixels)


FORMAT = ExportFormat(name="coco-stuff", write_row=write_row, finish=coco.finish)
