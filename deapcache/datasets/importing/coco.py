"""COCO's JSON, wherever it lies: that of COCO itself, of Roboflow, CVAT, Label Studio, datumaro and others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deapcache.datasets.importing.labels import (
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    complete,
    numbers,
    repeated,
    split_of,
    unique,
)
from deapcache.datasets.io import read_json
from deapcache.errors import DataError

_LISTS = ("images", "annotations", "categories")

CATEGORY, SUPERCATEGORY = "category", "supercategory"


def is_coco(path: Path) -> bool:
    """Whether a JSON file looks like COCO's, by its text."""
    text = path.read_bytes()
    return all(key in text for key in (b'"images"', b'"annotations"', b'"categories"'))


def read_coco(tree: FileTree, classes: str = CATEGORY) -> Labels:
    """Polygons, run lengths and boxes of all COCO files in a folder; classes are categories, by id, or groups.

    A file's split is the one that its name speaks of, else its folder, else the image's. Raises :class:`DataError` for
    a file that is no such JSON.
    """
    tree.require_readable(".json")
    paths = [path for path in tree.with_suffix(".json") if is_coco(path)]
    instances = [path for path in paths if path.name.startswith("instances_")]
    labels = Labels()
    if instances:
        others = [path for path in paths if path not in instances]
        labels.notes += [f"{tree.relative(path)}: not read, since there is {instances[0].name}" for path in others]
    found: dict[Path, LabelledImage] = {}
    for path in instances or paths:
        _read_file(tree, path, labels, found, classes)
    if not found and not labels.left_out:
        raise DataError(f"{tree.root} has no COCO file that lists images: expected JSON with images and annotations")
    labels.images = list(found.values())
    return complete(tree, labels, Counter(), "entry in a COCO file")


def _read_file(tree: FileTree, path: Path, labels: Labels, found: dict[Path, LabelledImage], classes: str) -> None:
    content = read_json(path, "annotation file", "export it again")
    shown = tree.relative(path)
    lists: list[Any] = [content.get(key) for key in _LISTS] if isinstance(content, dict) else [None]
    if not all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in lists):
        raise DataError(f"{path} is no COCO file: expected lists of images, annotations and categories", path=path)
    images, annotations, categories = lists
    if any("segments_info" in row for row in annotations):
        labels.notes.append(f"{shown}: segments of panoptic maps are not read")
        annotations = []
    names = _category_names(categories, annotations, path, shown, labels, classes)
    labels.classes = unique([*labels.classes, *names.values()])
    of_image: dict[str, list[LabelledObject]] = {_key(row.get("id")): [] for row in images}
    files_of = Counter(key for key, _ in {(_key(row.get("id")), str(row.get("file_name"))) for row in images})
    _read_objects(annotations, names, of_image, shown, labels)
    again: list[Path] = []
    for row in images:
        name, key = str(row.get("file_name") or ""), _key(row.get("id"))
        split = split_of(shown.name) or split_of(shown.parent)
        try:
            if files_of[key] > 1:
                raise ValueError(f"{files_of[key]} images have its id {key}: whose annotations are whose is not known")
            image = tree.find_image(name, near=path, split=split)
        except ValueError as error:
            labels.left_out[f"{shown}: {name or key}"] = str(error)
            continue
        if image in found:
            again.append(image)
            objects = found[image].objects
            objects += [one for one in of_image[key] if one not in objects]
            continue
        size = (_number(row.get("height")), _number(row.get("width")))
        found[image] = LabelledImage(
            path=image,
            split=split or split_of(tree.relative(image).parent),
            size=(int(size[0]), int(size[1])) if size[0] and size[1] else None,
            objects=of_image[key],
        )
    if again:
        labels.notes.append(
            f"{shown}: {len(again)} image(s) are listed once more, {tree.relative(again[0])} first: equal annotations "
            "count once, and the first split counts"
        )


def _read_objects(
    annotations: Sequence[dict[str, Any]],
    names: Mapping[str, str],
    of_image: Mapping[str, list[LabelledObject]],
    shown: object,
    labels: Labels,
) -> None:
    """Add the objects of a file to those of its images, ``of_image``, by their ids."""
    counts = {
        "of categories that it does not list": 0,
        "of images that it does not list": 0,
        "without box and outline": 0,
    }
    for row in annotations:
        drawn = LabelledObject(
            category=names.get(_key(row.get("category_id")), ""),
            segmentation=row.get("segmentation") or None,
            box=_box(row.get("bbox")),
            area=_number(row.get("area")),
            is_crowd=str(row.get("iscrowd") or 0).strip().lower() in ("1", "1.0", "true"),
        )
        if not drawn.category:
            counts["of categories that it does not list"] += 1
        elif _key(row.get("image_id")) not in of_image:
            counts["of images that it does not list"] += 1
        elif drawn.segmentation is None and drawn.box is None:
            counts["without box and outline"] += 1
        else:
            of_image[_key(row["image_id"])].append(drawn)
    outlined = [one for objects in of_image.values() for one in objects if one.segmentation is not None]
    if outlined and all(one.is_crowd for one in outlined):
        labels.notes.append(f"{shown}: all outlines have iscrowd 1, as some tools write every mask: taken for objects")
        for one in outlined:
            one.is_crowd = False
    labels.notes += [f"{shown}: {count} annotation(s) {what} left out" for what, count in counts.items() if count]


def _category_names(
    categories: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    path: Path,
    shown: object,
    labels: Labels,
    classes: str,
) -> dict[str, str]:
    """Category id → class, by ascending id, without what only names a group of other categories, as Roboflow writes.

    Raises :class:`DataError` where one id has two names.
    """
    used = {_key(row.get("category_id")) for row in annotations}
    groups = {str(row.get("supercategory")) for row in categories}
    names: dict[str, str] = {}
    own: dict[str, str] = {}
    for row in sorted(categories, key=lambda row: _number(row.get("id")) or 0):
        key = _key(row.get("id"))
        name, group = str(row.get("name") or f"category {key}"), str(row.get("supercategory") or "")
        if own.setdefault(key, name) != name:
            raise DataError(
                f"{path} has categories {own[key]!r} and {name!r} of one id {key}: export it again", path=path
            )
        if name in groups and group != name and key not in used:
            labels.notes.append(f"category {name!r} has no object and is the group of others: no class")
        else:
            names[key] = group if classes == SUPERCATEGORY and group not in ("", "none") else name
    if classes == CATEGORY:
        labels.notes += repeated(names.values(), shown)
    return names


def _key(value: Any) -> str:
    """An id as text: tools write 7, 7.0 and "7"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _box(value: Any) -> tuple[float, float, float, float] | None:
    try:
        x, y, width, height = numbers(value, "box")
    except (TypeError, ValueError):
        return None
    return x, y, width, height


def _number(value: Any) -> float | None:
    try:
        return numbers([value], "number")[0]
    except ValueError:
        return None
