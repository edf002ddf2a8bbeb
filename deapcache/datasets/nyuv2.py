"""NYU Depth V2 (Silberman et al. 2012, "Indoor Segmentation and Support Inference from RGBD Images")."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import BOXES, boxes_of_map
from deapcache.datasets.base import DATASETS, Dataset, SplitStatus, sample_key
from deapcache.datasets.digests import DigestIndex, stamp
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import access_error, list_matching, missing_paths, read_depth_png, require_metres
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
"""The arrays that are read, with the kind of number in them."""


class LabelledFile:
    """The arrays of ``nyu_depth_v2_labeled.mat``, a HDF5 file: (images, 3, width, height), or (images, width, height).

    The file is opened when something is first read, by each process on its own, and again when it has changed. Only the
    chunks of one item are read at a time. An object that is pickled leaves its open file behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | None = None
        self._opened: tuple[int, ...] = ()
        """Process, and state of the file, that the open file belongs to."""

    def count(self) -> int:
        """How many images there are; raises as :meth:`item`."""
        with _READING:
            return len(self._array("images"))

    def item(self, name: str, number: int) -> NDArray[Any]:
        """Of image ``number``, from 1, in MATLAB's order of axes: (width, height), or (3, width, height) for images.

        Raises :class:`MissingDataError`, and :class:`DataError` where the file cannot be read, lacks the array or has
        one of another shape or kind of number.
        """
        with _READING:
            array = self._array(name)
            try:
                return np.asarray(array[number - 1])
            except Exception as error:  # h5py documents none, and damaged files raise all kinds
                raise DataError(
                    f"{self.path}: item {number - 1} of {name} cannot be read ({error}); download the file again",
                    path=self.path,
                ) from error

    def close(self) -> None:
        """Close the file, if it is open; what is read next opens it again."""
        with _READING:
            self._close()

    def _array(self, name: str) -> h5py.Dataset:
        file = self._open()
        for needed in ("images", name):
            if not isinstance(file.get(needed), h5py.Dataset):
                found = ", ".join(sorted(file)) or "nothing"
                raise DataError(f"{self.path} has no array {needed!r}; found {found}", path=self.path)
        array, images = file[name], file["images"].shape
        n, w, h = (images[0], *images[-2:]) if len(images) == 4 else (0, 0, 0)
        expected = (n, 3, w, h) if name == "images" else (n, w, h)
        if array.shape != expected or array.dtype.kind != _KINDS[name]:
            raise DataError(
                f"{self.path}: {name} has shape {array.shape} and dtype {array.dtype}; expected (images, 3, width, "
                "height) uint8 for images, (images, width, height) for all others, float for depths and unsigned "
                f"integers for labels and instances, of the same sizes; images has shape {images}. Download the file "
                "again",
                path=self.path,
            )
        return array

    def _open(self) -> h5py.File:
        path = self.path
        try:
            state = os.getpid(), *stamp(path.stat())
        except FileNotFoundError:
            raise MissingDataError(f"{path} is missing; put it back, or give another --data-root", path=path) from None
        except OSError as error:
            raise access_error(error, path) from None
        if self._file is None or state != self._opened:
            self._close()
            try:
                self._file, self._opened = h5py.File(path, "r"), state
            except PermissionError as error:
                raise access_error(error, path) from None
            except OSError as error:
                raise DataError(
                    f"{path} cannot be opened as HDF5 ({error}); expected MATLAB's version 7.3 format. The download is "
                    "probably cut short, or is a web page: download it again",
                    path=path,
                ) from error
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


_NAMES = {"train": "trainNdxs", "val": "testNdxs"}
"""The official test images are our ``val``: their labels are public."""


def read_splits(path: Path, images: int) -> dict[str, tuple[int, ...]]:
    """Ascending image numbers, from 1, by split, of a dataset of so many images.

    Raises :class:`MissingDataError`, and :class:`DataError` that names the file where it is no MATLAB file of version 5
    with ``trainNdxs`` and ``testNdxs``, or where their numbers repeat, overlap or are beyond the images.
    """
    content, splits = _load(path), {}
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


