"""The COCO reader on the real subset against pycocotools, and on broken copies of it."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from deapcache.datasets import DATASETS, Dataset, DigestIndex, open_dataset
from deapcache.datasets.coco import CATEGORY_IDS, CocoInstances
from deapcache.errors import DataError, MissingDataError, UnknownNameError, UsageError
from deapcache.locations import LocalLocation

SQUARE = [[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]


@pytest.fixture(scope="session")
def dataset(coco_mini: Path) -> Dataset:
    return open_dataset("coco", coco_mini)


def _reference(coco_mini: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(coco_mini / "annotations" / f"instances_{split}2017.json"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A val split with two images of 20 x 30 pixels; three overlapping instances and a crowd in the first."""
    root = tmp_path / "tiny"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    for id_ in (7, 3):
        pixels = np.full((20, 30, 3), id_ * 20, np.uint8)
        Image.fromarray(pixels).save(root / "val2017" / f"{id_:012d}.jpg")
    larger = [[0.0, 0.0, 20.0, 0.0, 20.0, 20.0, 0.0, 20.0]]
    annotations = [
        {"id": 1, "image_id": 7, "area": 100, "iscrowd": 0, "segmentation": SQUARE},
        {"id": 2, "image_id": 7, "area": 400, "iscrowd": 0, "segmentation": larger},
        {"id": 3, "image_id": 7, "area": 600, "iscrowd": 1, "segmentation": {"size": [20, 30], "counts": [0, 600]}},
        {"id": 4, "image_id": 7, "area": 100, "iscrowd": 0, "segmentation": SQUARE},
    ]
    images = [{"id": id_, "file_name": f"{id_:012d}.jpg", "height": 20, "width": 30} for id_ in (7, 3)]
    _annotation_file(root).write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


def _annotation_file(root: Path) -> Path:
    return root / "annotations" / "instances_val2017.json"


def _edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(_annotation_file(root).read_text())
    change(content)
    _annotation_file(root).write_text(json.dumps(content))


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_images_are_listed(dataset: Dataset, coco_mini: Path, split: str) -> None:
    listed = json.loads((coco_mini / "annotations" / f"instances_{split}2017.json").read_text())["images"]
    by_id = sorted(f"{image['id']:012d}" for image in listed)
    assert sorted(dataset.image_ids(split)) == by_id
    assert (list(dataset.image_ids(split)) == by_id) == (split == "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_instance_maps_agree_with_pycocotools(dataset: Dataset, coco_mini: Path, split: str) -> None:
    reference = _reference(coco_mini, split)
    for row, image_id in enumerate(dataset.image_ids(split)):
        ids = dataset.read_annotation(split, row, "instances")
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=int(image_id)))
        masks = {a["id"]: reference.annToMask(a).astype(bool) for a in annotations}
        things = sorted((a for a in annotations if not a["iscrowd"]), key=lambda a: (-a["area"], a["id"]))
        covered = sum((masks[a["id"]].astype(int) for a in things), np.zeros(ids.shape, int))
        for number, thing in enumerate(things, start=1):
            alone = masks[thing["id"]] & (covered == 1)
            assert (ids[alone] == number).all()
            assert not (ids[~masks[thing["id"]]] == number).any()
            smaller = [masks[other["id"]] for other in things[number:]]
            on_top = masks[thing["id"]] & ~np.any([*smaller, np.zeros(ids.shape, bool)], axis=0)
            np.testing.assert_array_equal(ids == number, on_top)
        np.testing.assert_array_equal(ids > 0, covered > 0)
        crowd = np.any([masks[a["id"]] for a in annotations if a["iscrowd"]] + [np.zeros(ids.shape, bool)], axis=0)
        np.testing.assert_array_equal(ids == -1, crowd & (covered == 0))


