"""Making COCO targets against pycocotools' decoding of the same masks alone: CPU milliseconds an image, one thread.

usage: python -m tests.benchmarks.bench_targets [--quick] [--coco FOLDER]

Ours: the map of instances at the size of the image, with everything checked, and the table of boxes; then the map
brought to 224×224. pycocotools: ``annToMask`` of the same annotations, one after the other, and nothing done with the
masks. Both have parsed the listing before. By default that is a made-up one in COCO's format; FOLDER is a COCO of your
own, whose validation images are taken again and again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from deapcache.annotations import resize_map
from deapcache.datasets import Dataset, open_dataset
from tests.benchmarks.figures import Figure, ratios

SIZE = (480, 640)
TARGET = (224, 224)
ANNOTATIONS = Path("annotations", "instances_val2017.json")
MEDIAN_AREA, AREA_SPREAD = 1100.0, 2.0
"""Of a log-normal in pixels, as are COCO's areas: half below 1,100, a mean of about 8,000."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds of the processor's time an image, by repeat."""

    targets: list[float]
    decoding: list[float]
    instances: float
    """Annotations an image, crowds too."""

    @property
    def ratio(self) -> float:
        """All of our targets over pycocotools' decoding alone."""
        return median(self.targets) / median(self.decoding)


def run(images: int = 1000, *, repeats: int = 5, coco: Path | None = None) -> Times:
    """Measure both on so many images of the COCO at ``coco``, or of a made-up one."""
    with tempfile.TemporaryDirectory() as folder:
        root = coco or write_listing(Path(folder), images)
        dataset = open_dataset("coco", root)
        listed = len(dataset.image_ids("val"))
        rows = [k % listed for k in range(images)]
        reference, annotations = annotations_of(root, dataset, rows)
        ours, theirs = np.zeros(repeats), np.zeros(repeats)
        for repeat in range(repeats):
            for row, of_image in zip(rows, annotations, strict=True):
                # Image by image in turn, so that a busy moment of the machine hits both alike.
                ours[repeat] += _milliseconds(functools.partial(_make_targets, dataset, row)) / images
                theirs[repeat] += _milliseconds(functools.partial(_decode_alone, reference, of_image)) / images
    return Times(targets=ours.tolist(), decoding=theirs.tolist(), instances=sum(map(len, annotations)) / images)


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - start)


def _make_targets(dataset: Dataset, row: int) -> None:
    dataset.read_annotation("val", row, "boxes")
    resize_map(dataset.read_annotation("val", row, "instances"), TARGET)


def _decode_alone(reference: COCO, annotations: Sequence[dict[str, Any]]) -> None:
    for annotation in annotations:
        reference.annToMask(annotation)


def annotations_of(root: Path, dataset: Dataset, rows: Sequence[int]) -> tuple[COCO, list[list[dict[str, Any]]]]:
    """pycocotools' own listing, and its annotations of each row."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(root / ANNOTATIONS))
    ids = dataset.image_ids("val")
    return reference, [reference.loadAnns(reference.getAnnIds(imgIds=int(ids[row]))) for row in rows]


def write_listing(root: Path, images: int) -> Path:
    """A validation split in COCO's layout with about seven instances an image; the image files are empty."""
    rng = np.random.default_rng(0)
    document: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number in range(images):
        name = f"{number:012d}.jpg"
        (root / "val2017" / name).touch()
        document["images"].append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for _ in range(rng.poisson(7.3)):
            annotation = {"id": len(document["annotations"]) + 1, "image_id": number, **_instance(rng)}
            document["annotations"].append(annotation)
    (root / ANNOTATIONS).write_text(json.dumps(document))
    return root


def _instance(rng: np.random.Generator) -> dict[str, Any]:
    """An outline of about 20 corners around some place, one in ten in two parts, one in a hundred a crowd."""
    outline = _outline(rng)
    parts = [outline, _outline(rng)] if rng.random() < 0.1 else [outline]
    x, y, right, bottom = *outline.min(axis=0), *outline.max(axis=0)
    following = np.roll(outline, -1, axis=0)
    area = abs(float((outline[:, 0] * following[:, 1] - following[:, 0] * outline[:, 1]).sum())) / 2
    crowd = rng.random() < 0.01
    return {
        "category_id": 1,
        "iscrowd": int(crowd),
        "area": area,
        "bbox": [float(x), float(y), float(right - x), float(bottom - y)],
        "segmentation": _run_lengths(rng) if crowd else [part.round(2).flatten().tolist() for part in parts],
    }


def _outline(rng: np.random.Generator) -> np.ndarray:
    corners = max(4, int(rng.lognormal(math.log(17), 0.6)))
    radius = min(200.0, math.sqrt(MEDIAN_AREA / math.pi) * math.exp(AREA_SPREAD / 2 * rng.standard_normal()))
    angles = np.sort(rng.random(corners)) * 2 * math.pi
    distance = radius * rng.uniform(0.7, 1.3, corners)
    centre = rng.random(2) * (SIZE[1], SIZE[0])
    points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * distance[:, None]
    return np.asarray(points.clip(0, (SIZE[1], SIZE[0])))


def _run_lengths(rng: np.random.Generator) -> dict[str, Any]:
    """Plain run lengths, as COCO gives crowds: a few hundred runs."""
    ends = np.sort(rng.choice(SIZE[0] * SIZE[1], 400, replace=False))
    counts = np.diff(ends, prepend=0, append=SIZE[0] * SIZE[1])
    return {"size": list(SIZE), "counts": counts.tolist()}


def main() -> list[Figure]:
    """Print the times and their ratio."""
    arguments = sys.argv[1:]
    coco = Path(arguments[arguments.index("--coco") + 1]) if "--coco" in arguments else None
    times = run(20, repeats=1, coco=coco) if "--quick" in arguments else run(coco=coco)
    print(f"COCO images with {times.instances:.1f} annotations each, one thread: CPU ms an image (min/median/max)")
    for name, values in (("targets, whole", times.targets), ("pycocotools annToMask", times.decoding)):
        print(f"{name:<24}{min(values):>8.2f} / {median(values):.2f} / {max(values):.2f}")
    print(f"targets take {times.ratio:.2f} of pycocotools' decoding alone")
    what = "CPU ms: COCO targets / pycocotools annToMask alone"
    return [Figure(what=what, ratios=ratios(times.targets, times.decoding), aim=2, at_most=True)]


if __name__ == "__main__":
    main()
