"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685), finely annotated, in the layout it is distributed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deapcache.annotations import BOXES, COLUMNS, CROWD, VOID, boxes_of_map
from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.files import FileDataset, Sample, read_map_of_image
from deapcache.datasets.io import describe_folder, missing_paths, require_all, require_split, stems
from deapcache.errors import DataError, MissingDataError

LAYOUT = """\
leftImg8bit/train/<city>/*_leftImg8bit.png        2,975 images
leftImg8bit/val/<city>/*_leftImg8bit.png          500 images
gtFine/train/<city>/*_gtFine_labelIds.png         and *_gtFine_instanceIds.png
gtFine/val/<city>/*_gtFine_labelIds.png           and *_gtFine_instanceIds.png
directly under the data root, or in its folder cityscapes/; one of the two splits is enough to use that one"""

EVALUATED = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Names by official id, in the order of the training ids 0 to 18 (``helpers/labels.py`` of cityscapesScripts)."""

_IDS = 34
"""Ids are 0 to 33; a licence plate has -1 and is not drawn."""
_THINGS = range(24, 34)
"""Ids of what has instances; 29 (caravan) and 30 (trailer) are not evaluated."""
_PER_CLASS = 1000
"""An instance's value is id · 1000 + its number; a smaller value is an id itself (``json2instanceImg.py`` there)."""

_CLASS_OF_ID = np.full(_IDS, VOID, np.uint8)
_CLASS_OF_ID[list(EVALUATED)] = range(len(EVALUATED))
_IS_ID = np.ones(_IDS, np.bool_)
_IS_INSTANCE = np.zeros(_IDS * _PER_CLASS, np.bool_)
_IS_INSTANCE[:_IDS] = True
_IS_INSTANCE[_THINGS[0] * _PER_CLASS :] = True

_IMAGE, _LABELS, _INSTANCES = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
_CROWDS = "groups, caravans and trailers"
_LABEL_FILES = {"classes": _LABELS, "instances": _INSTANCES, BOXES: _INSTANCES}


class Cityscapes(FileDataset):
    """Street scenes of 21 cities with 19 classes, and instances of eight of them.

    Base images keep the shape of the photographs, which is 1 : 2.
    """

    name = "cityscapes"
    images_name = "cityscapes"
    base_size = (224, 448)
    annotations = ("instances", BOXES, "classes")
    classes = tuple(EVALUATED.values())
    most_objects = 511
    summary = "Cityscapes: street scenes with 19 classes, instances of eight of them"
    layout = LAYOUT
    licence = "own terms of use, on registration: non-commercial research and teaching"
    official: ClassVar = {"train": 2_975, "val": 500}
    options: ClassVar = {
        "classes": {"classes": "official training ids 0 to 18, all others void"},
        "instances": {"numbers": "by ascending instance id", "crowd": f"-1: {_CROWDS}"},
        BOXES: {"boxes": "of visible pixels", "category": "official id", "crowd": f"connected parts of {_CROWDS}"},
    }
    places = ("", "cityscapes")
    expected = (
        "leftImg8bit/train/ with gtFine/train/, or leftImg8bit/val/ with gtFine/val/, there or in its folder "
        "cityscapes/"
    )

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return root / "leftImg8bit" / split, root / "gtFine" / split

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        images, labels = cls.split_parts(root, split)
        count = len(_frames(images, _IMAGE)) if images.is_dir() else 0
        return SplitStatus(images=count, missing=missing_paths((images, labels)))

    def list_samples(self, split: str) -> Sequence[Sample]:
        images, labels = self.split_parts(self.root, split)
        require_split("cityscapes", split, self.root, (images, labels))
        frames = _frames(images, _IMAGE)
        if not frames:
            raise MissingDataError(
                f"{images} holds no image (<city>/*_leftImg8bit.png): found {describe_folder(images)}; unpack the "
                "images again"
            )
        _require_pairs(images, labels)
        samples = []
        for frame in frames:
            city, name = frame.split("/")
            path = images / f"{frame}{_IMAGE}"
            if not name.startswith(f"{city}_"):
                raise DataError(
                    f"{path} lies in the folder of another city: expected a name that begins with {city}_; put it into "
                    "its own city's folder",
                    path=path,
                )
            files = {kind: (f"gtFine/{split}/{frame}{ending}",) for kind, ending in _LABEL_FILES.items()}
            samples.append(Sample(id=name, image=f"leftImg8bit/{split}/{frame}{_IMAGE}", labels=files))
        return sorted(samples, key=lambda sample: sample.id)

    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        path, image = self.root / sample.labels[kind][0], self.root / sample.image
        if kind == "classes":
            return _CLASS_OF_ID[read_map_of_image(path, image, _IS_ID, "an official id, 0 to 33")]
        expected = "an id, 0 to 33, or id · 1000 + a number for ids 24 to 33"
        values = read_map_of_image(path, image, _IS_INSTANCE, expected)
        return self._boxes(values, path) if kind == BOXES else _number(values)

    def _boxes(self, values: NDArray[np.int32], path: Path) -> NDArray[np.float64]:
        ids = np.where(values < _PER_CLASS, values, values // _PER_CLASS)
        objects, crowds = boxes_of_map(_number(values), ids), boxes_of_map(_crowd_parts(values), ids)
        crowds[:, COLUMNS.index("kind")] = CROWD
        table = np.concatenate([objects, crowds[1:]])
        if len(table) - 1 > self.most_objects:
            raise DataError(
                f"{path} has {len(table) - 1} objects and parts of groups; expected {self.most_objects} at most: give "
                "the original file",
                path=path,
            )
        return table


def _number(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Official instance ids as 1..K in their order, -1 for crowds (groups, and things that are not evaluated)."""
    present = np.unique(values)
    objects = [value for value in present if value >= _PER_CLASS and value // _PER_CLASS in EVALUATED]
    number = np.zeros(_IDS * _PER_CLASS, np.int32)
    number[[value for value in present if _is_crowd(value)]] = -1
    number[objects] = range(1, len(objects) + 1)
    return number[values]


def _is_crowd(value: int) -> bool:
    return value in _THINGS or (value >= _PER_CLASS and value // _PER_CLASS not in EVALUATED)


def _crowd_parts(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """1..K for the connected parts (8 neighbours) of crowds: groups of one class share a value wherever they are."""
    parts = np.zeros(values.shape, np.int32)
    for value in filter(_is_crowd, np.unique(values)):
        found, _ = ndimage.label(values == value, structure=np.ones((3, 3)))
        parts = np.where(found > 0, found + parts.max(), parts)
    return parts


def _frames(folder: Path, ending: str) -> list[str]:
    """``<city>/<name>`` of all files that end so, one folder below ``folder``."""
    return [f"{city}/{name}" for city in _cities(folder) for name in stems(folder / city, ending)]


def _cities(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def _require_pairs(images: Path, labels: Path) -> None:
    for city in sorted(_cities(images) | _cities(labels)):
        names = stems(images / city, _IMAGE)
        for ending in (_LABELS, _INSTANCES):
            advice = "has an image for each: unpack gtFine_trainvaltest.zip again"
            require_all(names, labels / city, ending, f"{images / city} {advice}")
            advice = "has labels for each: unpack leftImg8bit_trainvaltest.zip again"
            require_all(stems(labels / city, ending), images / city, _IMAGE, f"{labels / city} {advice}")


DATASETS.add("cityscapes", Cityscapes.entry())
