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


def coco(path: Path, images: list[tuple[str, int, int]], objects: list[dict[str, Any]], /, **more: Any) -> Path:
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
    assert dataset.read_annotation("train", 0, "classes").tolist() == [[0, 1]]
    assert dataset.classes == ("class 0", "class 2")


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
    assert report.notes == ["1 image(s) have no label file: there is nothing in them, as YOLO takes it"]
    assert report.left_out == {
        f"{split}/labels/{split}.txt, line {line}": why
        for split in ("train", "valid")
        for line, why in (
            (2, "3 numbers after the class are neither a box (4) nor a polygon (6, 8, ...)"),
            (3, "class 9 is not among the 2 names"),
        )
    }


# What people's files are like: each is said in one line, and the rest imported.


def report_of(folder: Path, **options: Any) -> ImportReport:
    """Of an import whose dataset can be read whole."""
    report, dataset = imported(folder, folder.parent, **options)
    for split in report.images:
        for row in range(len(dataset.image_ids(split))):
            dataset.read_image(split, row)
            for kind in dataset.annotations:
                dataset.read_annotation(split, row, kind)
    return report


def test_boxes_that_are_none_are_left_out(tmp_path: Path) -> None:
    """Negative, empty and outside; the dataset could not be read with the first of them."""
    save_photograph(tmp_path / "s" / "p.png")
    boxes = ([1, 2, -3, 4], [5, 5, 0, 0], [40, 3, 5, 5], [-2, -2, 6, 6])
    objects: list[dict[str, Any]] = [{"image_id": 0, "bbox": box} for box in boxes]
    coco(tmp_path / "s" / "l.json", [("p.png", *SIZE)], [*objects, {"image_id": 0, "area": -4}])
    report = report_of(tmp_path / "s")
    assert report.left_out == {
        "p.png, object 1": "its box (x, y, width, height) 1, 2, -3, 4 has no area",
        "p.png, object 2": "its box (x, y, width, height) 5, 5, 0, 0 has no area",
        "p.png, object 3": "its box (x, y, width, height) 40, 3, 5, 5 lies outside the image",
    }
    assert report.objects == {"heron": 2}, "what is left out is not counted"