def test_boxes_and_areas_of_visible_masks(dataset: Dataset, coco_mini: Path) -> None:
    """Masks lie where the json's own boxes say, so nothing is shifted, mirrored or turned."""
    reference = _reference(coco_mini, "val")
    errors = []
    for row, image_id in enumerate(dataset.image_ids("val")):
        ids = dataset.read_annotation("val", row, "instances")
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=int(image_id), iscrowd=False))
        things = sorted(annotations, key=lambda a: (-a["area"], a["id"]))
        for number, thing in enumerate(things, start=1):
            found = np.argwhere(ids == number)
            if len(found) < reference.annToMask(thing).sum():
                continue  # partly covered
            x, y, w, h = thing["bbox"]
            drawn = [*found.min(axis=0), *(found.max(axis=0) + 1)]
            errors.append(np.abs(drawn - np.array([y, x, y + h, x + w])).max())
    assert len(errors) > 100
    # Spikes thinner than a pixel are in the box, but not in the mask.
    assert np.median(errors) < 0.6
    assert np.quantile(errors, 0.95) < 2.0


def test_images_fit_their_masks(dataset: Dataset) -> None:
    for row in range(len(dataset.image_ids("val"))):
        image = dataset.read_image("val", row)
        assert image.dtype == np.uint8
        assert image.shape == (*dataset.read_annotation("val", row, "instances").shape, 3)


def test_painting_order(tiny: Path) -> None:
    dataset = open_dataset("coco", tiny)
    assert dataset.image_ids("val") == ("000000000003", "000000000007")
    assert not dataset.read_annotation("val", 0, "instances").any()  # listed without annotations
    ids = dataset.read_annotation("val", 1, "instances")
    assert ids.dtype == np.int32
    assert ids[5, 25] == -1  # crowd, under everything
    assert ids[5, 16] == 1  # the large one
    assert ids[6, 6] == 3  # of the two equal ones the later id lies on top
    _edit(tiny, lambda content: content["annotations"].reverse())
    np.testing.assert_array_equal(open_dataset("coco", tiny).read_annotation("val", 1, "instances"), ids)


