"""COCO 2017: instances (Lin et al. 2014, arXiv:1405.0312) and COCO-Stuff 164k (Caesar et al. 2018, arXiv:1612.03716).

Both annotate the same photographs, and are read in the layouts that they are distributed in.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.annotations import BOXES, CROWD, CROWD_PIXEL, OBJECT, VOID, box_table
from deapcache.datasets.base import DATASETS
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.files import FileDataset, PackedTexts, Sample
from deapcache.datasets.io import COLOUR_AS_STORED, describe_folder, read_json, require_all, stems
from deapcache.errors import LEAVE_OUT, DataError, DatasetFileError, MissingDataError
from deapcache.recipe import canonical_text

_CROWD_TEXTS: Mapping[str, int] = {"": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
"""How exporters that write every field as text write ``iscrowd``."""

_DIGESTED = ("id", "iscrowd", "category_id", "area", "bbox", "segmentation")
"""Fields of an annotation that its digest covers; the id is the first."""


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One image of the listing with its annotations, crowds first, then large before small."""

    id: int
    size: tuple[int, int]
    """Height and width in pixels, of the file as stored."""
    annotations: tuple[Mapping[str, Any], ...]
    """Those of their fields that digests cover; None where a field is missing."""


class CocoListing:
    """All images of an ``instances_*.json`` by ascending id, packed: as objects they would take five times as much."""

    def __init__(self, categories: Any = None) -> None:
        self.categories = categories
        """As the file gives them."""
        self.ids = array("q")
        self.file_names = PackedTexts()
        self.sizes = array("q")
        """Height and width of each image in turn."""
        self.counts = array("q")
        """Annotations of each image."""
        self._texts = PackedTexts()

    def append(self, image: Mapping[str, Any], annotations: Iterable[Mapping[str, Any]]) -> None:
        """Add the image with the next id."""
        rows = sorted(([annotation.get(name) for name in _DIGESTED] for annotation in annotations), key=itemgetter(0))
        size = image["height"], image["width"]
        self.ids.append(image["id"])
        self.file_names.append(image["file_name"])
        self.sizes.extend(size)
        self.counts.append(len(rows))
        # NaN is refused where the annotation is read
        self._texts.append(canonical_text([image["id"], size, rows], allow_nan=True))

    def size(self, id_: str) -> tuple[int, int]:
        """Height and width of an image."""
        row = self._row(id_)
        return self.sizes[2 * row], self.sizes[2 * row + 1]

    def count(self, id_: str) -> int:
        """How many annotations an image has."""
        return self.counts[self._row(id_)]

    def image(self, id_: str) -> CocoImage:
        """An image with its annotations."""
        return _unpacked(self._texts.text(self._row(id_)))

    def digest(self, ids: Iterable[str]) -> str:
        """Digest of ids, sizes and annotations of images; the order of the file, licences and URLs play no part."""
        digest = hashlib.sha256()
        for id_ in ids:
            digest.update(self._texts.text(self._row(id_)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _row(self, id_: str) -> int:
        return bisect.bisect_left(self.ids, int(id_))


@functools.lru_cache(maxsize=32)  # an image's kinds of annotation are read one after the other
def _unpacked(text: str) -> CocoImage:
    number, (height, width), rows = json.loads(text)
    found = [dict(zip(_DIGESTED, row, strict=True)) for row in rows]
    found.sort(key=lambda annotation: (not is_crowd(annotation), -float(annotation["area"]), annotation["id"]))
    return CocoImage(id=number, size=(height, width), annotations=tuple(found))


def read_listing(path: Path) -> CocoListing:
    """All images of an ``instances_*.json``, with and without annotations.

    Ids, sizes and areas may be written as text, and ``iscrowd`` as 0, 1, true, false, empty or text of one of these.
    Raises :class:`DataError` that names the file where it is no such JSON, repeats an id or annotates an unknown image.
    """
    content = read_json(path, "annotation file", "download the annotations again")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise DataError(
            f"{path} is not a COCO instances file: it needs the lists 'images' and 'annotations'", path=path
        )
    images = [_checked_fields(fields, "image", k, _image_fields, path) for k, fields in enumerate(content["images"])]
    annotations = [
        _checked_fields(fields, "annotation", k, _annotation_fields, path)
        for k, fields in enumerate(content["annotations"])
    ]
    listing = CocoListing(content.get("categories"))
    del content
    for what, found in (("image", images), ("annotation", annotations)):
        repeated = [id_ for id_, count in Counter(fields["id"] for fields in found).items() if count > 1]
        if repeated:
            raise DataError(
                f"{path}: {what} id {repeated[0]} is listed more than once; give COCO's original file", path=path
            )
    of_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        if annotation["image_id"] not in of_image:
            raise DataError(
                f"{path}: annotation {annotation['id']} is for image {annotation['image_id']}, which is not listed",
                path=path,
            )
        of_image[annotation["image_id"]].append(annotation)
    annotations.clear()  # so that each is let go as it is packed
    for image in sorted(images, key=lambda image: image["id"]):
        listing.append(image, of_image.pop(image["id"]))
    return listing


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation of :func:`read_listing` is a crowd."""
    return bool(annotation.get("iscrowd"))


def _checked_fields(
    fields: Any, what: str, place: int, check: Callable[[Mapping[str, Any]], dict[str, Any]], path: Path
) -> Mapping[str, Any]:
    """``fields`` with those replaced that ``check`` gives; raises :class:`DataError` that says which are wrong."""
    if not isinstance(fields, dict):
        raise DataError(
            f"{path}: {what} number {place + 1} is of a wrong type: {str(fields)[:50]!r}, expected its fields",
            path=path,
        )
    try:
        replaced = check(fields)
    except KeyError as error:
        reason = f"lacks the field {error}"
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"has a field of a wrong type: {error}"
    else:
        return {**fields, **replaced} if replaced else fields
    raise DataError(
        f"{path}: {what} number {place + 1} (id {fields.get('id')!r}) {reason}; give COCO's original file", path=path
    )


def _image_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    name = fields["file_name"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"file_name {name!r}, expected the name of a file")
    return {key: _whole(key, fields[key]) for key in ("id", "height", "width")}


def _annotation_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is not written as COCO does; the rest stays, since digests are made of it as it is."""
    float(fields["area"])
    replaced = {key: _whole(key, fields[key]) for key in ("id", "image_id")}
    replaced = {key: whole for key, whole in replaced.items() if isinstance(fields[key], str)}
    crowd = fields.get("iscrowd")
    if isinstance(crowd, str):
        crowd = replaced["iscrowd"] = _CROWD_TEXTS.get(crowd.strip().lower(), -1)
    if crowd not in (None, 0, 1):
        raise ValueError(f"iscrowd {fields['iscrowd']!r}, expected 0 or 1")
    return replaced


def _whole(key: str, value: Any) -> int:
    """The whole number that a field holds, maybe as text; the same object where it is one already."""
    if type(value) is int and abs(value) < 2**63:
        return value
    found = int(value) if isinstance(value, str) else value
    if isinstance(found, bool) or found != int(found) or abs(found) >= 2**63:
        raise ValueError(f"{key} {value!r}, expected a whole number")
    return int(found)


def read_boxes(image: CocoImage, path: Path) -> NDArray[np.float64]:
    """The table of an image: its annotations' own boxes and areas, crowds too, in the order of the annotations' ids.

    Nothing is cut at the image's border. Two of the 860,001 training boxes have no height: they stay, since COCO's own
    scoring counts them (as objects that nobody can find). Raises :class:`DataError` that names the file ``path``, image
    and annotation where a box is not four finite numbers, a size or area is below 0, or area or category is missing.
    """
    rows = []
    for annotation in sorted(image.annotations, key=lambda annotation: int(annotation["id"])):
        try:
            x, y, width, height = map(float, annotation["bbox"])
            kind = CROWD if is_crowd(annotation) else OBJECT
            row = [x, y, width, height, float(annotation["area"]), kind, float(annotation["category_id"])]
            if not all(map(math.isfinite, row)) or min(row[2:5]) < 0:
                raise ValueError("not finite, or a negative size")
        except (KeyError, TypeError, ValueError):
            found = ", ".join(f"{name} {annotation.get(name)!r}" for name in ("bbox", "area", "category_id"))
            raise DataError(
                f"{path}: annotation {annotation['id']} of image {image.id} is no box: found {found}; expected a bbox "
                "of four numbers x, y, width, height, an area, none of the last three below 0, and a category_id; "
                "give COCO's original file",
                path=path,
            ) from None
        rows.append(row)
    return box_table(image.size, rows)


_FARTHEST = 100_000.0
"""Polygon coordinates beyond this are no slip over the image border but rubbish."""


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of one COCO ``segmentation`` in an image of ``size`` (height, width).

    A list of polygons (x, y, x, y, ... in pixels; drawn by pycocotools, their union counts), or run lengths down the
    columns: plain (``counts`` is a list) or compressed (a string). Returns (height, width) bool. Raises
    ``ValueError`` that says what is wrong with it.
    """
    if isinstance(segmentation, list):
        return _fill_polygons(segmentation, size)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError("segmentation is neither a list of polygons nor run lengths with size and counts")
    if segmentation["size"] != list(size):
        raise ValueError(f"its run lengths are for size {segmentation['size']}, the image has {list(size)}")
    counts = segmentation["counts"]
    return _fill_runs(uncompress_counts(counts) if isinstance(counts, str) else counts, size)


def uncompress_counts(text: str) -> list[int]:
    """Run lengths from COCO's compressed string.

    Each number is a string of characters that carry 5 bits, lowest first, bit 6 says that more follow, and the number
    is signed; from the fourth on it is the difference to the number two before (pycocotools, ``rleFrString``).
    """
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("latin-1", errors="replace"):
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


def _fill_runs(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    # Not by pycocotools, which leaves the rest of the mask uninitialised where the runs end early.
    runs = np.asarray(counts)
    height, width = size
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its run lengths do not add up to {height} x {width} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _fill_polygons(polygons: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    from pycocotools import mask as coco_mask

    if not polygons:
        raise ValueError("it has no polygon")
    encoded = []
    for polygon in polygons:
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError("a polygon is not a list of numbers") from None
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            raise ValueError("a polygon needs three or more points, given as x, y, x, y, ...")
        if not (np.abs(points) <= _FARTHEST).all():  # False for NaN, too
            raise ValueError("a polygon has coordinates that are not finite or far outside any image")
        # One at a time: pycocotools takes a list whose first member has four numbers for boxes.
        encoded += coco_mask.frPyObjects([points.tolist()], *size)
    return _fill_runs(uncompress_counts(coco_mask.merge(encoded)["counts"].decode()), size)


STUFF_LABELS = tuple(
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

STUFF_VALUES = tuple(value for value in range(len(STUFF_LABELS)) if value not in REMOVED)
"""Pixel values by class, 0 to 170."""

STUFF_CLASSES = tuple(STUFF_LABELS[value] for value in STUFF_VALUES)
"""Names by class: 80 things, then 91 kinds of stuff."""

CATEGORY_IDS = tuple(value + 1 for value in STUFF_VALUES[:80])
"""Ids of the 80 categories of objects, 1 to 90."""


LAYOUT = """\
train2017/*.jpg                            118,287 images
val2017/*.jpg                              5,000 images
annotations/instances_train2017.json
annotations/instances_val2017.json
directly under the data root, or in its folder coco/; one of the two splits is enough to use that one"""


class CocoInstances(FileDataset):
    """COCO 2017: photographs with instance masks and boxes of 80 categories.

    Training images come in :func:`deapcache.datasets.base.sample_order`, validation images by ascending id. The
    annotation file of a split is parsed once, when first needed (seconds and about 2 GB for the 118,287 training
    images, of which a fifth is kept).
    """

    name = images_name = "coco"
    annotations: tuple[str, ...] = ("instances", BOXES, "classes")
    classes: tuple[str, ...] = ("background", *STUFF_CLASSES[:80])
    # COCO's masks lie on the stored pixels: its own tools ignore EXIF.
    colour = COLOUR_AS_STORED
    summary = "COCO 2017: photographs with instance masks of 80 categories"
    layout = LAYOUT
    licence = "annotations CC BY 4.0; each image under its own Flickr licence, named in the annotation file"
    official: ClassVar = {"train": 118_287, "val": 5_000}
    options: ClassVar = {
        "instances": {"overlap": "smaller area on top", "crowd": "-1, under everything", "polygons": "pycocotools"},
        BOXES: {"boxes": "as annotated, crowds too", "order": "annotation id"},
        "classes": {"categories": "by id, 0 background", "overlap": "as instances", "crowd": "void, under everything"},
    }
    places = ("", "coco")
    expected = (
        "annotations/instances_train2017.json with train2017/, or annotations/instances_val2017.json with val2017/, "
        "there or in its folder coco/"
    )

    def __init__(self, root: Path) -> None:
        """``root`` holds ``annotations/`` and at least one of ``train2017/`` and ``val2017/``."""
        super().__init__(root)
        self._parsed: dict[Path, CocoListing] = {}  # by file, of every image; shared with selections
        self._digests: dict[str, str] = {}
        if not self._has_its_categories():
            self.annotations, self.classes = self.annotations[:2], ()

    def _has_its_categories(self) -> bool:
        """Whether the smallest listing has COCO's 80 categories: one's own in COCO's layout are no classes."""
        paths = [path for split in self.splits if (path := annotation_file(self.root, split)).is_file()]
        try:
            smallest = min(paths, key=lambda path: path.stat().st_size)
            try:
                listing = self._parsed[smallest] = read_listing(smallest)
                rows = listing.categories
            except DataError:  # told where the split is listed
                rows = read_json(smallest, "annotation file", "")["categories"]
            found = {row["id"]: row["name"] for row in rows}
        except (DatasetFileError, ValueError, KeyError, TypeError):
            return False
        return found == dict(zip(CATEGORY_IDS, self.classes[1:], strict=True))

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return image_folder(root, split), annotation_file(root, split)

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return annotation_file(root, split).is_file()

    def _unlisted_copy(self) -> Self:
        made = super()._unlisted_copy()
        made._digests = {}
        return made

    def list_samples(self, split: str) -> Iterator[Sample]:
        folder, path = self.split_parts(self.root, split)
        if path not in self._parsed:
            self.require_parts(split)
            self._parsed[path] = read_listing(path)
        listing, left_out = self._parsed[path], self.omitted.get(split, {})
        named = {f"{id_:012d}": listing.file_names.text(row) for row, id_ in enumerate(listing.ids)}
        for id_ in left_out:
            named.pop(id_, None)
        if not self._is_tolerant:
            _require_files(list(named.values()), folder)
        labels = dict.fromkeys(self.annotations, (path.relative_to(self.root).as_posix(),))
        for id_, name in named.items():
            yield Sample(id=id_, image=str(Path(folder.name, name)), labels=labels)

    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> Sequence[str]:
        # Of the images' own folder, as coco-stuff does: what the index remembers of it serves both.
        folder = image_folder(self.root, split)
        names = [image.removeprefix(f"{folder.name}/") for image in self.samples(split).images]
        return (index or DigestIndex()).digests(folder, names)

    def decode(self, split: str, row: int) -> Image.Image:
        decoded = super().decode(split, row)
        expected = self._listing(split).size(self.samples(split).ids[row])
        if (decoded.height, decoded.width) != expected:
            raise DataError(
                f"{self.image_path(split, row)} has {decoded.height} x {decoded.width} pixels (height x width), "
                f"{annotation_file(self.root, split)} says {expected[0]} x {expected[1]}: "
                "its masks would not fit; use the file that the annotations were made for",
                path=self.image_path(split, row),
            )
        return decoded

    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        path = self.label_path(sample, kind)
        image = self._parsed[path].image(sample.id)
        if kind == BOXES:
            return read_boxes(image, path)
        instances = read_instances(image, path)
        return instances if kind == "instances" else read_classes(image, instances, path)

    def box_rows(self, split: str) -> int:
        ids = self.samples(split).ids
        return 1 + max(map(self._listing(split).count, ids), default=0)

    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        """From the ids and sizes of the images, and their annotations: one for all kinds."""
        self._require_kind(kind)
        ids = self.samples(split).ids
        if split not in self._digests:
            self._digests[split] = self._listing(split).digest(ids)
        return self._digests[split]

    def _listing(self, split: str) -> CocoListing:
        return self._parsed[annotation_file(self.root, split)]


def read_instances(image: CocoImage, path: Path) -> NDArray[np.int32]:
    """(h, w) int32: annotations painted in their order, :data:`CROWD_PIXEL` for crowds, else 1, 2, ...

    Raises :class:`DataError` that names the file ``path``, image and annotation.
    """
    # Column by column in memory, as masks are: painting is five times as fast.
    ids = np.zeros(image.size, np.int32, order="F")
    next_id = 1
    for annotation in image.annotations:
        if not math.isfinite(float(annotation["area"])):
            raise DataError(
                f"{path}: annotation {annotation['id']} of image {image.id} has the area {annotation['area']!r}, by "
                "which masks are ordered; expected a finite number",
                path=path,
            )
        try:
            mask = decode_segmentation(annotation.get("segmentation"), image.size)
        except ValueError as error:
            raise DataError(
                f"{path}: annotation {annotation['id']} of image {image.id} cannot be drawn: {error}", path=path
            ) from error
        if is_crowd(annotation):
            ids[mask] = CROWD_PIXEL
        else:
            ids[mask] = next_id
            next_id += 1
    return ids


def read_classes(image: CocoImage, instances: NDArray[np.int32], path: Path) -> NDArray[np.uint8]:
    """(h, w) uint8: the class of the object that is on top in ``instances``; 0 background, void where a crowd is.

    Raises :class:`DataError` for a category that is not one of COCO's 80.
    """
    found = [annotation["category_id"] for annotation in image.annotations if not is_crowd(annotation)]
    if unknown := [id_ for id_ in found if id_ not in CATEGORY_IDS]:
        raise DataError(
            f"{path}: image {image.id} has an object of category {unknown[0]!r}, which is none of COCO's 80",
            path=path,
        )
    # a crowd's -1 takes the last one
    return np.array([0, *(1 + CATEGORY_IDS.index(id_) for id_ in found), VOID], np.uint8)[instances]


def _require_files(names: Sequence[str], folder: Path) -> None:
    present = set(os.listdir(folder))  # noqa: PTH208 - one call for 118,287 names
    # a name may hold a sub-folder
    lacking = [name for name in names if name not in present and not (folder / name).is_file()]
    if lacking:
        raise MissingDataError(
            f"{folder} lacks {len(lacking)} of the {len(names)} listed images, the first is {lacking[0]}; "
            f"unpack the image archive again, {LEAVE_OUT}",
            path=folder / lacking[0],
        )


def image_folder(root: Path, split: str) -> Path:
    """Where COCO's images of a split lie."""
    return root / f"{split}2017"


def annotation_file(root: Path, split: str) -> Path:
    """The listing of a split's images with their instances."""
    return root / "annotations" / f"instances_{split}2017.json"


# COCO-Stuff: the same photographs with a class at every pixel.

CLASS_OF_VALUE = np.full(256, VOID, np.uint8)
"""Class by pixel value, 255 (void) for all that is none."""
CLASS_OF_VALUE[list(STUFF_VALUES)] = range(len(STUFF_VALUES))

IS_VALUE = np.isin(np.arange(256), (*STUFF_VALUES, UNLABELLED))
"""By pixel value, whether a map may have it."""


STUFF_LAYOUT = """\
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
    classes = STUFF_CLASSES
    colour = CocoInstances.colour
    summary = "COCO-Stuff 164k: the photographs of coco with 171 classes at every pixel"
    layout = STUFF_LAYOUT
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
        images, maps = self.require_parts(split)
        ids = stems(images, ".jpg")
        _require_numbers(ids, images)
        require_all(ids, maps, ".png", f"{images} has an image for each: unpack stuffthingmaps_trainval2017.zip again")
        originals = {name for name in stems(maps, ".png") if not name.endswith(_CONVERTED)}
        require_all(originals, images, ".jpg", f"{maps} has a map for each: unpack the images again")
        _require_same_listing(ids, annotation_file(self.root, split), images)
        folder = maps.relative_to(self.root).as_posix()
        return [
            Sample(id=id_, image=f"{images.name}/{id_}.jpg", labels={"classes": (f"{folder}/{id_}.png",)})
            for id_ in sorted(ids)
        ]

    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> Sequence[str]:
        # Of the images' own folder, as coco does: what the index remembers of it serves both.
        names = [Path(sample.image).name for sample in self.samples(split)]
        return (index or DigestIndex()).digests(image_folder(self.root, split), names)

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.uint8]:
        expected = "0 to 181 without the eleven removed labels, or 255 for unlabelled"
        return CLASS_OF_VALUE[self.read_index_map(sample, kind, IS_VALUE, expected)]


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


def _require_same_listing(ids: Collection[str], path: Path, images: Path) -> None:
    """Refuse images that are not those of the dataset ``coco``, where its listing is there, too."""
    if not path.is_file():
        return
    listing = read_listing(path)
    named = ((id_, listing.file_names.text(row)) for row, id_ in enumerate(listing.ids))
    # with its id where that is not the one that the file's name says
    listed = {name if name == f"{id_:012d}.jpg" else f"{name} (id {id_})" for id_, name in named}
    found = {f"{id_}.jpg" for id_ in ids}
    if differing := sorted(listed ^ found):
        raise DataError(
            f"coco-stuff and coco would not have the same images: {len(listed - found)} are listed in {path} and not "
            f"in {images}, {len(found - listed)} are there and not listed; the first is {differing[0]}. Give all "
            f"images and COCO's original file, or move {path.name} away if features need not serve both datasets",
            path=path,
        )


DATASETS["coco"] = CocoInstances
DATASETS["coco-stuff"] = CocoStuffMaps
