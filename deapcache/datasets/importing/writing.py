"""Labels of any format written as a folder that the dataset ``folder:NAME`` reads."""

from __future__ import annotations

import errno
import json
import random
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.annotations import VOID
from deapcache.datasets.base import in_order
from deapcache.datasets.checking import one_line
from deapcache.datasets.coco import decode_segmentation
from deapcache.datasets.folder import CLASSES_FILE, IMAGES, SPLIT_FILE, UNFINISHED, composed
from deapcache.datasets.importing.labels import (
    IMAGE_FOLDERS,
    RECORD_FILE,
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    extent,
    split_of,
    unique,
)
from deapcache.datasets.importing.masks import VOC_BORDER, read_values
from deapcache.datasets.io import picture_geometry, turn_box, turn_map
from deapcache.errors import (
    DataError,
    DatasetFileError,
    DeapcacheError,
    LocationError,
    ReadOnlyError,
    StorageFullError,
    UsageError,
)
from deapcache.locations.files import advice
from deapcache.machine import cpu_count

BACKGROUND = "background"

_Drawn = tuple[LabelledObject, NDArray[np.bool_] | None]
"""An object and the pixels of its outline; None where it has a box alone."""


@dataclass(kw_only=True)
class ImportReport:
    """What an import wrote."""

    format: str
    source: str
    out: str
    images: dict[str, int] = field(default_factory=dict)
    """By split."""
    splits: str = ""
    """Where the splits come from."""
    found: dict[str, int] = field(default_factory=dict)
    """By what was found (``masks``, ``boxes``, ``crowds``, ...): how many."""
    written: list[str] = field(default_factory=list)
    """Folders of annotations."""
    classes: list[str] = field(default_factory=list)
    """In the order of ``classes.json``."""
    objects: dict[str, int] = field(default_factory=dict)
    """Class → objects, or images of class masks, with it."""
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """File, or file and object → why."""


