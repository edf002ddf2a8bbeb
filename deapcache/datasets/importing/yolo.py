"""YOLO: a line "class x y width height" or "class x y x y x y ..." for each object, as fractions of the image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from deapcache.datasets.checking import one_line
from deapcache.datasets.importing.labels import (
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    extent,
    numbers,
    read_lines,
    repeated,
    split_of,
    unique,
)
from deapcache.datasets.io import image_size, read_bytes
from deapcache.errors import DataError, DatasetFileError

_LINE = re.compile(rb"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")
"""Of an object; texts beside photographs may be captions."""

_LISTS = ("train.txt", "valid.txt", "val.txt", "test.txt")


def is_yolo(tree: FileTree) -> bool:
    """Whether a folder has a list of YOLO's classes, or text files of labels beside images or folders of images."""
    if any(path.name in ("obj.names", "obj.data") for path in tree.files) or _yamls(tree):
        return True
    texts = tree.with_suffix(".txt")
    if any("labels" in (path.parent.name.lower(), path.parent.parent.name.lower()) for path in texts):
        return True
    stems = {path.with_suffix("") for path in tree.images}
    for path in texts:
        if path.with_suffix("") in stems:
            with suppress(PermissionError):  # told where it is read
                if _LINE.fullmatch(next(filter(None, path.read_bytes().splitlines()), b"")):
                    return True
    return False


def read_yolo(tree: FileTree) -> Labels:
    """Boxes and polygons of YOLO, with names from ``data.yaml`` or ``obj.names``; no text file: nothing is in an image.

    The split is that of the list or folder of ``data.yaml``, else what a folder is called. Raises :class:`DataError`.
    """
    labels = Labels()
    yamls = _yamls(tree)
    content: dict[str, Any] = next(iter(yamls.values()), {})
    first = next(iter(yamls), tree.root).name
    labels.notes += [f"{tree.relative(path)}: not read, since there is {first}" for path in [*yamls][1:]]
    names = _yolo_names(tree, content, labels)
    text_of = _label_files(tree)
    used = set(text_of.values())
    others = [path for path in tree.with_suffix(".txt") if path not in used]
    lists = _yolo_lists(tree, content, [path for path in others if path.name in _LISTS], labels)
    for path in tree.images:
        relative = tree.relative(path)
        split = next((split for split, found in lists.items() if path in found), "") or split_of(relative.parent)
        image = LabelledImage(path=path, split=split)
        if text := text_of.get(path):
            try:
                image.size = image_size(path)
                lines = read_lines(text)
            except DatasetFileError as error:
                labels.left_out[str(relative)] = one_line(error)
                continue
            for number, line in enumerate(lines, start=1):
                try:
                    if line:
                        image.objects.append(_yolo_object(line, image.size, names, boxes_only="kpt_shape" in content))
                except ValueError as error:
                    labels.left_out[f"{tree.relative(text)}, line {number}"] = str(error)
        labels.images.append(image)
    labels.classes = unique([*names.values(), *sorted({one.category for i in labels.images for one in i.objects})])
    if without := len(tree.images) - len(text_of):
        labels.notes.append(f"{without} image(s) have no label file: there is nothing in them, as YOLO takes it")
    labels.left_out |= {
        str(tree.relative(path)): "its image is missing"
        for path in others
        if path.name not in (*_LISTS, "classes.txt") and not path.name.lower().startswith("readme")
    }
    return labels


def _yamls(tree: FileTree) -> dict[Path, dict[str, Any]]:
    """What the YAML files hold that name classes."""
    found: dict[Path, dict[str, Any]] = {}
    for path in tree.with_suffix(".yaml", ".yml"):
        data = read_bytes(path, "list of classes")
        if b"names" not in data:  # of something else, and perhaps in a dialect
            continue
        try:
            content = yaml.safe_load(data)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}", path=path) from None
        if isinstance(content, dict) and "names" in content:
            found[path] = {**content, "": path.parent}
    return found


