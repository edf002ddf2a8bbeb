"""Anyone's own images and annotations, in a folder of a minimal layout: the data sets ``folder:NAME``."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import BOXES, CROWD, CROWD_PIXEL, KIND, OBJECT, VOID, box_table, boxes_of_map
from deapcache.datasets.base import DATASETS, Dataset, SplitStatus
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import (
    COLOUR,
    bits_of,
    describe_folder,
    image_size,
    read_depth_npy,
    read_depth_png,
    read_index_map,
    read_json,
    require_values,
)
from deapcache.errors import DataError, MissingDataError, UsageError

LAYOUT = """\
NAME/train/images/*            any image files, also in sub-folders; NAME/val/ alike; of each image by its name:
NAME/train/labels/*.png        the class of each pixel, as its place in classes.json; 255 void
NAME/train/instances/*.png     the object of each pixel, 1 to K; 0 background; 255 (of 16 bits: 65535) void, no object
NAME/train/boxes/*.json        [{"bbox": [x, y, width, height], "category_id": 0, "area": 9, "iscrowd": 0}, ...]
NAME/train/depth/*.png|*.npy   16-bit millimetres, 0 unknown; or floating-point metres, 0 or NaN unknown
NAME/classes.json              ["wall", "floor", ...], where there are labels
labels, instances, boxes and depth where you have them. Instead of train/ and val/: NAME/images/, NAME/labels/, ... and
NAME/split.json                {"train": ["a", "b", ...], "val": ["c", ...]}
under the data root, or the data root itself where NAME is its name; write --dataset folder:NAME"""

FAMILY = "folder"
SPLIT_FILE = "split.json"
CLASSES_FILE = "classes.json"

UNFINISHED = ".importing-"
"""In the name of a hidden folder: ``deapcache import`` writes there, or was broken off; it is no data set."""

IMAGES = "images"
KINDS = {"labels": "classes", "instances": "instances", "depth": "depth", "boxes": BOXES}
"""Folder → kind of annotation."""

SUFFIXES = {"labels": (".png",), "instances": (".png",), "depth": (".png", ".npy"), "boxes": (".json",)}
"""Folder → endings of its files."""


def list_files(folder: Path) -> list[str]:
    """All files below a folder, sorted by id, which is their path without its ending; what begins with a dot is left
    alone. Each is a text from which :func:`files_by_id` tells its id and path.

    Ids are in Unicode's composed form, since some file systems decompose names. Links to folders are followed. Raises
    :class:`DataError` for a folder that cannot be listed, or is met twice.
    """
    found: list[str] = []
    met: set[str] = set()
    folders = [""]
    while folders:
        below = folders.pop()
        if (true := os.path.realpath(place := folder / below)) in met:
            raise DataError(f"{place} is a link to a folder that is listed already: take the link away")
        met.add(true)
        with os.scandir(place) as entries:  # one at a time: a list of a million names is as large as what is kept
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:  # links in a circle: whoever reads it is told
                    is_folder = False
                if is_folder:
                    folders.append(f"{below}{entry.name}/")
                else:
                    found.append(_with_id(below + entry.name))
    found.sort()
    return found


def _with_id(file: str) -> str:
    """A file as one short text: its id, NUL, which no name has, and its ending; or its path, where that differs."""
    stem, ending = os.path.splitext(file)  # noqa: PTH122 - a path object for each of a million files
    if ending == ".":
        stem, ending = file, ""
    # a name that is not UTF-8 can be written nowhere: the id shows its bytes
    id_ = stem if stem.isascii() else composed(os.fsencode(stem).decode("utf-8", "backslashreplace"))
    return f"{id_}\0{ending}" if id_ == stem else f"{id_}\0/{file}"


def _id_and_file(listed: str) -> tuple[str, str]:
    id_, _, rest = listed.partition("\0")
    return id_, rest[1:] if rest.startswith("/") else id_ + rest


def files_by_id(listed: Iterable[str], folder: str) -> Iterator[tuple[str, str, list[str]]]:
    """Ids with the name of ``folder`` and their files there, sorted, of what :func:`list_files` gives."""
    for id_, files in itertools.groupby(map(_id_and_file, listed), key=itemgetter(0)):
        yield id_, folder, sorted(file for _, file in files)


def read_split_file(path: Path, splits: Sequence[str]) -> dict[str, list[str]]:
    """Split → names of images; raises :class:`DataError` that names the file for anything else."""
    content = read_json(path, "split file", "give one")
    if isinstance(content, dict) and set(content) <= set(splits):
        lists = content.values()
        if all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
            return content
    raise DataError(
        f'{path} is no split file: expected {{"train": ["a", "b"], "val": ["c"]}}, lists of the names of images, '
        f"under {' and '.join(splits)} and nothing else",
        path=path,
    )


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class FolderDataset(FileDataset):
    """Images in a folder, with class maps, instance maps and depth where there are folders of them.

    Images are shown upright (their EXIF orientation is applied), and annotations lie on the upright pixels. Every image
    has every annotation. Ids are paths below ``images/`` without their ending. The class is registered for the family
    of all such data sets, :meth:`member` gives the entry of one.
    """

    name = images_name = FAMILY
    annotations: tuple[str, ...] = ()
    folder: ClassVar[str] = ""
    """Name of the folder; empty for the family."""
    summary = "Your own images, with class maps, instance maps and depth where you have them"
    layout = LAYOUT
    licence = "your own"
    colour: ClassVar[str] = COLOUR
    most_objects: ClassVar[int] = 1000
    options: ClassVar = {
        "classes": {"void": VOID},
        "crowds": {"crowd": "-1, its box"},
        "instances": {"void": "255, of 16 bits 65535: background"},
        "depth": {"depth": "png millimetres, npy metres", "unknown": "0 or nan"},
        BOXES: {"boxes": "tight, of visible pixels", "category": "class, else 0"},
    }

    def __init__(self, root: Path) -> None:
        """``root`` has ``images/`` and ``split.json``, or ``train/images/`` or ``val/images/``.

        Raises :class:`MissingDataError` where it has neither, or labels without ``classes.json``, and
        :class:`DataError` where it has both, or one of the two JSON files is not what it should be.
        """
        super().__init__(root)
        self.name = self.images_name = f"{FAMILY}:{name_of(root)}"
        self._bases, self._lists = find_splits(root)
        found = [kind for folder, kind in KINDS.items() if any(self._places(folder))]
        self._given = frozenset(found)  # those with a folder of their own
        made = [BOXES] * (BOXES not in found) if "instances" in found else ["crowds"] * (BOXES in found)
        self.annotations = (*found, *made)
        self.classes = _read_classes(root / CLASSES_FILE) if "classes" in found else ()

    @classmethod
    def member(cls, name: str) -> type[Dataset]:
        """The entry of the data set ``folder:NAME``; raises :class:`UsageError` for what is no name of a folder."""
        if not name or name in (".", "..") or set(name) & {"/", os.sep}:
            raise UsageError(
                f"--dataset {FAMILY}:{name}: expected the name of a folder without its path; give the folder that "
                "holds it with --data-root"
            )
        facts = {"name": f"{FAMILY}:{name}", "layout": LAYOUT.replace("NAME", name), "folder": name}
        return type("Member", (FolderDataset,), facts)

    @classmethod
    def open(cls, data_root: Path) -> FolderDataset:
        """The folder under ``data_root``, or that folder itself; raises :class:`MissingDataError`."""
        root = cls._root_in(data_root)
        if cls.folder and root.is_dir():
            return FolderDataset(root)
        others = ", ".join(_members_in(data_root))
        if cls.folder:
            there = f"there is {others}" if others else f"found {describe_folder(data_root)}"
            raise MissingDataError(
                f"{cls.name} is not under {data_root}: expected its folder {cls.folder}/ there; {there}. "
                "Give the folder that holds it with --data-root or DEAPCACHE_DATA"
            )
        raise UsageError(
            f"--dataset {FAMILY} needs the name of the folder, {FAMILY}:NAME, which its caches then have; "
            f"under {data_root} is {others or 'no folder of this layout'}"
        )

    @classmethod
    def status(cls, data_root: Path) -> dict[str, SplitStatus]:
        """By split; of the family, by ``folder:NAME SPLIT`` for every folder of this layout."""
        if not cls.folder:
            members = [cls.member(name.removeprefix(f"{FAMILY}:")) for name in _members_in(data_root)]
            found = {f"{m.name} {split}": what for m in members for split, what in m.status(data_root).items()}
            return found or {split: _lacking(str(data_root / "NAME" / split / IMAGES)) for split in cls.splits}
        root = cls._root_in(data_root)
        found = {split: _lacking(str(root / split / IMAGES)) for split in cls.splits}
        try:
            bases, lists = find_splits(root)
            for split in cls.splits:
                if split in bases:
                    count = len(lists[split] if lists else list_files(root / split / IMAGES))
                    found[split] = SplitStatus(images=count) if count else _lacking(f"images of {split} in {root}")
                elif lists:
                    found[split] = _lacking(f"{split} in {root / SPLIT_FILE}")
        except MissingDataError:
            pass
        except DataError as error:
            found = dict.fromkeys(cls.splits, _lacking(f"one sound layout: {error}"))
        return found

    @classmethod
    def _root_in(cls, data_root: Path) -> Path:
        own = name_of(data_root) == cls.folder and not (data_root / cls.folder).is_dir()
        return data_root if own else data_root / cls.folder

    def list_samples(self, split: str) -> Iterator[Sample]:
        if split not in self._bases:
            expected = f"{split} in {SPLIT_FILE}" if self._lists else f"{split}/{IMAGES}/"
            raise MissingDataError(
                f"{self.name} has no {split} split: {self.root} lacks {expected}; add it, or choose with --split"
            )
        base = self._bases[split]
        self._require_folders(self.root / base)
        folders = [IMAGES, *(folder for folder, kind in KINDS.items() if kind in self._given)]
        files = {folder: list_files(self.root / base / folder) for folder in folders}
        found = [files_by_id(listed, folder) for folder, listed in files.items()]
        if self._lists:
            wanted = self._listed_ids(split, files[IMAGES])
            found.append((id_, SPLIT_FILE, []) for id_ in wanted)
        if not (wanted if self._lists else any(files.values())):
            raise MissingDataError(f"{self.name} has no {split} images in {self.root / base / IMAGES}: put some there")
        for id_, places in itertools.groupby(heapq.merge(*found), key=itemgetter(0)):
            of_folder = {folder: names for _, folder, names in places}
            if not self._lists or SPLIT_FILE in of_folder:
                yield _sample(self.root, base, id_, {folder: of_folder.get(folder, []) for folder in folders})

    def _listed_ids(self, split: str, images: Iterable[str]) -> list[str]:
        """Ids that ``split.json`` lists for a split, by id or by file below ``images/``, sorted.

        Raises :class:`DataError` where it lists an image twice, in whatever splits.
        """
        path = self.root / SPLIT_FILE
        id_of_file = {composed(file): id_ for id_, file in map(_id_and_file, images)}
        split_of: dict[str, str] = {}
        for other, names in self._lists.items():
            for name in map(composed, names):
                id_ = id_of_file.get(name, name)
                if id_ in split_of:
                    raise DataError(f"{path} lists image {id_} twice: in {split_of[id_]} and in {other}", path=path)
                split_of[id_] = other
        return sorted(id_ for id_, other in split_of.items() if other == split)

    def read_labels(self, sample: Sample, kind: str) -> NDArray[Any]:
        path = self.label_path(sample, kind)
        if kind == "crowds":
            return self._read_crowds(sample, path)
        if kind == BOXES and BOXES in self._given:
            return self._read_boxes(sample, path)
        if kind == BOXES:
            instances = self.read_labels(sample, "instances")
            with_classes = "classes" in self.annotations
            classes = self.read_labels(sample, "classes") if with_classes else np.zeros_like(instances)
            return self._within_limit(boxes_of_map(instances, classes), path)
        values = self._read_map(path, kind)
        self.require_image_size(sample, values, path)
        return values

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

    def _read_boxes(self, sample: Sample, path: Path) -> NDArray[np.float64]:
        content = read_json(path, "list of boxes", f"expected {_BOXES_EXPECTED}")
        size = image_size(self.root / sample.image)
        try:
            rows = [_box_row(fields) for fields in content]
        except (TypeError, ValueError, KeyError) as error:
            raise DataError(f"{path} is no list of boxes ({error}): expected {_BOXES_EXPECTED}", path=path) from None
        return self._within_limit(box_table(size, rows), path)

    def _read_crowds(self, sample: Sample, path: Path) -> NDArray[np.int8]:
        table = self._read_boxes(sample, path)
        found = np.zeros(table[0, [3, 2]].astype(int), np.int8)
        for left, top, width, height in table[table[:, KIND] == CROWD, :4].round().astype(int).clip(0):
            found[top : top + height, left : left + width] = CROWD_PIXEL
        return found

    def _within_limit(self, table: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
        if len(table) - 1 > self.most_objects:
            raise DataError(f"{path} has {len(table) - 1} objects; expected {self.most_objects} at most", path=path)
        return table

    def target_options(self, kind: str) -> dict[str, Any]:
        if kind == BOXES and BOXES in self._given:
            return {"boxes": "as annotated, crowds too", "order": "of the file", "category": "as annotated"}
        return super().target_options(kind)

    def _places(self, folder: str) -> list[Path]:
        return [place for base in self._bases.values() if (place := self.root / base / folder).is_dir()]

    def _require_folders(self, base: Path) -> None:
        for folder, kind in KINDS.items():
            if kind in self._given and not (base / folder).is_dir():
                raise MissingDataError(
                    f"{base / folder} is missing, and {self._places(folder)[0]} is there: every image needs the same "
                    "annotations; add the one, or take the other away"
                )


_BOXES_EXPECTED = (
    '[{"bbox": [x, y, width, height], "category_id": 0, "area": 9, "iscrowd": 0}, ...] in pixels of the upright image, '
    "nothing below 0 but x and y; without area it is width times height"
)


def _box_row(fields: Mapping[str, Any]) -> list[float]:
    """A row of the table of boxes; raises ``KeyError``, ``TypeError`` or ``ValueError`` for what is no box."""
    x, y, width, height = map(float, fields["bbox"])
    kind = CROWD if fields.get("iscrowd") else OBJECT
    row = [x, y, width, height, float(fields.get("area", width * height)), kind, float(fields["category_id"])]
    if not all(map(math.isfinite, row)) or min(row[2:5]) < 0:
        raise ValueError(f"found {dict(fields)}")
    return row


def _sample(root: Path, base: str, id_: str, files: Mapping[str, Sequence[str]]) -> Sample:
    """The sample of the files, by their folder, that have one id in ``root/base``; says what does not fit."""

    def name(*parts: str) -> str:
        return "/".join(filter(None, (base, *parts)))

    def path(*parts: str) -> Path:
        return root / name(*parts)

    problems = []
    images = files[IMAGES]
    annotations = {folder: found for folder, found in files.items() if folder != IMAGES}
    if len(images) > 1:
        problems.append(
            f"{path(IMAGES, images[0])} and {images[1]} are two images of one name, so that annotations would belong "
            "to both: rename one of them"
        )
    elif not images:
        annotation = next((path(folder, found[0]) for folder, found in annotations.items() if found), None)
        asked = f"which {annotation} is for" if annotation else "which is listed"
        problems.append(f"{path(IMAGES)} has no image {id_}, {asked}: put it there, or take the other away")
    elif any("\udc80" <= character <= "\udcff" for character in images[0]):  # bytes that Python could not decode
        problems.append(f"the name of {path(IMAGES, images[0])} is not UTF-8: rename it")
    labels: dict[str, tuple[str, ...]] = {}
    for folder, found in annotations.items():
        labels[KINDS[folder]] = (name(folder, *found[:1]),)
        endings = " or ".join(SUFFIXES[folder])
        if not found:
            problems.append(f"{path(folder)} has no {id_}{endings}: every image needs an annotation there")
        elif len(found) > 1:
            problems.append(f"{path(folder, found[0])} and {found[1]} are two annotations of one image: take one away")
        elif not found[0].lower().endswith(SUFFIXES[folder]):
            problems.append(f"{path(folder, found[0])} is no annotation: expected a file that ends in {endings}")
    if "instances" not in labels and BOXES in labels:
        labels["crowds"] = labels[BOXES]
    if "instances" in labels and BOXES not in labels:
        labels[BOXES] = labels["instances"] + labels.get("classes", ())
    return Sample(id=id_, image=name(IMAGES, *images[:1]), labels=labels, problem=next(iter(problems), ""))


def find_splits(root: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Split → its folder below ``root`` (empty: ``root`` itself), and split → image names where a file lists them."""
    if _is_unfinished(root):
        raise DataError(
            f"{root} is of an import that was broken off, or is still running: import again, or wait for it", path=root
        )
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
            f"found {describe_folder(root)}"
        )
    lists = read_split_file(root / SPLIT_FILE, FolderDataset.splits)
    return dict.fromkeys(lists, ""), lists


def name_of(root: Path) -> str:
    """The name of a folder: of the link itself where it is one."""
    return os.path.basename(os.path.abspath(root))  # noqa: PTH100, PTH119


def _read_classes(path: Path) -> tuple[str, ...]:
    expected = 'a list of the names of all classes, ["wall", "floor", ...]: the first is value 0 of the label maps'
    if not path.exists():
        raise MissingDataError(f"{path} is missing, which labels need: expected {expected}", path=path)
    names = read_json(path, "list of classes", f"expected {expected}")
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise DataError(f"{path} is not what labels need: expected {expected}", path=path)
    if len(set(names)) < len(names) or len(names) > VOID:
        found = f"{len(names)} names, {len(set(names))} of them different"
        raise DataError(f"{path} has {found}: expected each name once, and {VOID} at most", path=path)
    return tuple(names)


def _is_unfinished(root: Path) -> bool:
    name = name_of(root)
    return name.startswith(".") and UNFINISHED in name


def _has_layout(root: Path) -> bool:
    if _is_unfinished(root):
        return False
    try:
        own = any((root / split / IMAGES).is_dir() for split in FolderDataset.splits)
        return own or ((root / IMAGES).is_dir() and (root / SPLIT_FILE).is_file())
    except OSError:  # someone else's folder, or one that is gone by now
        return False


def _members_in(data_root: Path) -> list[str]:
    """``folder:NAME`` of the folders that look like this layout, sorted: the data root itself, else those in it."""
    if _has_layout(data_root):
        return [f"{FAMILY}:{name_of(data_root)}"]
    folders = sorted(data_root.iterdir()) if data_root.is_dir() else []
    return [f"{FAMILY}:{path.name}" for path in folders if _has_layout(path)]


def _lacking(what: str) -> SplitStatus:
    return SplitStatus(images=0, missing=(what,))


DATASETS[FAMILY] = FolderDataset
