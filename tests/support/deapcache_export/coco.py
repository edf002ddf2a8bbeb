"""Scenes as COCO 2017 is distributed: JPEG photographs, and one JSON file of instances for each split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deapcache.annotations import boxes_of_map
from deapcache.datasets.scenes import CLASSES
from deapcache_export.pictures import save_jpeg
from deapcache_export.rows import ExportFormat, Pixels, Row
from deapcache_export.segmentations import ENCODINGS

CATEGORY_OF = {"box": 33, "sphere": 37, "cylinder": 44, "cone": 28, "pyramid": 38, "capsule": 58, "torus": 60}
"""Category id of each solid: that of suitcase, sports ball, bottle, umbrella, kite, hot dog and donut in COCO."""

_INFO = {
    "description": "Rendered scenes of deapcache in COCO's layout; no photographs",
    "url": "",
    "version": "1",
    "year": 2026,
    "contributor": "deapcache",
    "date_created": "",
}
_LICENCE = {"id": 1, "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}

Described = tuple[dict[str, Any], list[dict[str, Any]]]
"""An image's record and those of its annotations."""


def write_row(root: Path, row: Row, pixels: Pixels) -> Described:
    """The image file; returns what the JSON file says of it."""
    name = f"{row.number:012d}.jpg"
    save_jpeg(pixels.image, root / f"{row.split}2017" / name)
    height, width = pixels.instances.shape
    record = {"id": row.number, "file_name": name, "height": height, "width": width, "license": 1}
    return record, _annotations(row.number, pixels)


def _annotations(image_id: int, pixels: Pixels) -> list[dict[str, Any]]:
    """Every instance, none a crowd; the three ways to write a segmentation take turns."""
    table = boxes_of_map(pixels.instances, pixels.classes)[1:]
    return [
        {
            "id": 100 * image_id + number,
            "image_id": image_id,
            "category_id": CATEGORY_OF[CLASSES[int(class_)]],
            "iscrowd": 0,
            "area": int(area),
            "bbox": box,
            "segmentation": ENCODINGS[number % len(ENCODINGS)](pixels.instances == number),
        }
        for number, (*box, area, _, class_) in enumerate(table.tolist(), start=1)
    ]


def finish(root: Path, rows: Sequence[Row], made: Iterable[Described]) -> None:
    """``annotations/instances_*2017.json`` of every split."""
    by_split: dict[str, list[Described]] = {row.split: [] for row in rows}
    for row, described in zip(rows, made, strict=True):
        by_split[row.split].append(described)
    (root / "annotations").mkdir()
    for split, found in by_split.items():
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(_document(found)))


def _document(found: Sequence[Described]) -> dict[str, Any]:
    ids = sorted((id_, name) for name, id_ in CATEGORY_OF.items())
    return {
        "info": _INFO,
        "licenses": [_LICENCE],
        "images": [image for image, _ in found],
        "annotations": [annotation for _, annotations in found for annotation in annotations],
        "categories": [{"supercategory": "solid", "id": id_, "name": name} for id_, name in ids],
    }


FORMAT = ExportFormat(name="coco", write_row=write_row, finish=finish)
