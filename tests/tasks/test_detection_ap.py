"""Average precision in two steps against pycocotools' own, from its files to its summary."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deapcache.tasks.detection import DETECTIONS, average_precisions, match

Image = tuple[np.ndarray, np.ndarray]
"""Detections (n, 5) and objects (m, 6) of one image, as ``match`` takes them."""


def reference(images: Sequence[Image]) -> dict[str, float]:
    """What pycocotools says, through its public interface and with one category for all."""
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    results = []
    for image_id, (detections, objects) in enumerate(images, start=1):
        truth["images"].append({"id": image_id, "width": 640, "height": 480})
        for row in objects:
            annotation = {"id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": 1}
            annotation |= {"bbox": list(row[:4]), "area": row[4], "iscrowd": int(row[5])}
            truth["annotations"].append(annotation)
        results += [
            {"image_id": image_id, "category_id": 1, "bbox": list(row[:4]), "score": float(np.float32(row[4]))}
            for row in detections
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    large = evaluation.eval["precision"][0, :, 0, 3, 2]
    ap50_large = large[large > -1].mean() if (large > -1).any() else -1.0
    return {"ap": evaluation.stats[0], "ap_large": evaluation.stats[5], "ap50_large": ap50_large}


def ours(images: Sequence[Image]) -> dict[str, float]:
    every = [match(*image) for image in images]
    found = average_precisions({name: np.stack([one[name] for one in every]) for name in every[0]})
    return {"ap": found["all"].mean(), "ap_large": found["large"].mean(), "ap50_large": found["large"][0]}


def photographs(coco_mini: Path, seed: int) -> list[Image]:
    """The objects of all 104 photographs, with boxes near them, repeats, boxes in crowds and boxes anywhere."""
    generator = np.random.default_rng(seed)
    images = []
    for split in ("train", "val"):
        content = json.loads((coco_mini / "annotations" / f"instances_{split}2017.json").read_text())
        for image in content["images"]:
            own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            objects = np.array([[*a["bbox"], a["area"], a["iscrowd"]] for a in own]).reshape(-1, 6)
            images.append((detections_near(objects, (image["width"], image["height"]), generator), objects))
    return images


def detections_near(objects: np.ndarray, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    drawn = objects[generator.random(len(objects)) < 0.8, :4].repeat(2, axis=0)
    drawn = drawn + generator.normal(size=drawn.shape) * 0.08 * np.tile(drawn[:, 2:], 2)
    anywhere = generator.random((20, 4)) * (*size, *size) * (1, 1, 0.4, 0.4)
    boxes = np.concatenate([drawn, anywhere])[:DETECTIONS]
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    # Rounded, so that many scores are equal, within images and across them.
    scores = np.float32(generator.integers(1, 40, len(boxes)) / 41)
    order = np.argsort(-scores, kind="stable")
    return np.column_stack([boxes, scores])[order]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_pycocotools(coco_mini: Path, seed: int) -> None:
    images = photographs(coco_mini, seed)
    assert any(len(objects) == 0 for _, objects in images)
    assert any((objects[:, 5] == 1).any() for _, objects in images)
    expected = reference(images)
    assert 0.05 < expected["ap_large"] < 0.95
    assert ours(images) == pytest.approx(expected, abs=1e-12)


def test_resampled_images_score_as_if_they_were_there_so_often(coco_mini: Path) -> None:
    images = photographs(coco_mini, 3)
    drawn = [copy.deepcopy(images[i]) for i in np.random.default_rng(0).integers(0, len(images), 80)]
    assert ours(drawn) == pytest.approx(reference(drawn), abs=1e-12)


def test_images_without_detections_and_without_anything(coco_mini: Path) -> None:
    nothing, no_objects = np.zeros((0, 5)), np.zeros((0, 6))
    images = photographs(coco_mini, 4)[:20]
    images += [(nothing, images[0][1]), (nothing, no_objects), (images[1][0], no_objects)]
    assert ours(images) == pytest.approx(reference(images), abs=1e-12)


def test_an_object_is_found_once_and_repeats_are_alarms() -> None:
    objects = np.array([[10.0, 10, 200, 200, 30_000, 0]])
    detections = np.column_stack([np.tile([10.0, 10, 200, 200], (100, 1)), np.linspace(0.9, 0.1, 100)])
    statistics = match(detections, objects)
    assert np.count_nonzero(statistics["hits"]) == 1
    assert np.count_nonzero(statistics["alarms"]) == 99


BOX = (100.0, 100.0, 200.0, 200.0)


def _scored(boxes: Sequence[Sequence[float]], objects: Sequence[Sequence[float]]) -> dict[str, float]:
    detections = [[*box, 0.9 - place / 10] for place, box in enumerate(boxes)]
    return ours([(np.array(detections).reshape(-1, 5), np.array(objects, float).reshape(-1, 6))])


def test_scores_computed_by_hand() -> None:
    # Moved by 20 of 200 pixels: IoU 180 / 220 = 0.818, a hit at 0.5 to 0.8: 7 of 10 thresholds.
    moved = (120.0, 100.0, 200.0, 200.0)
    scores = _scored([moved], [[*BOX, 30_000, 0]])
    assert scores == pytest.approx({"ap": 0.7, "ap_large": 0.7, "ap50_large": 1.0})
    # A false alarm before it halves the precision; a repeat after it costs nothing.
    elsewhere = (400.0, 100.0, 150.0, 150.0)
    scores = _scored([elsewhere, BOX, BOX], [[*BOX, 30_000, 0]])
    assert scores == pytest.approx({"ap": 0.5, "ap_large": 0.5, "ap50_large": 0.5})
    # One of two objects found: recalls up to 0.5 are reached, 51 of 101.
    scores = _scored([BOX], [[*BOX, 30_000, 0], [*elsewhere, 20_000, 0]])
    assert scores["ap"] == pytest.approx(51 / 101)


def test_large_is_the_annotations_area_not_its_boxs() -> None:
    thin, large = [*BOX, 96.0**2 - 1, 0], [*BOX, 96.0**2, 0]
    assert math.isnan(_scored([BOX], [thin])["ap_large"])
    assert _scored([BOX], [thin])["ap"] == pytest.approx(1)
    assert _scored([BOX], [large])["ap_large"] == pytest.approx(1)
    # A small false alarm is no alarm among large ones.
    small = (400.0, 100.0, 50.0, 50.0)
    scores = _scored([small, BOX], [large])
    assert (scores["ap"], scores["ap_large"]) == pytest.approx((0.5, 1))


def test_what_lies_in_a_crowd_is_no_alarm_and_a_crowd_is_not_missed() -> None:
    crowd = [0.0, 0.0, 640.0, 480.0, 200_000, 1]
    other = (400.0, 300.0, 100.0, 100.0)
    assert _scored([other, other, BOX], [[*BOX, 30_000, 0], crowd])["ap"] == pytest.approx(1)
    assert math.isnan(_scored([other], [crowd])["ap"])


def test_a_box_without_height_counts_and_cannot_be_found() -> None:
    flat = [50.0, 50.0, 10.0, 0.0, 0.0, 0]
    images = [(np.array([[*BOX, 0.9], [*flat[:4], 0.8]]), np.array([[*BOX, 30_000, 0], flat]))]
    assert ours(images)["ap"] == pytest.approx(51 / 101)
    assert ours(images) == pytest.approx(reference(images), abs=1e-12)
