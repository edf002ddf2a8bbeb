"""NYU Depth V2's labelled images as they are distributed: one MATLAB file with everything in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import Dataset
from deapcache.datasets.boxes import BOXES, boxes_of_map
from deapcache.datasets.depth import require_metres
from deapcache.datasets.digests import DigestIndex, Progress, digest_parts
from deapcache.datasets.hdf5 import ArrayFile
from deapcache.datasets.nyuv2_splits import read_splits
from deapcache.datasets.ordering import sample_key
from deapcache.errors import DataError
from deapcache.recipe import digest_of

LABELLED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"

MOST_OBJECTS = 400
"""Boxes that the table of an image has room for; the dataset's paper counts 35,064 objects, 24 an image."""

FAR_END = 10.0
"""Metres at which the toolbox cuts the sensor's depth off; its own in-painting takes this very value for unknown."""

_KINDS = {"images": "u", "rawDepths": "f", "depths": "f", "labels": "u", "instances": "u"}
"""The arrays that are read, with the kind of number in them."""


class NyuLabelled(Dataset):
    """NYUv2's 1,449 labelled images (Silberman et al. 2012): 795 for ``train``, the official test's 654 as ``val``.

    Training images come in :func:`deapcache.datasets.ordering.sample_order`, the others by number. ``depth`` is the
    sensor's own (``rawDepths``), with holes. ``instances`` are the pairs of a label and an instance number that occur,
    as the toolbox's ``get_instance_masks`` has them, without the label 0, which is unlabelled; they are numbered by
    label, then by instance. A box's category is its label.
    """

    name = "nyuv2"
    images_name = "nyuv2"
    annotations: tuple[str, ...] = ("instances", "boxes", "depth")
    base_size = (216, 288)
    colour = "rgb8 as stored"
    depth_array: ClassVar[str] = "rawDepths"
    has_far_end: ClassVar[bool] = True
    """Whether depth of :data:`FAR_END` is unknown."""

    def __init__(self, root: Path) -> None:
        """``root`` holds ``nyu_depth_v2_labeled.mat`` and ``splits.mat``."""
        self.root = root
        self._arrays = ArrayFile(root / LABELLED)
        self._splits: dict[str, tuple[int, ...]] = {}

    def image_ids(self, split: str) -> tuple[str, ...]:
        """Image numbers from 1, as MATLAB counts: ``0001`` and so on."""
        return tuple(map(_id_of, self._numbers(split)))

    def image_digests(
        self, split: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> tuple[str, ...]:
        """sha256 of each image's values as they are stored, (3, width, height) uint8."""
        return self._digests([f"images/{id_}" for id_ in self.image_ids(split)], index, progress)

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        """The MATLAB files, of which every row is a part."""
        return self._arrays.path, self.root / SPLITS

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self._item("images", self._numbers(split)[row]).transpose(2, 1, 0))

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        number = self._numbers(split)[row]
        if kind == "depth":
            return self._depth(number)
        labels = self._item("labels", number).T
        instances = number_pairs(labels, self._item("instances", number).T)
        if kind != BOXES:
            return instances
        if instances.max() > MOST_OBJECTS:
            raise DataError(
                f"{self._arrays.path}: image {number:04d} has {instances.max()} objects, the boxes of an image have "
                f"room for {MOST_OBJECTS}; raise MOST_OBJECTS in {__name__}"
            )
        return boxes_of_map(instances, labels)

    def box_rows(self, split: str) -> int:
        if BOXES not in self.annotations:
            return super().box_rows(split)
        self._require_split(split)
        return 1 + MOST_OBJECTS

    def annotation_digest(
        self, split: str, kind: str, *, index: DigestIndex | None = None, progress: Progress | None = None
    ) -> str:
        """From the image numbers, and the values of the arrays that the kind is read from."""
        self._require_kind(kind)
        arrays = (self.depth_array,) if kind == "depth" else ("labels", "instances")
        ids = self.image_ids(split)
        digests = iter(self._digests([f"{array}/{id_}" for id_ in ids for array in arrays], index, progress))
        return digest_of([[id_, *(next(digests) for _ in arrays)] for id_ in ids])

    def target_options(self, kind: str) -> dict[str, Any]:
        self._require_kind(kind)
        if kind == "depth":
            unknown = f"0, and the sensor's far end, {FAR_END:g} m" if self.has_far_end else "0"
            return {"depth": self.depth_array, "unknown": unknown}
        pairs = {"instances": "pairs of label and instance, without label 0", "order": "label, then instance"}
        return {**pairs, "boxes": "tight, of the instances' pixels", "category": "label"} if kind == BOXES else pairs

    def close(self) -> None:
        """Close the MATLAB file, if it is open; what is read next opens it again."""
        self._arrays.close()

    def _depth(self, number: int) -> NDArray[np.float32]:
        stored = self._item(self.depth_array, number).T
        depth = require_metres(stored, f"{self._arrays.path}: {self.depth_array} of image {number:04d}")
        return without_far_end(depth) if self.has_far_end else np.ascontiguousarray(depth)

    def _numbers(self, split: str) -> tuple[int, ...]:
        self._require_split(split)
        if not self._splits:
            _require_array(self._arrays, "images")
            shape, _ = self._arrays.describe("images")
            splits = read_splits(self.root / SPLITS, shape[0])
            self._splits = {**splits, "train": tuple(sorted(splits["train"], key=lambda n: sample_key(_id_of(n))))}
        return self._splits[split]

    def _item(self, array: str, number: int) -> NDArray[Any]:
        """Of image ``number``, from 1, in MATLAB's order of axes: (width, height), or (3, width, height)."""
        _require_array(self._arrays, array)
        return self._arrays.item(array, number - 1)

    def _digests(self, parts: list[str], index: DigestIndex | None, progress: Progress | None) -> tuple[str, ...]:
        if index:
            return index.part_digests(self._arrays.path, parts, self._digest_part, progress=progress)
        return digest_parts(parts, self._digest_part, progress=progress)

    def _digest_part(self, part: str) -> str:
        array, number = part.split("/")
        return hashlib.sha256(np.ascontiguousarray(self._item(array, int(number))).data).hexdigest()


