"""Scenes exported in a layout and read back by its loader: every annotation as ``scenes`` itself gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from deapcache_export import FORMATS

from deapcache.annotations import VOID
from deapcache.datasets import DATASETS, Dataset, open_dataset
from deapcache.datasets.scenes import CLASSES, Scenes

Exported = Callable[[str], Path]

SOLIDS = CLASSES[3:]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a layout keeps of a scene."""

    kinds: frozenset[str]
    exact_image: bool
    names: Mapping[str, str] = field(default_factory=dict)
    """By class of ``scenes``: its name in the loader's class list."""
    categories: Mapping[str, int] = field(default_factory=dict)
    """By solid: the category in the table of boxes, where it is no value of a class map."""


COCO_IDS = {"box": 33, "sphere": 37, "cylinder": 44, "cone": 28, "pyramid": 38, "capsule": 58, "torus": 60}
COCO_NAMES = ("suitcase", "sports ball", "bottle", "umbrella", "kite", "hot dog", "donut")
STUFF_NAMES = {"wall": "wall-other", "floor": "floor-wood", "ceiling": "ceiling-other"}
VOC_NAMES = ("tvmonitor", "pottedplant", "bottle", "boat", "aeroplane", "person", "bicycle")
BACKGROUND = dict.fromkeys(CLASSES[:3], "background")
OWN_NAMES = {name: name for name in CLASSES}

EXPECTED = {
    "coco": Expected(kinds=frozenset({"instances", "boxes"}), exact_image=False, categories=COCO_IDS),
    "coco-stuff": Expected(
        kinds=frozenset({"classes"}),
        exact_image=False,
        names=STUFF_NAMES | dict(zip(SOLIDS, COCO_NAMES, strict=True)),
    ),
    "voc": Expected(
        kinds=frozenset({"classes", "instances", "boxes"}),
        exact_image=False,
        names=BACKGROUND | dict(zip(SOLIDS, VOC_NAMES, strict=True)),
    ),
    "nyuv2": Expected(
        kinds=frozenset({"instances", "boxes", "depth"}),
        exact_image=True,
        categories={name: 1 + place for place, name in enumerate(SOLIDS)},
    ),
    "folder": Expected(kinds=frozenset({"classes", "instances", "boxes", "depth"}), exact_image=True, names=OWN_NAMES),
}
assert set(EXPECTED) == set(FORMATS)


def _each(kind: str = "") -> pytest.MarkDecorator:
    """For every layout (that keeps a kind of annotation); one without a loader is skipped."""
    names = [name for name, expected in EXPECTED.items() if not kind or kind in expected.kinds]
    lacking = {name: pytest.mark.skipif(name not in DATASETS, reason=f"no dataset {name}") for name in names}
    return pytest.mark.parametrize("pair", [pytest.param(n, marks=lacking[n]) for n in names], indirect=True)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A loader, and the row of ``scenes`` that each of its rows shows."""

    name: str
    loader: Dataset
    scenes: Scenes
    rows: tuple[tuple[str, int, int], ...]
    """(split, row of the loader, row of scenes)."""

    def read(self, kind: str, split: str, row: int, truth: int) -> tuple[np.ndarray, np.ndarray]:
        """What the loader says, and what is true."""
        return self.loader.read_annotation(split, row, kind), self.scenes.read_annotation(split, truth, kind)


@pytest.fixture
def pair(request: pytest.FixtureRequest, exported: Exported) -> Pair:
    name = request.param
    root = exported(name)
    loader = open_dataset(f"folder:{root.name}" if name == "folder" else name, root)
    places = [(split, *rows) for split in ("train", "val") for rows in enumerate(_truth(loader, split))]
    return Pair(name=name, loader=loader, scenes=Scenes(), rows=tuple(places))


def _truth(loader: Dataset, split: str) -> list[int]:
    """The row of ``scenes`` behind each row: every layout's ids ascend with it, whatever order a loader gives them."""
    ids = loader.image_ids(split)
    return [sorted(ids).index(id_) for id_ in ids]


@_each()
def test_every_image_is_there_once(pair: Pair) -> None:
    for split in ("train", "val"):
        assert sorted(truth for one, _, truth in pair.rows if one == split) == [0, 1, 2]
    assert set(pair.loader.annotations) >= EXPECTED[pair.name].kinds


@_each()
def test_images(pair: Pair) -> None:
    for split, row, truth in pair.rows:
        found, image = pair.loader.read_image(split, row), pair.scenes.read_image(split, truth)
        assert found.shape == image.shape
        off = np.abs(found.astype(int) - image)
        assert off.max() == 0 if EXPECTED[pair.name].exact_image else off.mean() < 2.0


@_each("instances")
def test_instances_are_the_same_up_to_their_numbers(pair: Pair) -> None:
    for place in pair.rows:
        found, truth = pair.read("instances", *place)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found > 0, truth > 0)
        assert found.min() == 0
        both = np.unique(np.stack([found.ravel(), truth.ravel()]), axis=1)
        assert both.shape[1] == len(np.unique(found)) == len(np.unique(truth))


@_each("classes")
def test_classes_are_the_same_by_the_documented_names(pair: Pair) -> None:
    expected = np.array([EXPECTED[pair.name].names[name] for name in CLASSES])
    for place in pair.rows:
        found, truth = pair.read("classes", *place)
        assert not (found == VOID).any()
        np.testing.assert_array_equal(np.array(pair.loader.classes)[found], expected[truth])


@_each("depth")
def test_depth_is_the_same_to_the_bit(pair: Pair) -> None:
    for place in pair.rows:
        found, truth = pair.read("depth", *place)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, truth)


@_each("boxes")
def test_boxes_are_the_same_in_some_order(pair: Pair) -> None:
    categories = _categories(pair)
    for split, row, truth_row in pair.rows:
        found, truth = pair.read("boxes", split, row, truth_row)
        truth[1:, 6] = [categories[CLASSES[int(class_)]] for class_ in truth[1:, 6]]
        np.testing.assert_array_equal(found[0], truth[0])
        assert sorted(found[1:].tolist()) == sorted(truth[1:].tolist())
        assert len(found) <= pair.loader.box_rows(split)


def _categories(pair: Pair) -> dict[str, int]:
    expected = EXPECTED[pair.name]
    own = {solid: pair.loader.classes.index(expected.names[solid]) for solid in SOLIDS if pair.loader.classes}
    return own | dict(expected.categories)


@pytest.mark.skipif("coco-stuff" not in DATASETS, reason="no dataset coco-stuff")
def test_coco_and_coco_stuff_are_the_same_images(exported: Exported) -> None:
    coco, stuff = (open_dataset(name, exported("coco-stuff")) for name in ("coco", "coco-stuff"))
    assert coco.images_name == stuff.images_name
    for split in ("train", "val"):
        assert coco.image_ids(split) == stuff.image_ids(split)
        assert coco.image_digests(split) == stuff.image_digests(split)
