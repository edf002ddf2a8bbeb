"""Datasets of a few small images, the same bytes everywhere: values are whole numbers, and PNG files are not packed."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np

SMALL, LARGE = (32, 48), (120, 176)
"""Height and width; objects of large images are large to COCO's scoring, too."""
FEW = {"train": 6, "val": 4}
MANY = {"train": 130, "val": 4}
"""More images than a cache has shards by preference, so that shards hold several."""

_VOC_CLASSES = (0, 5, 12, 255)
_STUFF_VALUES = (0, 16, 181, 255)


def write_datasets(root: Path) -> Path:
    """``folder:many``, ``coco`` with ``coco-stuff``, ``voc`` and ``nyuv2`` in the layouts that their loaders expect."""
    _write_folder(root / "many")
    _write_coco(root / "coco")
    _write_voc(root / "VOCdevkit" / "VOC2012")
    _write_nyuv2(root / "nyuv2")
    return root


def _write_folder(root: Path) -> None:
    for split, count in MANY.items():
        for number in range(count):
            name = f"{number:03d}.png"
            _save(root / split / "images" / name, _picture(number + 7 * (split == "val"), SMALL))
            _save(root / split / "labels" / name, _regions(number, (0, 1, 2, 255), SMALL))
            _save(root / split / "instances" / name, _regions(number, (0, 1, 2, 255), SMALL))
            _save(root / split / "depth" / name, _depth(number, SMALL))
    (root / "classes.json").write_text(json.dumps(["wall", "floor", "bird"]))


def _write_coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split, count in FEW.items():
        images, annotations = [], []
        for number in range(1, count + 1):
            id_ = number + 100 * (split == "val")
            name = f"{id_:012d}.jpg"
            _save(root / f"{split}2017" / name, _picture(id_))
            values = _regions(id_, _STUFF_VALUES)
            _save(root / "stuffthingmaps_trainval2017" / f"{split}2017" / f"{id_:012d}.png", values)
            images.append({"id": id_, "file_name": name, "height": LARGE[0], "width": LARGE[1]})
            annotations += [_object(id_, place) for place in range(3)]
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "one"}, {"id": 3, "name": "three"}],
        }
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(document))


def _object(image: int, place: int) -> dict[str, object]:
    """A rectangle; the third of each image is a crowd in run lengths."""
    x, y = 4 + image % 5 + 50 * place, 3 + 5 * place
    width, height = (98, 100) if place == 0 else (40, 60)
    mask = np.zeros(LARGE, np.uint8)
    mask[y : y + height, x : x + width] = 1
    column_wise = np.concatenate([[0], mask.T.ravel()])  # run lengths begin with zeros
    edges = np.flatnonzero(np.diff(column_wise))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    crowd = place == 2
    return {
        "id": 10 * image + place,
        "image_id": image,
        "category_id": 1 if place else 3,
        "iscrowd": int(crowd),
        "area": int(mask.sum()),
        "bbox": [x, y, width, height],
        "segmentation": {"size": list(LARGE), "counts": counts} if crowd else [polygon],
    }


def _write_voc(root: Path) -> None:
    for split, count in FEW.items():
        names = [f"2007_{number + 100 * (split == 'val'):06d}" for number in range(count)]
        listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            _save(root / "JPEGImages" / f"{name}.jpg", _picture(number + 20 * (split == "val")))
            _save(root / "SegmentationClass" / f"{name}.png", _regions(number, _VOC_CLASSES))
            _save(root / "SegmentationObject" / f"{name}.png", _regions(number, (0, 1, 2, 255)))


def _write_nyuv2(root: Path) -> None:
    for folder, count in (("train", FEW["train"]), ("test", FEW["val"])):
        for number in range(count):
            name = f"{number + 50 * (folder == 'test'):04d}.png"
            _save(root / folder / "rgb" / name, _picture(number + 3 * (folder == "test")))
            _save(root / folder / "depth_raw" / name, _depth(number))


def _picture(number: int, size: tuple[int, int] = LARGE) -> np.ndarray:
    """(h, w, 3) uint8: a slanted pattern with two flat rectangles."""
    row, column, channel = np.indices((*size, 3))
    values = (5 * row + 3 * column + 50 * channel + 31 * number) % 256
    regions = _regions(number, (0, 1, 2, 3), size)
    for region, grey in ((1, 40), (2, 200)):
        values[regions == region] = (grey + 9 * number) % 256
    return values.astype(np.uint8)


def _regions(number: int, values: tuple[int, int, int, int], size: tuple[int, int] = LARGE) -> np.ndarray:
    """(h, w) uint8: the first value, a rectangle of the second and of the third, and a strip of the fourth."""
    height, width = size
    found = np.full(size, values[0], np.uint8)
    shift = number % 7
    found[4 + shift : height // 2 + shift, 3 + shift : width // 3 + shift] = values[1]
    found[height // 3 : -6, width // 2 + shift : -10 + shift] = values[2]
    found[:, -3 + number % 2 :] = values[3]
    return found


def _depth(number: int, size: tuple[int, int] = LARGE) -> np.ndarray:
    """(h, w) uint16 millimetres: 0, unknown, in the last row."""
    row, column = np.indices(size)
    values = 900 + 1800 * row // size[0] + 900 * column // size[1] + 100 * (number % 9)
    values[-1] = 0
    return values.astype(np.uint16)


def _save(path: Path, values: np.ndarray) -> None:
    """Write a PNG of 8-bit RGB, or of 8 or 16-bit grey, not compressed: no library has a say in its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape[:2]
    rows = values.astype(f">u{values.dtype.itemsize}").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    stored = (
        b"\x78\x01\x01" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw + struct.pack(">I", zlib.adler32(raw))
    )
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, 2 if values.ndim == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", stored), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
