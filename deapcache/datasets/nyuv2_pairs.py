"""NYU Depth V2 as pairs of pictures: depth alone, in the layouts that conversion scripts write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import list_matching, missing_files, missing_paths, read_depth_png, read_pair_list
from deapcache.errors import DataError, MissingDataError

PLACES = ("", "nyuv2", "nyu_depth_v2")
"""Folders below the data root that may hold the dataset, in whatever layout."""

FAR_END = 10.0
"""Metres at which the toolbox cuts the sensor's depth off; its own in-painting takes this very value for unknown."""

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
    places = PLACES

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

    def pairs(self, split: str) -> tuple[Path, list[Pair]]:
        """A split's folder, or list, and what it has; raises :class:`MissingDataError` where it is not there."""
        folder = split_folder(self.root, split)
        if folder is None:
            raise MissingDataError(
                f"{self.name} has no {split} split under {self.root}: expected "
                f"{' or '.join(possible_folders(split))}; put it there, or give another --data-root"
            )
        return folder, pairs_in(folder)

    def list_samples(self, split: str) -> Sequence[Sample]:
        folder, found = self.pairs(split)
        pairs = sorted(found)
        if not pairs:
            raise MissingDataError(f"{folder} has no picture; unpack it again, or give another --data-root")
        for (id_, *_), (next_id, *_) in pairwise(pairs):
            if id_ == next_id:
                raise DataError(f"{folder} has two pictures of the id {id_}, or names it twice; remove one of them")
        if lacking := missing_files([path for _, *pair in pairs for path in pair]):
            raise MissingDataError(
                f"{folder} lacks {len(lacking)} pictures or depth maps of its {len(pairs)} images, the first is "
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


def without_far_end(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """A contiguous copy in which :data:`FAR_END` is 0, unknown.

    The toolbox's ``depth_rel2depth_abs`` lowers all that is farther to this value, and ``fill_depth_colorization``
    treats it as noise; the field scores below 10 m only.
    """
    return np.ascontiguousarray(np.where(depth == FAR_END, np.float32(0), depth))


LIST = "nyudepthv2_train_files_with_gt.txt"
SYNC = "sync"

_LINE = re.compile(
    r"/?(?P<scene>[^/\s]+)/rgb_(?P<frame>\d+)\.jpg\s+/?(?P=scene)/sync_depth_(?P=frame)\.png(?:\s+[\d.]+)?"
)


class NyuFrames(NyuPairs):
    """The 24,231 frames of NYUv2's videos that BTS (Lee et al. 2019) lists for ``train``, the official test as ``val``.

    A line of the list holds a picture of ``sync/``, its depth map and the focal length. Pictures and depth were brought
    together by the toolbox; the test's are those of ``official_splits/test``, as for :class:`NyuPairs`.
    """

    name = images_name = "nyuv2-24k"
    summary = "NYU Depth V2: 24,231 frames of its videos for training, the official test images to score on"
    layout = f"""\
{LIST}         the list of BTS or AdaBins
{SYNC}/SCENE/rgb_00045.jpg with sync_depth_00045.png   the frames that it names
{SCENES}/test/SCENE/rgb_00045.jpg with sync_depth_00045.png
directly under the data root, or in its folder nyuv2/ or nyu_depth_v2/"""
    licence = "none stated by its authors, who ask to be cited; for research"
    official: ClassVar = {"train": 24_231, "val": 654}
    expected = f"{LIST} with {SYNC}/, or {SCENES}/test/, there or in its folder nyuv2/ or nyu_depth_v2/"
    hint = "The list is no part of NYUv2: take it from the files of BTS or AdaBins. "

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return (root / LIST, root / SYNC) if split == "train" else (root / SCENES / "test",)

    @classmethod
    def has_split(cls, root: Path, split: str) -> bool:
        return not missing_paths(cls.split_parts(root, split))

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        """Images whose two files are there; reads the list, opens no picture."""
        if missing := missing_paths(cls.split_parts(root, split)):
            return SplitStatus(images=0, missing=missing)
        pairs = cls.pairs_of(root, split)
        lacking = dict.fromkeys(missing_files([path for _, *pair in pairs for path in pair]))
        whole = sum(lacking.keys().isdisjoint(pair) for _, *pair in pairs)
        return SplitStatus(images=whole, missing=tuple(map(str, lacking))[:3])

    @classmethod
    def pairs_of(cls, root: Path, split: str) -> list[Pair]:
        """What the list names, or the test folder has; raises :class:`DataError` that names a line."""
        if split == "val":
            return pairs_in(root / SCENES / "test")
        expected = (
            "SCENE/rgb_FRAME.jpg, then SCENE/sync_depth_FRAME.png of the same scene and frame, then the focal length"
        )
        frames = ((m["frame"], root / SYNC / m["scene"]) for m in read_pair_list(root / LIST, _LINE, expected))
        return [
            (f"{folder.name}/{frame}", folder / f"rgb_{frame}.jpg", folder / f"sync_depth_{frame}.png")
            for frame, folder in frames
        ]

    def pairs(self, split: str) -> tuple[Path, list[Pair]]:
        return self.require_parts(split)[0], self.pairs_of(self.root, split)


DATASETS["nyuv2-24k"] = NyuFrames
