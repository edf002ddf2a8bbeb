"""Exports of other tools become a folder dataset with the same pixels, boxes and class names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from deapcache.annotations import CROWD, OBJECT
from deapcache.datasets import Dataset, open_dataset
from deapcache.datasets.importing import ImportReport, import_labels
from deapcache.errors import DataError, MissingDataError, UsageError

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
TRUTH = json.loads((EXPORTS / "truth.json").read_text(encoding="utf-8"))
SIZE = (24, 32)
VOID = 255

OUTLINES = ("coco", "coco-runs", "kwcoco", "cvat", "labelme", "yolo")
BOXES = ("coco-boxes", "yolo-boxes", "darknet-boxes", "cvat-boxes", "voc-boxes")
WITHOUT_SPLITS = ("kwcoco", "labelme")


def mask_of(polygon: list[float], size: tuple[int, int] = SIZE) -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects([polygon], *size))[..., 0].astype(bool)


def expected_maps(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Names of classes and numbers of objects, the smaller on top."""
    classes = np.full(SIZE, "background", object)
    instances = np.zeros(SIZE, int)
    objects = TRUTH["images"][name]["objects"]
    masks = [mask_of(one["polygon"]) for one in objects]
    for number in sorted(range(len(objects)), key=lambda k: -masks[k].sum()):
        classes[masks[number]] = objects[number]["class"]
        instances[masks[number]] = number + 1
    return classes, instances


def expected_boxes(name: str) -> list[tuple[Any, ...]]:
    rows = []
    for one in TRUTH["images"][name]["objects"]:
        x, y = one["polygon"][::2], one["polygon"][1::2]
        rows.append((one["class"], min(x), min(y), max(x) - min(x), max(y) - min(y)))
    return sorted(rows)


def source_of(name: str, folder: Path) -> Path:
    """An export; that of YOLO's polygons is written here."""
    if name != "yolo":
        return EXPORTS / name
    root = folder / "yolo"
    shutil.copytree(EXPORTS / "yolo-boxes", root)
    for label in root.glob("labels/*/*.txt"):
        lines = []
        for one in TRUTH["images"][label.stem]["objects"]:
            numbers = [f"{v / (SIZE[0] if k % 2 else SIZE[1]):.9f}" for k, v in enumerate(one["polygon"])]
            lines.append(f"{TRUTH['classes'].index(one['class'])} {' '.join(numbers)}\n")
        label.write_text("".join(lines))
    return root


def images_of(dataset: Dataset) -> Iterator[tuple[str, str, int]]:
    for split in ("train", "val"):
        for row, id_ in enumerate(dataset.image_ids(split)):
            yield id_, split, row


