"""A small SPair-71k in the official layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {
    "cat/2008_000001": (60, 80),
    "cat/2008_000002": (60, 80),
    "cat/2009_000003": (120, 60),
    "bus/2010_000004": (48, 64),
    "bus/2011_000005": (48, 64),
}
"""Id → height and width."""

PAIRS = (
    ("cat/2008_000001", "cat/2008_000002"),
    ("cat/2008_000001", "cat/2009_000003"),
    ("bus/2010_000004", "bus/2011_000005"),
)
"""Sources and targets."""


def pair_name(number: int) -> str:
    """As the lists have it."""
    source, target = (id_.split("/") for id_ in PAIRS[number])
    return f"{number:06d}-{source[1]}-{target[1]}:{source[0]}"


def write_spair(root: Path, points: list[list[list[float]]], boxes: list[list[float]]) -> Path:
    """The images, and pairs with keypoints [source, target] and boxes (x1, y1, x2, y2) of both; returns the folder."""
    folder = root / "SPair-71k"
    for id_, (height, width) in SIZES.items():
        path = folder / "JPEGImages" / f"{id_}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(int(id_[-1])).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "Layout" / "large").mkdir(parents=True)
    for part in ("trn", "test"):
        (folder / "Layout" / "large" / f"{part}.txt").write_text(
            "".join(f"{pair_name(n)}\n" for n in range(len(PAIRS)))
        )
        (folder / "PairAnnotation" / part).mkdir(parents=True)
        for number, (source, target) in enumerate(PAIRS):
            facts = {
                "filename": pair_name(number),
                "src_imname": source.split("/")[1] + ".jpg",
                "trg_imname": target.split("/")[1] + ".jpg",
                "src_imsize": [*SIZES[source][::-1], 3],
                "trg_imsize": [*SIZES[target][::-1], 3],
                "src_bndbox": boxes[number],
                "trg_bndbox": boxes[number],
                "category": source.split("/")[0],
                "src_kps": points[number][0],
                "trg_kps": points[number][1],
                "kps_ids": [str(place) for place in range(len(points[number][0]))],
                "mirror": 0,
                "viewpoint_variation": 0,
            }
            (folder / "PairAnnotation" / part / f"{pair_name(number)}.json").write_text(json.dumps(facts))
    return folder