def _yolo_names(tree: FileTree, content: dict[str, Any], labels: Labels) -> dict[int, str]:
    names: Any = content.get("names")
    if names is None:
        file = next((path for path in tree.files if path.name in ("obj.names", "classes.txt")), None)
        names = read_lines(file) if file else []
        if not file:
            labels.notes.append("no data.yaml, obj.names or classes.txt: classes have their numbers for names")
    try:
        pairs = dict(enumerate(names) if isinstance(names, list) else names)
        found = {int(number): str(name).strip() for number, name in pairs.items() if str(name).strip()}
    except (TypeError, ValueError):
        raise DataError(f"{tree.root}: names of data.yaml are {names!r}, expected a list of names") from None
    labels.notes += repeated(found.values(), "names")
    return found


def _yolo_lists(tree: FileTree, content: dict[str, Any], files: Sequence[Path], labels: Labels) -> dict[str, set[Path]]:
    """Split → images that folders and lists of ``data.yaml`` or ``train.txt`` hold, also where paths have changed."""
    found: dict[str, set[Path]] = {}
    base = content.get("", tree.root)
    entries = [(split, content.get(key)) for key, split in (("train", "train"), ("val", "val"), ("test", "test"))]
    entries += [(split_of(path.name), path.name) for path in files]
    for split, value in entries:
        for place in [value] if isinstance(value, str) else value or []:
            parts = [
                part for part in PurePosixPath(str(place).replace("\\", "/")).parts if part not in ("..", ".", "/")
            ]
            places = (tree.root.joinpath(*parts), base.joinpath(*parts))
            path = next(filter(Path.exists, places), None) or next(iter(_ends(tree, parts)), None)
            if path is None:
                labels.notes.append(f"{place}, which data.yaml gives for {split}, is not there")
            elif path.is_dir():
                found.setdefault(split, set()).update(image for image in tree.images if path in image.parents)
            else:
                for line in filter(None, read_lines(path)):
                    try:
                        found.setdefault(split, set()).add(tree.find_image(line, near=path, split=split))
                    except ValueError as error:
                        labels.left_out[f"{tree.relative(path)}: {line}"] = str(error)
    return found


def _ends(tree: FileTree, parts: Sequence[str]) -> list[Path]:
    """Files and folders below ``tree`` whose path ends in the last of the parts, for lists made on another machine."""
    places = {place for path in tree.files for place in (path, *path.parents) if tree.root in place.parents}
    for start in range(len(parts)):
        if found := sorted(place for place in places if place.parts[-len(parts) + start :] == tuple(parts[start:])):
            return found
    return []


def _label_files(tree: FileTree) -> dict[Path, Path]:
    """Image → its label file: with ``labels`` in place of its last ``images``, or beside it; case does not count."""

    def key(path: Path) -> tuple[str, ...]:
        return tuple(part.lower() for part in tree.relative(path).with_suffix("").parts)

    texts = {key(path): path for path in tree.with_suffix(".txt")}
    found: dict[Path, Path] = {}
    for image in tree.images:
        parts = key(image)
        places = [k for k, part in enumerate(parts[:-1]) if part == "images"]
        in_labels = (*parts[: places[-1]], "labels", *parts[places[-1] + 1 :]) if places else parts
        if text := texts.get(in_labels) or texts.get(parts):
            found[image] = text
    return found


def _yolo_object(line: str, size: tuple[int, int], names: dict[int, str], *, boxes_only: bool) -> LabelledObject:
    """The object of a line; raises ``ValueError`` that says what is wrong with it."""
    number, *values = numbers(line.split(), "the line")
    if number != int(number) or number < 0:
        raise ValueError(f"its class {number:g} is no whole number from 0 on")
    category = f"class {int(number)}" if not names else names.get(int(number))
    if category is None:
        raise ValueError(f"class {int(number)} is not among the {len(names)} names")
    height, width = size
    if len(values) == 4 or (boxes_only and len(values) > 4):
        x, y, w, h = values[:4]
        return LabelledObject(category=category, box=((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(values)} numbers after the class are neither a box (4) nor a polygon (6, 8, ...)")
    points = [value * (height if k % 2 else width) for k, value in enumerate(values)]
    return LabelledObject(category=category, segmentation=[points], box=extent(points))
