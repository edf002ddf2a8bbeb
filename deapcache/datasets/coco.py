"""COCO 2017 instances (Lin et al. 2014, arXiv:1405.0312), in the layout it is distributed in."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, DatasetEntry, SplitStatus
from deapcache.datasets.boxes import BOXES
from deapcache.datasets.coco_boxes import read_boxes
from deapcache.datasets.coco_listing import CocoImage, is_crowd, listing_digest, read_listing
from deapcache.datasets.decoding import COLOUR_AS_STORED, decode_image
from deapcache.datasets.digests import DigestIndex, Progress, digest_files
from deapcache.datasets.folders import absent, listing, not_under, require_split, stems
from deapcache.datasets.listed import ListedDataset
from deapcache.datasets.masks import decode_segmentation
from deapcache.datasets.ordering import sample_key
from deapcache.errors import LEAVE_OUT, DataError, MissingDataError

LAYOUT = """\
train2017/*.jpg                            118,287 images
val2017/*.jpg                              5,000 images
annotations/instances_train2017.json
annotations/instances_val2017.json
directly under the data root, or in its folder coco/; one of the two splits is enough to use that one"""

CROWD = -1
"""Value of crowd regions in instance maps."""

_PARSING = threading.Lock()  # of the module, so that a dataset can be pickled


class CocoInstances(ListedDataset[CocoImage]):
    """COCO 2017: photographs with instance masks and boxes of 80 categories.

    Training images come in :func:`deapcache.datasets.ordering.sample_order`, validation images by ascending id. The
    listing of a split is parsed once, when first needed (seconds and about 2 GB for the 118,287 training images).
    """

    name = "coco"
    images_name = "coco"
    annotations = ("instances", "boxes")
    # COCO's masks lie on the stored pixels: its own tools ignore EXIF.
    colour = COLOUR_AS_STORED

    def __init__(self, root: Path) -> None:
        """``root`` holds ``annotations/`` and at least one of ``train2017/`` and ``val2017/``."""
        super().__init__(root)
        self._parsed: dict[str, tuple[CocoImage, ...]] = {}  # every image; shared with selections

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        return self.image_path(split, row), annotation_file(self.root, split)

    def image_ids(self, split: str) -> tuple[str, ...]:
        return tuple(_image_id(image) for image in self._listing(split))

    def image_digests(
        self, split: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> tuple[str, ...]:
        names = [image.file_name for image in self._listing(split)]
        return digest_files(image_folder(self.root, split), names, index=index, progress=progress)

    def image_path(self, split: str, row: int) -> Path:
        """The file of an image."""
        return image_folder(self.root, split) / self._listing(split)[row].file_name

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        path = self.image_path(split, row)
        decoded = decode_image(path, apply_exif=False)
        expected = self._listing(split)[row].size
        if decoded.shape[:2] != expected:
            raise DataError(
                f"{path} has {decoded.shape[0]} x {decoded.shape[1]} pixels (height x width), "
                f"{annotation_file(self.root, split)} says {expected[0]} x {expected[1]}: "
                "its masks would not fit; use the file that the annotations were made for"
            )
        return decoded

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        image = self._listing(split)[row]
        if kind == BOXES:
            return read_boxes(image, annotation_file(self.root, split))
        return self._instances(image, split)

    def box_rows(self, split: str) -> int:
        return 1 + max((len(image.annotations) for image in self._listing(split)), default=0)

    def _instances(self, image: CocoImage, split: str) -> NDArray[np.int32]:
        # Column by column in memory, as masks are: painting is five times as fast.
        ids = np.zeros(image.size, np.int32, order="F")
        next_id = 1
        for annotation in image.annotations:
            if not math.isfinite(float(annotation["area"])):
                raise DataError(
                    f"{annotation_file(self.root, split)}: annotation {annotation['id']} of image {image.id} has the "
                    f"area {annotation['area']!r}, by which masks are ordered; expected a finite number"
                )
            mask = self._mask(annotation, image, split)
            if is_crowd(annotation):
                ids[mask] = CROWD
            else:
                ids[mask] = next_id
                next_id += 1
        return ids

    def annotation_digest(
        self, split: str, kind: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> str:
        self._require_kind(kind)
        return listing_digest(self._listing(split))

    def target_options(self, kind: str) -> dict[str, Any]:
        self._require_kind(kind)
        if kind == BOXES:
            return {"boxes": "as annotated, crowds too", "order": "annotation id"}
        return {"overlap": "smaller area on top", "crowd": "-1, under everything", "polygons": "pycocotools"}

    def _mask(self, annotation: Mapping[str, Any], image: CocoImage, split: str) -> NDArray[np.bool_]:
        try:
            return decode_segmentation(annotation.get("segmentation"), image.size)
        except ValueError as error:
            raise DataError(
                f"{annotation_file(self.root, split)}: annotation {annotation['id']} of image {image.id} "
                f"cannot be drawn: {error}"
            ) from error

    def _listing(self, split: str) -> tuple[CocoImage, ...]:
        self._require_split(split)
        with _PARSING:
            with listing(self.root):
                if split not in self._parsed:
                    self._parsed[split] = _load(self.root, split)
                if split not in self._listings:
                    left_out = self.omitted.get(split, {})
                    kept = tuple(image for image in self._parsed[split] if _image_id(image) not in left_out)
                    if not self._is_tolerant:
                        _require_files(kept, image_folder(self.root, split))
                    self._listings[split] = kept
            return self._listings[split]


def _load(root: Path, split: str) -> tuple[CocoImage, ...]:
    require_split("coco", split, root, _needed(root, split))
    images = read_listing(annotation_file(root, split))
    return images if split == "val" else tuple(sorted(images, key=lambda image: sample_key(_image_id(image))))


def _image_id(image: CocoImage) -> str:
    return f"{image.id:012d}"


def _require_files(images: tuple[CocoImage, ...], folder: Path) -> None:
    present = set(os.listdir(folder))  # noqa: PTH208 - one call for 118,287 names
    names = [image.file_name for image in images if image.file_name not in present]
    lacking = [name for name in names if not (folder / name).is_file()]  # a name may hold a sub-folder
    if lacking:
        raise MissingDataError(
            f"{folder} lacks {len(lacking)} of the {len(images)} listed images, the first is {lacking[0]}; "
            f"unpack the image archive again, {LEAVE_OUT}"
        )


def image_folder(root: Path, split: str) -> Path:
    """Where COCO's images of a split lie."""
    return root / f"{split}2017"


def annotation_file(root: Path, split: str) -> Path:
    """The listing of a split's images with their instances."""
    return root / "annotations" / f"instances_{split}2017.json"


def _needed(root: Path, split: str) -> tuple[Path, Path]:
    return image_folder(root, split), annotation_file(root, split)


def _find_root(data_root: Path) -> Path | None:
    roots = (data_root, data_root / "coco")
    with_annotations = (r for r in roots if any(annotation_file(r, s).is_file() for s in CocoInstances.splits))
    return next(with_annotations, None)


def open_coco(data_root: Path) -> CocoInstances:
    """COCO under ``data_root`` or ``data_root/coco``; raises :class:`MissingDataError` where neither holds a split."""
    root = _find_root(data_root)
    if root is None:
        raise not_under(
            data_root,
            "coco",
            "annotations/instances_train2017.json with train2017/, or annotations/instances_val2017.json with "
            "val2017/, there or in its folder coco/",
        )
    return CocoInstances(root)


def coco_status(data_root: Path) -> dict[str, SplitStatus]:
    """Image files and missing paths per split; lists folders, opens no file."""
    root = _find_root(data_root) or data_root
    return {split: _split_status(root, split) for split in CocoInstances.splits}


def _split_status(root: Path, split: str) -> SplitStatus:
    folder = image_folder(root, split)
    missing = absent(_needed(root, split))
    return SplitStatus(images=len(stems(folder, ".jpg")), missing=missing)


DATASETS.add(
    "coco",
    DatasetEntry(
        name="coco",
        summary="COCO 2017: photographs with instance masks of 80 categories",
        layout=LAYOUT,
        licence="annotations CC BY 4.0; each image under its own Flickr licence, named in the annotation file",
        open=open_coco,
        status=coco_status,
        official={"train": 118_287, "val": 5_000},
        annotations=CocoInstances.annotations,
    ),
)
