"""YOLO: a line "class x y width height" or "class x y x y x y ..." for each object, as fractions of the image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from deapcache.datasets.importing.labels import (
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    extent,
    split_of,
    unique,
)
from deapcache.datasets.io import image_size, read_bytes
from deapcache.errors import DataError, DeapcacheError


def is_yolo(tree: FileTree) -> bool:
    """Whether a folder has a list of YOLO's classes, or text files of labels beside folders of images."""
    if any(path.name in ("obj.names", "obj.data") for path in tree.files) or _yaml(tree):
        return True
    return any(path.parent.name == "labels" or path.parent.parent.name == "labels" for path in tree.with_suffix(".txt"))


def read_yolo(tree: FileTree) -> Labels:
    """Boxes and polygons of YOLO, with names from ``data.yaml`` or ``obj.names``; no text file: nothing is in an image.

    The split is that of the list or folder of ``data.yaml``, else what a folder is called. Raises :class:`DataError`.
    """
    labels = Labels()
    content = _yaml(tree)
    names = _yolo_names(tree, content)
    lists = _yolo_lists(tree, content)
    odd: Counter[str] = Counter()
    used: set[Path] = set()
    without = 0
    for path in tree.images:
        relative = tree.relative(path)
        split = next((split for split, found in lists.items() if path in found), "") or split_of(relative.parent)
        text = next((file for file in _yolo_texts(tree, path) if file.is_file()), None)
        image = LabelledImage(path=path, split=split)
        without += text is None
        if text is not None:
            used.add(text)
            try:
                image.size = image_size(path)
                lines = read_bytes(text, "label file").decode("utf-8-sig").splitlines()
            except (DeapcacheError, UnicodeDecodeError) as error:
                labels.left_out[str(relative)] = " ".join(str(error).split())
                continue
            for line in filter(str.strip, lines):
                drawn = _yolo_object(line, image.size, names, boxes_only="kpt_shape" in content)
                if isinstance(drawn, str):
                    odd[drawn] += 1
                else:
                    image.objects.append(drawn)
        labels.images.append(image)
    labels.classes = unique([*names.values(), *sorted({one.category for i in labels.images for one in i.objects})])
    labels.notes += [f"{count} line(s) left out: {what}" for what, count in sorted(odd.items())]
    if without:
        labels.notes.append(f"{without} image(s) have no label file: there is nothing in them, as YOLO takes it")
    lists_and_names = {"train.txt", "valid.txt", "val.txt", "test.txt", "classes.txt"}
    others = [path for path in tree.with_suffix(".txt") if path not in used and path.name not in lists_and_names]
    labels.left_out |= {
        str(tree.relative(path)): "its image is missing"
        for path in others
        if not path.name.lower().startswith("readme")
    }
    return labels


def _yaml(tree: FileTree) -> dict[str, Any]:
    """The first YAML file that names classes; empty without one."""
    for path in tree.with_suffix(".yaml", ".yml"):
        try:
            content = yaml.safe_load(read_bytes(path, "list of classes"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}", path=path) from None
        if isinstance(content, dict) and "names" in content:
            return {**content, "": path.parent}
    return {}


def _yolo_names(tree: FileTree, content: dict[str, Any]) -> dict[int, str]:
    names: Any = content.get("names")
    if names is None:
        file = next((path for path in tree.files if path.name in ("obj.names", "classes.txt")), None)
        names = file.read_text(encoding="utf-8-sig").split("\n") if file else []
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    try:
        return {int(number): str(name).strip() for number, name in pairs if str(name).strip()}
    except (TypeError, ValueError):
        raise DataError(f"{tree.root}: names of data.yaml are {names!r}, expected a list of names") from None


def _yolo_lists(tree: FileTree, content: dict[str, Any]) -> dict[str, set[Path]]:
    """Split → images that folders and lists of ``data.yaml`` or ``train.txt`` hold, also where paths have changed."""
    found: dict[str, set[Path]] = {}
    base = content.get("", tree.root)
    entries = [(split, content.get(key)) for key, split in (("train", "train"), ("val", "val"), ("test", "test"))]
    entries += [(split_of(path.name), path.name) for path in tree.with_suffix(".txt") if split_of(path.name)]
    for split, value in entries:
        for place in [value] if isinstance(value, str) else value or []:
            parts = [
                part for part in PurePosixPath(str(place).replace("\\", "/")).parts if part not in ("..", ".", "/")
            ]
            places = (tree.root.joinpath(*parts), base.joinpath(*parts))
            path = next(filter(Path.exists, places), None) or next(iter(_ends(tree, parts)), None)
            if path is None:
                continue
            if path.is_dir():
                found.setdefault(split, set()).update(image for image in tree.images if path in image.parents)
            else:
                for line in path.read_text(encoding="utf-8-sig").splitlines():
                    try:
                        found.setdefault(split, set()).add(tree.find_image(line.strip(), near=path, split=split))
                    except ValueError:
                        continue
    return found


def _ends(tree: FileTree, parts: Sequence[str]) -> list[Path]:
    """Files and folders below ``tree`` whose path ends in the last of the parts, for lists made on another machine."""
    places = {place for path in tree.files for place in (path, *path.parents) if tree.root in place.parents}
    for start in range(len(parts)):
        if found := sorted(place for place in places if place.parts[-len(parts) + start :] == tuple(parts[start:])):
            return found
    return []


def _yolo_texts(tree: FileTree, image: Path) -> list[Path]:
    """Where the label file of an image may lie: with ``labels`` in place of its last ``images``, or beside it."""
    parts = list(tree.relative(image).with_suffix(".txt").parts)
    places = [k for k, part in enumerate(parts[:-1]) if part == "images"]
    found = [image.with_suffix(".txt")]
    if places:
        parts[places[-1]] = "labels"
        found.insert(0, tree.root.joinpath(*parts))
    return found


def _yolo_object(line: str, size: tuple[int, int], names: dict[int, str], *, boxes_only: bool) -> LabelledObject | str:
    """The object of a line, or what is wrong with it."""
    try:
        number, *values = (float(word) for word in line.split())
    except ValueError:
        return f"{line[:40]!r} is not numbers"
    if not all(map(math.isfinite, (number, *values))) or number != int(number):
        return "a number is not finite, or a class no whole number"
    category = names.get(int(number), f"class {int(number)}") if not names or int(number) in names else ""
    if not category:
        return f"class {int(number)} is not among the {len(names)} names"
    height, width = size
    if len(values) == 4 or (boxes_only and len(values) > 4):
        x, y, w, h = values[:4]
        return LabelledObject(category=category, box=((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
    if len(values) < 6 or len(values) % 2:
        return f"{len(values)} numbers after the class are neither a box (4) nor a polygon (6, 8, ...)"
    points = [value * (height if k % 2 else width) for k, value in enumerate(values)]
    return LabelledObject(category=category, segmentation=[points], box=extent(points))
