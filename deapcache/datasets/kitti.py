"""KITTI's depth (Geiger et al. 2013; ground truth by Uhrig et al. 2017) in the split of Eigen et al. (2014)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, DatasetEntry, SplitStatus
from deapcache.datasets.depth import read_depth_png
from deapcache.datasets.files import FileDataset, Sample, require_size_of
from deapcache.datasets.folders import absent_files, not_under
from deapcache.datasets.kitti_listing import Listed, read_list
from deapcache.errors import DataError, MissingDataError

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
_RAW = ("", "raw/")
_DEPTH = ("data_depth_annotated/train/", "data_depth_annotated/val/", "data_depth_annotated/")


class KittiEigen(FileDataset):
    """KITTI's left colour images with sparse depth of accumulated laser scans; the Eigen test images are ``val``.

    Images without ground truth (``None`` in the list) are left out, as the field does. Depth is at about one pixel in
    six. Nothing is cropped.
    """

    name = "kitti"
    images_name = "kitti"
    annotations = ("depth",)
    # Half of the 352 x 1216 pixels that the field crops the images of about 375 x 1242 to.
    base_size = (176, 608)

    def list_samples(self, split: str) -> Sequence[Sample]:
        listed = [entry for entry in self._listed(split) if entry.depth]
        if not listed:
            path = list_file(self.root, split)
            raise DataError(f"{path} lists no image with depth; take the list of BTS or AdaBins")
        samples = samples_of(self.root, listed)
        if absent := absent_from(self.root, samples):
            raise MissingDataError(
                f"{self.root} lacks {len(absent)} of the {2 * len(samples)} images and depth maps that "
                f"{list_file(self.root, split).name} names, the first is {absent[0]}; unpack the archive of its "
                "drive again"
            )
        return samples

    def left_out(self, split: str) -> tuple[str, ...]:
        """Ids of the listed images that have no ground truth; 45 of the official 697 of ``val``."""
        return tuple(entry.id for entry in self._listed(split) if entry.depth is None)

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.float32]:
        path, image = self.root / sample.labels[kind][0], self.root / sample.image
        depth = read_depth_png(path, steps_per_metre=STEPS_PER_METRE)
        require_size_of(image, depth, path)
        return depth

    def target_options(self, kind: str) -> dict[str, Any]:
        self._require_kind(kind)
        return {"depth": "png / 256 m", "unknown": "0", "without ground truth": "left out"}

    def _listed(self, split: str) -> tuple[Listed, ...]:
        self._require_split(split)
        return read_list(list_file(self.root, split))


def list_file(root: Path, split: str) -> Path:
    """The list of a split; the first name that it may have, where it is not there."""
    paths = [root / name for name in _LISTS[split]]
    return next((path for path in paths if path.is_file()), paths[0])


def samples_of(root: Path, listed: Sequence[Listed]) -> list[Sample]:
    """With the folders that the drives lie in; where a drive is nowhere, the first possible one."""
    drives = {entry.drive: entry for entry in listed}
    raw = {drive: _folder_with(root, _RAW, entry.image.split("/image_")[0]) for drive, entry in drives.items()}
    depth = {drive: _folder_with(root, _DEPTH, drive) for drive in drives}
    return [
        Sample(id=e.id, image=raw[e.drive] + e.image, labels={"depth": (f"{depth[e.drive]}{e.depth}",)}) for e in listed
    ]


def _folder_with(root: Path, places: Sequence[str], name: str) -> str:
    return next((place for place in places if (root / place / name).is_dir()), places[0])


def absent_from(root: Path, samples: Sequence[Sample]) -> list[str]:
    """Images and depth maps that are not there, relative to ``root``, in order of name."""
    paths = [root / name for sample in samples for name in (sample.image, *sample.labels["depth"])]
    return sorted(path.relative_to(root).as_posix() for path in absent_files(paths))


def open_kitti(data_root: Path) -> KittiEigen:
    """KITTI under ``data_root`` or ``data_root/kitti``; raises :class:`MissingDataError` where neither has a list."""
    root = _find_root(data_root)
    if root is None:
        raise not_under(
            data_root,
            "kitti",
            f"{' or '.join(names[0] for names in _LISTS.values())}, there or in its folder kitti/",
            remark="The lists are no part of KITTI: take them from the files of BTS or AdaBins. ",
        )
    return KittiEigen(root)


def _find_root(data_root: Path) -> Path | None:
    roots = (data_root, data_root / "kitti")
    return next((root for root in roots if any(list_file(root, split).is_file() for split in _LISTS)), None)


def kitti_status(data_root: Path) -> dict[str, SplitStatus]:
    """Listed images with depth that are there, and what is missing; reads the lists, opens no image."""
    root = _find_root(data_root) or data_root
    return {split: _split_status(root, split) for split in KittiEigen.splits}


def _split_status(root: Path, split: str) -> SplitStatus:
    path = list_file(root, split)
    try:
        samples = samples_of(root, [entry for entry in read_list(path) if entry.depth])
    except MissingDataError:
        return SplitStatus(images=0, missing=(str(path),))
    except DataError as error:
        return SplitStatus(images=0, missing=(f"a list of the right form: {error}",))
    absent = absent_from(root, samples)
    missing = tuple(str(root / name) for name in absent[:3])
    there = {sample.image for sample in samples}.difference(absent)
    return SplitStatus(images=len(there), missing=missing)


DATASETS.add(
    "kitti",
    DatasetEntry(
        name="kitti",
        summary="KITTI, Eigen split: street photographs with sparse depth of laser scans",
        layout=LAYOUT,
        licence="CC BY-NC-SA 3.0",
        open=open_kitti,
        status=kitti_status,
        official={"val": 652},  # of train, lists in use differ
        base_size=KittiEigen.base_size,
        annotations=KittiEigen.annotations,
    ),
)
