"""ADE20K's scene parsing benchmark (Zhou et al. 2017, arXiv:1608.05442), in the layout it is distributed in.

The release ``ADEChallengeData2016``. File names, values, class names and their order are those of its development kit
(``README.md`` and ``objectInfo150.txt`` of https://github.com/CSAILVision/sceneparsing).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import VOID
from deapcache.datasets.base import DATASETS
from deapcache.datasets.files import FileDataset, Sample, read_map_of_image
from deapcache.datasets.io import require_split, stems
from deapcache.errors import MissingDataError

LAYOUT = """\
ADEChallengeData2016/images/training/*.jpg           20,210 images
ADEChallengeData2016/images/validation/*.jpg         2,000 images
ADEChallengeData2016/annotations/training/*.png      class + 1, 0 unlabelled
ADEChallengeData2016/annotations/validation/*.png
under the data root or its folder ade20k/ or ade/, or these folders themselves; one of the two splits is enough"""

_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister, escalator,
ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool,
stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""

CLASSES = tuple(" ".join(name.split()) for name in _NAMES.split(","))
"""The 150 classes of ``objectInfo150.txt``, the first of each one's synonyms; PNG value 1 is the first."""

FOLDERS = {"train": "training", "val": "validation"}

_CLASS_OF_VALUE = np.array([VOID, *range(len(CLASSES))], dtype=np.uint8)


class Ade20k(FileDataset):
    """Scenes, indoors and outdoors, with a map of 150 classes of things and stuff; "other objects" are unlabelled."""

    name = "ade20k"
    images_name = "ade20k"
    annotations = ("classes",)
    classes = CLASSES
    summary = "ADE20K scene parsing: scenes with a map of 150 classes of things and stuff"
    layout = LAYOUT
    licence = "photographs for non-commercial research and education; annotations BSD-3-Clause"
    official: ClassVar = {"train": 20_210, "val": 2_000}
    options: ClassVar = {"classes": {"other objects": "void"}}
    places = ("ADEChallengeData2016", "ade20k/ADEChallengeData2016", "ade/ADEChallengeData2016", "", "ade20k", "ade")
    expected = (
        "ADEChallengeData2016/images/training with annotations/training beside images, or validation for training, "
        "there or in its folder ade20k/"
    )

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return root / "images" / FOLDERS[split], root / "annotations" / FOLDERS[split]

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return any(folder.is_dir() for folder in cls.split_parts(root, split))

    def list_samples(self, split: str) -> Sequence[Sample]:
        images, labels = self.split_parts(self.root, split)
        remark = " (the full ADE20K release, with *_seg.png, is another one)"
        require_split("ade20k", split, self.root, (images, labels), remark)
        folder = FOLDERS[split]
        return [
            Sample(
                id=name,
                image=f"images/{folder}/{name}.jpg",
                labels={"classes": (f"annotations/{folder}/{name}.png",)},
            )
            for name in paired(images, labels)
        ]

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.uint8]:
        path = self.root / sample.labels[kind][0]
        allowed = np.ones(len(_CLASS_OF_VALUE), np.bool_)
        return _CLASS_OF_VALUE[read_map_of_image(path, self.root / sample.image, allowed, "0 (unlabelled) to 150")]


def paired(images: Path, labels: Path) -> list[str]:
    """Ids of the ``.jpg`` files in one folder and the ``.png`` files in the other, ascending.

    Raises :class:`MissingDataError` where there is none, or one without the other: how many, and the first.
    """
    pictures, maps = stems(images, ".jpg"), stems(labels, ".png")
    if not pictures | maps:
        raise MissingDataError(f"{images} holds no *.jpg and {labels} no *.png; unpack ADEChallengeData2016.zip again")
    sides = {
        f"images of {images} without a label in {labels}": {f"{name}.jpg" for name in pictures - maps},
        f"labels of {labels} without an image in {images}": {f"{name}.png" for name in maps - pictures},
    }
    if alone := [f"{what}: {len(names):,}, the first is {min(names)}" for what, names in sides.items() if names]:
        raise MissingDataError(f"{'; '.join(alone)}. Unpack ADEChallengeData2016.zip again, or move these files away")
    return sorted(pictures)


DATASETS.add("ade20k", Ade20k.entry())
