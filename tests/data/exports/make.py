"""Writes the exports beside it with other people's writers; see README.md. Not run by the tests."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import datumaro
import kwcoco
import labelme
import numpy as np
from datumaro.components.annotation import Bbox, Polygon
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image
from labelme.label_file import LabelFile
from PIL import Image as Picture
from pycocotools import mask

HERE = Path(__file__).parent
TRUTH = json.loads((HERE / "truth.json").read_text())


def photograph(seed: int) -> np.ndarray:
    """24 x 32 pixels; few grey levels make small files."""
    return np.random.default_rng(seed).integers(0, 4, (3, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1) * 60


def dataset(kind: str) -> Dataset:
    """The set as datumaro holds it: outlines, or boxes alone."""
    items = []
    for seed, (name, image) in enumerate(TRUTH["images"].items()):
        shapes = []
        for number, one in enumerate(image["objects"]):
            common = {
                "label": TRUTH["classes"].index(one["class"]),
                "z_order": number,
                "id": number,
                "group": number + 1,
            }
            points = one["polygon"]
            box = (min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2]))
            x, y, right, bottom = box
            shapes.append(
                Polygon(points, **common) if kind == "outlines" else Bbox(x, y, right - x, bottom - y, **common)
            )
        media = Image.from_numpy(photograph(seed), ext=".png")
        items.append(DatasetItem(name, subset=image["split"], media=media, annotations=shapes))
    return Dataset.from_iterable(items, categories=TRUTH["classes"], media_type=Image)


def with_datumaro() -> None:
    labelmap, colours = str(HERE / "labelmap.txt"), str(HERE / "label_colors.txt")
    Path(labelmap).write_text("background:0,0,0::\ncrow:128,0,0::\nbarn owl:0,128,0::\n")
    Path(colours).write_text("0 0 0 background\n128 0 0 crow\n0 128 0 owl\n")
    for folder, format_, kind, options in (
        ("coco", "coco_instances", "outlines", {}),
        ("coco-runs", "coco_instances", "outlines", {"segmentation_mode": "mask"}),
        ("coco-boxes", "coco_instances", "boxes", {}),
        ("yolo-boxes", "yolo_ultralytics", "boxes", {}),
        ("darknet-boxes", "yolo", "boxes", {}),
        ("cvat", "cvat", "outlines", {}),
        ("cvat-boxes", "cvat", "boxes", {}),
        ("voc-boxes", "voc", "boxes", {"label_map": labelmap}),
        ("masks", "voc_segmentation", "outlines as masks", {"label_map": labelmap}),
        ("camvid", "camvid", "outlines as masks", {"label_map": colours}),
    ):
        made = dataset(kind.removesuffix(" as masks"))
        if kind.endswith("masks"):
            made.transform("polygons_to_masks")
        if format_ == "camvid":  # whose names have no spaces
            made.transform("remap_labels", mapping={"barn owl": "owl"}, default="keep")
        made.export(str(HERE / folder), format_, save_media=True, **options)
    Path(labelmap).unlink()
    Path(colours).unlink()


def with_kwcoco() -> None:
    """Compressed run lengths, and a crowd; no split."""
    made = kwcoco.CocoDataset()
    folder = HERE / "kwcoco"
    (folder / "pictures").mkdir(parents=True)
    numbers = {name: made.add_category(name) for name in TRUTH["classes"]}
    for seed, (name, image) in enumerate(TRUTH["images"].items()):
        path = folder / "pictures" / f"{name}.png"
        Picture.fromarray(photograph(seed)).save(path)
        image_id = made.add_image(file_name=f"pictures/{name}.png", width=32, height=24)
        for one in image["objects"]:
            points = np.array(one["polygon"]).reshape(-1, 2)
            runs = mask.frPyObjects([one["polygon"]], 24, 32)[0]
            made.add_annotation(
                image_id,
                numbers[one["class"]],
                bbox=[*points.min(0).tolist(), *np.ptp(points, 0).tolist()],
                segmentation={"size": [24, 32], "counts": runs["counts"].decode()},
            )
    made.dump(str(folder / "data.kwcoco.json"), newlines=True)


def with_labelme() -> None:
    """Polygons of one file an image; no split."""
    folder = HERE / "labelme"
    folder.mkdir()
    for seed, (name, image) in enumerate(TRUTH["images"].items()):
        Picture.fromarray(photograph(seed)).save(folder / f"{name}.png")
        shapes = [
            {
                "label": one["class"],
                "points": np.array(one["polygon"], float).reshape(-1, 2).tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for one in image["objects"]
        ]
        LabelFile().save(
            filename=str(folder / f"{name}.json"), shapes=shapes, imagePath=f"{name}.png", imageHeight=24, imageWidth=32
        )


if __name__ == "__main__":
    for folder in HERE.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    with_datumaro()
    with_kwcoco()
    with_labelme()
    print(datumaro.__version__, kwcoco.__version__, labelme.__version__, sys.version)
