"""NYU Depth V2's labelled images taken out of the MATLAB file: a picture and a depth PNG each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.depth import read_depth_png
from deapcache.datasets.files import FileDataset, Sample, require_size_of
from deapcache.datasets.folders import matching
from deapcache.datasets.nyuv2_mat import FAR_END, without_far_end
from deapcache.errors import DataError, MissingDataError

STEPS_PER_METRE = 1000
SCENES = "official_splits"

_FOLDERS = {"train": ("train",), "val": ("test", "val")}
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

    name = "nyuv2"
    images_name = "nyuv2"
    annotations = ("depth",)
    base_size = (216, 288)

    def list_samples(self, split: str) -> Sequence[Sample]:
        folder = split_folder(self.root, split)
        if folder is None:
            raise MissingDataError(
                f"nyuv2 has no {split} split under {self.root}: expected {' or '.join(expected(split))}; put it there, "
                "or give another --data-root"
            )
        pairs = sorted(pairs_in(folder))
        _require_whole(pairs, folder)
        return [self._sample(*pair) for pair in pairs]

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.float32]:
        path, image = self.root / sample.labels[kind][0], self.root / sample.image
        depth = read_depth_png(path, steps_per_metre=STEPS_PER_METRE)
        require_size_of(image, depth, path)
        if depth.max(initial=0) > FAR_END:
            raise DataError(
                f"depth map {path} goes to {depth.max():g} m; NYUv2 ends at {FAR_END:g} m, so its unit is not the "
                "millimetre: convert it, or take nyu_depth_v2_labeled.mat"
            )
        return without_far_end(depth)

    def target_options(self, kind: str) -> dict[str, Any]:
        self._require_kind(kind)
        return {"depth": "png, mm", "unknown": f"0, and the sensor's far end, {FAR_END:g} m"}

    def _sample(self, id_: str, image: Path, depth: Path) -> Sample:
        labels = {"depth": (depth.relative_to(self.root).as_posix(),)}
        return Sample(id=id_, image=image.relative_to(self.root).as_posix(), labels=labels)


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split in the first layout that has one; None where neither has."""
    folders = _FOLDERS[split]
    plain = (root / name for name in folders if (root / name / "rgb").is_dir())
    scenes = (root / SCENES / name for name in folders if (root / SCENES / name).is_dir())
    return next(plain, None) or next(scenes, None)


def expected(split: str) -> tuple[str, ...]:
    """What of a split may lie under the root."""
    names = _FOLDERS[split]
    return (*(f"{name}/rgb/" for name in names), *(f"{SCENES}/{name}/" for name in names))


def pairs_in(folder: Path) -> list[Pair]:
    """What a split's folder has, in no order; the depth maps need not be there."""
    return _plain_pairs(folder) if (folder / "rgb").is_dir() else _scene_pairs(folder)


def _plain_pairs(folder: Path) -> list[Pair]:
    depth = folder / "depth_raw" if (folder / "depth_raw").is_dir() else folder / "depth"
    found = (path for path in (folder / "rgb").iterdir() if path.suffix in _PICTURES)
    pictures = (path for path in found if not path.name.startswith("."))
    return [(path.stem, path, depth / f"{path.stem}.png") for path in pictures]


def _scene_pairs(folder: Path) -> list[Pair]:
    found = ((path, _SCENE_PICTURE.fullmatch(path.name)) for path in matching(folder, "*/rgb_*"))
    return [
        (f"{path.parent.name}/{match[1]}", path, path.with_name(f"sync_depth_{match[1]}.png"))
        for path, match in found
        if match
    ]


def _require_whole(pairs: Sequence[Pair], folder: Path) -> None:
    if not pairs:
        raise MissingDataError(f"{folder} has no picture; unpack it again, or give another --data-root")
    twice = next((first for first, second in pairwise(pairs) if first[0] == second[0]), None)
    if twice:
        raise DataError(f"{folder} has two pictures of the id {twice[0]}, a .png and a .jpg; remove one of them")
    if absent := [depth for _, _, depth in pairs if not depth.is_file()]:
        raise MissingDataError(
            f"{folder} lacks the depth maps of {len(absent)} of its {len(pairs)} images, the first is {absent[0]}; "
            "put them there, or remove the images"
        )