def test_an_outline_with_a_box_that_is_none_has_its_own(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    one = {"image_id": 0, "segmentation": [SQUARE], "bbox": [0, 0, 0, 0]}
    coco(tmp_path / "s" / "l.json", [("p.png", *SIZE)], [one])
    _, dataset = imported(tmp_path / "s", tmp_path)
    assert dataset.read_annotation("train", 0, "boxes")[1, :4].tolist() == [2, 3, 10, 5]


def test_ids_of_coco_are_the_same_as_numbers_and_as_text(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    objects: list[dict[str, Any]] = [{"image_id": image, "category_id": id_} for image, id_ in (("0", "7"), (0.0, 7.0))]
    coco(tmp_path / "s" / "l.json", [("p.png", *SIZE)], [*objects, {"image_id": [0], "category_id": {}}])
    report = report_of(tmp_path / "s")
    assert report.objects == {"heron": 2}
    assert report.notes == ["l.json: 1 annotation(s) of categories that it does not list left out"]


def test_ids_of_coco_that_mean_two_things(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save_photograph(tmp_path / "s" / name)
    images = [{"id": id_, "file_name": name} for id_, name in ((1, "a.png"), (1, "b.png"), (2, "c.png"))]
    coco(tmp_path / "s" / "l.json", [], [{"image_id": 1}, {"image_id": 2}], images=images)
    report = report_of(tmp_path / "s")
    why = "2 images have its id 1: whose annotations are whose is not known"
    assert report.left_out["l.json: a.png"] == report.left_out["l.json: b.png"] == why
    assert report.objects == {"heron": 1}
    categories = [{"id": 7, "name": "owl"}, {"id": 7, "name": "jay"}]
    coco(tmp_path / "t" / "l.json", [], [], images=images[:1], categories=categories)
    save_photograph(tmp_path / "t" / "a.png")
    with pytest.raises(DataError, match="has categories 'owl' and 'jay' of one id 7"):
        import_labels(tmp_path / "t", tmp_path / "birds2")


def test_images_that_several_coco_files_list_and_those_that_none_does(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save_photograph(tmp_path / "s" / name)
    one = {"image_id": 0, "segmentation": [SQUARE]}
    coco(tmp_path / "s" / "all.json", [("a.png", *SIZE), ("b.png", *SIZE)], [one, {**one, "image_id": 1}])
    coco(tmp_path / "s" / "train.json", [("a.png", *SIZE)], [one])
    report = report_of(tmp_path / "s")
    assert report.objects == {"heron": 2}
    assert "train.json: 1 image(s) are listed once more, a.png first" in report.notes[0]
    assert report.left_out == {"c.png": "it has no entry in a COCO file"}


def test_names_of_classes_that_are_there_twice_or_not_at_all(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    categories = [{"id": 3, "name": "owl"}, {"id": 90, "name": "owl"}, {"id": 91, "name": ""}]
    objects = [{"image_id": 0, "category_id": id_} for id_ in (3, 90, 91)]
    coco(tmp_path / "s" / "l.json", [("p.png", *SIZE)], objects, categories=categories)
    report = report_of(tmp_path / "s")
    assert report.objects == {"owl": 2, "category 91": 1}
    assert report.notes == ["l.json: class 'owl' is there 2 times: taken as one"]


def test_capitals_of_names_count_where_nothing_else_differs(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "Images" / "P.JPG")
    coco(tmp_path / "s" / "l.json", [("p.jpg", *SIZE)], [{"image_id": 0}])
    assert report_of(tmp_path / "s").images == {"train": 1}
    (tmp_path / "s" / "l.json").unlink()
    (tmp_path / "s" / "Labels").mkdir()
    (tmp_path / "s" / "Labels" / "P.txt").write_text("0 .5 .5 .2 .2\n")
    shutil.rmtree(tmp_path / "birds")
    assert report_of(tmp_path / "s").format == "yolo"


def test_texts_beside_photographs_are_labels_where_they_hold_numbers(tmp_path: Path) -> None:
    """labelImg writes classes.txt and a text beside each photograph; others write captions so."""
    for name, text in (("labels", "0 .5 .5 .2 .2\n"), ("captions", "a bird\n")):
        save_photograph(tmp_path / name / "s" / "p.jpg")
        (tmp_path / name / "s" / "p.txt").write_text(text)
        (tmp_path / name / "s" / "classes.txt").write_text("jay\n")
    report = report_of(tmp_path / "labels" / "s")
    assert (report.format, report.objects) == ("yolo", {"jay": 1})
    report = report_of(tmp_path / "captions" / "s")
    assert (report.format, report.notes) == ("photos", ["2 file(s), classes.txt first, are of no known label format"])


def test_what_a_data_yaml_lists_and_is_not_there(tmp_path: Path) -> None:
    root = tmp_path / "s"
    save_photograph(root / "images" / "train" / "p.jpg")
    (root / "data.yaml").write_text("train: images/train\nval: images/held-out\nnames: [jay, jay]\n")
    (root / "other.yml").write_text("names: [owl]\n")
    (root / "train.txt").write_text("images/train/p.jpg\nimages/train/gone.jpg\n")
    (root / "compose.yml").write_text("a: [\n")
    report = report_of(root)
    assert report.notes[:3] == [
        "other.yml: not read, since there is data.yaml",
        "names: class 'jay' is there 2 times: taken as one",
        "images/held-out, which data.yaml gives for val, is not there",
    ]
    assert report.left_out == {"train.txt: images/train/gone.jpg": "its image is missing"}
    (root / "data.yaml").write_text("names: jay\n")
    with pytest.raises(DataError, match=r"names of data.yaml are 'jay', expected a list of names"):
        import_labels(root, tmp_path / "again")


@pytest.mark.parametrize(
    ("file", "image", "more"),
    [
        ("obj.names", "obj_train_data/p.jpg", {}),
        ("train.txt", "obj_train_data/p.jpg", {"obj.names": "jay"}),
        ("ImageSets/Main/train.txt", "JPEGImages/p.jpg", {"Annotations/p.xml": "<annotation/>"}),
        ("classes.txt", "images/p.jpg", {}),
        ("labelmap.txt", "images/p.jpg", {}),
    ],
)
def test_texts_that_are_not_utf_8_are_named(file: str, image: str, more: dict[str, str], tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / image, (1, 2))
    if image.startswith("images"):
        save_mask(tmp_path / "s" / "masks" / "p.png", [[0, 1]])
    for name, text in {file: "Möwe\n", **more}.items():
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"{file} is not UTF-8 \(.* at byte 1\): save it so"):
        import_labels(tmp_path / "s", tmp_path / "birds")


def test_a_shape_that_is_not_sound_costs_no_other_shape(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    square = [[2, 3], [12, 3], [12, 8], [2, 8]]
    shapes = [
        {"label": "jay", "shape_type": "polygon", "points": square},
        {"label": "jay", "shape_type": "polygon", "points": [[1, 2], [None, 3], [4, 4]]},
        {"label": "jay", "shape_type": "mask", "points": square[:2]},
        {"label": "jay", "shape_type": "circle", "points": square[:1]},
        {"points": square},
    ]
    document = {"imagePath": "p.png", "imageHeight": 24, "imageWidth": 32, "imageData": "AAAA"}
    (tmp_path / "s" / "p.json").write_text(json.dumps({**document, "shapes": shapes}))
    (tmp_path / "s" / "q.json").write_text(json.dumps({**document, "shapes": shapes, "imagePath": "q.png"}))
    (tmp_path / "s" / "r.json").write_text(json.dumps({**document, "shapes": None}))
    report = report_of(tmp_path / "s")
    assert report.left_out == {
        "p.json, shape 2": "a point is 1, 2, None, 3, 4, 4: expected numbers",
        "p.json, shape 3": "it lacks 'mask'",
        "p.json, shape 4": "it has 1 points, too few for a circle",
        "q.json": "its image is missing; the copy in its imageData is not read: save that as a file",
        "r.json": "its shapes are no list of shapes",
        "p.png, object 2": "it has no class",
    }
    assert (report.classes, report.objects) == (["background", "jay"], {"jay": 1})


def test_shapes_of_cvat_that_are_not_sound_or_reach_over_the_border(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    (tmp_path / "s" / "a.xml").write_text(
        '<annotations><image name="p.png"><box label="leaf" xtl="a" ytl="3" xbr="12" ybr="8"/>'
        '<mask label="leaf" rle="0,6" left="-1" top="-1" width="3" height="2"/>'
        '<mask label="leaf" rle="0,6" left="31" top="23" width="3" height="2"/>'
        '<mask label="leaf" rle="1,x" left="0" top="0" width="3" height="2"/></image></annotations>'
    )
    report, dataset = imported(tmp_path / "s", tmp_path)
    assert report.left_out == {
        "a.xml: p.png, box 1": "xtl is a: expected numbers",
        "a.xml: p.png, mask 4": "rle is 1, x: expected numbers",
    }
    assert np.argwhere(dataset.read_annotation("train", 0, "classes")).tolist() == [[0, 0], [0, 1], [23, 31]]


def test_tracks_of_cvat_alone_are_named_where_nothing_is_left(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "p.png")
    (tmp_path / "s" / "a.xml").write_text('<annotations><track id="0" label="leaf"/></annotations>')
    with pytest.raises(DataError, match=r"no image can be used; p.png: .*; 1 tracks of videos: not understood"):
        import_labels(tmp_path / "s", tmp_path / "birds")


@pytest.mark.parametrize("named", ["p", "p.png", "IMG_0001.JPG", ""])
def test_voc_files_go_by_their_own_name_where_that_in_them_is_wrong(named: str, tmp_path: Path) -> None:
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>8</ymax></bndbox>"
    one = f"<object><name>jay</name><difficult>1</difficult>{box}</object>"
    save_photograph(tmp_path / "s" / "images" / "p.jpg")
    (tmp_path / "s" / "annotations").mkdir()
    text = f"<annotation><filename>{named}</filename>{one}<object><name>jay</name></object></annotation>"
    (tmp_path / "s" / "annotations" / "p.xml").write_text(text)
    (tmp_path / "s" / "annotations" / "twice.xml").write_text(text.replace(named or "none", "p.jpg"))
    report = report_of(tmp_path / "s")
    assert report.objects == {"jay": 1}
    assert report.notes == ["1 objects are marked difficult: taken like all others"]
    assert list(report.left_out) == ["annotations/p.xml, object 2", "annotations/twice.xml"]


def test_boxes_by_name_and_masks_by_index_cannot_be_put_together(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "voc-boxes", tmp_path / "voc")
    save_mask(tmp_path / "voc" / "SegmentationClass" / "a.png", np.zeros(SIZE))
    (tmp_path / "voc" / "labelmap.txt").unlink()
    with pytest.raises(DataError, match=r"boxes are of barn owl, crow, masks of class 0: add labelmap.txt"):
        import_labels(tmp_path / "voc", tmp_path / "birds")
    assert import_labels(tmp_path / "voc", tmp_path / "birds", format="masks").images == {"train": 1}


@pytest.mark.parametrize("values", ["I;16", "RGB", "F"])
def test_masks_by_index_in_other_pictures(values: str, tmp_path: Path) -> None:
    """16 bits with their own void, greys in three channels, floating point."""
    dtype = {"I;16": np.uint16, "RGB": np.uint8, "F": np.float32}[values]
    mask = np.array([[0, 3, 2**16 - 1 if values == "I;16" else VOID]]).astype(dtype)
    save_photograph(tmp_path / "s" / "images" / "p.jpg", (1, 3))
    (tmp_path / "s" / "masks").mkdir()
    picture = np.stack([mask] * 3, -1) if values == "RGB" else mask
    Image.fromarray(picture).save(tmp_path / "s" / "masks" / f"p.{'tif' if values == 'F' else 'png'}")
    report, dataset = imported(tmp_path / "s", tmp_path)
    assert dataset.classes == ("class 0", "class 3")
    assert dataset.read_annotation("train", 0, "classes").tolist() == [[0, 1, VOID]]
    assert "masks are read by index, they hold 0, 3, " in report.notes[0]


def test_pictures_named_as_masks_are_no_photographs(tmp_path: Path) -> None:
    save_photograph(tmp_path / "jpeg" / "images" / "p.jpg")
    save_photograph(tmp_path / "jpeg" / "masks" / "p.jpg")
    save_photograph(tmp_path / "lost" / "images" / "p.jpg")
    save_mask(tmp_path / "lost" / "masks" / "q.png", np.zeros(SIZE))
    with pytest.raises(DataError, match=r"masks/p.jpg: a JPEG picture blurs the colours of a mask"):
        import_labels(tmp_path / "jpeg", tmp_path / "birds")
    with pytest.raises(UsageError, match=r"masks/q.png is named as a mask is, and no image has its name"):
        import_labels(tmp_path / "lost", tmp_path / "birds")
    save_mask(tmp_path / "alone" / "instances" / "p.png", np.eye(24, 32))
    save_photograph(tmp_path / "alone" / "images" / "p.jpg")
    assert report_of(tmp_path / "alone").written == ["instances"]


def test_a_palette_that_names_nothing_is_refused(tmp_path: Path) -> None:
    save_photograph(tmp_path / "s" / "images" / "p.jpg", (1, 2))
    save_mask(tmp_path / "s" / "masks" / "p.png", [[0, 1]])
    (tmp_path / "s" / "labelmap.txt").write_text(":0,0,0::\ntree:255,0,0::\n")
    with pytest.raises(DataError, match="gives a colour without a name"):
        import_labels(tmp_path / "s", tmp_path / "birds")
    with pytest.raises(UsageError, match=r"--palette nowhere.txt is no file"):
        import_labels(tmp_path / "s", tmp_path / "birds", palette=Path("nowhere.txt"))


def test_photographs_that_must_be_converted_are_counted(tmp_path: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.mp4"):
        (tmp_path / "s" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_bytes(b"x")
    with pytest.raises(MissingDataError, match=r"holds no image \(2 .heic, 1 .mp4: such files cannot be read; convert"):
        import_labels(tmp_path / "s", tmp_path / "birds")


# Splits and repetition.


def test_classes_that_one_split_lacks_are_named(tmp_path: Path) -> None:
    for split, id_ in (("train", 7), ("valid", 8)):
        save_photograph(tmp_path / "s" / split / f"{split}.png")
        categories = [{"id": 7, "name": "heron"}, {"id": 8, "name": "robin"}]
        one = {"image_id": 0, "category_id": id_}
        coco(tmp_path / "s" / split / "l.json", [(f"{split}.png", *SIZE)], [one], categories=categories)
    report = report_of(tmp_path / "s", val=0.5)
    assert report.splits == "as the export has them (--val and --seed play no part)"
    assert report.notes == [
        "no image of val shows heron: no score for it",
        "no image of train shows robin: nothing to learn it from",
    ]


def test_a_test_split_alone_is_split_as_if_it_were_none(tmp_path: Path) -> None:
    names = [f"{k}.png" for k in range(4)]
    for name in names:
        save_photograph(tmp_path / "s" / "test" / name)
    coco(tmp_path / "s" / "test" / "l.json", [(n, *SIZE) for n in names], [{"image_id": k} for k in range(4)])
    report = report_of(tmp_path / "s", val=0.5)
    assert report.images == {"train": 2, "val": 2}
    assert (report.notes, report.splits[:20]) == ([], "50% of the images of")
    one = import_labels(EXPORTS / "kwcoco", tmp_path / "all", val=0)
    assert one.splits == "no image is in val: probe and compare need some in train and some in val"


def test_what_was_imported_before_is_not_read_again(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        save_photograph(tmp_path / "s" / name)
    import_labels(tmp_path / "s", tmp_path / "s" / "birds")
    report = import_labels(tmp_path / "s", tmp_path / "s" / "again")
    assert report.images == {"train": 1, "val": 1}
    assert report.notes == ["birds/ was made by deapcache import: not read"]
    with pytest.raises(UsageError, match="birds is a dataset already, folder:birds: import its source"):
        import_labels(tmp_path / "s" / "birds", tmp_path / "third")


def test_imports_into_one_place_at_once(tmp_path: Path) -> None:
    """The second says so; what one left behind that was killed is named."""
    (tmp_path / ".birds.importing-4711").mkdir()
    report = import_labels(EXPORTS / "coco", tmp_path / "other")
    assert report.notes == []

    def other(done: int, total: int) -> None:
        if not (tmp_path / "birds").exists():
            notes = import_labels(EXPORTS / "coco", tmp_path / "birds").notes
            assert sum("of an import that was broken off, or is still running" in note for note in notes) == 2
            assert any(".birds.importing-4711" in note for note in notes)

    with pytest.raises(UsageError, match="birds is there already: give another name, or remove it"):
        import_labels(EXPORTS / "coco", tmp_path / "birds", progress=other)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".birds.importing-4711", "birds", "other"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file, not a folder"):
        import_labels(EXPORTS / "coco", tmp_path / "file" / "birds")
