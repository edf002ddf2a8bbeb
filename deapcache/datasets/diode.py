"""DIODE: indoor and outdoor photographs with dense depth of a laser scanner (Vasiljevic et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import decode_errors, list_matching, missing_files, require_metres
from deapcache.errors import DataError, MissingDataError

LAYOUT = """\
train/{indoors,outdoor}/scene_*/scan_*/NAME.png        25,458 images
val/{indoors,outdoor}/scene_*/scan_*/NAME.png          771 images
each with NAME_depth.npy and NAME_depth_mask.npy beside it
directly under the data root, or in its folder diode/; one of the two splits is enough to use that one"""

_SURROUNDINGS = ("indoors", "outdoor")
_DEPTH, _MASK = "_depth.npy", "_depth_mask.npy"
_DEPTH_TYPES = ("float32",)
_MASK_TYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")


class Diode(FileDataset):
    """DIODE's 25,458 training and 771 validation images of 768 x 1024 pixels, indoors and outdoors together.

    Depth is 0, unknown, where the dataset's own mask says that no return came back. Ids tell scene, scan and
    surroundings: ``00019_00183_indoors_000_010``.
    """

    name = images_name = "diode"
    annotations = ("depth",)
    base_size = (216, 288)
    summary = "DIODE: indoor and outdoor photographs with dense depth of a laser scanner"
    layout = LAYOUT
    licence = "MIT"
    official: ClassVar = {"train": 25_458, "val": 771}
    options: ClassVar = {"depth": {"depth": "npy, m", "unknown": "0, and where the mask is 0"}}
    places = ("", "diode")
    expected = "train/ or val/ with indoors/ or outdoor/ in it, there or in its folder diode/"

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return tuple(root / split / part for part in _SURROUNDINGS)

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return any(part.is_dir() for part in cls.split_parts(root, split))

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        """Images, and missing depth maps; lists folders, opens no file."""
        pictures = pictures_in(root / split)
        missing = map(str, missing_maps(pictures) if pictures else cls.split_parts(root, split))
        return SplitStatus(images=len(pictures), missing=tuple(sorted(missing))[:3])

    def list_samples(self, split: str) -> Sequence[Sample]:
        pictures = sorted(pictures_in(self.root / split), key=lambda path: path.stem)
        if not pictures:
            raise MissingDataError(
                f"diode has no {split} split under {self.root}: expected {split}/indoors/ or {split}/outdoor/ with "
                "scene_*/scan_*/*.png; unpack it there, or give another --data-root"
            )
        for first, second in pairwise(pictures):
            if first.stem == second.stem:
                raise DataError(f"{first} and {second} have one name, which is the image's id; remove one of them")
        if absent := missing_maps(pictures):
            raise MissingDataError(
                f"{self.root / split} lacks {len(absent)} depth maps and masks of its {len(pictures)} images, the "
                f"first is {absent[0]}; unpack the archive again, or remove the images",
                path=absent[0],
            )
        stems = {path.stem: path.relative_to(self.root).with_suffix("").as_posix() for path in pictures}
        return [
            Sample(id=id_, image=f"{stem}.png", labels={"depth": (stem + _DEPTH, stem + _MASK)})
            for id_, stem in stems.items()
        ]

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.float32]:
        depth_path, mask_path = (self.root / name for name in sample.labels[kind])
        depth, valid = read_map(depth_path, _DEPTH_TYPES), read_map(mask_path, _MASK_TYPES)
        for values, path in ((depth, depth_path), (valid, mask_path)):
            self.require_image_size(sample, values, path)
        if not np.isin(valid, (0, 1)).all():
            raise DataError(f"depth mask {mask_path} has values other than 0 and 1; download it again", path=mask_path)
        known = np.where(valid == 1, depth, np.float32(0))
        return require_metres(known, f"depth map {depth_path}, where its mask is 1,")


def pictures_in(folder: Path) -> list[Path]:
    """The images of a split's folder, in no order; none where it is not there."""
    return [path for part in _SURROUNDINGS for path in list_matching(folder, f"{part}/scene_*/scan_*/*.png")]


def missing_maps(pictures: Sequence[Path]) -> list[Path]:
    """Depth maps and masks that pictures lack."""
    return missing_files([path.with_name(path.stem + end) for path in pictures for end in (_DEPTH, _MASK)])


def read_map(path: Path, dtypes: Sequence[str]) -> NDArray[Any]:
    """(h, w) from a ``.npy`` of the shape (h, w, 1) or (h, w) and one of these dtypes.

    A pickled array is never loaded. Raises :class:`MissingDataError` where there is no such file and
    :class:`DataError` where it is something else.
    """
    with decode_errors(path, "depth map"):
        values = np.lib.format.open_memmap(path, mode="r")  # nothing is read before shape and dtype are known
    if values.dtype.name not in dtypes or values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,)):
        raise DataError(
            f"{path} has shape {values.shape} and dtype {values.dtype}; expected (height, width, 1) or (height, "
            f"width), {' or '.join(dtypes)}. Download it again",
            path=path,
        )
    return np.array(values).reshape(values.shape[:2])


DATASETS["diode"] = Diode
