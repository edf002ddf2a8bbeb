"""KITTI's depth (Geiger et al. 2013; ground truth by Uhrig et al. 2017) in the split of Eigen et al. (2014).

Lists in the form of BTS, which AdaBins and others took over, name the images of the split. A line holds an image of the
raw data, its depth map or ``None``, and the focal length, with one space between::

    2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png
        2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png 721.5377
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import missing_files, read_depth_png, read_pair_list
from deapcache.errors import DataError, MissingDataError

NO_DEPTH = "None"
"""Second field of images for which there is no ground truth."""

_IMAGE_PATTERN = (
    r"(?P<date>\d{4}_\d\d_\d\d)/(?P<drive>(?P=date)_drive_\d{4}_sync)/(?P<camera>image_0[23])/data/(?P<frame>\d+)\.png"
)
_DEPTH_PATTERN = r"(?P=drive)/proj_depth/groundtruth/(?P=camera)/(?P=frame)\.png"
_LINE_PATTERN = re.compile(rf"/?(?P<image>{_IMAGE_PATTERN})\s+/?(?P<depth>{_DEPTH_PATTERN}|{NO_DEPTH})(?:\s+[\d.]+)?")


def read_list(path: Path) -> dict[str, tuple[str, str]]:
    """Id, ``DRIVE/CAMERA/FRAME``, → image and depth map as a list names them, ascending; only of lines with depth.

    Raises :class:`MissingDataError` where there is no such file, and :class:`DataError` that names file and line where
    a line has another form, or an image is listed twice.
    """
    expected = (
        "DATE/DRIVE/image_02/data/FRAME.png, then the depth map of the same drive, camera and frame, "
        f"DRIVE/proj_depth/groundtruth/image_02/FRAME.png, or {NO_DEPTH}, then the focal length"
    )
    entries: dict[str, tuple[str, str]] = {}
    for match in read_pair_list(path, _LINE_PATTERN, expected):
        id_ = f"{match['drive']}/{match['camera']}/{match['frame']}"
        if id_ in entries:
            raise DataError(
                f"list {path} names the image {match['image']} more than once; remove one of the lines", path=path
            )
        entries[id_] = match["image"], match["depth"]
    return {id_: files for id_, files in sorted(entries.items()) if files[1] != NO_DEPTH}


LAYOUT = """\
kitti_eigen_train_files_with_gt.txt        the lists of AdaBins, or BTS's, whose names lack kitti_
kitti_eigen_test_files_with_gt.txt         697 images, 652 of them with depth; our val
DATE/DRIVE/image_02/data/*.png             raw data, synchronised and rectified; there or in raw/
data_depth_annotated/{train,val}/DRIVE/proj_depth/groundtruth/image_02/*.png
                                           as unpacked, or the drives without train/ and val/
directly under the data root, or in its folder kitti/; one of the two lists is enough to use that split"""

STEPS_PER_METRE = 256
"""Of the depth PNGs, by the development kit of KITTI's depth benchmark."""

_LISTS = {
    "train": ("kitti_eigen_train_files_with_gt.txt", "eigen_train_files_with_gt.txt"),
    "val": ("kitti_eigen_test_files_with_gt.txt", "eigen_test_files_with_gt.txt"),
}
"""Names that a list may have; the first that is there is read."""
_RAW_PLACES = ("", "raw/")
_DEPTH_PLACES = ("data_depth_annotated/train/", "data_depth_annotated/val/", "data_depth_annotated/")


class KittiEigen(FileDataset):
    """KITTI's left colour images with sparse depth of accumulated laser scans; the Eigen test images are ``val``.

    Images without ground truth (``None`` in the list) are left out, as the field does. Depth is at about one pixel in
    six. Nothing is cropped.
    """

    name = images_name = "kitti"
    annotations = ("depth",)
    # Half of the 352 x 1216 pixels that the field crops the images of about 375 x 1242 to.
    base_size = (176, 608)
    summary = "KITTI, Eigen split: street photographs with sparse depth of laser scans"
    layout = LAYOUT
    licence = "CC BY-NC-SA 3.0"
    official: ClassVar = {"val": 652}  # of train, lists in use differ
    options: ClassVar = {"depth": {"depth": "png / 256 m", "unknown": "0", "without ground truth": "left out"}}
    places = ("", "kitti")
    expected = f"{' or '.join(names[0] for names in _LISTS.values())}, there or in its folder kitti/"
    hint = "The lists are no part of KITTI: take them from the files of BTS or AdaBins. "

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return (list_file(root, split),)

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return list_file(root, split).is_file()

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        """Listed images with depth that are there, and what is missing; reads the list, opens no image."""
        path = list_file(root, split)
        if not path.is_file():
            return SplitStatus(images=0, missing=(str(path),))
        samples = samples_of(root, read_list(path))
        lacking = missing_from(root, samples)
        there = {sample.image for sample in samples}.difference(lacking)
        return SplitStatus(images=len(there), missing=tuple(str(root / name) for name in lacking[:3]))

    def list_samples(self, split: str) -> Sequence[Sample]:
        path = list_file(self.root, split)
        listed = read_list(path)
        if not listed:
            raise DataError(f"{path} lists no image with depth; take the list of BTS or AdaBins", path=path)
        samples = samples_of(self.root, listed)
        if absent := missing_from(self.root, samples):
            raise MissingDataError(
                f"{self.root} lacks {len(absent)} of the {2 * len(samples)} images and depth maps that "
                f"{path.name} names, the first is {absent[0]}; unpack the archive of its "
                "drive again",
                path=self.root / absent[0],
            )
        return samples

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.float32]:
        path = self.label_path(sample, kind)
        depth = read_depth_png(path, steps_per_metre=STEPS_PER_METRE)
        self.require_image_size(sample, depth, path)
        return depth


def list_file(root: Path, split: str) -> Path:
    """The list of a split; the first name that it may have, where it is not there."""
    paths = [root / name for name in _LISTS[split]]
    return next((path for path in paths if path.is_file()), paths[0])


def samples_of(root: Path, listed: Mapping[str, tuple[str, str]]) -> list[Sample]:
    """With the folders that the drives lie in; where a drive is nowhere, the first possible one."""

    def place_of(name: str, places: Sequence[str]) -> str:
        return next((place for place in places if (root / place / name).is_dir()), places[0])

    days = {id_.split("/")[0]: image.split("/image_")[0] for id_, (image, _) in listed.items()}
    raw = {drive: place_of(day, _RAW_PLACES) for drive, day in days.items()}
    annotated = {drive: place_of(drive, _DEPTH_PLACES) for drive in days}
    samples = []
    for id_, (image, depth) in listed.items():
        drive = id_.split("/")[0]
        samples.append(Sample(id=id_, image=raw[drive] + image, labels={"depth": (annotated[drive] + depth,)}))
    return samples


def missing_from(root: Path, samples: Sequence[Sample]) -> list[str]:
    """Images and depth maps that are not there, relative to ``root``, in order of name."""
    paths = [root / name for sample in samples for name in (sample.image, *sample.labels["depth"])]
    return sorted(path.relative_to(root).as_posix() for path in missing_files(paths))


DATASETS["kitti"] = KittiEigen
