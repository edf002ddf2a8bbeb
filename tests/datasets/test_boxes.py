"""Boxes of both datasets: COCO's against pycocotools, the scenes' against their maps, and broken ones."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from deapcache.annotations import COLUMNS, CROWD, OBJECT, box_table, boxes_of_map, crop_table, pad_table
from deapcache.cache import mirror
from deapcache.datasets import Dataset, open_dataset
from deapcache.datasets.scenes import CLASSES, Scenes
from deapcache.errors import DataError, UsageError
from deapcache.regions import CROP, SQUASH, seen_region


def _reference(coco_mini: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(coco_mini / "annotations" / f"instances_{split}2017.json"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_are_those_that_pycocotools_reads(coco_mini: Path, split: str) -> None:
    dataset, reference = open_dataset("coco", coco_mini), _reference(coco_mini, split)
    crowds, longest = 0, 0
    for row, image_id in enumerate(map(int, dataset.image_ids(split))):
        table = dataset.read_annotation(split, row, "boxes")
        image = reference.loadImgs(image_id)[0]
        annotations = reference.loadAnns(sorted(reference.getAnnIds(imgIds=image_id)))
        expected = [[*a["bbox"], a["area"], 1 + a["iscrowd"], a["category_id"]] for a in annotations]
        size = (image["width"], image["height"])
        assert table.dtype == np.float64
        assert table.tolist() == [[0, 0, *size, size[0] * size[1], 3, 0], *expected]
        crowds += sum(a["iscrowd"] for a in annotations)
        longest = max(longest, len(table))
    assert crowds >= 1
    assert dataset.box_rows(split) == longest


def test_scenes_boxes_are_tight_around_what_is_visible() -> None:
    scenes = Scenes()
    for row in range(3):
        instances, classes = (scenes.read_annotation("val", row, kind) for kind in ("instances", "classes"))
        table = scenes.read_annotation("val", row, "boxes")
        assert table[0].tolist() == [0, 0, 320, 240, 320 * 240, 3, 0]
        assert len(table) - 1 == instances.max()
        assert len(table) <= scenes.box_rows("val")
        for number, (x, y, width, height, area, kind, category) in enumerate(table[1:], start=1):
            here = instances == number
            inside = np.zeros(here.shape, bool)
            inside[int(y) : int(y + height), int(x) : int(x + width)] = True
            assert not (here & ~inside).any()
            assert here[int(y)].any()
            assert here[int(y + height) - 1].any()
            assert here[:, int(x)].any()
            assert here[:, int(x + width) - 1].any()
            assert (area, kind) == (here.sum(), 1)
            assert CLASSES[int(category)] == CLASSES[classes[here][0]]


def test_no_scene_has_more_boxes_than_rows() -> None:
    scenes = Scenes()
    assert max(len(scenes.scene("train", row).bodies) for row in range(12)) < scenes.box_rows("train") == 10


def test_a_scene_is_not_changed_by_who_reads_it() -> None:
    scenes = Scenes()
    before = scenes.read_annotation("val", 0, "instances")
    scenes.read_annotation("val", 0, "instances")[:] = 7
    np.testing.assert_array_equal(scenes.read_annotation("val", 0, "instances"), before)


def test_boxes_of_a_map_by_hand() -> None:
    instances = np.zeros((4, 6), np.int32)
    instances[1:3, 2:5] = 1
    instances[3, 0] = 4  # numbers may be missing
    classes = np.where(instances == 4, 9, 5).astype(np.uint8)
    table = boxes_of_map(instances, classes)
    assert table.tolist() == [[0, 0, 6, 4, 24, 3, 0], [2, 1, 3, 2, 6, 1, 5], [0, 3, 1, 1, 1, 1, 9]]
    assert len(boxes_of_map(np.zeros((4, 6), np.int32), classes)) == 1


def test_tables_are_filled_up_with_zeros() -> None:
    table = box_table((4, 6), [(1, 1, 2, 2, 3, 1, 18)])
    padded = pad_table(table, 5)
    assert padded.shape == (5, len(COLUMNS))
    assert padded.dtype == np.float64
    np.testing.assert_array_equal(padded[:2], table)
    assert not padded[2:].any()


def _changed(root: Path, **fields: Any) -> Dataset:
    """The data with the first validation annotation changed; a field that is None goes."""
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    annotation = content["annotations"][0] | fields
    content["annotations"][0] = {name: value for name, value in annotation.items() if value is not None}
    path.write_text(json.dumps(content))
    return open_dataset("coco", root)


@pytest.mark.parametrize(
    "fields",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, "wide"]},
        {"bbox": [1, 2, -3, 4]},
        {"bbox": [1, 2, 3, float("nan")]},
        {"bbox": [1, 2, float("inf"), 4]},
        {"bbox": None},
        {"bbox": 7},
        {"area": -1.0},
        {"category_id": None},
        {"category_id": "cat"},
    ],
    ids=str,
)
def test_what_is_no_box_is_named(make_coco: Any, fields: dict[str, Any]) -> None:
    dataset = _changed(make_coco(1, 1), **fields)
    message = (
        r"instances_val2017\.json: annotation 10001 of image 10000 is no box: found bbox .*expected a bbox of four"
    )
    with pytest.raises(DataError, match=message):
        dataset.read_annotation("val", 0, "boxes")


def test_boxes_without_height_and_over_the_border_stay(make_coco: Any) -> None:
    dataset = _changed(make_coco(1, 1), bbox=[-0.5, 90.25, 200.0, 0.0], area=0.0)
    assert dataset.read_annotation("val", 0, "boxes")[1].tolist() == [-0.5, 90.25, 200.0, 0.0, 0.0, 1, 1]


def test_a_dataset_without_boxes_says_so() -> None:
    class Bare(Scenes):
        annotations = ("depth",)
        box_rows = Dataset.box_rows

    with pytest.raises(UsageError, match="'scenes' has no annotation 'boxes': it has depth"):
        Bare().box_rows("val")


class TestCropping:
    """Tables of cropped images, in pixels of the whole one."""

    TABLE = box_table(
        (100, 200),
        [
            (60.0, 10.0, 40.0, 20.0, 600.0, OBJECT, 7),  # inside
            (30.0, 0.0, 40.0, 50.0, 1000.0, OBJECT, 8),  # half of it left of the region
            (0.0, 0.0, 50.0, 100.0, 5000.0, OBJECT, 9),  # ends where the region begins
            (140.0, 90.5, 30.0, 20.0, 300.0, CROWD, 9),  # beyond two borders
            (70.0, 70.0, 0.0, 5.0, 0.0, OBJECT, 9),  # nothing at all
        ],
    )

    def test_boxes_are_cut_and_those_outside_go(self) -> None:
        found = crop_table(self.TABLE, (224, 224), CROP)
        assert found.dtype == np.float64
        assert found.tolist() == [
            [50, 0, 100, 100, 10_000, 3, 0],
            [60, 10, 40, 20, 600, OBJECT, 7],
            [50, 0, 20, 50, 500, OBJECT, 8],
            [140, 90.5, 10, 9.5, 300 * 95 / 600, CROWD, 9],
        ]

    def test_a_table_without_boxes_is_its_region(self) -> None:
        assert crop_table(self.TABLE[:1], (50, 50), CROP).tolist() == [[50, 0, 100, 100, 10_000, 3, 0]]
        assert crop_table(self.TABLE[[0, 3]], (50, 50), CROP).tolist() == [[50, 0, 100, 100, 10_000, 3, 0]]

    @pytest.mark.parametrize(("size", "fit"), [((224, 224), SQUASH), ((7, 14), CROP)])
    def test_where_all_is_seen_nothing_changes(self, size: tuple[int, int], fit: str) -> None:
        np.testing.assert_array_equal(crop_table(self.TABLE, size, fit), self.TABLE)

    @pytest.mark.parametrize("size", [(31, 31), (100, 130), (13, 44)])
    def test_of_filled_boxes_it_is_the_table_of_the_cropped_map(self, size: tuple[int, int]) -> None:
        instances, classes = np.zeros((61, 84), np.int32), np.arange(61 * 84).reshape(61, 84) % 5
        for number, (row, column) in enumerate([(2, 3), (20, 1), (40, 60), (25, 30), (3, 70)], start=1):
            instances[row : row + 17, column : column + 13] = number
            classes[row : row + 17, column : column + 13] = number
        seen = seen_region(instances.shape, size, CROP)
        expected = boxes_of_map(seen.cut(instances), seen.cut(classes))
        expected[:, :2] += seen.left, seen.top
        found = crop_table(boxes_of_map(instances, classes), size, CROP)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        flipped = boxes_of_map(seen.cut(instances)[:, ::-1], seen.cut(classes)[:, ::-1])
        flipped[:, :2] += seen.left, seen.top
        np.testing.assert_allclose(mirror("boxes", found[None])[0], flipped, rtol=1e-12)
