"""COCO-Stuff's pixel maps against plain numpy, and that it shares its images with the dataset coco."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.annotations import VOID
from deapcache.datasets import DATASETS, DigestIndex, images_owner, open_dataset
from deapcache.datasets.coco import CocoStuffMaps
from deapcache.errors import DataError, MissingDataError, UsageError
from deapcache.extraction import image_recipe
from deapcache.locations import LocalLocation
from deapcache.recipe import image_set_digest
from deapcache.tasks import get_task

# Of labels.txt; a map's value is the id there less one.
SOME_IDS = {
    1: "person",
    11: "fire hydrant",
    13: "stop sign",
    90: "toothbrush",
    92: "banner",
    110: "desk-stuff",
    182: "wood",
}
REMOVED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)

MakeCoco = Callable[..., Path]


def _write_maps(root: Path, split: str, folder: str = "stuffthingmaps_trainval2017") -> None:
    """A map for every image, of 8×8-pixel squares, with all values that occur and 255."""
    values = np.array([v for v in range(182) if v + 1 not in REMOVED_IDS] + [255], np.uint8)
    maps = root / folder / f"{split}2017"
    maps.mkdir(parents=True)
    for path in (root / f"{split}2017").glob("*.jpg"):
        squares = np.random.default_rng(int(path.stem)).choice(values, (12, 16))
        Image.fromarray(squares.repeat(8, 0).repeat(8, 1)).save(maps / f"{path.stem}.png")


@pytest.fixture
def root(make_coco: MakeCoco) -> Path:
    root = make_coco()
    for split in ("train", "val"):
        _write_maps(root, split)
    return root


def _map(root: Path, split: str, image_id: str) -> Path:
    return root / "stuffthingmaps_trainval2017" / f"{split}2017" / f"{image_id}.png"


def test_maps_hold_the_place_of_their_value_among_the_values_that_occur(root: Path) -> None:
    dataset = open_dataset("coco-stuff", root)
    seen = set()
    for split in ("train", "val"):
        for row, image_id in enumerate(dataset.image_ids(split)):
            stored = np.array(Image.open(_map(root, split, image_id)))
            expected = np.array(
                [VOID if v == 255 else v - sum(r - 1 < v for r in REMOVED_IDS) for v in stored.flatten().tolist()]
            ).reshape(stored.shape)
            classes = dataset.read_annotation(split, row, "classes")
            assert classes.dtype == np.uint8
            np.testing.assert_array_equal(classes, expected)
            seen |= set(classes.flatten().tolist())
    assert seen == {*range(171), VOID}


def test_classes_are_named(root: Path) -> None:
    classes = open_dataset("coco-stuff", root).classes
    assert len(classes) == len(set(classes)) == 171
    for id_, name in SOME_IDS.items():
        assert classes[id_ - 1 - sum(removed < id_ for removed in REMOVED_IDS)] == name
    assert not {"street sign", "hat", "mirror", "desk", "hair brush"} & set(classes)
    assert get_task("coco-stuff").heads(classes) == (171,)


@pytest.mark.usefixtures("settled_files")
def test_shares_its_images_with_coco(root: Path, home: LocalLocation) -> None:
    coco, stuff = open_dataset("coco", root), open_dataset("coco-stuff", root)
    assert (stuff.images_name, stuff.colour) == (coco.images_name, coco.colour)
    assert stuff.base_size == coco.base_size
    for split in ("train", "val"):
        assert stuff.image_ids(split) == coco.image_ids(split)
        digests = coco.image_digests(split, index=DigestIndex(home))
        again = DigestIndex(home)
        assert stuff.image_digests(split, index=again) == digests == stuff.image_digests(split)
        assert again.hashed_files == 0
        named = image_set_digest(zip(stuff.image_ids(split), digests, strict=True))
        recipes = [image_recipe(one, (224, 224), named, fit="squash") for one in (stuff, coco)]
        assert recipes[0] == recipes[1]
        for row in range(len(digests)):
            np.testing.assert_array_equal(stuff.read_image(split, row), coco.read_image(split, row))
    assert stuff.image_ids("val") == tuple(sorted(stuff.image_ids("val")))
    assert stuff.image_ids("train") != tuple(sorted(stuff.image_ids("train")))


def test_exif_orientation_is_ignored(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "val2017" / "000000010000.jpg"
    Image.open(path).copy().save(path, exif=exif)
    dataset = open_dataset("coco-stuff", root)
    assert dataset.read_image("val", 0).shape[:2] == dataset.read_annotation("val", 0, "classes").shape == (96, 128)


def test_needs_no_json_and_takes_either_name_of_the_folder(make_coco: MakeCoco, tmp_path: Path) -> None:
    root = make_coco(name="data/coco")
    _write_maps(root, "val", folder="stuffthingmaps")
    (root / "annotations" / "instances_val2017.json").unlink()
    dataset = open_dataset("coco-stuff", tmp_path / "data")
    assert dataset.image_ids("val") == tuple(f"{k:012d}" for k in range(10_000, 10_004))
    assert dataset.read_annotation("val", 0, "classes").shape == (96, 128)
    with pytest.raises(MissingDataError, match=r"no train split.*stuffthingmaps_trainval2017/train2017 is missing"):
        dataset.image_ids("train")
    status = DATASETS.get("coco-stuff").status(tmp_path / "data")
    assert (status["val"].images, status["val"].is_usable) == (4, True)
    assert (status["train"].images, status["train"].is_usable, len(status["train"].missing)) == (12, False, 1)


def test_a_changed_map_changes_the_annotation_digest_only(root: Path) -> None:
    before = open_dataset("coco-stuff", root)
    digests = before.annotation_digest("val", "classes"), before.image_digests("val")
    path = _map(root, "val", "000000010001")
    values = np.array(Image.open(path))
    values[0, 0] = 0 if values[0, 0] else 1
    Image.fromarray(values).save(path)
    after = open_dataset("coco-stuff", root)
    assert after.annotation_digest("val", "classes") != digests[0]
    assert after.image_digests("val") == digests[1]


@pytest.mark.parametrize("value", [11, 90, 182, 254])
def test_values_that_stand_for_nothing_are_refused(root: Path, value: int) -> None:
    path = _map(root, "val", "000000010001")
    values = np.array(Image.open(path))
    values[3, 4] = value
    Image.fromarray(values).save(path)
    dataset = open_dataset("coco-stuff", root)
    dataset.read_annotation("val", 0, "classes")
    with pytest.raises(DataError, match=rf"000000010001\.png has the value\(s\) {value}; expected 0 to 181 without"):
        dataset.read_annotation("val", 1, "classes")


def test_a_map_of_another_size_is_refused(root: Path) -> None:
    Image.new("L", (128, 95)).save(_map(root, "val", "000000010000"))
    with pytest.raises(DataError, match=r"000000010000\.png has 95 x 128 .*000000010000\.jpg has 96 x 128"):
        open_dataset("coco-stuff", root).read_annotation("val", 0, "classes")


def test_a_coloured_map_is_refused(root: Path) -> None:
    Image.new("RGB", (128, 96)).save(_map(root, "val", "000000010000"))
    with pytest.raises(DataError, match=r"000000010000\.png holds colours"):
        open_dataset("coco-stuff", root).read_annotation("val", 0, "classes")


def test_images_without_map_and_maps_without_image(root: Path) -> None:
    path = _map(root, "val", "000000010002")
    path.rename(path.with_name("000000010009.png"))
    with pytest.raises(MissingDataError, match=r"maps_trainval2017/val2017 lacks 1 of 4 .*000000010002\.png"):
        open_dataset("coco-stuff", root).image_ids("val")
    (root / "val2017" / "000000010002.jpg").unlink()
    with pytest.raises(MissingDataError, match=r"data/val2017 lacks 1 of 4 .*000000010009\.jpg"):
        open_dataset("coco-stuff", root).image_ids("val")


def test_copies_that_were_converted_are_passed_over(root: Path) -> None:
    before = open_dataset("coco-stuff", root).image_ids("val")
    for path in (root / "stuffthingmaps_trainval2017" / "val2017").glob("*.png"):
        path.with_name(f"{path.stem}_labelTrainIds.png").touch()
    dataset = open_dataset("coco-stuff", root)
    assert dataset.image_ids("val") == before
    assert dataset.read_annotation("val", 0, "classes").shape == (96, 128)


def test_images_that_are_none_of_coco(root: Path) -> None:
    path = root / "val2017" / "holiday.jpg"
    path.touch()
    with pytest.raises(DataError, match=r"val2017/holiday\.jpg is not named as COCO names its images"):
        open_dataset("coco-stuff", root).image_ids("val")
    for path in (root / "val2017").iterdir():
        path.unlink()
    with pytest.raises(MissingDataError, match=r"val2017 holds no image.*an empty folder"):
        open_dataset("coco-stuff", root).image_ids("val")


def test_another_listing_than_that_of_coco_is_refused(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 7, "file_name": "000000000007.jpg", "height": 96, "width": 128})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"1 are listed in .*val2017\.json .* 0 are there .*000000000007\.jpg"):
        open_dataset("coco-stuff", root).image_ids("val")
    content["images"].pop()
    dropped = content["images"].pop()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != dropped["id"]]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"0 are listed .* 1 are there and not listed; .*000000010003\.jpg"):
        open_dataset("coco-stuff", root).image_ids("val")
    content["images"].append({**dropped, "id": 5})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"1 are listed .* 1 are there .*000000010003\.jpg\. Give"):
        open_dataset("coco-stuff", root).image_ids("val")


def test_missing_root(tmp_path: Path, make_coco: MakeCoco) -> None:
    with pytest.raises(MissingDataError, match=r"nowhere.*stuffthingmaps_trainval2017/train2017/.*no such folder"):
        open_dataset("coco-stuff", tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match="found annotations/, train2017/, val2017/"):
        open_dataset("coco-stuff", make_coco())
    assert not any(split.is_usable for split in DATASETS.get("coco-stuff").status(tmp_path).values())


def test_has_class_maps_only(root: Path) -> None:
    dataset = open_dataset("coco-stuff", root)
    with pytest.raises(UsageError, match="no annotation 'instances'"):
        dataset.read_annotation("val", 0, "instances")
    with pytest.raises(UsageError, match="no annotation 'boxes'"):
        dataset.target_options("boxes")
    assert pickle.loads(pickle.dumps(dataset)).image_ids("val") == dataset.image_ids("val")


def test_owner_of_the_images_is_known_without_any_file() -> None:
    owners = {name: images_owner(name) for name in ("coco", "coco-stuff", "scenes", "of another package")}
    assert owners == {
        "coco": "coco",
        "coco-stuff": "coco",
        "scenes": "scenes",
        "of another package": "of another package",
    }
    assert images_owner("coco-stuff") == CocoStuffMaps.images_name
