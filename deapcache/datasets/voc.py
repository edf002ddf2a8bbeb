"""PASCAL VOC 2012 segmentation (Everingham et al. 2015, IJCV 111), in the layout it is distributed in.

File names, class names and their order are those of the development kit (``VOCcode/VOCinit.m`` and ``devkit_doc``, from
http://host.robots.ox.ac.uk/pascal/VOC/voc2012/). Label maps are palette PNGs: the index counts, the colour does not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import BOXES, VOID, boxes_of_map
from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.digests import DigestIndex, Progress
from deapcache.datasets.files import FileDataset, Sample, read_map_of_image
from deapcache.datasets.io import missing_paths, read_bytes, require_all, require_split, stems
from deapcache.errors import DataError, MissingDataError

LAYOUT = """\
VOCdevkit/VOC2012/JPEGImages/*.jpg               17,125 images, of all its tasks
VOCdevkit/VOC2012/SegmentationClass/*.png        2,913 palette PNGs: class
VOCdevkit/VOC2012/SegmentationObject/*.png       2,913 palette PNGs: object
VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt    1,464 and 1,449 ids
under the data root or its folder voc/; VOCdevkit or VOC2012 may also lie there itself, or be the data root"""

_NAMES = """
background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor
"""

CLASSES = tuple(_NAMES.split())
"""``VOCopts.classes`` of ``VOCinit.m``, after the background; the position is the value in ``SegmentationClass``."""

IMAGES, CLASS_MAPS, OBJECT_MAPS = "JPEGImages", "SegmentationClass", "SegmentationObject"

_ARCHIVE = "unpack VOCtrainval_11-May-2012.tar again, or take the id out of the list"
_CLASS_VALUES = np.isin(np.arange(VOID + 1), [*range(len(CLASSES)), VOID])
_OBJECT_VALUES = np.ones(VOID + 1, dtype=np.bool_)


class Voc(FileDataset):
    """The images of PASCAL VOC 2012 that are segmented: 21 classes, background included, and single objects.

    Void (255: borders, and what is too hard to tell) is :data:`VOID` in ``classes``. In ``instances`` it is 0, no
    object, as in ChainerCV's reader: -1 would make it a crowd, which is foreground. Numbers of objects are those of
    ``SegmentationObject``, which follow the order of the XML files and may leave some out.
    """

    name = "voc"
    images_name = "voc"
    annotations = ("classes", "instances", BOXES)
    classes = CLASSES
    most_objects = VOID - 1
    """What 8 bits can number beside background and void."""
    summary = "PASCAL VOC 2012: photographs with a class map of 20 kinds of object, and single objects"
    layout = LAYOUT
    licence = "photographs under Flickr's terms of use; no licence is stated for the annotations"
    official: ClassVar = {"train": 1_464, "val": 1_449}
    options: ClassVar = {
        "instances": {"void": "background"},
        BOXES: {
            "void": "background",
            "boxes": "tight, of visible pixels",
            "category": "commonest class of an object's pixels",
        },
    }
    places = tuple(base + place for base in ("", "voc/") for place in ("VOCdevkit/VOC2012", "VOC2012", ""))
    expected = (
        "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt or val.txt there or in its folder voc/ (or VOC2012 itself)"
    )

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return root / IMAGES, _list_file(root, split), root / CLASS_MAPS

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return _list_file(root, split).is_file()

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        """Photographs of the split's list, and missing paths; reads the list, opens no image."""
        listing = _list_file(root, split)
        missing = missing_paths([listing, *(root / name for name in (IMAGES, CLASS_MAPS, OBJECT_MAPS))])
        try:
            ids = read_ids(listing) if listing.is_file() else ()
        except DataError as error:
            return SplitStatus(images=0, missing=(*missing, f"a list of the right form: {error}"))
        photographs = stems(root / IMAGES, ".jpg")
        return SplitStatus(images=sum(name in photographs for name in ids), missing=missing)

    def list_samples(self, split: str) -> Sequence[Sample]:
        listing = _list_file(self.root, split)
        require_split("voc", split, self.root, (listing, self.root / IMAGES, self.root / CLASS_MAPS))
        ids = read_ids(listing)
        require_all(ids, self.root / IMAGES, ".jpg", f"{listing} names them: {_ARCHIVE}")
        require_all(ids, self.root / CLASS_MAPS, ".png", f"{listing} names them: {_ARCHIVE}")
        samples = []
        for name in ids:
            classes, objects = f"{CLASS_MAPS}/{name}.png", f"{OBJECT_MAPS}/{name}.png"
            labels = {"classes": (classes,), "instances": (objects,), BOXES: (objects, classes)}
            samples.append(Sample(id=name, image=f"{IMAGES}/{name}.jpg", labels=labels))
        return samples

    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        if kind == "classes":
            return self._classes(sample)
        objects = self._objects(sample)
        if kind == BOXES:
            return boxes_of_map(objects, self._categories(sample, objects))
        return objects

    def annotation_digest(
        self, split: str, kind: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> str:
        """As for any dataset of files; raises :class:`MissingDataError` where a map of objects is needed and absent."""
        if kind in ("instances", BOXES):
            folder = self.root / OBJECT_MAPS
            if not folder.is_dir():
                raise MissingDataError(
                    f"voc has no objects under {self.root}: the folder {OBJECT_MAPS} is missing, from which instances "
                    "and boxes are read (classes are there). Unpack it from VOCtrainval_11-May-2012.tar"
                )
            advice = f"{_list_file(self.root, split)} names them: {_ARCHIVE}"
            require_all(self.image_ids(split), folder, ".png", advice)
        return super().annotation_digest(split, kind, index=index, progress=progress)

    def _classes(self, sample: Sample) -> NDArray[np.uint8]:
        path, expected = self.root / sample.labels["classes"][0], "0 (background) to 20, or 255 (void)"
        return read_map_of_image(path, self.root / sample.image, _CLASS_VALUES, expected).astype(np.uint8)

    def _objects(self, sample: Sample) -> NDArray[np.int32]:
        path = self.root / sample.labels["instances"][0]
        expected = "0 (background), the number of an object up to 254, or 255 (void)"
        labels = read_map_of_image(path, self.root / sample.image, _OBJECT_VALUES, expected)
        labels[labels == VOID] = 0
        return labels

    def _categories(self, sample: Sample, objects: NDArray[np.int32]) -> NDArray[np.int64]:
        """(h, w): on all pixels of an object the commonest of the classes 1 to 20 beneath it, the first of equals."""
        pairs = (objects.astype(np.int64) * (VOID + 1) + self._classes(sample)).ravel()
        counts = np.bincount(pairs, minlength=(VOID + 1) ** 2).reshape(VOID + 1, VOID + 1)[:, 1 : len(CLASSES)]
        unclassed = [number for number in np.unique(objects[objects > 0]) if not counts[number].any()]
        if unclassed:
            path, classes = (self.root / name for name in sample.labels[BOXES])
            raise DataError(
                f"{path}: object {unclassed[0]} has no pixel of a class from 1 to 20 in {classes}; the two files do "
                "not belong together: unpack VOCtrainval_11-May-2012.tar again",
                path=path,
            )
        return np.asarray(1 + counts.argmax(axis=1))[objects]


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids that a list of ``ImageSets/Segmentation`` names, one a line, in ascending order.

    Blank lines, spaces around an id and any line ends are allowed. Raises :class:`DataError` where it names none, or
    one twice, or has a line with more than an id.
    """
    try:
        lines = read_bytes(path, "list").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file ({error}); give the original list", path=path) from None
    ids = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if re.search(r"[\s/\\]", line):
            raise DataError(f"{path}, line {number}: expected one id such as 2007_000032, found {line!r}", path=path)
        if line:
            ids.append(line)
    if not ids:
        raise DataError(f"{path} names no image; expected one id a line, such as 2007_000032", path=path)
    repeated = sorted(name for name, count in Counter(ids).items() if count > 1)
    if repeated:
        raise DataError(f"{path} names {len(repeated):,} ids more than once, the first is {repeated[0]}", path=path)
    return tuple(sorted(ids))


def _list_file(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


DATASETS.add("voc", Voc.entry())
