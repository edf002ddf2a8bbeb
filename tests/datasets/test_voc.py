"""The VOC reader on small files of the distributed form, against Pillow's own indices and plain loops."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.annotations import VOID, resize_map
from deapcache.cache import list_caches
from deapcache.datasets import DATASETS, DigestIndex, open_dataset
from deapcache.datasets.base import sample_order
from deapcache.datasets.voc import CLASSES, Voc, read_ids
from deapcache.errors import DataError, MissingDataError, UsageError
from deapcache.extraction import ExtractionSettings, prepare_split
from deapcache.locations import LocalLocation

TRAIN = tuple(sample_order(("2007_000032", "2007_000039", "2011_003271")))
VAL = ("2007_000033", "2007_000042")


def voc_palette() -> list[int]:
    """The official colour map, 256 × RGB: bit k of a channel comes from bit 3·(7 − k) + channel of the index."""
    colours = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for channel in range(3):
            for k in range(8):
                colours[index, channel] |= (index >> (3 * (7 - k) + channel) & 1) << k
    assert colours[[1, 15, VOID]].tolist() == [[128, 0, 0], [192, 128, 128], [224, 224, 192]]
    return colours.ravel().tolist()


def save_palette(values: np.ndarray, path: Path) -> None:
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette(voc_palette())
    image.save(path)


def write_image(root: Path, name: str, seed: int, size: tuple[int, int] = (30, 44)) -> None:
    """A photograph, three objects of two classes with a void border, and one void patch without an object."""
    generator = np.random.default_rng(seed)
    classes, objects = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    categories = generator.choice(np.arange(1, 21), 2, replace=False)[[0, 1, 0]]
    for number, (category, top) in enumerate(zip(categories, (2, 10, 19), strict=True), start=1):
        left = int(generator.integers(2, 20))
        outer = (slice(top - 1, top + 9), slice(left - 1, left + 15))
        inner = (slice(top, top + 8), slice(left, left + 14))
        for labels, value in ((classes, category), (objects, number)):
            labels[outer] = VOID
            labels[inner] = value
    for labels in (classes, objects):
        labels[-2:, :5] = VOID
    save_palette(classes, root / "SegmentationClass" / f"{name}.png")
    save_palette(objects, root / "SegmentationObject" / f"{name}.png")
    coarse = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(root / "JPEGImages" / f"{name}.jpg", quality=92)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOC2012 under ``tmp_path/VOCdevkit``, with images of two sizes and one that no list names."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate((*TRAIN, *VAL)):
        write_image(root, name, seed, size=(30, 44 + 3 * seed))
    shutil.copy(root / "JPEGImages" / f"{TRAIN[0]}.jpg", root / "JPEGImages" / "2008_000001.jpg")
    for split, names in (("train", TRAIN[::-1]), ("val", VAL)):
        list_file(root, split).write_text("".join(f"{name}\n" for name in names))
    return root


def list_file(root: Path, split: str = "train") -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def indices(root: Path, folder: str, name: str) -> np.ndarray:
    """The indices of a palette PNG, by Pillow alone."""
    with Image.open(root / folder / f"{name}.png") as image:
        assert image.mode == "P"
        return np.array(image)


@pytest.mark.parametrize(("split", "names"), [("train", TRAIN), ("val", VAL)])
def test_maps_are_the_indices_of_the_files(root: Path, split: str, names: tuple[str, ...]) -> None:
    dataset = open_dataset("voc", root)
    assert dataset.image_ids(split) == names
    for row, name in enumerate(names):
        classes, objects = (indices(root, f"Segmentation{what}", name) for what in ("Class", "Object"))
        np.testing.assert_array_equal(dataset.read_annotation(split, row, "classes"), classes)
        instances = dataset.read_annotation(split, row, "instances")
        assert instances.dtype == np.int32
        np.testing.assert_array_equal(instances, np.where(objects == VOID, 0, objects))
        with Image.open(root / "JPEGImages" / f"{name}.jpg") as image:
            np.testing.assert_array_equal(dataset.read_image(split, row), np.array(image))


def test_boxes_and_categories_are_those_of_the_visible_pixels(root: Path) -> None:
    dataset = Voc.open(root)
    for row, name in enumerate(TRAIN):
        classes, objects = (indices(root, f"Segmentation{what}", name) for what in ("Class", "Object"))
        found: dict[int, list[tuple[int, int]]] = {}
        for y in range(objects.shape[0]):
            for x in range(objects.shape[1]):
                if objects[y, x] not in (0, VOID):
                    found.setdefault(int(objects[y, x]), []).append((x, y))
        height, width = objects.shape
        expected = [[0, 0, width, height, width * height, 3, 0]]
        for number in sorted(found):
            xs, ys = zip(*found[number], strict=True)
            size = [max(xs) + 1 - min(xs), max(ys) + 1 - min(ys)]
            expected.append([min(xs), min(ys), *size, len(xs), 1, classes[ys[0], xs[0]]])
        assert len(expected) == 4
        np.testing.assert_array_equal(dataset.read_annotation("train", row, "boxes"), np.array(expected, float))
    assert dataset.box_rows("train") == 255


def test_an_object_has_the_commonest_class_of_its_pixels(root: Path) -> None:
    path = root / "SegmentationClass" / f"{TRAIN[0]}.png"
    objects, classes = indices(root, "SegmentationObject", TRAIN[0]), indices(root, "SegmentationClass", TRAIN[0])
    first, second = np.argwhere(objects == 1), np.argwhere(objects == 2)
    classes[tuple(first[:70].T)], classes[tuple(first[70:100].T)], classes[tuple(first[100:].T)] = VOID, 5, 9
    half = len(second) // 2
    classes[tuple(second[:half].T)], classes[tuple(second[half:].T)] = 20, 3
    save_palette(classes, path)
    # 70 void, 30 of class 5, 12 of class 9; the second object is half 20, half 3
    assert Voc.open(root).read_annotation("train", 0, "boxes")[1:3, 6].tolist() == [5, 3]
    classes[objects == 1] = VOID
    save_palette(classes, path)
    with pytest.raises(DataError, match=rf"SegmentationObject.{TRAIN[0]}.png: object 1 has no pixel of a class from 1"):
        Voc.open(root).read_annotation("train", 0, "boxes")


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("under", ["", "voc"])
def test_found_wherever_it_usually_lies(root: Path, tmp_path: Path, place: str, under: str) -> None:
    if under:
        (tmp_path / "data" / "voc").mkdir(parents=True)
        source = root if place == "VOCdevkit/VOC2012" else tmp_path / "VOCdevkit"
        shutil.move(source, tmp_path / "data" / "voc" / source.name)
        if place == "VOCdevkit":
            shutil.move(tmp_path / "data/voc/VOCdevkit/VOC2012", tmp_path / "data/voc/VOC2012")
        data_root = tmp_path / "data"
    else:
        data_root = tmp_path / place
    assert Voc.open(data_root).image_ids("val") == VAL
    assert all(status.is_usable for status in DATASETS.get("voc").status(data_root).values())


@pytest.mark.parametrize(
    "content",
    [b"b\na\n", b"a\r\nb\r\n", b"\n  b \n\n a\t\n\n", b"\xef\xbb\xbfb\na", b"b\ra\r"],
    ids=["plain", "crlf", "blanks", "bom", "cr"],
)
def test_lists_are_read_whatever_their_blanks_and_line_ends(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    assert read_ids(path) == ("a", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no image"),
        (b"\n \r\n", "names no image"),
        (b"b\na\nb\na\nc\n", "names 2 ids more than once, the first is a"),
        (b"a\n2008_000008 -1\n", r"train.txt, line 2: expected one id .* found '2008_000008 -1'"),
        (b"/JPEGImages/2007_000032.jpg\n", "line 1: expected one id"),
        (b"..\\a\n", "line 1: expected one id"),
        (b"\xff\xd8\xff\xe0", "is no text file"),
    ],
    ids=["empty", "blank", "repeated", "two columns", "path", "backslash", "jpeg"],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_ids(path)


@pytest.mark.parametrize(("folder", "suffix"), [("JPEGImages", "jpg"), ("SegmentationClass", "png")])
def test_ids_without_image_or_label_are_counted_and_named(root: Path, folder: str, suffix: str) -> None:
    for name in TRAIN[1:]:
        (root / folder / f"{name}.{suffix}").unlink()
    with pytest.raises(
        MissingDataError, match=rf"{folder} lacks 2 of 3 files, the first is {min(TRAIN[1:])}\.{suffix}; .*t"
    ):
        Voc.open(root).image_ids("train")
    assert Voc.open(root).image_ids("val") == VAL


def test_missing_object_maps_are_named_and_classes_do_without(root: Path) -> None:
    (root / "SegmentationObject" / f"{TRAIN[2]}.png").unlink()
    with pytest.raises(MissingDataError, match=rf"SegmentationObject lacks 1 of 3 files, the first is {TRAIN[2]}\.png"):
        Voc.open(root).annotation_digest("train", "instances")
    shutil.rmtree(root / "SegmentationObject")
    dataset = Voc.open(root)
    assert dataset.read_annotation("train", 0, "classes").shape == (30, 44)
    assert len(dataset.annotation_digest("train", "classes")) == 64
    for kind in ("instances", "boxes"):
        with pytest.raises(MissingDataError, match=r"no objects under .* the folder SegmentationObject is missing"):
            dataset.annotation_digest("train", kind)
        with pytest.raises(MissingDataError, match=r"SegmentationObject.2007_000032\.png is missing"):
            dataset.read_annotation("train", 0, kind)
    status = DATASETS.get("voc").status(root)
    assert status["val"].missing == (str(root / "SegmentationObject"),)


def test_missing_parts_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        MissingDataError, match=r"voc is not under .*expected VOCdevkit/VOC2012/.*found an empty folder"
    ):
        open_dataset("voc", tmp_path / "empty")
    with pytest.raises(MissingDataError, match="found no such folder"):
        open_dataset("voc", tmp_path / "nowhere")
    missing = DATASETS.get("voc").status(tmp_path / "empty")["train"].missing
    assert missing[0].endswith("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt")
    list_file(root).unlink()
    with pytest.raises(MissingDataError, match=r"no train split under .*Segmentation.train\.txt is missing"):
        Voc.open(root).image_ids("train")
    assert Voc.open(root).image_ids("val") == VAL
    for folder in ("JPEGImages", "SegmentationClass"):
        shutil.rmtree(root / folder)
    with pytest.raises(MissingDataError, match=r"JPEGImages and .*SegmentationClass are missing"):
        Voc.open(root).image_ids("val")


def _value(folder: str, value: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        values = indices(root, folder, TRAIN[0]).astype(np.uint16)
        values[3, 4] = value
        Image.fromarray(values if value > VOID else values.astype(np.uint8)).save(root / folder / f"{TRAIN[0]}.png")

    return change


def _resized(folder: str) -> Callable[[Path], None]:
    return lambda root: save_palette(np.zeros((30, 43)), root / folder / f"{TRAIN[0]}.png")


def _converted(folder: str, mode: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / folder / f"{TRAIN[0]}.png"
        Image.open(path).convert(mode).save(path)

    return change


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "classes",
            _value("SegmentationClass", 21),
            r"SegmentationClass.2007_000032.png has the value\(s\) 21; expected",
        ),
        ("boxes", _value("SegmentationClass", 254), r"SegmentationClass.2007_000032.png has the value\(s\) 254;"),
        ("instances", _value("SegmentationObject", 256), r"SegmentationObject.2007_000032.png has the value\(s\) 256;"),
        ("classes", _resized("SegmentationClass"), r"2007_000032.png has 30 x 43 pixels .*2007_000032.jpg has 30 x 44"),
        ("instances", _resized("SegmentationObject"), r"2007_000032.png has 30 x 43 pixels"),
        ("boxes", _resized("SegmentationClass"), r"SegmentationClass.2007_000032.png has 30 x 43 pixels"),
        ("classes", _converted("SegmentationClass", "RGB"), r"2007_000032.png holds colours \(mode RGB\)"),
        ("classes", _converted("SegmentationClass", "L"), r"2007_000032.png has the value\(s\) .*220; expected 0"),
        ("instances", _converted("SegmentationObject", "RGB"), r"2007_000032.png holds colours \(mode RGB\)"),
    ],
)
def test_label_files_that_cannot_be_used_are_refused(
    root: Path, kind: str, change: Callable[[Path], None], message: str
) -> None:
    change(root)
    with pytest.raises(DataError, match=message):
        Voc.open(root).read_annotation("train", 0, kind)


def test_every_official_value_is_read_from_palette_and_greyscale_files(root: Path) -> None:
    values = np.zeros((30, 44), np.uint8)
    values[0, :22] = [*range(21), VOID]
    for save in (save_palette, lambda array, path: Image.fromarray(array).save(path)):
        save(values, root / "SegmentationClass" / f"{TRAIN[0]}.png")
        np.testing.assert_array_equal(Voc.open(root).read_annotation("train", 0, "classes"), values)
    numbers = np.arange(30 * 44, dtype=np.uint16).reshape(30, 44) % 256
    save_palette(numbers, root / "SegmentationObject" / f"{TRAIN[0]}.png")
    instances = Voc.open(root).read_annotation("train", 0, "instances")
    np.testing.assert_array_equal(instances, np.where(numbers == VOID, 0, numbers))
    save_palette(np.full((30, 44), 7), root / "SegmentationClass" / f"{TRAIN[0]}.png")
    assert len(Voc.open(root).read_annotation("train", 0, "boxes")) == Voc.open(root).box_rows("train")


def test_images_as_stored_greyscale_and_turned(root: Path) -> None:
    path = root / "JPEGImages" / f"{TRAIN[0]}.jpg"
    grey = Image.open(path).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: its labels lie on the stored pixels
    grey.save(path, quality=95, exif=exif)
    image = Voc.open(root).read_image("train", 0)
    expected = np.array(Image.open(path))
    assert expected.ndim == 2
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))
    assert Voc.open(root).read_annotation("train", 0, "classes").shape == image.shape[:2]


def test_digests_follow_the_files_that_a_kind_is_read_from(root: Path, home: LocalLocation) -> None:
    def digests() -> list[str]:
        dataset = Voc.open(root)
        return [
            dataset.annotation_digest("train", kind, index=DigestIndex(home))
            for kind in ("classes", "instances", "boxes")
        ]

    before, images = digests(), Voc.open(root).image_digests("train")
    _value("SegmentationObject", 3)(root)
    objects_changed = digests()
    assert [a == b for a, b in zip(before, objects_changed, strict=True)] == [True, False, False]
    _value("SegmentationClass", 3)(root)
    assert [a == b for a, b in zip(objects_changed, digests(), strict=True)] == [False, True, False]
    assert Voc.open(root).image_digests("train") == images


def test_targets_in_the_cache_are_the_maps_at_base_size(root: Path, home: LocalLocation) -> None:
    kinds = ("classes", "instances", "boxes")
    prepare_split(Voc.open(root), "val", home, ExtractionSettings(base_size=(20, 24)), annotations=kinds)
    read = {entry.name: entry.open().read([0, 1]) for entry in list_caches(home, "targets")}
    for row, name in enumerate(VAL):
        np.testing.assert_array_equal(
            read["classes"][row], resize_map(indices(root, "SegmentationClass", name), (20, 24))
        )
        objects = indices(root, "SegmentationObject", name)
        np.testing.assert_array_equal(
            read["instances"][row], resize_map(np.where(objects == VOID, 0, objects), (20, 24))
        )
        assert (read["boxes"][row][:, 5] > 0).sum() == 4


def test_names_options_and_what_else_is_said_of_it(root: Path) -> None:
    from torchvision.models.segmentation import FCN_ResNet50_Weights

    official = FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert list(CLASSES) == ["background", *official[1:]]
    dataset = pickle.loads(pickle.dumps(Voc.open(root)))
    assert isinstance(dataset, Voc)
    assert dataset.classes == CLASSES
    assert dataset.target_options("classes") == {}
    assert dataset.target_options("instances") == {"void": "background"}
    assert dataset.target_options("boxes")["boxes"] == "tight, of visible pixels"
    for ask in (dataset.target_options, lambda kind: dataset.annotation_digest("train", kind)):
        with pytest.raises(UsageError, match="no annotation 'depth'"):
            ask("depth")
    with pytest.raises(UsageError, match="no split 'test'"):
        dataset.image_ids("test")
    assert {split: found.images for split, found in DATASETS.get("voc").status(root).items()} == {"train": 3, "val": 2}
    list_file(root).write_text("2007_000032 1\n")
    status = DATASETS.get("voc").status(root)["train"]
    assert not status.is_usable
    assert "expected one id such as 2007_000032" in status.missing[0]
