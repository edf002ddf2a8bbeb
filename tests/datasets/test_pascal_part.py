"""PASCAL-Part on files that SciPy writes in the archive's form: every class, painting order, and files that are odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from deapcache.annotations import VOID
from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.pascal_part import CLASSES, PascalPart
from deapcache.errors import DataError, DeapcacheError, MissingDataError

SIZE = (20, 30)

_SIDES = "frontside leftside rightside backside roofside leftmirror rightmirror fliplate bliplate"
_LEGS = "lfuleg lflleg rfuleg rflleg lbuleg lblleg rbuleg rblleg"
_COW = f"head leye reye lear rear muzzle lhorn rhorn torso neck {_LEGS} tail"
_CAT = "head leye reye lear rear nose torso neck lfleg lfpa rfleg rfpa lbleg lbpa rbleg rbpa tail"

EVALUATED = (
    ("body stern lwing rwing tail engine_3 wheel_10", "1 4 3 3 4 2 5"),
    ("* fwheel bwheel saddle handlebar chainwheel headlight_1", "7 6 6 7 7 6 7"),
    ("head leye reye beak torso neck lwing rwing lleg lfoot rleg rfoot tail", "8 8 8 8 11 11 9 9 10 10 10 10 11"),
    ("*", "12"),
    ("cap body", "13 14"),
    (f"{_SIDES} door_1 wheel_2 headlight_3 window_20", "17 17 17 17 17 17 17 17 17 17 16 17 15"),
    (f"{_SIDES} door_10 wheel_1 headlight_2 window_1", "22 22 22 22 22 22 22 21 21 22 19 20 18"),
    (_CAT, "23 23 23 23 23 23 26 26 24 24 24 24 24 24 24 24 25"),
    ("*", "27"),
    (_COW, "28 28 28 28 28 28 28 28 31 31 30 30 30 30 30 30 30 30 29"),
    ("*", "32"),
    (f"{_CAT} muzzle", "33 33 33 33 33 33 36 36 34 34 34 34 34 34 34 34 35 33"),
    (
        f"head leye reye lear rear muzzle lfho rfho lbho rbho torso neck {_LEGS} tail",
        "37 37 37 37 37 37 39 39 39 39 40 40 39 39 39 39 39 39 39 39 38",
    ),
    ("* fwheel bwheel handlebar saddle headlight_1", "42 41 41 42 42 42"),
    (
        "head leye reye lear rear lebrow rebrow nose mouth hair torso neck llarm luarm lhand rlarm ruarm rhand llleg "
        "luleg lfoot rlleg ruleg rfoot",
        "43 43 43 43 43 43 43 43 43 43 44 44 45 46 45 45 46 45 47 48 47 47 48 47",
    ),
    ("pot plant", "49 50"),
    (_COW, "51 51 51 51 51 51 51 51 53 53 52 52 52 52 52 52 52 52 53"),
    ("*", "54"),
    (
        "head hfrontside hleftside hrightside hbackside hroofside headlight_1 coach_1 cfrontside_2 cleftside_3 "
        "crightside_4 cbackside_5 croofside_10",
        " ".join(["55"] * 13),
    ),
    ("* screen", "57 56"),
)
"""Of each object in the order of ``class_ind``: part names, in the order in which PASCAL Panoptic Parts numbers them,
and the class that its evaluation (CVPR 2021) gives to each number; ``*`` is number 0, the object without a part."""


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def anno(*objects: tuple[int, Any, list[tuple[str, np.ndarray]]], name: str = "anno") -> dict[str, Any]:
    """What the archive's files hold: a struct of a row of objects, each with a row of parts, or ``[]``."""
    row = np.zeros((1, len(objects)), [(field, object) for field in ("class", "class_ind", "bbox", "mask", "parts")])
    for place, (index, mask, parts) in enumerate(objects):
        fields = np.zeros((1, len(parts)), [("part_name", object), ("mask", object)]) if parts else np.zeros((0, 0))
        for at, (part, region) in enumerate(parts):
            fields[0, at] = (part, region.astype(np.uint8))
        row[0, place] = ("kind", float(index), [1, 2, 3, 4], np.asarray(mask, np.uint8), fields)
    return {name: {"imname": "2008_000003", "objects": row}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2010"
    for folder in ("JPEGImages", "ImageSets/Main", "Annotations_Part"):
        (root / folder).mkdir(parents=True)
    for split, names in (("train", ("2008_000008", "2008_000015")), ("val", ("2008_000003",))):
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(root / f"JPEGImages/{name}.jpg")
            savemat(root / f"Annotations_Part/{name}.mat", anno((15, rectangle(2, 2, 18, 20), [])), do_compression=True)
    return root


def read(root: Path, *objects: tuple[int, Any, list[tuple[str, np.ndarray]]]) -> np.ndarray:
    savemat(root / "Annotations_Part/2008_000003.mat", anno(*objects))
    return PascalPart(root).read_annotation("val", 0, "classes")


def test_every_part_has_the_class_of_the_published_evaluation(root: Path) -> None:
    assert len(EVALUATED) == 20
    assert (len(CLASSES), CLASSES[45], CLASSES[21]) == (58, "person-lower arm", "car-license plate")
    seen = {0}
    for index, (names, values) in enumerate(EVALUATED, start=1):
        expected = dict(zip(names.split(), map(int, values.split()), strict=True))
        rest = expected.pop("*", VOID)
        parts = [(name, rectangle(1, 1 + place, 19, 2 + place)) for place, name in enumerate(expected)]
        found = read(root, (index, rectangle(0, 0, 20, 29), parts))
        assert dict(zip(expected, found[5, 1:], strict=False)) == expected
        assert (found[0, 0], found[0, 29], found.dtype) == (rest, 0, np.uint8)
        seen |= set(np.unique(found).tolist()) - {VOID}
    assert seen == set(range(58))


def test_later_objects_and_parts_hide_earlier_ones(root: Path) -> None:
    dog = (12, rectangle(0, 0, 20, 20), [("torso", rectangle(2, 2, 18, 18)), ("tail", rectangle(10, 10, 12, 18))])
    sofa, person = (
        (18, rectangle(8, 0, 14, 12), []),
        (15, rectangle(0, 16, 20, 24), [("hair", rectangle(0, 18, 4, 22))]),
    )
    found = read(root, dog, sofa, person)
    expected = np.zeros(SIZE, int)
    for place, value in (
        ((0, 0, 20, 20), VOID), ((2, 2, 18, 18), 36), ((10, 10, 12, 18), 35), ((8, 0, 14, 12), 54),
        ((0, 16, 20, 24), VOID), ((0, 18, 4, 22), 43),
    ):  # fmt: skip
        expected[rectangle(*place)] = value
    np.testing.assert_array_equal(found, expected)


def test_what_is_listed(root: Path) -> None:
    dataset = open_dataset("pascal-part", root.parents[1])
    assert sorted(dataset.image_ids("train")) == ["2008_000008", "2008_000015"]
    assert dataset.read_image("val", 0).shape == (*SIZE, 3)
    status = DATASETS.get("pascal-part").status(root.parents[1])
    assert {split: (each.images, each.missing) for split, each in status.items()} == {"train": (2, ()), "val": (1, ())}
    before = dataset.annotation_digest("val", "classes")
    read(root, (4, rectangle(0, 0, 5, 5), []))
    assert PascalPart(root).annotation_digest("val", "classes") != before
    with pytest.raises(DeapcacheError, match=r"pascal-part is not under .*: expected Annotations_Part/, JPEGImages/"):
        open_dataset("pascal-part", root / "JPEGImages")


def _mat(content: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: content(root / "Annotations_Part/2008_000003.mat")


def _saved(*objects: tuple[int, Any, list[tuple[str, np.ndarray]]], name: str = "anno") -> Callable[[Path], object]:
    return _mat(lambda path: savemat(path, anno(*objects, name=name)))


WHOLE = rectangle(0, 0, 20, 30)
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (_mat(Path.unlink), r"lacks 1 of 1 files, the first is 2008_000003\.mat"),
    "no list": (lambda root: (root / "ImageSets/Main/val.txt").unlink(), r"no val split .*val\.txt is missing"),
    "text": (_mat(lambda path: path.write_text("<html>")), r"cannot decode .*2008_000003\.mat"),
    "another variable": (_saved((1, WHOLE, []), name="gt"), r"2008_000003\.mat: expected anno, a struct"),
    "no struct": (_mat(lambda path: savemat(path, {"anno": np.eye(3)})), r"structs with objects"),
    "no object": (_saved(), r"2008_000003\.mat has 0 x 0 pixels"),
    "kind 21": (_saved((21, WHOLE, [])), r"object 1, of an unknown kind, .*expected class_ind 1 to 20"),
    "kind 0": (_saved((0, WHOLE, [])), r"object 1, of an unknown kind"),
    "a part of another": (_saved((4, WHOLE, []), (8, WHOLE, [("beak", WHOLE)])), r"object 2, cat, has a part beak"),
    "a part called rest": (_saved((8, WHOLE, [("", WHOLE)])), r"cannot decode .*2008_000003\.mat"),
    "two sizes": (_saved((16, WHOLE, [("pot", WHOLE[:9])])), r"part pot of \(9, 30\) pixels; .*masks of \(20, 30\)"),
    "another size": (_saved((16, WHOLE[:9], [])), r"2008_000003\.mat has 9 x 30 pixels .* has 20 x 30"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(root)
    with pytest.raises((DataError, MissingDataError), match=message) as raised:
        PascalPart(root).read_annotation("val", 0, "classes")
    assert "\n" not in str(raised.value)
