"""COCO-Stuff 164k (Caesar et al. 2018, arXiv:1612.03716): COCO's photographs with a class at every pixel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import VOID
from deapcache.datasets.base import DATASETS
from deapcache.datasets.coco import CocoImage, CocoInstances, annotation_file, image_folder, read_listing
from deapcache.datasets.digests import DigestIndex, Progress, digest_files
from deapcache.datasets.files import FileDataset, Sample, read_map_of_image
from deapcache.datasets.io import describe_folder, require_all, require_split, stems
from deapcache.errors import DataError, MissingDataError

LABELS = tuple(
    """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack,
umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl,
banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile,
cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other,
hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other,
towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood,
water-other, waterdrops, window-blind, window-other, wood""".replace("\n", " ").split(", ")
)
"""Names by pixel value, 0 to 181: ids 1 to 182 of ``labels.txt`` in github.com/nightrome/cocostuff."""

REMOVED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Pixel values of the eleven labels that COCO gave up; no map has them (``labels.md`` there)."""

UNLABELLED = 255
"""Pixel value of what belongs to no class."""

VALUES = tuple(value for value in range(len(LABELS)) if value not in REMOVED)
"""Pixel values by class, 0 to 170."""

CLASSES = tuple(LABELS[value] for value in VALUES)
"""Names by class: 80 things, then 91 kinds of stuff."""

CLASS_OF_VALUE = np.full(256, VOID, np.uint8)
"""Class by pixel value, 255 (void) for all that is none."""
CLASS_OF_VALUE[list(VALUES)] = range(len(VALUES))

IS_VALUE = np.isin(np.arange(256), (*VALUES, UNLABELLED))
"""By pixel value, whether a map may have it."""


LAYOUT = """\
train2017/*.jpg                                       118,287 images, those of coco
val2017/*.jpg                                         5,000 images
stuffthingmaps_trainval2017/train2017/*.png           a map for each, value = category id - 1, 255 unlabelled
stuffthingmaps_trainval2017/val2017/*.png             (the folder may be called stuffthingmaps, too)
directly under the data root, or in its folder coco/; one of the two splits is enough to use that one"""

MAP_FOLDERS = ("stuffthingmaps_trainval2017", "stuffthingmaps")

_CONVERTED = "_labelTrainIds"
"""End of the names that MMSegmentation's converter gives to copies beside the originals."""


class CocoStuffMaps(FileDataset):
    """COCO 2017 with pixel maps of 171 classes: 80 things and 91 kinds of stuff.

    Its images are those of the dataset ``coco``: same ids, order and digests, so that both share base images and
    features. Listed are all images of a split's folder; where ``annotations/instances_*.json`` lies beside them, they
    must be the ones that it names.
    """

    name = "coco-stuff"
    images_name = CocoInstances.images_name
    annotations = ("classes",)
    classes = CLASSES
    colour = CocoInstances.colour
    summary = "COCO-Stuff 164k: the photographs of coco with 171 classes at every pixel"
    layout = LAYOUT
    licence = "pixel maps CC BY 4.0; each image under its own Flickr licence, named in COCO's annotation file"
    official: ClassVar = {"train": 118_287, "val": 5_000}
    options: ClassVar = {"classes": {"classes": "pixel values in ascending order, without the eleven removed labels"}}
    places = ("", "coco")
    expected = (
        f"train2017/ with {MAP_FOLDERS[0]}/train2017/, or val2017/ with {MAP_FOLDERS[0]}/val2017/, there or in its "
        "folder coco/"
    )

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        folders = [root / name / f"{split}2017" for name in MAP_FOLDERS]
        return image_folder(root, split), next((folder for folder in folders if folder.is_dir()), folders[0])

    def list_samples(self, split: str) -> Sequence[Sample]:
        images, maps = self.split_parts(self.root, split)
        require_split("coco-stuff", split, self.root, (images, maps))
        ids = stems(images, ".jpg")
        _require_numbers(ids, images)
        _require_maps(ids, images, maps)
        _require_same_listing(ids, annotation_file(self.root, split), images)
        folder = maps.relative_to(self.root).as_posix()
        return [
            Sample(id=id_, image=f"{images.name}/{id_}.jpg", labels={"classes": (f"{folder}/{id_}.png",)})
            for id_ in sorted(ids)
        ]

    def image_digests(
        self, split: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> tuple[str, ...]:
        # Of the images' own folder, as coco does: what the index remembers of it serves both.
        names = [Path(sample.image).name for sample in self.samples(split)]
        return digest_files(image_folder(self.root, split), names, index=index, progress=progress)

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.uint8]:
        path = self.root / sample.labels[kind][0]
        expected = "0 to 181 without the eleven removed labels, or 255 for unlabelled"
        return CLASS_OF_VALUE[read_map_of_image(path, self.root / sample.image, IS_VALUE, expected)]


def _require_numbers(ids: Collection[str], folder: Path) -> None:
    if not ids:
        raise MissingDataError(
            f"{folder} holds no image (*.jpg): found {describe_folder(folder)}; unpack the images again"
        )
    if odd := sorted(id_ for id_ in ids if not (id_.isdecimal() and len(id_) == 12)):
        raise DataError(
            f"{folder / odd[0]}.jpg is not named as COCO names its images, by twelve digits ({len(odd)} are not); "
            "take it out of the folder"
        )


def _require_maps(ids: Collection[str], images: Path, maps: Path) -> None:
    require_all(ids, maps, ".png", f"{images} has an image for each: unpack stuffthingmaps_trainval2017.zip again")
    originals = {name for name in stems(maps, ".png") if not name.endswith(_CONVERTED)}
    require_all(originals, images, ".jpg", f"{maps} has a map for each: unpack the images again")


def _require_same_listing(ids: Collection[str], path: Path, images: Path) -> None:
    """Refuse images that are not those of the dataset ``coco``, where its listing is there, too."""
    if not path.is_file():
        return
    listed = {_listed_name(image) for image in read_listing(path)}
    found = {f"{id_}.jpg" for id_ in ids}
    if differing := sorted(listed ^ found):
        raise DataError(
            f"coco-stuff and coco would not have the same images: {len(listed - found)} are listed in {path} and not "
            f"in {images}, {len(found - listed)} are there and not listed; the first is {differing[0]}. Give all "
            f"images and COCO's original file, or move {path.name} away if features need not serve both datasets",
            path=path,
        )


def _listed_name(image: CocoImage) -> str:
    """An image's file, with its id where that is not the one that the file's name says."""
    return image.file_name + f" (id {image.id})" * (image.file_name != f"{image.id:012d}.jpg")


DATASETS.add("coco-stuff", CocoStuffMaps.entry())
