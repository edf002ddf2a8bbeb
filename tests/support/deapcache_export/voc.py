"""Scenes as VOC 2012 is distributed: JPEG photographs, palette PNGs of classes and objects, lists of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from deapcache.datasets.scenes import CLASSES
from deapcache_export.pictures import save_jpeg, save_png, voc_palette
from deapcache_export.rows import ExportFormat, Pixels, Row

ROOT = Path("VOCdevkit", "VOC2012")

CLASS_OF = {"box": 20, "sphere": 16, "cylinder": 5, "cone": 4, "pyramid": 1, "capsule": 15, "torus": 2}
"""VOC's class for each solid: tvmonitor, pottedplant, bottle, boat, aeroplane, person and bicycle."""

VALUES = np.array([CLASS_OF.get(name, 0) for name in CLASSES], np.uint8)
"""By class of ``scenes``: the value in the PNG. The room is background, 0; nothing is void, 255."""


def write_row(root: Path, row: Row, pixels: Pixels) -> str:
    """The row's three files; returns their name."""
    name = f"2012_{row.number:06d}"
    save_jpeg(pixels.image, root / ROOT / "JPEGImages" / f"{name}.jpg")
    palette = voc_palette()
    save_png(VALUES[pixels.classes], root / ROOT / "SegmentationClass" / f"{name}.png", palette=palette)
    save_png(pixels.instances, root / ROOT / "SegmentationObject" / f"{name}.png", palette=palette)
    return name


def finish(root: Path, rows: Sequence[Row], made: Iterable[str]) -> None:
    """``ImageSets/Segmentation``: a list of names for each split, and ``trainval.txt``."""
    names: dict[str, list[str]] = {row.split: [] for row in rows}
    for row, name in zip(rows, made, strict=True):
        names[row.split].append(name)
    folder = root / ROOT / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    names["trainval"] = [name for listed in names.values() for name in listed]
    for split, listed in names.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))


FORMAT = ExportFormat(name="voc", write_row=write_row, finish=finish)
