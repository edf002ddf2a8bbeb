"""The ADE20K reader on small files of the distributed form, against Pillow's own values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.annotations import VOID, resize_map
from deapcache.cache import list_caches
from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.ade20k import CLASSES, Ade20k
from deapcache.datasets.base import sample_order
from deapcache.errors import DataError, MissingDataError, UsageError
from deapcache.extraction import ExtractionSettings, prepare_split
from deapcache.locations import LocalLocation

TRAIN = tuple(sample_order(["ADE_train_00000001", "ADE_train_00000002", "ADE_train_00020210"]))
VAL = ("ADE_val_00000001", "ADE_val_00002000")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ADEChallengeData2016 under ``tmp_path``; the second training photograph is grey, its labels all 0."""
    root = tmp_path / "ADEChallengeData2016"
    for folder, names in (("training", TRAIN), ("validation", VAL)):
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        for seed, name in enumerate(names):
            generator = np.random.default_rng(seed)
            picture = generator.integers(0, 256, (24, 30 + seed, 3), dtype=np.uint8)
            labels = generator.integers(0, 151, (24, 30 + seed), dtype=np.uint8) * (name != TRAIN[1])
            Image.fromarray(picture).convert("L" if name == TRAIN[1] else "RGB").save(
                root / "images" / folder / f"{name}.jpg"
            )
            Image.fromarray(labels.astype(np.uint8)).save(root / "annotations" / folder / f"{name}.png")
    (root / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")
    (root / "objectInfo150.txt").touch()
    return root


@pytest.mark.parametrize(("split", "folder", "names"), [("train", "training", TRAIN), ("val", "validation", VAL)])
def test_maps_are_the_values_of_the_files_less_one(root: Path, split: str, folder: str, names: tuple[str, ...]) -> None:
    dataset = open_dataset("ade20k", root)
    assert dataset.image_ids(split) == names
    for row, name in enumerate(names):
        with Image.open(root / "annotations" / folder / f"{name}.png") as image:
            assert image.mode == "L"
            stored = np.array(image).astype(int)
        with Image.open(root / "images" / folder / f"{name}.jpg") as image:
            picture = np.array(image.convert("RGB"))
        np.testing.assert_array_equal(
            dataset.read_annotation(split, row, "classes"), np.where(stored == 0, VOID, stored - 1)
        )
        np.testing.assert_array_equal(dataset.read_image(split, row), picture)


def test_every_official_value_has_its_class(root: Path) -> None:
    values = np.zeros((24, 30), np.uint8)
    values.ravel()[:151] = np.arange(151)
    Image.fromarray(values).save(root / "annotations" / "training" / f"{TRAIN[0]}.png")
    classes = Ade20k.open(root).read_annotation("train", 0, "classes").ravel()
    assert classes[0] == VOID
    assert classes[1:151].tolist() == list(range(150))
    assert (classes[151:] == VOID).all()


def test_names_are_the_official_ones_in_their_order() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 150
    # index in objectInfo150.txt, its first name
    official = {1: "wall", 2: "building", 9: "windowpane", 13: "person", 20: "chair", 21: "car", 41: "base"}
    official |= {45: "chest of drawers", 57: "pool table", 59: "screen door", 75: "computer", 81: "bus", 91: "airplane"}
    official |= {100: "buffet", 106: "conveyer belt", 117: "minibike", 124: "trade name", 127: "animal", 131: "screen"}
    official |= {
        137: "traffic light",
        139: "ashcan",
        142: "crt screen",
        145: "bulletin board",
        149: "clock",
        150: "flag",
    }
    assert {index: CLASSES[index - 1] for index in official} == official


@pytest.mark.parametrize("place", ["", "ADEChallengeData2016", "ade20k", "ade", "ade20k/ADEChallengeData2016"])
def test_found_wherever_it_usually_lies(root: Path, tmp_path: Path, place: str) -> None:
    data_root = tmp_path / "data"
    (data_root / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root, data_root / place)
    assert Ade20k.open(data_root).image_ids("val") == VAL
    status = DATASETS.get("ade20k").status(data_root)
    assert {split: found.images for split, found in status.items()} == {"train": 3, "val": 2}
    assert all(found.is_usable for found in status.values())


def test_one_split_is_enough_and_missing_parts_are_named(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "annotations" / "training")
    assert Ade20k.open(tmp_path).image_ids("val") == VAL
    with pytest.raises(MissingDataError, match=r"no train split under .*annotations.training is missing; .*_seg\.png"):
        Ade20k.open(tmp_path).image_ids("train")
    status = DATASETS.get("ade20k").status(tmp_path)
    assert status["train"].missing == (str(root / "annotations" / "training"),)
    assert status["val"].is_usable
    shutil.rmtree(root)
    with pytest.raises(
        MissingDataError, match=r"ade20k is not under .*expected ADEChallengeData2016/images/training.*ound"
    ):
        open_dataset("ade20k", tmp_path)


def test_images_and_labels_without_each_other_are_counted_and_named(root: Path) -> None:
    images, labels = root / "images" / "training", root / "annotations" / "training"
    (images / "._ADE_train_00000001.jpg").touch()  # macOS leaves such beside what it unpacks
    (images / "Thumbs.db").touch()
    assert Ade20k.open(root).image_ids("train") == TRAIN
    (labels / f"{TRAIN[0]}.png").unlink()
    (labels / f"{TRAIN[2]}.png").unlink()
    with pytest.raises(
        MissingDataError, match=rf"without a label in .*training: 2, the first is {TRAIN[0]}\.jpg\. Unp"
    ):
        Ade20k.open(root).image_ids("train")
    (images / f"{TRAIN[1]}.jpg").unlink()
    with pytest.raises(MissingDataError) as error:
        Ade20k.open(root).image_ids("train")
    assert f"labels of {labels} without an image in {images}: 1, the first is {TRAIN[1]}.png" in str(error.value)
    assert f"images of {images} without a label in {labels}: 2, the first is {TRAIN[0]}.jpg" in str(error.value)
    for folder in (images, labels):
        shutil.rmtree(folder)
        folder.mkdir()
    with pytest.raises(MissingDataError, match=r"training holds no \*\.jpg and .*training no \*\.png"):
        Ade20k.open(root).image_ids("train")


def _with_value(values: np.ndarray) -> Image.Image:
    values[5, 6] = 151
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with_value, r"ADE_train_000\d+.png has the value\(s\) 151; expected 0 \(unlabelled\) to 150"),
        (lambda values: Image.fromarray(values.astype(np.uint16) * 256), r"has the value\(s\) .*expected 0"),
        (lambda values: Image.fromarray(values[:, 1:]), r"\d+.png has 24 x 29 pixels .*\d+.jpg has 24 x 30"),
        (lambda values: Image.fromarray(np.stack([values] * 3, -1)), r"ADE_train_\d+.png holds colours \(mode RGB\)"),
    ],
    ids=["value", "16 bits", "size", "colours"],
)
def test_label_files_that_cannot_be_used_are_refused(
    root: Path, change: Callable[[np.ndarray], Image.Image], message: str
) -> None:
    path = root / "annotations" / "training" / f"{TRAIN[0]}.png"
    with Image.open(path) as image:
        values = np.array(image)
    change(values).save(path)
    with pytest.raises(DataError, match=message):
        Ade20k.open(root).read_annotation("train", 0, "classes")


def test_targets_in_the_cache_are_the_maps_at_base_size(root: Path, home: LocalLocation) -> None:
    dataset = Ade20k.open(root)
    prepare_split(dataset, "train", home, ExtractionSettings(base_size=(16, 20)), annotations=("classes",))
    (entry,) = list_caches(home, "targets")
    targets = entry.open().read([0, 1, 2])
    for row in range(3):
        expected = resize_map(dataset.read_annotation("train", row, "classes"), (16, 20))
        np.testing.assert_array_equal(targets[row], expected)
    assert (targets[1] == VOID).all()
    assert entry.recipe["classes"][149] == "flag"


def test_it_has_classes_alone(root: Path) -> None:
    dataset = Ade20k.open(root)
    assert dataset.target_options("classes") == {"other objects": "void"}
    for kind in ("instances", "boxes", "depth"):
        with pytest.raises(UsageError, match=f"no annotation '{kind}': it has classes"):
            dataset.read_annotation("train", 0, kind)
    with pytest.raises(UsageError, match="no annotation 'boxes'"):
        dataset.box_rows("train")