def test_exif_orientation_is_ignored(tiny: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tiny / "val2017" / "000000000007.jpg"
    Image.open(path).copy().save(path, exif=exif)
    assert open_dataset("coco", tiny).read_image("val", 1).shape == (20, 30, 3)


def test_image_of_another_size(tiny: Path) -> None:
    Image.new("RGB", (30, 21)).save(tiny / "val2017" / "000000000007.jpg")
    with pytest.raises(DataError, match=r"000000000007\.jpg has 21 x 30 .*20 x 30"):
        open_dataset("coco", tiny).read_image("val", 1)


@pytest.mark.usefixtures("settled_files")
def test_digests(tiny: Path, home: LocalLocation) -> None:
    dataset = open_dataset("coco", tiny)
    before, annotations = dataset.image_digests("val"), dataset.annotation_digest("val", "instances")
    assert dataset.image_digests("val", index=DigestIndex(home)) == before
    again = DigestIndex(home)
    assert dataset.image_digests("val", index=again) == before
    assert again.hashed_files == 0

    path = tiny / "val2017" / "000000000007.jpg"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    after = open_dataset("coco", tiny).image_digests("val", index=again)
    assert again.hashed_files == 1
    assert (after[0], after[1] != before[1]) == (before[0], True)
    assert open_dataset("coco", tiny).annotation_digest("val", "instances") == annotations


@pytest.mark.parametrize("field", ["area", "iscrowd", "segmentation", "category_id", "bbox"])
def test_annotation_digest_follows_every_field_that_counts(tiny: Path, field: str) -> None:
    before = open_dataset("coco", tiny)
    values = {"area": 99, "iscrowd": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "category_id": 5, "bbox": [1, 2, 3, 4]}
    digests = (before.annotation_digest("val", "instances"), before.image_digests("val"))
    _edit(tiny, lambda content: content["annotations"][0].update({field: values[field]}))
    after = open_dataset("coco", tiny)
    assert after.annotation_digest("val", "instances") != digests[0]
    assert after.image_digests("val") == digests[1]


def test_annotation_digest_ignores_order_and_licences(tiny: Path) -> None:
    before = open_dataset("coco", tiny).annotation_digest("val", "instances")
    _edit(tiny, lambda c: (c["annotations"].reverse(), c["images"].reverse(), c.update(licenses=[1])))
    assert open_dataset("coco", tiny).annotation_digest("val", "instances") == before


def test_root_or_its_coco_folder(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coco").symlink_to(tiny)
    assert open_dataset("coco", tmp_path / "data").image_ids("val") == open_dataset("coco", tiny).image_ids("val")


def test_one_split_is_enough(tiny: Path) -> None:
    dataset = open_dataset("coco", tiny)
    with pytest.raises(MissingDataError, match=r"no train split.*train2017.*instances_train2017\.json"):
        dataset.image_ids("train")
    status = DATASETS.get("coco").status(tiny)
    assert (status["val"].images, status["val"].is_usable) == (2, True)
    assert (status["train"].images, status["train"].is_usable, len(status["train"].missing)) == (0, False, 2)


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"(?s)nowhere.*train2017/.*no such folder.*--data-root"):
        open_dataset("coco", tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(MissingDataError, match="found photos/"):
        open_dataset("coco", tmp_path)
    assert not any(split.is_usable for split in DATASETS.get("coco").status(tmp_path).values())


def test_listed_image_without_file(tiny: Path) -> None:
    (tiny / "val2017" / "000000000003.jpg").unlink()
    with pytest.raises(MissingDataError, match=r"lacks 1 of the 2 .*000000000003\.jpg"):
        open_dataset("coco", tiny).image_ids("val")


@pytest.mark.parametrize(
    "text", ["", '{"images": [', "[]", '{"images": []}', '{"images": 1, "annotations": []}', "\xff"]
)
def test_broken_json(tiny: Path, text: str) -> None:
    _annotation_file(tiny).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"instances_val2017\.json"):
        open_dataset("coco", tiny).image_ids("val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append(c["images"][0]), "image id 7 is listed more than once"),
        (lambda c: c["annotations"].append(c["annotations"][1]), "annotation id 2 is listed more than once"),
        (lambda c: c["annotations"][0].update(image_id=8), "annotation 1 is for image 8, which is not listed"),
        (lambda c: c["annotations"][0].pop("area"), "lacks the field 'area'"),
        (lambda c: c["images"][0].update(height="tall"), "wrong type"),
        (lambda c: c["images"].append(3), "wrong type"),
    ],
)
def test_contradictory_json(tiny: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    _edit(tiny, change)
    with pytest.raises(DataError, match=rf"instances_val2017\.json.*{message}"):
        open_dataset("coco", tiny).image_ids("val")


def test_undrawable_annotation_is_named(tiny: Path) -> None:
    _edit(tiny, lambda content: content["annotations"][0].update(segmentation=[]))
    with pytest.raises(DataError, match=r"instances_val2017\.json: annotation 1 of image 7 .*no polygon"):
        open_dataset("coco", tiny).read_annotation("val", 1, "instances")


def test_unknown_names(tiny: Path) -> None:
    dataset = open_dataset("coco", tiny)
    with pytest.raises(UsageError, match="no split 'test': choose train or val"):
        dataset.image_ids("test")
    with pytest.raises(UsageError, match="no annotation 'depth'"):
        dataset.read_annotation("val", 0, "depth")
    with pytest.raises(UnknownNameError, match="did you mean coco"):
        open_dataset("cocoa", tiny)


def test_can_be_sent_to_another_process(tiny: Path) -> None:
    dataset = open_dataset("coco", tiny)
    ids = dataset.image_ids("val")
    assert pickle.loads(pickle.dumps(dataset)).image_ids("val") == ids


def test_a_file_that_no_listing_names_is_no_image(tiny: Path) -> None:
    Image.new("RGB", (30, 20)).save(tiny / "val2017" / "000000000009.jpg")
    assert open_dataset("coco", tiny).image_ids("val") == ("000000000003", "000000000007")


def test_an_image_without_annotations_has_a_table_of_itself(tiny: Path) -> None:
    assert open_dataset("coco", tiny).read_annotation("val", 0, "boxes").tolist() == [[0, 0, 30, 20, 600, 3, 0]]


def test_a_missing_image_can_be_left_out(tiny: Path) -> None:
    whole = open_dataset("coco", tiny)
    digests, annotations = whole.image_digests("val"), whole.annotation_digest("val", "instances")
    crowd = whole.read_annotation("val", 1, "instances")
    gone = tiny / "val2017" / "000000000003.jpg"
    gone.unlink()
    tolerant = open_dataset("coco", tiny).tolerant()
    assert tolerant.image_ids("val") == ("000000000003", "000000000007")
    assert tolerant.row_files("val", 0) == (gone, _annotation_file(tiny))
    with pytest.raises(MissingDataError, match=r"000000000003\.jpg is missing"):
        tolerant.read_image("val", 0)
    rest = open_dataset("coco", tiny).without({"val": {"000000000003": "gone"}})
    assert rest.omitted == {"val": {"000000000003": "gone"}}
    assert (rest.image_ids("val"), rest.image_digests("val")) == (("000000000007",), digests[1:])
    np.testing.assert_array_equal(rest.read_annotation("val", 0, "instances"), crowd)
    assert rest.annotation_digest("val", "instances") != annotations
    _edit(tiny, lambda content: content["images"].pop(1))  # the same as if it had never been listed
    assert open_dataset("coco", tiny).annotation_digest("val", "instances") == rest.annotation_digest(
        "val", "instances"
    )


# Classes of the categories.


def test_class_maps_are_the_categories_of_what_is_on_top(dataset: Dataset, coco_mini: Path) -> None:
    """Painted anew with pycocotools: the smaller covers the larger, crowds are void where nothing else is."""
    reference = _reference(coco_mini, "val")
    names = {row["id"]: row["name"] for row in reference.dataset["categories"]}
    assert dataset.classes == ("background", *(names[id_] for id_ in sorted(names)))
    for row, id_ in list(enumerate(dataset.image_ids("val")))[:12]:
        annotations = reference.loadAnns(reference.getAnnIds(int(id_)))
        image = reference.imgs[int(id_)]
        expected = np.full((image["height"], image["width"]), "background", object)
        for one in sorted(annotations, key=lambda one: (not one["iscrowd"], -one["area"], one["id"])):
            expected[reference.annToMask(one) == 1] = "void" if one["iscrowd"] else names[one["category_id"]]
        shown = np.array([*dataset.classes, *["?"] * (254 - 80), "void"], object)
        assert (shown[dataset.read_annotation("val", row, "classes")] == expected).all()


def test_labels_of_one_s_own_in_the_layout_of_coco_have_no_classes(tiny: Path) -> None:
    dataset = open_dataset("coco", tiny)
    assert (dataset.annotations, dataset.classes) == (("instances", "boxes"), ())


def test_a_category_that_coco_does_not_have_is_named(tiny: Path) -> None:
    names = [{"id": k, "name": name} for k, name in zip(CATEGORY_IDS, CocoInstances.classes[1:], strict=True)]
    _edit(tiny, lambda document: document.update(categories=names))
    _edit(tiny, lambda document: [one.update(category_id=91) for one in document["annotations"]])
    with pytest.raises(DataError, match="image 7 has an object of category 91, which is none of COCO's 80"):
        open_dataset("coco", tiny).read_annotation("val", 1, "classes")
    _edit(tiny, lambda document: document["images"].append(document["images"][0]))
    assert open_dataset("coco", tiny).classes, "what is wrong with a split concerns that split"
    with pytest.raises(DataError, match="image id 7 is listed more than once"):
        open_dataset("coco", tiny).image_ids("val")
