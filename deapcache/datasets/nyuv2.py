"""NYU Depth V2 (Silberman et al. 2012, "Indoor Segmentation and Support Inference from RGBD Images")."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import BOXES, boxes_of_map
from deapcache.datasets.base import DATASETS, Dataset, SplitStatus, sample_key
from deapcache.datasets.digests import DigestIndex, file_fingerprint
from deapcache.datasets.io import dataset_error, missing_paths, require_metres
from deapcache.datasets.nyuv2_pairs import FAR_END, PLACES, NyuPairs, without_far_end
from deapcache.errors import DataError, MissingDataError
from deapcache.recipe import digest_of

LAYOUT_MAT = """\
nyu_depth_v2_labeled.mat                   1,449 images with depth, labels and instances
splits.mat                                 795 train, 654 test, which is our val
directly under the data root, or in its folder nyuv2/ or nyu_depth_v2/"""

LAYOUT = f"""{LAYOUT_MAT}
where there is no such .mat file, depth alone, from PNG files of 16 bits in millimetres:
{{train,test}}/rgb/NAME.png with {{train,test}}/depth_raw/NAME.png or {{train,test}}/depth/NAME.png, or
official_splits/{{train,test}}/SCENE/rgb_00045.jpg with sync_depth_00045.png"""

LABELLED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"

_FOLDERS = "nyuv2/ or nyu_depth_v2/"
_LICENCE = "none stated by its authors, who ask to be cited; for research"

_READING = threading.Lock()  # of the module, so that a file can be pickled; h5py itself reads one item at a time

_KINDS = {"images": "u", "rawDepths": "f", "depths": "f", "labels": "u", "instances": "u"}
"""The arrays of the labelled images that are read, with the kind of number in them; the first says how many."""

_THREE = ("images", "norm_gt_l")
"""Arrays with three numbers a pixel."""


class ImageArrays:
    """Arrays of a ``.mat`` of version 7.3, a HDF5 file: (images, 3, width, height), or (images, width, height).

    ``kinds`` says which, with the kinds of number that each may hold (NumPy's letters); all have the sizes of the
    first. The file is opened when something is first read, by each process on its own, and again when it has changed.
    Only the chunks of one item are read at a time. An object that is pickled leaves its open file behind.
    """

    def __init__(self, path: Path, kinds: Mapping[str, str]) -> None:
        self.path = path
        self._kinds = kinds
        self._first = next(iter(kinds))
        self._file: h5py.File | None = None
        self._opened: tuple[int, ...] = ()
        """Process, and state of the file, that the open file belongs to."""

    def count(self) -> int:
        """How many images there are; raises as :meth:`item`."""
        with _READING:
            return len(self._array(self._first))

    def item(self, name: str, number: int) -> NDArray[Any]:
        """Of image ``number``, from 1, in MATLAB's order of axes: (width, height), or (3, width, height).

        Raises :class:`MissingDataError`, and :class:`DataError` where the file cannot be read, lacks the array or has
        one of another shape or kind of number.
        """
        with _READING:
            array = self._array(name)
            try:
                return np.asarray(array[number - 1])
            except Exception as error:  # h5py documents none, and damaged files raise all kinds
                if isinstance(error, OSError) and error.errno:
                    raise dataset_error(error, self.path) from None
                raise DataError(
                    f"{self.path}: item {number - 1} of {name} cannot be read ({error}); download the file again",
                    path=self.path,
                ) from error

    def digests(self, names: Sequence[str], ids: Sequence[str], index: DigestIndex | None) -> Iterator[tuple[str, ...]]:
        """Of each image, by its number as an id: the sha256 of its values in each of the arrays."""
        parts = [f"{name}/{id_}" for id_ in ids for name in names]

        def digest(part: str) -> str:
            name, number = part.split("/")
            return hashlib.sha256(np.ascontiguousarray(self.item(name, int(number))).data).hexdigest()

        found = iter((index or DigestIndex()).part_digests(self.path, parts, digest))
        return zip(*[found] * len(names), strict=True)

    def _array(self, name: str) -> h5py.Dataset:
        file = self._open()
        for needed in (self._first, name):
            if not isinstance(file.get(needed), h5py.Dataset):
                found = ", ".join(sorted(file)) or "nothing"
                raise DataError(f"{self.path} has no array {needed!r}; found {found}", path=self.path)
        array, first = file[name], file[self._first].shape
        n, w, h = (first[0], *first[-2:]) if len(first) == 3 + (self._first in _THREE) else (0, 0, 0)
        expected = (n, 3, w, h) if name in _THREE else (n, w, h)
        if array.shape != expected or array.dtype.kind not in self._kinds[name]:
            axes = "(images, 3, width, height)" if name in _THREE else "(images, width, height)"
            numbers = " or ".join({"u": "unsigned integers", "f": "float", "b": "bool"}[k] for k in self._kinds[name])
            raise DataError(
                f"{self.path}: {name} has shape {array.shape} and dtype {array.dtype}; expected {axes}, {numbers}, of "
                f"the sizes of {self._first}; {self._first} has shape {first}. Download the file again",
                path=self.path,
            )
        return array

    def _open(self) -> h5py.File:
        path = self.path
        try:
            state = os.getpid(), *file_fingerprint(path.stat())
        except FileNotFoundError:
            raise MissingDataError(f"{path} is missing; put it back, or give another --data-root", path=path) from None
        except OSError as error:
            raise dataset_error(error, path) from None
        if self._file is None or state != self._opened:
            if self._file is not None:
                self._file.close()
            self._file = None
            try:
                self._file, self._opened = h5py.File(path, "r"), state
            except OSError as error:
                if error.errno:  # of the disk or its owner, not of what the file holds
                    raise dataset_error(error, path) from None
                raise DataError(
                    f"{path} cannot be opened as HDF5 ({error}); expected MATLAB's version 7.3 format. The download is "
                    "probably cut short, or is a web page: download it again",
                    path=path,
                ) from error
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


_NAMES = {"train": "trainNdxs", "val": "testNdxs"}
"""The official test images are our ``val``: their labels are public."""


def read_splits(path: Path, images: int) -> dict[str, tuple[int, ...]]:
    """Ascending image numbers, from 1, by split, of a dataset of so many images.

    Raises :class:`MissingDataError`, and :class:`DataError` that names the file where it is no MATLAB file of version 5
    with ``trainNdxs`` and ``testNdxs``, or where their numbers repeat, overlap or are beyond the images.
    """
    from scipy.io import loadmat  # takes a third of a second, which listing datasets does without

    try:
        with path.open("rb") as file:
            content = loadmat(file, variable_names=list(_NAMES.values()))
    except FileNotFoundError:
        raise MissingDataError(
            f"{path} is missing: it says which images are for training; put it beside the labelled images, from "
            "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",
            path=path,
        ) from None
    except Exception as error:  # scipy documents none; damaged files raise ValueError, TypeError, zlib.error and others
        if isinstance(error, OSError) and error.errno:
            raise dataset_error(error, path) from None
        raise DataError(f"{path} is no MATLAB file of version 5 ({error}); download it again", path=path) from error
    splits = {}
    for split, name in _NAMES.items():
        if name not in content:
            raise DataError(f"{path} has no {name}; expected trainNdxs and testNdxs, image numbers from 1", path=path)
        values: NDArray[Any] = np.asarray(content[name]).ravel()
        wrong = values.dtype.kind not in "uif" or not np.all((values >= 1) & (values <= images) & (values % 1 == 0))
        if wrong or len(np.unique(values)) < len(values):
            raise DataError(
                f"{path}: {name} must be different whole numbers from 1 to {images}, the number of labelled images; "
                "use the two files of one download",
                path=path,
            )
        splits[split] = tuple(sorted(int(value) for value in values))
    if shared := set(splits["train"]) & set(splits["val"]):
        raise DataError(
            f"{path}: image {min(shared)} is both in trainNdxs and in testNdxs; download the file again", path=path
        )
    return splits


MOST_OBJECTS = 400
"""Boxes that the table of an image has room for; the dataset's paper counts 35,064 objects, 24 an image."""

_PAIRS = {"instances": "pairs of label and instance, without label 0", "order": "label, then instance"}


class NyuLabelled(Dataset):
    """NYUv2's 1,449 labelled images (Silberman et al. 2012): 795 for ``train``, the official test's 654 as ``val``.

    Training images come in :func:`deapcache.datasets.base.sample_order`, the others by number. ``depth`` is the
    sensor's own (``rawDepths``), with holes. ``instances`` are the pairs of a label and an instance number that occur,
    as the toolbox's ``get_instance_masks`` has them, without the label 0, which is unlabelled; they are numbered by
    label, then by instance. A box's category is its label.
    """

    name = images_name = "nyuv2"
    annotations: tuple[str, ...] = ("instances", "boxes", "depth")
    base_size = (216, 288)
    colour = "rgb8 as stored"
    summary = "NYU Depth V2: indoor photographs with the sensor's depth, and instances of 894 labels"
    layout = LAYOUT
    licence = _LICENCE
    official: ClassVar = {"train": 795, "val": 654}
    options: ClassVar = {
        "depth": {"depth": "rawDepths", "unknown": f"0, and the sensor's far end, {FAR_END:g} m"},
        "instances": _PAIRS,
        BOXES: {**_PAIRS, "boxes": "tight, of the instances' pixels", "category": "label"},
    }
    places = PLACES
    most_objects = MOST_OBJECTS
    expected = f"{LABELLED} with {SPLITS}, or train/rgb/ or official_splits/train/, there or in its folder {_FOLDERS}"
    depth_array: ClassVar[str] = "rawDepths"
    is_measured: ClassVar[bool] = True
    """Whether depth is the sensor's own: that of :data:`FAR_END` is unknown, and :class:`NyuPairs` has the same."""

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return root / LABELLED, root / SPLITS

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return (root / LABELLED).is_file()

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        """Whether the two MATLAB files are there; they are not opened: the numbers of images are the official ones."""
        missing = missing_paths(cls.split_parts(root, split))
        return SplitStatus(images=0 if missing else cls.official[split], missing=missing)

    @classmethod
    def open(cls, data_root: Path) -> Dataset:
        """From the MATLAB file where there is one, even beside PNG pairs: it has all annotations, unchanged."""
        return NyuPairs.open(data_root) if cls._lies_in_pairs(data_root) else super().open(data_root)

    @classmethod
    def status(cls, data_root: Path) -> dict[str, SplitStatus]:
        return NyuPairs.status(data_root) if cls._lies_in_pairs(data_root) else super().status(data_root)

    @classmethod
    def _lies_in_pairs(cls, data_root: Path) -> bool:
        without_mat = cls.is_measured and cls.find_root(data_root) is None
        return without_mat and NyuPairs.find_root(data_root) is not None

    def __init__(self, root: Path) -> None:
        """``root`` holds ``nyu_depth_v2_labeled.mat`` and ``splits.mat``."""
        self.root = root
        self._file = ImageArrays(root / LABELLED, _KINDS)
        self._splits: dict[str, tuple[int, ...]] = {}

    def image_ids(self, split: str) -> tuple[str, ...]:
        """Image numbers from 1, as MATLAB counts: ``0001`` and so on."""
        return tuple(map(_id_of, self._numbers(split)))

    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> Sequence[str]:
        """sha256 of each image's values as they are stored, (3, width, height) uint8."""
        return tuple(digest for (digest,) in self._file.digests(("images",), self.image_ids(split), index))

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        """The MATLAB files, of which every row is a part."""
        return self._file.path, self.root / SPLITS

    def read_image(self, split: str, row: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self._file.item("images", self._numbers(split)[row]).transpose(2, 1, 0))

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[Any]:
        self._require_kind(kind)
        number = self._numbers(split)[row]
        if kind == "depth":
            stored = self._file.item(self.depth_array, number).T
            depth = require_metres(stored, f"{self._file.path}: {self.depth_array} of image {number:04d}")
            return without_far_end(depth) if self.is_measured else np.ascontiguousarray(depth)
        labels = self._file.item("labels", number).T
        instances = number_pairs(labels, self._file.item("instances", number).T)
        if kind != BOXES:
            return instances
        if instances.max() > MOST_OBJECTS:
            raise DataError(
                f"{self._file.path}: image {number:04d} has {instances.max()} objects, the boxes of an image have "
                f"room for {MOST_OBJECTS}; raise MOST_OBJECTS in {__name__}",
                path=self._file.path,
            )
        return boxes_of_map(instances, labels)

    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        """From the image numbers, and the values of the arrays that the kind is read from."""
        self._require_kind(kind)
        arrays = (self.depth_array,) if kind == "depth" else ("labels", "instances")
        ids = self.image_ids(split)
        return digest_of(
            [[id_, *parts] for id_, parts in zip(ids, self._file.digests(arrays, ids, index), strict=True)]
        )

    def _numbers(self, split: str) -> tuple[int, ...]:
        self._require_split(split)
        if not self._splits:
            splits = read_splits(self.root / SPLITS, self._file.count())
            self._splits = {**splits, "train": tuple(sorted(splits["train"], key=lambda n: sample_key(_id_of(n))))}
        return self._splits[split]


class NyuInpainted(NyuLabelled):
    """The same images; depth without holes, as the dataset's authors filled them in (``depths``)."""

    name = "nyuv2-inpainted"
    annotations = ("depth",)
    summary = "NYU Depth V2 with the holes in its depth filled in by its authors; shares nyuv2's features"
    layout = LAYOUT_MAT
    options: ClassVar = {"depth": {"depth": "depths", "unknown": "0"}}
    expected = f"{LABELLED} with {SPLITS}, there or in its folder {_FOLDERS}"
    depth_array = "depths"
    is_measured = False


NORMALS, MASKS = "norm_gt_l.mat", "masks.mat"
_GT = ("", "gt")
"""Folders below that of the labelled images in which they may lie; GeoNet's archive has them in ``gt/``."""


class NyuNormals(NyuLabelled):
    """The same images with the surface normals of Ladický et al. (2014), as GeoNet (Qi et al. 2018) hands them out.

    ``norm_gt_l`` holds unit vectors, ``masks`` says where they count, both (height, width, [3,] images) for MATLAB;
    ``eval/test_norm.m`` of GeoNet's repository reads them so, and ``eval/eval_pred_sn.m`` brings vectors to length 1.
    """

    name = "nyuv2-normals"
    annotations = ("normals",)
    summary = "NYU Depth V2 with the surface normals that GeoNet hands out; shares nyuv2's features"
    layout = f"""\
{LAYOUT_MAT}
{NORMALS}, {MASKS}                   GeoNet's normals and where they count; there, or in a folder gt/ beside"""
    options: ClassVar = {
        "normals": {"normals": "norm_gt_l, to length 1", "unknown": "where masks is 0, and vectors without a length"}
    }
    expected = f"{LABELLED} and {SPLITS} with {NORMALS} and {MASKS} or gt/{NORMALS} and gt/{MASKS}, in {_FOLDERS}"
    hint = "The normals are in GeoNet's archive, https://github.com/xjqi/GeoNet. "
    is_measured = False

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        folder = next((root / name for name in _GT if (root / name / NORMALS).is_file()), root)
        return *super().split_parts(root, split), folder / NORMALS, folder / MASKS

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return super().has_split(root, split) and cls.split_parts(root, split)[2].is_file()

    def __init__(self, root: Path) -> None:
        """``root`` holds what :class:`NyuLabelled` needs, and the two files there or in ``gt/``."""
        super().__init__(root)
        *_, normals, masks = self.split_parts(root, "train")
        self._normals = ImageArrays(normals, {"norm_gt_l": "f"})
        self._masks = ImageArrays(masks, {"masks": "ufb"})

    def row_files(self, split: str, row: int) -> tuple[Path, ...]:
        return self.split_parts(self.root, split)

    def read_annotation(self, split: str, row: int, kind: str) -> NDArray[np.float32]:
        """(h, w, 3) float32 of length 1, and 0 where it is not known."""
        self._require_kind(kind)
        number = self._numbers(split)[row]
        vectors = self._normals.item("norm_gt_l", number).transpose(2, 1, 0).astype(np.float32)
        counts = self._masks.item("masks", number).T != 0
        if counts.shape != vectors.shape[:2]:
            raise DataError(
                f"{self._masks.path} has maps of {counts.shape} pixels, {self._normals.path} of {vectors.shape[:2]}; "
                "use the two files of one download",
                path=self._masks.path,
            )
        lengths = np.linalg.norm(vectors, axis=-1)
        known = counts & (lengths > 0) & np.isfinite(lengths)
        return np.where(known[..., None], vectors / np.where(known, lengths, 1)[..., None], np.float32(0))

    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        """From the image numbers, and the values of normals and masks."""
        self._require_kind(kind)
        ids = self.image_ids(split)
        normals, masks = self._normals.digests(("norm_gt_l",), ids, index), self._masks.digests(("masks",), ids, index)
        return digest_of([list(each) for each in zip(ids, normals, masks, strict=True)])


def _id_of(number: int) -> str:
    return f"{number:04d}"


def number_pairs(labels: NDArray[np.integer[Any]], instances: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """(h, w) int32: 1..K for the K pairs of label and instance, by label, then by instance; 0 where the label is 0."""
    pairs = labels.astype(np.int64) << 32 | instances.astype(np.int64)
    pairs[labels == 0] = 0
    present, places = np.unique(pairs, return_inverse=True)
    first = 0 if present[0] == 0 else 1
    return np.ascontiguousarray(places.reshape(labels.shape) + first, dtype=np.int32)


DATASETS["nyuv2"] = NyuLabelled
DATASETS["nyuv2-inpainted"] = NyuInpainted
DATASETS["nyuv2-normals"] = NyuNormals