def same_objects(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two maps of numbers are the same but for which number is which."""
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and (0, 0) in pairs


def imported(source: Path, tmp_path: Path, **options: Any) -> tuple[ImportReport, Dataset]:
    report = import_labels(source, tmp_path / "birds", **options)
    return report, open_dataset("folder:birds", tmp_path)


def check_set(report: ImportReport, dataset: Dataset, name: str) -> None:
    found = {id_: split for id_, split, _ in images_of(dataset)}
    assert found.keys() == TRUTH["images"].keys()
    if name not in WITHOUT_SPLITS:
        assert found == {id_: image["split"] for id_, image in TRUTH["images"].items()}
    assert report.left_out == {}


def check_boxes(report: ImportReport, dataset: Dataset) -> None:
    for id_, split, row in images_of(dataset):
        table = dataset.read_annotation(split, row, "boxes")[1:]
        found = sorted((report.classes[int(line[6])], *line[:4]) for line in table)
        assert [line[0] for line in found] == [line[0] for line in expected_boxes(id_)]
        np.testing.assert_allclose(
            np.array([line[1:] for line in found]), np.array([line[1:] for line in expected_boxes(id_)]), atol=1e-4
        )
        assert (table[:, 5] == OBJECT).all()


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_become_the_same_pixels_boxes_and_classes(name: str, tmp_path: Path) -> None:
    report, dataset = imported(source_of(name, tmp_path), tmp_path)
    assert (dataset.annotations, report.written) == (
        ("classes", "instances", "boxes"),
        ["labels", "instances", "boxes"],
    )
    check_set(report, dataset, name)
    check_boxes(report, dataset)
    for id_, split, row in images_of(dataset):
        classes, instances = expected_maps(id_)
        assert (np.array(dataset.classes, object)[dataset.read_annotation(split, row, "classes")] == classes).all()
        assert same_objects(dataset.read_annotation(split, row, "instances"), instances)
        assert dataset.read_image(split, row).shape == (*SIZE, 3)


@pytest.mark.parametrize("name", BOXES)
def test_boxes_alone_become_the_same_boxes_and_classes(name: str, tmp_path: Path) -> None:
    report, dataset = imported(EXPORTS / name, tmp_path)
    assert (dataset.annotations, report.written) == (("boxes", "crowds"), ["boxes"])
    check_set(report, dataset, name)
    check_boxes(report, dataset)


@pytest.mark.parametrize("with_boxes", [False, True])
def test_voc_masks_in_the_colours_of_their_labelmap(with_boxes: bool, tmp_path: Path) -> None:
    source = tmp_path / "voc"
    shutil.copytree(EXPORTS / "masks", source)
    if with_boxes:
        shutil.copytree(EXPORTS / "voc-boxes" / "Annotations", source / "Annotations")
    report, dataset = imported(source, tmp_path)
    assert report.format == ("voc" if with_boxes else "masks")
    assert dataset.classes == ("background", *TRUTH["classes"])
    check_set(report, dataset, "masks")
    for id_, split, row in images_of(dataset):
        classes, instances = expected_maps(id_)
        assert (np.array(dataset.classes, object)[dataset.read_annotation(split, row, "classes")] == classes).all()
        assert same_objects(dataset.read_annotation(split, row, "instances"), instances)
    if with_boxes:
        check_boxes(report, dataset)


def test_camvid_masks_whose_background_has_no_class(tmp_path: Path) -> None:
    report, dataset = imported(EXPORTS / "camvid", tmp_path)
    check_set(report, dataset, "camvid")
    assert report.found == {"masks with colour 0,0,0, which is no class: void": 4}
    for id_, split, row in images_of(dataset):
        values = dataset.read_annotation(split, row, "classes")
        names = np.array([*dataset.classes, *[""] * (VOID - 2), "background"], object)[values]
        assert (names == np.where(expected_maps(id_)[0] == "barn owl", "owl", expected_maps(id_)[0])).all()


# What the tools of others leave to be read in more than one way.


def save_photograph(path: Path, size: tuple[int, int] = SIZE, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(path, exif=exif)
    return path


def save_mask(path: Path, values: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        picture.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    picture.save(path)


def coco(path: Path, images: list[tuple[str, int, int]], objects: list[dict[str, Any]], **more: Any) -> Path:
    """A COCO file of images (name, height, width); an object says the number of its image and what it differs in."""
    document = {
        "images": [{"id": k, "file_name": n, "height": h, "width": w} for k, (n, h, w) in enumerate(images)],
        "annotations": [
            {"id": k, "category_id": 7, "iscrowd": 0, "bbox": [1, 2, 3, 4], "area": 12, **one}
            for k, one in enumerate(objects)
        ],
        "categories": [{"id": 7, "name": "heron", "supercategory": "bird"}],
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path.parent


SQUARE = [2, 3, 12, 3, 12, 8, 2, 8]


def test_roboflow_puts_a_listing_beside_the_images_of_each_split(tmp_path: Path) -> None:
    groups = [{"id": 0, "name": "birds", "supercategory": "none"}, {"id": 1, "name": "jay", "supercategory": "birds"}]
    for split, name in (("train", "x"), ("valid", "x"), ("test", "y")):
        save_photograph(tmp_path / "rf" / split / f"{name}.jpg")
        one = {"image_id": 0, "category_id": 1, "segmentation": [SQUARE]}
        coco(tmp_path / "rf" / split / "_annotations.coco.json", [(f"{name}.jpg", *SIZE)], [one], categories=groups)
    report, dataset = imported(tmp_path / "rf", tmp_path)
    assert dataset.classes == ("background", "jay")
    assert (dataset.image_ids("train"), dataset.image_ids("val")) == (("train/x",), ("valid/x",))
    assert "the 1 images of test are left out: train and val are there" in report.notes


def test_what_is_odd_is_named_and_the_rest_imported(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    for name in ("a.jpg", "a.png", "other size.png", "fine.png"):
        save_photograph(root / name)
    (root / "broken.png").write_bytes(b"no picture")
    images = [("a.jpg", *SIZE), ("a.png", *SIZE), ("gone.png", *SIZE), ("other size.png", 9, 9), ("broken.png", *SIZE)]
    coco(
        root / "labels.json",
        [*images, ("fine.png", *SIZE)],
        [
            {"image_id": 0, "segmentation": [SQUARE]},
            {"image_id": 0, "segmentation": [[]]},
            {"image_id": 0, "segmentation": [[90, 90, 95, 90, 95, 95]]},
            {"image_id": 1, "category_id": 99},
            {"image_id": 77},
            {"image_id": 5, "segmentation": [SQUARE]},
        ],
    )
    report, dataset = imported(root, tmp_path)
    assert sorted(id_ for id_, _, _ in images_of(dataset)) == ["a", "a-png", "fine"]
    reasons = dict(report.left_out)
    assert reasons["labels.json: gone.png"] == "its image is missing"
    assert reasons["other size.png"] == "its labels are for 9 x 9 pixels (height x width), it has 24 x 32"
    assert "none of the known image formats" in reasons["broken.png"]
    assert reasons["a.jpg, object 2"] == "a polygon needs three or more points, given as x, y, x, y, ..."
    assert reasons["a.jpg, object 3"] == "it covers no pixel of the image"
    assert len(reasons) == 5
    assert "labels.json: 1 annotation(s) of categories that it does not list left out" in report.notes
    assert "labels.json: 1 annotation(s) of images that it does not list left out" in report.notes
    assert "a.png: there is another image of this name, so that it is written as a-png" in report.notes
    kept = json.loads((tmp_path / "birds" / "import.json").read_text(encoding="utf-8"))
    assert kept["left_out"] == report.left_out


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_turned_photographs_lie_on_the_upright_picture(orientation: int, tmp_path: Path) -> None:
    """Drawn on the stored or on the upright picture: the size that the labels are for says which."""
    turned = {5: lambda m: m.T, 6: lambda m: np.rot90(m, -1), 7: lambda m: np.rot90(m.T, 2), 8: np.rot90}[orientation]
    upright = turned(mask_of(SQUARE))
    box = [2, 3, 10, 5]
    for name, size, points in (("stored", SIZE, SQUARE), ("upright", SIZE[::-1], [3, 2, 8, 2, 8, 12, 3, 12])):
        path = save_photograph(tmp_path / name / "p.jpg", orientation=orientation)
        objects = [{"image_id": 0, "segmentation": [points], "bbox": box if name == "stored" else [3, 2, 5, 10]}]
        source = coco(tmp_path / name / "l.json", [(path.name, *size)], objects)
        import_labels(source, tmp_path / f"{name}-set")
        dataset = open_dataset(f"folder:{name}-set", tmp_path)
        assert dataset.read_image("train", 0).shape[:2] == SIZE[::-1]
        found = dataset.read_annotation("train", 0, "instances") > 0
        expected = upright if name == "stored" else mask_of(points, SIZE[::-1])
        assert (found == expected).all()
        rows, columns = np.nonzero(expected)
        x, y, width, height = dataset.read_annotation("train", 0, "boxes")[1, :4]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


def test_crowds_and_boxes_without_outline_are_void_under_the_objects(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    runs = {"size": list(SIZE), "counts": [0, 24 * 10, 24 * 22]}
    coco(
        tmp_path / "s" / "l.json",
        [("p.png", *SIZE)],
        [
            {"image_id": 0, "segmentation": [SQUARE], "bbox": [2, 3, 10, 5]},
            {"image_id": 0, "segmentation": runs, "iscrowd": 1, "bbox": [0, 0, 10, 24], "area": 240},
            {"image_id": 0, "bbox": [20, 10, 5, 6]},
        ],
    )
    report, dataset = imported(tmp_path / "s", tmp_path)
    classes = dataset.read_annotation("train", 0, "classes")
    expected = np.zeros(SIZE, int)
    expected[:, :10] = expected[10:16, 20:25] = VOID
    expected[mask_of(SQUARE)] = 1
    assert (classes == expected).all()
    assert ((dataset.read_annotation("train", 0, "instances") > 0) == mask_of(SQUARE)).all()
    assert dataset.read_annotation("train", 0, "boxes")[1:, 5].tolist() == [OBJECT, CROWD, OBJECT]
    assert report.found == {"objects: boxes without outline": 1, "objects: crowds": 1, "objects: outlines": 1}


def test_crowds_of_boxes_alone_are_maps(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    crowd = {"image_id": 0, "iscrowd": 1, "bbox": [4, 5, 6, 7]}
    coco(tmp_path / "s" / "l.json", [("p.png", *SIZE)], [{"image_id": 0}, crowd])
    _, dataset = imported(tmp_path / "s", tmp_path)
    expected = np.zeros(SIZE, int)
    expected[5:12, 4:10] = -1
    assert (dataset.read_annotation("train", 0, "crowds") == expected).all()


def test_groups_of_categories_as_classes(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    names = [("heron", "bird"), ("robin", "bird"), ("fox", "mammal"), ("stone", "")]
    categories = [{"id": 7 + k, "name": name, "supercategory": group} for k, (name, group) in enumerate(names)]
    one = {"image_id": 0, "segmentation": [SQUARE], "category_id": 9}
    coco(tmp_path / "s" / "l.json", [("p.png", *SIZE)], [one], categories=categories)
    report, dataset = imported(tmp_path / "s", tmp_path, classes="supercategory")
    assert dataset.classes == ("background", "bird", "mammal", "stone")
    assert report.objects == {"mammal": 1}


def test_shapes_of_labelme_that_are_objects_and_those_that_are_not(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")

    def shape(kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
        return {"label": "wing", "points": points, "shape_type": kind, "group_id": None, **more}

    parts = ([[0, 0], [4, 0], [4, 4], [0, 4]], [[20, 0], [24, 0], [24, 4], [20, 4]])
    shapes = [
        *(shape("polygon", part, group_id=5) for part in parts),
        shape("circle", [[16, 14], [16, 19]]),
        shape("rectangle", [[30, 20], [25, 10]]),
        shape("line", [[0, 0], [5, 5]]),
    ]
    document = {"imagePath": "..\\elsewhere\\p.png", "imageHeight": 24, "imageWidth": 32, "shapes": shapes}
    (tmp_path / "s" / "p.json").write_text(json.dumps(document))
    report, dataset = imported(tmp_path / "s", tmp_path)
    instances = dataset.read_annotation("train", 0, "instances")
    assert instances[1, 1] == instances[1, 21] > 0
    circle = instances == instances[14, 16]
    assert abs(circle.sum() - np.pi * 25) < 8
    assert dataset.read_annotation("train", 0, "boxes")[1:, :4].tolist()[2] == [25, 10, 5, 10]
    assert "1 line shapes: not understood, left out" in report.notes


def test_masks_and_ellipses_of_cvat(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "images" / "p.png")
    (tmp_path / "s" / "annotations.xml").write_text(
        '<annotations><version>1.1</version><image id="0" name="p.png" width="32" height="24">'
        '<mask label="leaf" rle="1,2,3" left="4" top="5" width="3" height="2" z_order="1"/>'
        '<ellipse label="nut" cx="16" cy="12" rx="6" ry="3"/><polyline label="nut" points="1,1;2,2"/>'
        "</image></annotations>"
    )
    report, dataset = imported(tmp_path / "s", tmp_path)
    classes = np.array(dataset.classes)[dataset.read_annotation("train", 0, "classes")]
    assert np.argwhere(classes == "leaf").tolist() == [[5, 5], [5, 6]]
    assert abs((classes == "nut").sum() - np.pi * 18) < 6
    assert report.notes == ["1 polyline shapes: not understood, left out"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("palette.json", '{"sky": [0, 0, 9], "void": [1, 1, 1], "tree": "#ff0000"}'),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,9\nvoid,1,1,1\ntree,255,0,0\n"),
        ("label_colors.txt", "0 0 9 sky\n1 1 1 void\n255 0 0 tree\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,9::\nvoid:1,1,1::\ntree:255,0,0::\n"),
    ],
)
def test_palettes(file: str, text: str, tmp_path: Path) -> None:
    colours = np.array([[0, 0, 9], [255, 0, 0], [1, 1, 1], [224, 224, 192]])
    save_photograph(tmp_path / "s" / "images" / "p.jpg", (2, 2))
    save_mask(tmp_path / "s" / "masks" / "p.png", colours.reshape(2, 2, 3))
    (tmp_path / "s" / file).write_text(text)
    report, dataset = imported(tmp_path / "s", tmp_path)
    assert dataset.classes == ("sky", "tree")
    assert dataset.read_annotation("train", 0, "classes").tolist() == [[0, 1], [VOID, VOID]]
    assert report.notes == ["class 'void' of the palette is taken for void"]


def test_masks_by_index(tmp_path: Path) -> None:
    for name in ("p", "q"):
        save_photograph(tmp_path / "s" / "train" / f"{name}.jpg", (2, 3))
        save_mask(tmp_path / "s" / "train" / f"{name}_mask.png", [[0, 1, 2], [2, 1, VOID]], "P")
    (tmp_path / "s" / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, wall\n1, vine\n2, moss\n")
    _, dataset = imported(tmp_path / "s", tmp_path, val=0)
    assert dataset.classes == ("wall", "vine", "moss")
    assert dataset.image_ids("train") in (("p", "q"), ("q", "p"))
    assert dataset.read_annotation("train", 0, "classes").tolist() == [[0, 1, 2], [2, 1, VOID]]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/p.png", "trainannot/p.png"),
        ("train/p.jpg", "train_masks/p_mask.png"),
        ("train_images/p.jpg", "train_labels/p.png"),
        ("images/train/p.jpg", "labels/train/p.png"),
        ("train/images/p.jpg", "train/masks/p.png"),
        ("JPEGImages/p.jpg", "SegmentationClass/p.png"),
        ("p.jpg", "p_mask.png"),
        ("p.jpg", "masks/p.png"),
    ],
)
def test_masks_find_their_images(image: str, mask: str, tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / image, (1, 2))
    save_mask(tmp_path / "s" / mask, [[0, 2]])
    report, dataset = imported(tmp_path / "s", tmp_path)
    assert (report.left_out, report.images) == ({}, {"train": 1})
    assert dataset.read_annotation("train", 0, "classes").tolist() == [[0, 2]]
    assert dataset.classes == ("class 0", "class 1", "class 2")


def test_black_and_white_masks_are_background_and_foreground(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "images" / "p.jpg", (1, 2))
    save_mask(tmp_path / "s" / "masks" / "p.png", [[0, VOID]])
    report, dataset = imported(tmp_path / "s", tmp_path)
    assert dataset.classes == ("background", "foreground")
    assert dataset.read_annotation("train", 0, "classes").tolist() == [[0, 1]]
    assert report.notes == ["masks hold 0 and 255 alone: taken for background and foreground"]


def test_colours_without_a_palette_are_refused(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "images" / "p.jpg", (1, 2))
    save_mask(tmp_path / "s" / "masks" / "p.png", [[[0, 0, 0], [1, 2, 3]]])
    with pytest.raises(DataError, match=r"has 2 colours \(0,0,0 1,2,3\) and there is no palette file: put a labelmap"):
        import_labels(tmp_path / "s", tmp_path / "birds")


# Splits, links and refusals.


def test_without_splits_a_share_of_every_class_is_for_scoring(tmp_path: Path) -> None:
    names = [f"{k:02}.png" for k in range(30)]
    for name in names:
        save_photograph(tmp_path / "s" / name, (4, 4))
    rare = [{"image_id": k, "category_id": 8} for k in (3, 4, 11, 20, 29)]
    categories = [{"id": 7, "name": "heron"}, {"id": 8, "name": "robin"}]
    often = [{"image_id": k} for k in range(20)]
    coco(tmp_path / "s" / "l.json", [(name, 4, 4) for name in names], [*rare, *often], categories=categories)
    splits = []
    for number, seed in enumerate((0, 0, 1)):
        import_labels(tmp_path / "s", tmp_path / f"set{number}", seed=seed)
        splits.append(json.loads((tmp_path / f"set{number}" / "split.json").read_text()))
    assert splits[0] == splits[1] != splits[2]
    for split in splits:
        val = {int(name) for name in split["val"]}
        assert len(val) == 6
        assert len(val & {3, 4, 11, 20, 29}) == 1
        assert len(val & set(range(20))) == 4


def test_photographs_alone(tmp_path: Path) -> None:
    for name in ("a.jpg", "garden/b.png", "garden/ö.jpeg"):
        save_photograph(tmp_path / "s" / name)
    report, dataset = imported(tmp_path / "s", tmp_path)
    assert (report.format, dataset.annotations) == ("photos", ())
    assert {id_ for id_, _, _ in images_of(dataset)} == {"a", "garden/b", "garden/ö"}
    assert not (tmp_path / "birds" / "classes.json").exists()


def test_folders_that_are_links_are_followed_once(tmp_path: Path) -> None:
    save_photograph(tmp_path / "elsewhere" / "a.jpg")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "s")
    _, dataset = imported(tmp_path / "s", tmp_path)
    assert dataset.image_ids("train") == ("a",)


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_linked_or_copied_and_the_source_stays(copy: bool, tmp_path: Path) -> None:
    source = tmp_path / "s"
    shutil.copytree(EXPORTS / "coco", source)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    imported(source, tmp_path, copy=copy)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
    assert (tmp_path / "birds" / "images" / "a.png").is_symlink() != copy


def test_an_import_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_labels(EXPORTS / "coco", tmp_path / "birds", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    shutil.copytree(EXPORTS / "coco", tmp_path / "both" / "one")
    shutil.copytree(EXPORTS / "cvat", tmp_path / "both" / "two")
    for source, options, error, text in (
        (EXPORTS / "nowhere", {}, MissingDataError, "is no folder"),
        (tmp_path / "empty", {}, MissingDataError, "holds no image"),
        (tmp_path / "both", {}, UsageError, "has labels of coco and cvat: say which with --from"),
        (EXPORTS / "coco", {"format": "coca"}, UsageError, "unknown format 'coca': choose one of auto, coco"),
        (EXPORTS / "coco", {"val": 1}, UsageError, "--val 1: expected the share"),
        (EXPORTS / "cvat", {"classes": "supercategory"}, UsageError, "only COCO's categories have groups"),
        (EXPORTS / "cvat", {"format": "coco"}, DataError, "has no COCO file that lists images"),
        (EXPORTS / "cvat", {"format": "masks"}, DataError, "has no mask"),
    ):
        with pytest.raises(error, match=text):
            import_labels(source, tmp_path / "birds", **options)
    (tmp_path / "birds").mkdir()
    with pytest.raises(UsageError, match="is there already: give another name, or remove it"):
        import_labels(EXPORTS / "coco", tmp_path / "birds")


def test_a_class_that_the_labelmap_does_not_have_is_left_out(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "voc-boxes", tmp_path / "voc")
    (tmp_path / "voc" / "labelmap.txt").write_text("background:0,0,0::\ncrow:128,0,0::\n")
    report, dataset = imported(tmp_path / "voc", tmp_path)
    assert report.classes == ["background", "crow"]
    why = "class 'barn owl' is not in the list of classes"
    assert report.left_out == {
        f"JPEGImages/{name}.png, object {k}": why for name, k in (("a", 2), ("d", 2), ("Möwe 1", 1))
    }
    assert report.objects == {"crow": 4}
    assert len(list(images_of(dataset))) == 4


def test_splits_and_names_of_a_data_yaml_from_another_machine(tmp_path: Path) -> None:
    """Roboflow writes ../train/images, and the ids of names may be keys."""
    root = tmp_path / "rf"
    for split in ("train", "valid"):
        save_photograph(root / split / "images" / f"{split}.jpg")
        (root / split / "labels").mkdir()
        (root / split / "labels" / f"{split}.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.1\n9 0.5 0.5 1 1\n")
    save_photograph(root / "valid" / "images" / "nothing.jpg")
    (root / "data.yaml").write_text("train: ../train/images\nval: /home/me/x/valid/images\nnames: {0: crow, 1: jay}\n")
    report, dataset = imported(root, tmp_path)
    assert (dataset.image_ids("train"), dataset.image_ids("val")) == (("train",), ("nothing", "valid"))
    assert dataset.read_annotation("train", 0, "boxes")[1:].tolist() == [[12, 6, 8, 12, 96, OBJECT, 1]]
    assert report.notes == [
        "2 line(s) left out: 3 numbers after the class are neither a box (4) nor a polygon (6, 8, ...)",
        "2 line(s) left out: class 9 is not among the 2 names",
        "1 image(s) have no label file: there is nothing in them, as YOLO takes it",
    ]