def _load(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat  # takes a third of a second, which listing datasets does without

    try:
        with path.open("rb") as file:
            return dict(loadmat(file, variable_names=list(_NAMES.values())))
    except FileNotFoundError:
        raise MissingDataError(
            f"{path} is missing: it says which images are for training; put it beside the labelled images, from "
            "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",
            path=path,
        ) from None
    except Exception as error:  # scipy documents none; damaged files raise ValueError, TypeError, zlib.error and others
        if isinstance(error, OSError) and error.errno:
            raise access_error(error, path) from None
        raise DataError(f"{path} is no MATLAB file of version 5 ({error}); download it again", path=path) from error


MOST_OBJECTS = 400
"""Boxes that the table of an image has room for; the dataset's paper counts 35,064 objects, 24 an image."""

FAR_END = 10.0
"""Metres at which the toolbox cuts the sensor's depth off; its own in-painting takes this very value for unknown."""

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
    places = ("", "nyuv2", "nyu_depth_v2")
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
        self._file = LabelledFile(root / LABELLED)
        self._splits: dict[str, tuple[int, ...]] = {}

    def image_ids(self, split: str) -> tuple[str, ...]:
        """Image numbers from 1, as MATLAB counts: ``0001`` and so on."""
        return tuple(map(_id_of, self._numbers(split)))

    def image_digests(self, split: str, *, index: DigestIndex | None = None) -> tuple[str, ...]:
        """sha256 of each image's values as they are stored, (3, width, height) uint8."""
        return self._digests([f"images/{id_}" for id_ in self.image_ids(split)], index)

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

    def box_rows(self, split: str) -> int:
        if BOXES not in self.annotations:
            return super().box_rows(split)
        self._require_split(split)
        return 1 + MOST_OBJECTS

    def annotation_digest(self, split: str, kind: str, *, index: DigestIndex | None = None) -> str:
        """From the image numbers, and the values of the arrays that the kind is read from."""
        self._require_kind(kind)
        arrays = (self.depth_array,) if kind == "depth" else ("labels", "instances")
        ids = self.image_ids(split)
        digests = iter(self._digests([f"{array}/{id_}" for id_ in ids for array in arrays], index))
        return digest_of([[id_, *(next(digests) for _ in arrays)] for id_ in ids])

    def close(self) -> None:
        """Close the MATLAB file, if it is open; what is read next opens it again."""
        self._file.close()

    def _numbers(self, split: str) -> tuple[int, ...]:
        self._require_split(split)
        if not self._splits:
            splits = read_splits(self.root / SPLITS, self._file.count())
            self._splits = {**splits, "train": tuple(sorted(splits["train"], key=lambda n: sample_key(_id_of(n))))}
        return self._splits[split]

    def _digests(self, parts: list[str], index: DigestIndex | None) -> tuple[str, ...]:
        return (index or DigestIndex()).part_digests(self._file.path, parts, self._digest_part)

    def _digest_part(self, part: str) -> str:
        array, number = part.split("/")
        return hashlib.sha256(np.ascontiguousarray(self._file.item(array, int(number))).data).hexdigest()


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


STEPS_PER_METRE = 1000
SCENES = "official_splits"

_SPLIT_FOLDERS = {"train": ("train",), "val": ("test", "val")}
"""Of a split, the first that is there: the official test images are our ``val``."""

_PICTURES = (".png", ".jpg")
Pair = tuple[str, Path, Path]
"""Id, picture, depth map."""

_SCENE_PICTURE = re.compile(r"rgb_(\d+)\.(?:jpg|png)")


class NyuPairs(FileDataset):
    """NYUv2 in one of the two layouts that its conversion scripts write: depth only, uint16 PNG in millimetres.

    ``SPLIT/rgb/NAME.png`` with ``SPLIT/depth_raw/NAME.png``, or with ``SPLIT/depth/NAME.png`` where there is no
    ``depth_raw`` (ESANet writes both: ``depth`` is in-painted); or ``official_splits/SPLIT/SCENE/rgb_00045.jpg`` with
    ``sync_depth_00045.png`` (BTS, AdaBins). SPLIT is ``train``, and ``test`` or ``val``.
    """

    name = images_name = "nyuv2"
    annotations = ("depth",)
    base_size = (216, 288)
    options: ClassVar = {"depth": {"depth": "png, mm", "unknown": f"0, and the sensor's far end, {FAR_END:g} m"}}
    places = NyuLabelled.places

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return split_folder(root, split) is not None

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        folder = split_folder(root, split)
        if folder is None:
            names = " or ".join(str(root / name) for name in possible_folders(split))
            return SplitStatus(images=0, missing=(names,))
        pairs = pairs_in(folder)
        return SplitStatus(
            images=len(pairs), missing=tuple(sorted(missing_paths([depth for _, _, depth in pairs]))[:3])
        )

    def list_samples(self, split: str) -> Sequence[Sample]:
        folder = split_folder(self.root, split)
        if folder is None:
            raise MissingDataError(
                f"nyuv2 has no {split} split under {self.root}: expected {' or '.join(possible_folders(split))}; put "
                "it there, or give another --data-root"
            )
        pairs = sorted(pairs_in(folder))
        if not pairs:
            raise MissingDataError(f"{folder} has no picture; unpack it again, or give another --data-root")
        for (id_, *_), (next_id, *_) in pairwise(pairs):
            if id_ == next_id:
                raise DataError(f"{folder} has two pictures of the id {id_}, a .png and a .jpg; remove one of them")
        if lacking := [depth for _, _, depth in pairs if not depth.is_file()]:
            raise MissingDataError(
                f"{folder} lacks the depth maps of {len(lacking)} of its {len(pairs)} images, the first is "
                f"{lacking[0]}; put them there, or remove the images",
                path=lacking[0],
            )
        return [
            Sample(
                id=id_,
                image=image.relative_to(self.root).as_posix(),
                labels={"depth": (depth.relative_to(self.root).as_posix(),)},
            )
            for id_, image, depth in pairs
        ]

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.float32]:
        path = self.label_path(sample, kind)
        depth = read_depth_png(path, steps_per_metre=STEPS_PER_METRE)
        self.require_image_size(sample, depth, path)
        if depth.max(initial=0) > FAR_END:
            raise DataError(
                f"depth map {path} goes to {depth.max():g} m; NYUv2 ends at {FAR_END:g} m, so its unit is not the "
                "millimetre: convert it, or take nyu_depth_v2_labeled.mat",
                path=path,
            )
        return without_far_end(depth)


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split in the first layout that has one; None where neither has."""
    folders = _SPLIT_FOLDERS[split]
    plain = (root / name for name in folders if (root / name / "rgb").is_dir())
    scenes = (root / SCENES / name for name in folders if (root / SCENES / name).is_dir())
    return next(plain, None) or next(scenes, None)


def possible_folders(split: str) -> tuple[str, ...]:
    """What of a split may lie under the root."""
    names = _SPLIT_FOLDERS[split]
    return (*(f"{name}/rgb/" for name in names), *(f"{SCENES}/{name}/" for name in names))


def pairs_in(folder: Path) -> list[Pair]:
    """What a split's folder has, in no order; the depth maps need not be there."""
    if (folder / "rgb").is_dir():
        depth = folder / "depth_raw" if (folder / "depth_raw").is_dir() else folder / "depth"
        return [
            (path.stem, path, depth / f"{path.stem}.png")
            for path in (folder / "rgb").iterdir()
            if path.suffix in _PICTURES and not path.name.startswith(".")
        ]
    found = ((path, _SCENE_PICTURE.fullmatch(path.name)) for path in list_matching(folder, "*/rgb_*"))
    return [
        (f"{path.parent.name}/{match[1]}", path, path.with_name(f"sync_depth_{match[1]}.png"))
        for path, match in found
        if match
    ]


DATASETS["nyuv2"] = NyuLabelled
DATASETS["nyuv2-inpainted"] = NyuInpainted