class FolderWriter:
    """Writes images one by one, in any order and from several threads; the splits come last."""

    def __init__(self, labels: Labels, tree: FileTree, folder: Path, report: ImportReport, *, copy: bool) -> None:
        self.labels, self.tree, self.folder, self.report, self.copy = labels, tree, folder, report, copy
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        drawn = [one for image in labels.images for one in image.objects]
        self.by_objects = any(one.segmentation is not None for one in drawn)
        """Whether maps are painted from outlines of objects; else they come from masks, or there are none."""
        self.with_boxes = bool(drawn)
        self.with_classes = self.by_objects or any(image.class_mask for image in labels.images)
        self.with_instances = self.by_objects or any(image.instance_mask for image in labels.images)
        self.classes = list(labels.classes)
        if self.by_objects:
            self.classes = [BACKGROUND, *(name for name in labels.classes if name != BACKGROUND)]
        if self.with_classes and len(self.classes) > VOID:
            raise DataError(
                f"{tree.root} has {len(self.classes)} classes, and class maps hold {VOID}: merge some, or take COCO's "
                "groups of categories (--classes supercategory)"
            )
        self.place = {name: number for number, name in enumerate(self.classes)}
        report.classes = self.classes
        kinds = {"labels": self.with_classes, "instances": self.with_instances, "boxes": self.with_boxes}
        report.written = [kind for kind, there in kinds.items() if there]
        self._masks = {
            what: field
            for what, field, there in (
                ("class mask", "class_mask", self.with_classes),
                ("instance mask", "instance_mask", self.with_instances),
            )
            if there and not self.by_objects
        }
        """Masks that every image needs, and the fields of :class:`LabelledImage` that hold them."""

    def write(self, image: LabelledImage, id_: str) -> frozenset[str] | str:
        """Write one image with its annotations; the classes in it, or why it is left out."""
        try:
            return self._write(image, id_)
        except DatasetFileError as error:
            return one_line(error)

    def _write(self, image: LabelledImage, id_: str) -> frozenset[str] | str:
        stored, orientation = picture_geometry(image.path)
        upright = stored[::-1] if orientation >= 5 else stored
        if lacking := [what for what, field in self._masks.items() if getattr(image, field) is None]:
            return f"it has no {' and no '.join(lacking)}, and others have"
        class_map, instance_map = self._read_masks(image)
        size = image.size or (upright if class_map is None else class_map.shape)
        sizes = [size, *(values.shape for values in (class_map, instance_map) if values is not None)]
        if odd := [one for one in sizes if one not in (stored, upright) or one != size]:
            rows, columns = odd[0]
            return f"its labels are for {rows} x {columns} pixels (height x width), it has {upright[0]} x {upright[1]}"
        # drawn on the picture as it is stored, by tools that ignore EXIF: only the sides tell
        turn = orientation if size != upright else 1
        if orientation > 1 and stored == upright:
            self._count("images whose EXIF turns them, taken to be labelled upright")
        found = (
            {self.classes[v] for v in np.unique(class_map) if v < len(self.classes)} if class_map is not None else set()
        )
        if self.with_boxes:
            drawn = self._draw(image, size)
            boxes = [self._box_row(one, mask) for one, mask in drawn]
            if self.by_objects:
                class_map, instance_map = self._paint(drawn, boxes, size)
            found |= {one.category for one, _ in drawn}
            turned = [{**row, "bbox": turn_box(row["bbox"], size, turn)} for row in boxes]
            self._path("boxes", f"{id_}.json").write_text(json.dumps(turned), encoding="utf-8")
        for kind, values in (("labels", class_map), ("instances", instance_map)):
            if values is not None:
                deep = kind == "instances" and values.max(initial=0) >= VOID
                void, dtype = (2**16 - 1, np.uint16) if deep else (VOID, np.uint8)
                numbers = np.where(values < 0, void, values).astype(dtype)
                Image.fromarray(np.ascontiguousarray(turn_map(numbers, turn))).save(self._path(kind, f"{id_}.png"))
        target = self._path(IMAGES, id_ + image.path.suffix)
        if self.copy:
            shutil.copyfile(image.path, target)
        else:
            target.symlink_to(image.path.resolve())
        with self._lock:
            counted = [one.category for one, _ in drawn] if self.with_boxes else found
            for name in counted:
                self.report.objects[name] = self.report.objects.get(name, 0) + 1
        return frozenset(found)

    def _read_masks(self, image: LabelledImage) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        class_map = instance_map = None
        if image.class_mask and not self.by_objects:
            values, _ = read_values(image.class_mask, by_index=self.labels.by_index)
            present, inverse = np.unique(values, return_inverse=True)
            known = np.array([self.labels.values.get(int(v), -1) for v in present])
            class_map = np.where(known < 0, VOID, known).astype(np.uint8)[inverse].reshape(values.shape)
            for value in present[known < 0]:
                v = int(value)
                shown = f"value {v}" if self.labels.by_index else f"colour {v >> 16},{v >> 8 & 255},{v & 255}"
                self._count(f"masks with {shown}, which is no class: void")
        if image.instance_mask and not self.by_objects:
            values, is_colour = read_values(image.instance_mask)
            void = VOC_BORDER if is_colour else VOID if values.max() <= VOID else 2**16 - 1
            present, inverse = np.unique(values, return_inverse=True)
            numbers = np.cumsum((present != 0) & (present != void)) * (present != 0)
            numbers[present == void] = -1
            instance_map = numbers[inverse].reshape(values.shape)
        return class_map, instance_map

    def _draw(self, image: LabelledImage, size: tuple[int, int]) -> list[_Drawn]:
        """The objects of an image, with the pixels of outlines; what cannot be drawn is left out."""
        drawn: list[_Drawn] = []
        for number, one in enumerate(image.objects, start=1):
            mask, box = None, _box_problem(one, size)
            problem = "" if one.category in self.place else f"class {one.category!r} is not in the list of classes"
            problem = problem if one.category else "it has no class"
            if not problem and one.segmentation is None:
                problem = box
            elif not problem:
                try:
                    mask = decode_segmentation(one.segmentation, size)
                except ValueError as error:
                    problem = str(error)
                else:
                    problem = "" if mask.any() else "it covers no pixel of the image"
            if problem:
                with self._lock:
                    self.report.left_out[f"{self.tree.relative(image.path)}, object {number}"] = problem
                continue
            drawn.append((replace(one, box=None) if box else one, mask))
            kind = "crowds" if one.is_crowd else "boxes without outline" if mask is None else "outlines"
            self._count(f"objects: {kind}")
        return drawn

    def _paint(
        self, drawn: Sequence[_Drawn], boxes: Sequence[Mapping[str, Any]], size: tuple[int, int]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Maps of the objects' outlines, the smaller on top; crowds and boxes are void, under all of them."""
        class_map = np.zeros(size, np.uint8, order="F")  # as masks are in memory
        instance_map = np.zeros(size, np.int32, order="F")

        def depth(k: int) -> tuple[bool, int, float]:
            one, mask = drawn[k]
            return mask is not None and not one.is_crowd, one.layer, -boxes[k]["area"]

        number = 0
        for k in sorted(range(len(drawn)), key=depth):
            one, mask = drawn[k]
            if mask is None or one.is_crowd:
                where = _box_pixels(boxes[k]["bbox"]) if mask is None else mask
                class_map[where], instance_map[where] = VOID, -1
            else:
                number += 1
                class_map[mask], instance_map[mask] = self.place[one.category], number
        self._count("objects wholly covered by others", number - len(np.unique(instance_map[instance_map > 0])))
        return class_map, instance_map

    def _box_row(self, one: LabelledObject, mask: NDArray[np.bool_] | None) -> dict[str, Any]:
        box = one.box
        if box is None and isinstance(one.segmentation, list):
            box = extent([value for polygon in one.segmentation for value in polygon])
        elif box is None:
            assert mask is not None  # one of the two is there
            rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
            box = columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        area = one.area
        if area is None or area < 0:
            area = box[2] * box[3] if mask is None else int(mask.sum())
        return {"bbox": list(box), "category_id": self.place[one.category], "area": area, "iscrowd": int(one.is_crowd)}

    def _path(self, kind: str, name: str) -> Path:
        path = self.folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _count(self, what: str, count: int = 1) -> None:
        with self._lock:
            self.counts[what] += count


def write_folder(
    labels: Labels,
    tree: FileTree,
    out: Path,
    *,
    format: str,
    val: float,
    seed: int,
    copy: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportReport:
    """Write the dataset ``folder:NAME`` into the new folder ``out``, whose name is NAME.

    It appears whole or not at all: it is written beside ``out``, under a name that no dataset may have, and renamed.
    What a killed import leaves there is named in the notes of the next one. Images are linked or copied. Splits that
    the labels give are kept (``test`` for ``val`` where there is no ``val``, else left out); without any, ``val`` of
    the images, stratified by class, are for scoring. Raises :class:`UsageError` where ``out`` is there,
    :class:`DataError` where no image is left, and :class:`LocationError` where it cannot be written.
    """
    there = UsageError(f"--out {out} is there already: give another name, or remove it")
    if out.exists() or out.is_symlink():
        raise there
    if file := next((place for place in out.parents if place.is_file()), None):
        raise UsageError(f"--out {out}: {file} is a file, not a folder")
    report = ImportReport(format=format, source=str(tree.root.resolve()), out=str(out))
    report.notes, report.left_out = unique(labels.notes), labels.left_out
    given = _given_splits(labels, report, tree)
    ids = _image_ids(labels, tree, report.notes)
    hidden = f".{out.name}{UNFINISHED}"
    folder = out.parent / f"{hidden}{uuid.uuid4().hex[:8]}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        report.notes[:0] = [
            f"{path}: of an import that was broken off, or is still running; remove it if none is"
            for path in sorted(out.parent.iterdir())
            if path.name.startswith(hidden)
        ]
        folder.mkdir()
        writer = FolderWriter(labels, tree, folder, report, copy=copy)
        classes_of: dict[str, frozenset[str]] = {}
        split_of_id: dict[str, str] = {}
        jobs = list(zip(labels.images, ids, strict=True))
        with ThreadPoolExecutor(cpu_count()) as pool:
            for number, ((image, id_), found) in enumerate(
                in_order(pool, lambda job: writer.write(*job), jobs), start=1
            ):
                progress(number, len(jobs))
                if isinstance(found, str):
                    report.left_out[str(tree.relative(image.path))] = found
                else:
                    classes_of[id_], split_of_id[id_] = found, image.split or "train"
        if not classes_of:
            why = [*(f"{name}: {text}" for name, text in list(report.left_out.items())[:2]), *report.notes[:2]]
            raise DataError(f"{tree.root}: no image can be used; {'; '.join(why) or 'none is labelled'}")
        report.splits = "as the export has them (--val and --seed play no part)"
        if not given:
            split_of_id = stratified_split(classes_of, val, seed)
            report.splits = f"{val:.0%} of the images of each class are for scoring (--val {val:g}, --seed {seed})"
        _note_lacking(report, classes_of, split_of_id)
        splits = {split: sorted(i for i, s in split_of_id.items() if s == split) for split in ("train", "val")}
        report.images = {split: len(names) for split, names in splits.items() if names}
        report.found = {what: count for what, count in sorted(writer.counts.items()) if count}
        report.objects = {name: report.objects[name] for name in report.classes if name in report.objects}
        documents: dict[str, Any] = {CLASSES_FILE: report.classes} if report.written else {}
        documents[RECORD_FILE] = {**vars(report), "val": val, "seed": seed, "splits_given": given}
        # the last one: without it nothing is listed
        documents[SPLIT_FILE] = {split: names for split, names in splits.items() if names}
        for name, content in documents.items():
            (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        try:
            folder.rename(out)
        except OSError as error:
            raise (there if out.exists() else error) from None
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, DeapcacheError):
            raise _write_error(error, folder) from None
        raise
    return report


def _write_error(error: OSError, folder: Path) -> LocationError:
    """Why the new dataset cannot be written, in one line; of a link or a copy the second path is the new one."""
    found = f"cannot write {error.filename2 or error.filename or folder}: {error.strerror or error}"
    if error.filename2 and error.errno in (errno.EPERM, errno.ENOTSUP):
        return LocationError(f"{found}; the file system may have no symbolic links: give --copy, or another --out")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return ReadOnlyError(f"{found}; give another --out")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"{found}; make room there, or give another --out")
    return LocationError(f"{found}; {advice(error)}")


