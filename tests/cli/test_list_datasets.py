"""``deapcache list datasets``: what is there, beside what there should be, and what it is good for."""

from __future__ import annotations

import json

from deapcache.datasets import DATASETS
from deapcache.datasets.coco import CocoInstances


def test_counts_annotations_and_tasks(cli, make_coco):
    done = cli("list", "datasets", "--data-root", make_coco(3, 2))
    assert done.code == 0
    lines = done.out.splitlines()
    start = next(row for row, line in enumerate(lines) if line.startswith("coco "))
    assert lines[start + 1 : start + 4] == [
        "  found: train: 3 images (official: 118,287); val: 2 images (official: 5,000)",
        "  annotations: instances, boxes, classes (81)",
        "  tasks: boundaries, detection, discrimination, foreground, segmentation",
    ]
    assert "  annotations: instances, boxes, classes (10), depth" in lines
    assert "  found: train: 240 images (official: 240); val: 60 images (official: 60)" in lines


def test_json(cli, make_coco):
    root = make_coco(3, 2)
    done = json.loads(cli("list", "datasets", "--data-root", root, "--json").out)
    rows = {row["name"]: row for row in done["datasets"]}
    assert rows["coco"]["images"] == {"train": 3, "val": 2}
    assert rows["coco"]["official"] == {"train": 118_287, "val": 5_000}
    assert rows["coco"]["annotations"] == ["instances", "boxes", "classes"]
    assert (rows["coco"]["classes"], rows["scenes"]["classes"]) == (81, 10)
    assert "depth" in rows["scenes"]["tasks"]
    assert "depth" not in rows["coco"]["tasks"]
    assert (rows["voc"]["classes"], rows["voc"]["official"]) == (21, {"train": 1464, "val": 1449})
    assert "voc" in rows["voc"]["tasks"]
    assert "voc" not in rows["ade20k"]["tasks"]
    assert "segmentation" in rows["ade20k"]["tasks"]


def test_what_is_missing_is_named_and_an_empty_folder_said(cli, make_coco):
    root = make_coco(1, 1)
    (root / "annotations" / "instances_train2017.json").unlink()
    for image in (root / "val2017").iterdir():
        image.unlink()
    (found,) = [
        row["found"]
        for row in json.loads(cli("list", "datasets", "--data-root", root, "--json").out)["datasets"]
        if row["name"] == "coco"
    ]
    assert found == {"train": f"missing {root / 'annotations' / 'instances_train2017.json'}", "val": "no image"}


def test_nothing_is_opened(cli, make_coco, monkeypatch):
    def never(*_):
        raise AssertionError("a listing was read")

    monkeypatch.setattr(CocoInstances, "samples", never)
    assert cli("list", "datasets", "--data-root", make_coco(1, 1)).code == 0


def test_every_registered_dataset_says_what_its_class_does():
    """Facts of an entry are those of the class that opens it, where they do not depend on files."""
    from deapcache.datasets.ade20k import Ade20k
    from deapcache.datasets.bsds500 import Bsds500
    from deapcache.datasets.cityscapes import Cityscapes
    from deapcache.datasets.coco import CocoStuffMaps
    from deapcache.datasets.diode import Diode
    from deapcache.datasets.kitti import KittiEigen
    from deapcache.datasets.nyuv2 import NyuInpainted, NyuLabelled, NyuNormals
    from deapcache.datasets.nyuv2_pairs import NyuFrames
    from deapcache.datasets.pascal_part import PascalPart
    from deapcache.datasets.scenes import SceneNormals, Scenes
    from deapcache.datasets.spair import Spair71k
    from deapcache.datasets.voc import Voc

    readers = (
        Ade20k, Bsds500, Cityscapes, CocoInstances, CocoStuffMaps, Diode, KittiEigen, NyuFrames, NyuInpainted,
        NyuLabelled, NyuNormals, PascalPart, SceneNormals, Scenes, Spair71k, Voc,
    )  # fmt: skip
    for reader in readers:
        entry = DATASETS.get(reader.name)
        assert (entry.annotations, entry.classes) == (reader.annotations, reader.classes)
        assert set(entry.official) <= set(reader.splits)
    assert {reader.name for reader in readers} == set(DATASETS.names()) - {"folder"}
