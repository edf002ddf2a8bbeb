"""Cityscapes: small scenes drawn and written as its own tools do, against plain numpy."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.measure import label as connected_parts
from skimage.measure import regionprops

from deapcache.annotations import VOID
from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.cityscapes import Cityscapes
from deapcache.errors import DataError, MissingDataError, UsageError

# helpers/labels.py of cityscapesScripts: id, trainId (255 where it has none) and whether it has instances.
LABELS = {
    "unlabeled": (0, 255, False),
    "ego vehicle": (1, 255, False),
    "road": (7, 0, False),
    "sidewalk": (8, 1, False),
    "parking": (9, 255, False),
    "building": (11, 2, False),
    "pole": (17, 5, False),
    "polegroup": (18, 255, False),
    "traffic light": (19, 6, False),
    "sky": (23, 10, False),
    "person": (24, 11, True),
    "rider": (25, 12, True),
    "car": (26, 13, True),
    "truck": (27, 14, True),
    "bus": (28, 15, True),
    "caravan": (29, 255, True),
    "trailer": (30, 255, True),
    "train": (31, 16, True),
    "motorcycle": (32, 17, True),
    "bicycle": (33, 18, True),
}
SIZE = (40, 80)
STREET = [
    ("sky", (0, 0, 79, 12)),
    ("building", (0, 8, 30, 24)),
    ("road", (0, 24, 79, 39)),
    ("ego vehicle", (30, 37, 50, 39)),
    ("car", (2, 26, 3, 27)),  # wholly under the next one
    ("car", (1, 25, 12, 32)),
    ("car", (10, 27, 20, 34)),
    ("cargroup", (40, 20, 52, 26)),
    ("pole", (45, 5, 46, 30)),  # parts the group
    ("person", (55, 20, 58, 30)),
    ("persongroup", (60, 20, 62, 24)),
    ("caravan", (64, 20, 70, 26)),
    ("polegroup", (72, 4, 73, 24)),
    ("bicycle", (56, 27, 62, 34)),
]


def _draw(objects: list[tuple[str, tuple[int, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    """labelIds (8 bits) and instanceIds (16 bits), as json2labelImg.py and json2instanceImg.py draw them."""
    ids, instances = Image.new("L", SIZE[::-1], 0), Image.new("I", SIZE[::-1], 0)
    seen = dict.fromkeys(LABELS, 0)
    for drawn, box in objects:
        is_group = drawn not in LABELS
        name = drawn.removesuffix("group") if is_group else drawn
        id_, _, has_instances = LABELS[name]
        ImageDraw.Draw(ids).rectangle(box, fill=id_)
        value = id_ * 1000 + seen[name] if has_instances and not is_group else id_
        seen[name] += 1
        ImageDraw.Draw(instances).rectangle(box, fill=value)
    return np.array(ids), np.array(instances).astype(np.uint16)


def _write(root: Path, split: str, frame: str, objects: list[tuple[str, tuple[int, ...]]]) -> None:
    city = frame.split("_")[0]
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / split / city).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(frame)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png")
    for kind, values in zip(("labelIds", "instanceIds"), _draw(objects), strict=True):
        Image.fromarray(values).save(_label(root, split, frame, kind))
    _label(root, split, frame, "color").touch()


def _label(root: Path, split: str, frame: str, kind: str) -> Path:
    return root / "gtFine" / split / frame.split("_")[0] / f"{frame}_gtFine_{kind}.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for city in ("zurich", "aachen", "bochum"):
        for number in range(4):
            _write(root, "train", f"{city}_{number:06d}_000019", STREET[:number])
    _write(root, "val", "munster_000001_000019", STREET[:4])
    _write(root, "val", "frankfurt_000000_000294", STREET)
    return root


def test_rows_are_named_by_frame_and_ordered(root: Path) -> None:
    dataset = open_dataset("cityscapes", root)
    assert dataset.image_ids("val") == ("frankfurt_000000_000294", "munster_000001_000019")
    train = dataset.image_ids("train")
    assert sorted(train) == [f"{city}_{k:06d}_000019" for city in ("aachen", "bochum", "zurich") for k in range(4)]
    assert len({name.split("_")[0] for name in train[:4]}) > 1  # not the first city first
    assert dataset.read_image("val", 0).shape == (*SIZE, 3)


def test_class_maps_are_official_training_ids(root: Path) -> None:
    dataset = open_dataset("cityscapes", root)
    classes = dataset.read_annotation("val", 0, "classes")
    ids = np.array(Image.open(_label(root, "val", "frankfurt_000000_000294", "labelIds")))
    expected = np.full(SIZE, 255)
    for id_, train_id, _ in LABELS.values():
        expected[ids == id_] = train_id
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, expected)
    assert VOID in classes
    for name, (_, train_id, _) in LABELS.items():
        assert train_id == 255 or dataset.classes[train_id] == name
    assert len(dataset.classes) == 19


def test_instances_count_what_is_evaluated_and_groups_are_crowds(root: Path) -> None:
    numbers = open_dataset("cityscapes", root).read_annotation("val", 0, "instances")
    stored = np.array(Image.open(_label(root, "val", "frankfurt_000000_000294", "instanceIds")))
    assert stored.dtype == np.uint16
    objects = (24_000, 26_001, 26_002, 33_000)  # 26000 is hidden
    expected = np.zeros(SIZE, np.int32)
    for number, value in enumerate(objects, start=1):
        expected[stored == value] = number
    for value in (24, 26, 29_000):
        assert (stored == value).any()
        expected[stored == value] = -1
    assert numbers.dtype == np.int32
    np.testing.assert_array_equal(numbers, expected)


def test_boxes_are_those_of_visible_pixels(root: Path) -> None:
    dataset = open_dataset("cityscapes", root)
    table = dataset.read_annotation("val", 0, "boxes")
    stored = np.array(Image.open(_label(root, "val", "frankfurt_000000_000294", "instanceIds")))
    expected = [[0, 0, 80, 40, 3200, 3, 0]]
    for values, kind in (((24_000, 26_001, 26_002, 33_000), 1), ((24, 26, 29_000), 2)):
        for value in values:
            here = (stored == value).astype(int)
            for part in regionprops(here if kind == 1 else connected_parts(here, connectivity=2)):
                top, left, bottom, right = part.bbox
                category = value // 1000 or value
                expected.append([left, top, right - left, bottom - top, part.area, kind, category])
    assert sum(row[5:] == [2, 26] for row in expected) == 2  # the pole parts the group of cars
    np.testing.assert_array_equal(table, expected)
    assert dataset.box_rows("val") >= len(table)
    assert dataset.read_annotation("val", 1, "boxes").tolist() == [[0, 0, 80, 40, 3200, 3, 0]]


def test_too_many_objects_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cityscapes, "most_objects", 8)
    dataset = open_dataset("cityscapes", root)
    assert len(dataset.read_annotation("val", 0, "boxes")) == dataset.box_rows("val") == 9
    monkeypatch.setattr(Cityscapes, "most_objects", 7)
    with pytest.raises(DataError, match=r"frankfurt_000000_000294_gtFine_instanceIds\.png has 8 objects .*expected 7"):
        dataset.read_annotation("val", 0, "boxes")


@pytest.mark.parametrize(
    ("kind", "file", "value"),
    [
        ("classes", "labelIds", 34),
        ("classes", "labelIds", 255),
        ("instances", "instanceIds", 34),
        ("instances", "instanceIds", 11_000),
        ("instances", "instanceIds", 23_999),
        ("boxes", "instanceIds", 34_000),
        ("boxes", "instanceIds", 65_535),
    ],
)
def test_unknown_values_are_refused(root: Path, kind: str, file: str, value: int) -> None:
    path = _label(root, "val", "munster_000001_000019", file)
    values = np.array(Image.open(path))
    values[5, 6] = value
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=rf"munster_000001_000019_gtFine_{file}\.png has the value\(s\) {value}; exp"):
        open_dataset("cityscapes", root).read_annotation("val", 1, kind)


@pytest.mark.parametrize(("kind", "file"), [("classes", "labelIds"), ("instances", "instanceIds")])
def test_a_map_of_another_size_is_refused(root: Path, kind: str, file: str) -> None:
    Image.new("L", (80, 41)).save(_label(root, "val", "munster_000001_000019", file))
    with pytest.raises(DataError, match=rf"{file}\.png has 41 x 80 .*leftImg8bit\.png has 40 x 80"):
        open_dataset("cityscapes", root).read_annotation("val", 1, kind)


@pytest.mark.parametrize("kind", ["labelIds", "instanceIds"])
def test_images_without_labels_and_labels_without_image(root: Path, kind: str) -> None:
    path = _label(root, "val", "munster_000001_000019", kind)
    path.rename(_label(root, "val", "munster_000002_000019", kind))
    with pytest.raises(MissingDataError, match=rf"val/munster lacks 1 of 1 .*munster_000001_000019_gtFine_{kind}\.png"):
        open_dataset("cityscapes", root).image_ids("val")
    _label(root, "val", "munster_000002_000019", kind).rename(path)
    (root / "leftImg8bit" / "val" / "munster" / "munster_000001_000019_leftImg8bit.png").unlink()
    with pytest.raises(MissingDataError, match=r"leftImg8bit/val/munster lacks 1 of 1 .*munster_000001_000019_left"):
        open_dataset("cityscapes", root).image_ids("val")


def test_frames_in_the_folder_of_another_city_are_refused(root: Path) -> None:
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / "val" / "munster").rename(root / kind / "val" / "lindau")
    with pytest.raises(DataError, match=r"val/lindau/munster_000001_000019_leftImg8bit\.png lies in the folder of"):
        open_dataset("cityscapes", root).image_ids("val")


def test_empty_and_missing_folders(root: Path, tmp_path: Path) -> None:
    (root / "gtFine" / "val").rename(root / "gtFine" / "test")
    dataset = open_dataset("cityscapes", tmp_path)  # in its folder cityscapes/
    with pytest.raises(MissingDataError, match=r"no val split under .*gtFine/val is missing"):
        dataset.image_ids("val")
    status = DATASETS.get("cityscapes").status(tmp_path)
    assert (status["train"].images, status["train"].is_usable) == (12, True)
    assert (status["val"].images, status["val"].is_usable, len(status["val"].missing)) == (2, False, 1)
    (root / "gtFine" / "val").mkdir()
    for city in (root / "leftImg8bit" / "val").iterdir():
        city.rename(tmp_path / city.name)
    with pytest.raises(MissingDataError, match=r"leftImg8bit/val holds no image.*an empty folder"):
        dataset.image_ids("val")
    with pytest.raises(MissingDataError, match=r"cityscapes is not under .*leftImg8bit/train/.*no such folder"):
        open_dataset("cityscapes", tmp_path / "nowhere")
    assert not any(split.is_usable for split in DATASETS.get("cityscapes").status(tmp_path / "nowhere").values())


def test_digests_follow_the_files_that_a_kind_is_read_from(root: Path) -> None:
    kinds = ("classes", "instances", "boxes")
    before = {kind: open_dataset("cityscapes", root).annotation_digest("val", kind) for kind in kinds}
    path = _label(root, "val", "munster_000001_000019", "instanceIds")
    values = np.array(Image.open(path))
    values[0, 0] = 26_007
    Image.fromarray(values).save(path)
    dataset = open_dataset("cityscapes", root)
    assert [dataset.annotation_digest("val", kind) == before[kind] for kind in kinds] == [True, False, False]


def test_names_its_choices_and_can_be_sent_to_another_process(root: Path) -> None:
    dataset = open_dataset("cityscapes", root)
    assert all(dataset.target_options(kind) for kind in dataset.annotations)
    with pytest.raises(UsageError, match="no annotation 'depth'"):
        dataset.target_options("depth")
    assert pickle.loads(pickle.dumps(dataset)).image_ids("val") == dataset.image_ids("val")