def _given_splits(labels: Labels, report: ImportReport, tree: FileTree) -> bool:
    """Whether the labels say what is for training and what for scoring; images of a third split are taken out."""
    found = Counter(image.split for image in labels.images)
    if found["test"] and not found["train"]:
        for image in labels.images:
            image.split = {"test": ""}.get(image.split, image.split)
        found = Counter(image.split for image in labels.images)
    elif not found["val"] and found["test"]:
        for image in labels.images:
            image.split = {"test": "val"}.get(image.split, image.split)
        report.notes.append(f"there is no val: the {found['test']} images of test take its place")
    elif found["test"]:
        report.notes.append(f"the {found['test']} images of test are left out: train and val are there")
        labels.images = [image for image in labels.images if image.split != "test"]
    splits = {image.split for image in labels.images} - {""}
    if found[""] and len(splits) > 1:
        report.notes.append(f"{found['']} images are in no split, while others are: they go to train")
    return len(splits) > 1


def _note_lacking(
    report: ImportReport, classes_of: Mapping[str, frozenset[str]], split_of_id: Mapping[str, str]
) -> None:
    """Say which splits lack a class that the other has, or have no image."""
    there = {split: {i for i, s in split_of_id.items() if s == split} for split in ("train", "val")}
    named = {split: {name for i in ids for name in classes_of[i]} for split, ids in there.items()}
    for split, other, what in (("val", "train", "no score for it"), ("train", "val", "nothing to learn it from")):
        lacking = sorted(named[other] - named[split])
        if not there[split]:
            report.splits = f"no image is in {split}: probe and compare need some in train and some in val"
        elif lacking:
            shown = ", ".join(lacking[:5]) + f" and {len(lacking) - 5} more" * (len(lacking) > 5)
            report.notes.append(f"no image of {split} shows {shown}: {what}")


