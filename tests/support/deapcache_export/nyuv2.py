"""Scenes as the labelled part of NYU Depth v2 is distributed: one MATLAB 7.3 file of all images, and ``splits.mat``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.scenes import CLASSES
from deapcache.datasets.solids import SHAPES
from deapcache_export import matlab
from deapcache_export.rows import ExportFormat, Pixels, Row

FILE = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"

LABELS = np.array([1 + SHAPES.index(name) if name in SHAPES else 0 for name in CLASSES], np.uint16)
"""By class of ``scenes``: the label. The room is unlabelled, 0, since here everything with a label is an object."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image of the file."""

    image: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    depth: NDArray[np.float32]
    """(h, w) metres."""
    labels: NDArray[np.uint16]
    """(h, w): 0 unlabelled, else a 1-based place in ``names``."""
    instances: NDArray[np.uint8]
    """(h, w): 0 where unlabelled, else 1, 2, ... among the objects of this label; only both together name an object."""


def write_row(root: Path, row: Row, pixels: Pixels) -> Frame:
    """Nothing is written yet: one file takes all rows."""
    return Frame(
        image=pixels.image,
        depth=pixels.depth,
        labels=LABELS[pixels.classes],
        instances=_number_by_class(pixels),
    )


def _number_by_class(pixels: Pixels) -> NDArray[np.uint8]:
    numbers = [0]
    seen: Counter[int] = Counter()
    for instance in range(1, int(pixels.instances.max()) + 1):
        class_ = int(pixels.classes[pixels.instances == instance][0])
        seen[class_] += 1
        numbers.append(seen[class_])
    return np.array(numbers, np.uint8)[pixels.instances]


def finish(root: Path, rows: Sequence[Row], made: Iterable[Frame]) -> None:
    """Both files. The splits are mixed in the first, as in the original: only ``splits.mat`` tells them apart."""
    ordered = _mixed(rows)
    place = {row: index for index, row in enumerate(ordered)}
    frames = ((place[row], frame) for row, frame in zip(rows, made, strict=True))
    write_labelled(root / FILE, frames, names=SHAPES, scenes=[row.id for row in ordered])
    train, test = ([place[row] for row in ordered if row.split == split] for split in ("train", "val"))
    write_splits(root / SPLITS, train, test)


def _mixed(rows: Sequence[Row]) -> list[Row]:
    """The rows with every split spread evenly over all."""
    counts = Counter(row.split for row in rows)
    return sorted(rows, key=lambda row: ((row.row + 0.5) / counts[row.split], row.split))


def write_labelled(
    path: Path, frames: Iterable[tuple[int, Frame]], *, names: Sequence[str], scenes: Sequence[str]
) -> None:
    """A labelled file of one image per name in ``scenes`` from (0-based place, frame), one in memory at a time.

    ``names`` are those of the labels; all images have one size. ``rawDepths`` is the same as ``depths``: nothing is
    missing, nothing was painted in. Of the original's variables ``accelData``, ``namesToIds``, ``sceneTypes`` and the
    names of the raw files are left out.
    """
    with matlab.create(path) as file:
        stacks: dict[str, Any] = {}
        for place, frame in frames:
            stacks = stacks or _create_stacks(file, len(scenes), frame.labels.shape)
            stacks["images"][place] = frame.image.transpose(2, 1, 0)
            for name, values in _maps(frame).items():
                stacks[name][place] = values.T
        matlab.write_cell(file, "names", names)
        matlab.write_cell(file, "scenes", scenes)
    matlab.write_header(path)


def _maps(frame: Frame) -> dict[str, NDArray[Any]]:
    return {"depths": frame.depth, "rawDepths": frame.depth, "labels": frame.labels, "instances": frame.instances}


def _create_stacks(file: Any, count: int, size: tuple[int, ...]) -> dict[str, Any]:
    height, width = size
    types = {"depths": np.float32, "rawDepths": np.float32, "labels": np.uint16, "instances": np.uint8}
    maps = {name: matlab.create_stack(file, name, (count, width, height), dtype) for name, dtype in types.items()}
    return {"images": matlab.create_stack(file, "images", (count, 3, width, height), np.uint8), **maps}


def write_splits(path: Path, train: Sequence[int], test: Sequence[int]) -> None:
    """``splits.mat`` (MATLAB 5) from 0-based places: 1-based column vectors ``trainNdxs`` and ``testNdxs``."""
    from scipy.io import savemat

    columns = {"trainNdxs": train, "testNdxs": test}
    savemat(path, {name: np.array(sorted(places), np.uint16)[:, None] + 1 for name, places in columns.items()})


FORMAT = ExportFormat(name="nyuv2", write_row=write_row, finish=finish)
