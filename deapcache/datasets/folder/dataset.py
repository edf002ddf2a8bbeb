"""Anyone's own images and annotations, in a folder of a minimal layout."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import VOID
from deapcache.datasets.boxes import BOXES, boxes_of_map
from deapcache.datasets.decoding import COLOUR, upright_size
from deapcache.datasets.depth import read_depth_npy, read_depth_png
from deapcache.datasets.files import FileDataset, Sample, require_same_size
from deapcache.datasets.folder.listing import IMAGES, KINDS, gather, read_split_file
from deapcache.datasets.folders import describe
from deapcache.datasets.labels import bits_of, read_index_map, require_values
from deapcache.errors import DataError, MissingDataError
from deapcache.locations import read_file

FAMILY = "folder"
SPLIT_FILE = "split.json"
CLASSES_FILE = "classes.json"


class FolderDataset(FileDataset):
    """Images in a folder, with class maps, instance maps and depth where there are folders of them.

    Images are shown upright (their EXIF orientation is applied), and annotations lie on the upright pixels. Every image
    has every annotation. Ids are paths below ``images/`` without their ending.
    """

    colour: ClassVar[str] = COLOUR
    most_objects: ClassVar[int] = 1000

    def __init__(self, root: Path) -> None:
        """``root`` has ``images/`` and ``split.json``, or ``train/images/`` or ``val/images/``.

        Raises :class:`MissingDataError` where it has neither, or labels without ``classes.json``, and
        :class:`DataError` where it has both, or one of the two JSON files is not what it should be.
        """
        super().__init__(root)
        self.name = self.images_name = f"{FAMILY}:{name_of(root)}"
        self._bases, self._lists = find_splits(root)
        found = [kind for folder, kind in KINDS.items() if any(self._places(folder))]
        self.annotations = (*found, BOXES) if "instances" in found else tuple(found)
        self.classes = _read_classes(root / CLASSES_FILE) if "classes" in found else ()

    def list_samples(self, split: str) -> Sequence[Sample]:
        if split not in self._bases:
            expected = f"{split} in {SPLIT_FILE}" if self._lists else f"{split}/{IMAGES}/"
            raise MissingDataError(
                f"{self.name} has no {split} split: {self.root} lacks {expected}; add it, or choose with --split"
            )
        base = self._bases[split]
        self._require_folders(self.root / base)
        found = gather(self.root, base, self.annotations)
        samples = found.named(self._lists, self.root / SPLIT_FILE)[split] if self._lists else found.samples()
        if not samples:
            raise MissingDataError(f"{self.name} has no {split} images in {self.root / base / IMAGES}: put some there")
        return samples

    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        path = self.root / sample.labels[kind][0]
        if kind == BOXES:
            return self._boxes(sample, path)
        values = self._read_map(path, kind)
        image = self.root / sample.image
        require_same_size(values, path, upright_size(image), image)
        return values

    def target_options(self, kind: str) -> dict[str, Any]:
        self._require_kind(kind)
        options: dict[str, dict[str, Any]] = {
            "classes": {"void": VOID},
            "instances": {"void": "255, of 16 bits 65535: background"},
            "depth": {"depth": "png millimetres, npy metres", "unknown": "0 or nan"},
            BOXES: {"boxes": "tight, of visible pixels", "category": "class, else 0"},
        }
        return options[kind]

    def _read_map(self, path: Path, kind: str) -> NDArray[Any]:
        if kind == "depth":
            return read_depth_npy(path) if path.suffix.lower() == ".npy" else read_depth_png(path, steps_per_metre=1000)
        values = read_index_map(path)
        if kind == "instances":
            return np.where(values == 2 ** bits_of(path) - 1, np.int32(0), values)
        allowed = np.arange(VOID + 1) < len(self.classes)
        allowed[VOID] = True
        what = f"0 to {len(self.classes) - 1}, the places in {CLASSES_FILE}, or {VOID} for void"
        require_values(values, allowed, path, what)
        return values.astype(np.uint8)

    def _boxes(self, sample: Sample, path: Path) -> NDArray[np.float64]:
        instances = self.read_labels(sample, "instances")
        with_classes = "classes" in self.annotations
        classes = self.read_labels(sample, "classes") if with_classes else np.zeros_like(instances)
        table = boxes_of_map(instances, classes)
        if len(table) - 1 > self.most_objects:
            raise DataError(f"{path} has {len(table) - 1} objects; expected {self.most_objects} at most")
        return table

    def _places(self, folder: str) -> list[Path]:
        return [place for base in self._bases.values() if (place := self.root / base / folder).is_dir()]

    def _require_folders(self, base: Path) -> None:
        for folder, kind in KINDS.items():
            if kind in self.annotations and not (base / folder).is_dir():
                raise MissingDataError(
                    f"{base / folder} is missing, and {self._places(folder)[0]} is there: every image needs the same "
                    "annotations; add the one, or take the other away"
                )


def find_splits(root: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Split → its folder below ``root`` (empty: ``root`` itself), and split → image names where a file lists them."""
    own = {split: split for split in FolderDataset.splits if (root / split / IMAGES).is_dir()}
    listed = [name for name in (f"{IMAGES}/", SPLIT_FILE) if (root / name).exists()]
    if own and listed:
        raise DataError(
            f"{root} has {next(iter(own.values()))}/{IMAGES}/ and {' and '.join(listed)}: expected the folders train/ "
            f"and val/, or {IMAGES}/ and {SPLIT_FILE}, not both; take one of them away"
        )
    if own:
        return own, {}
    if len(listed) < 2:
        raise MissingDataError(
            f"{root} has no splits: expected train/{IMAGES}/ and val/{IMAGES}/, or {IMAGES}/ and {SPLIT_FILE}; "
            f"found {describe(root)}"
        )
    lists = read_split_file(root / SPLIT_FILE, FolderDataset.splits)
    return dict.fromkeys(lists, ""), lists


def name_of(root: Path) -> str:
    """The name of a folder: of the link itself where it is one."""
    return os.path.basename(os.path.abspath(root))  # noqa: PTH100, PTH119


def _read_classes(path: Path) -> tuple[str, ...]:
    expected = 'a list of the names of all classes, ["wall", "floor", ...]: the first is value 0 of the label maps'
    try:
        names = json.loads(read_file(path))
    except FileNotFoundError:
        raise MissingDataError(f"{path} is missing, which labels need: expected {expected}") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): expected {expected}") from None
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise DataError(f"{path} is not what labels need: expected {expected}")
    if len(set(names)) < len(names) or len(names) > VOID:
        found = f"{len(names)} names, {len(set(names))} of them different"
        raise DataError(f"{path} has {found}: expected each name once, and {VOID} at most")
    return tuple(names)