def _image_ids(labels: Labels, tree: FileTree, notes: list[str]) -> list[str]:
    """The id of each image: its path without ending and without folders that say nothing, or its split, if it may."""
    paths = [tree.relative(image.path) for image in labels.images]

    def shorten(dropped: Callable[[str], bool]) -> list[str]:
        parents = [[part for part in path.parent.parts if not dropped(part)] for path in paths]
        common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False)))
        return ["/".join([*parts[common:], path.stem]) for parts, path in zip(parents, paths, strict=True)]

    ids = shorten(lambda part: part.lower() in IMAGE_FOLDERS or bool(split_of(part)))
    if len(set(map(composed, ids))) < len(ids):
        ids = shorten(lambda part: part.lower() in IMAGE_FOLDERS)
    used: set[str] = set()
    for number, path in enumerate(paths):
        if composed(ids[number]) in used:  # a.jpg and a.png: annotations go by the name without ending
            ids[number] += f"-{path.suffix[1:]}"
            notes.append(f"{path}: there is another image of this name, so that it is written as {ids[number]}")
        while composed(ids[number]) in used:
            ids[number] += "-2"
        used.add(composed(ids[number]))
    return ids


def stratified_split(classes_of: dict[str, frozenset[str]], val: float, seed: int) -> dict[str, str]:
    """Image → ``train`` or ``val``, so that of each class's images a share of ``val`` is in val, as nearly as may be.

    Iterative stratification (Sechidis et al., 2011): images of the class with the fewest images left come first, each
    goes where its class is wanted most. At least one image of several is in each split, unless ``val`` is 0.
    """
    ids = sorted(classes_of)
    random.Random(seed).shuffle(ids)
    shares = {"val": val, "train": 1 - val}
    wanted = {split: share * len(ids) for split, share in shares.items()}
    counts = Counter(name for classes in classes_of.values() for name in classes)
    wanted_of = {split: {name: share * count for name, count in counts.items()} for split, share in shares.items()}
    result: dict[str, str] = {}
    left = dict.fromkeys(ids)
    while left:
        remaining = Counter(name for id_ in left for name in classes_of[id_])
        rarest = min(remaining, key=lambda name: (remaining[name], name)) if remaining else None
        for id_ in [id_ for id_ in left if rarest is None or rarest in classes_of[id_]]:
            split = max(shares, key=lambda s: (wanted_of[s].get(rarest, 0.0) if rarest else 0.0, wanted[s]))
            result[id_] = split
            wanted[split] -= 1
            for name in classes_of[id_]:
                wanted_of[split][name] -= 1
            del left[id_]
    if 0 < val < 1 and len(ids) > 1:
        for split, other in (("val", "train"), ("train", "val")):
            if split not in result.values():
                result[next(id_ for id_ in ids if result[id_] == other)] = split
    return result


def _box_problem(one: LabelledObject, size: tuple[int, int]) -> str:
    """Why the box of an object is none in an image of ``size`` (height, width); empty as a rule."""
    if one.box is None:
        return ""
    x, y, width, height = one.box
    shown = ", ".join(f"{value:g}" for value in one.box)
    if not (width > 0 and height > 0):
        return f"its box (x, y, width, height) {shown} has no area"
    outside = x >= size[1] or y >= size[0] or x + width <= 0 or y + height <= 0
    return f"its box (x, y, width, height) {shown} lies outside the image" if outside else ""


def _box_pixels(box: Sequence[float]) -> tuple[slice, slice]:
    """The pixels whose centres lie in a box."""
    x, y, width, height = box
    return tuple(
        slice(max(0, round(start)), max(0, round(start + length))) for start, length in ((y, height), (x, width))
    )  # type: ignore[return-value]