class NyuInpainted(NyuLabelled):
    """The same images; depth without holes, as the dataset's authors filled them in (``depths``)."""

    name = "nyuv2-inpainted"
    annotations = ("depth",)
    depth_array = "depths"
    has_far_end = False


def _id_of(number: int) -> str:
    return f"{number:04d}"


def without_far_end(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """A contiguous copy in which :data:`FAR_END` is 0, unknown.

    The toolbox's ``depth_rel2depth_abs`` lowers all that is farther to this value, and ``fill_depth_colorization``
    treats it as noise; the field scores below 10 m only.
    """
    return np.ascontiguousarray(np.where(depth == FAR_END, np.float32(0), depth))


def number_pairs(labels: NDArray[np.integer[Any]], instances: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """(h, w) int32: 1..K for the K pairs of label and instance, by label, then by instance; 0 where the label is 0."""
    pairs = labels.astype(np.int64) << 32 | instances.astype(np.int64)
    pairs[labels == 0] = 0
    present, places = np.unique(pairs, return_inverse=True)
    first = 0 if present[0] == 0 else 1
    return np.ascontiguousarray(places.reshape(labels.shape) + first, dtype=np.int32)


def _require_array(arrays: ArrayFile, name: str) -> None:
    """Raise :class:`DataError` where an array has not the images' own shape, or other numbers than expected."""
    images, _ = arrays.describe("images")
    shape, dtype = arrays.describe(name)
    n, w, h = (images[0], *images[-2:]) if len(images) == 4 else (0, 0, 0)
    expected = (n, 3, w, h) if name == "images" else (n, w, h)
    if shape != expected or dtype.kind != _KINDS[name]:
        raise DataError(
            f"{arrays.path}: {name} has shape {shape} and dtype {dtype}; expected (images, 3, width, height) uint8 for "
            "images, (images, width, height) for all others, float for depths and unsigned integers for labels and "
            f"instances, of the same sizes; images has shape {images}. Download the file again"
        )
