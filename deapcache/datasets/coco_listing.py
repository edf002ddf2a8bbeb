"""COCO's annotation files, parsed and checked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deapcache.datasets.folders import read_json
from deapcache.errors import DataError
from deapcache.recipe import canonical_json

_CROWD_TEXTS: Mapping[str, int] = {"": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
"""How exporters that write every field as text write ``iscrowd``."""


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One image of the listing with its annotations, crowds first, then large before small."""

    id: int
    file_name: str
    size: tuple[int, int]
    """Height and width in pixels, of the file as stored."""
    annotations: tuple[Mapping[str, Any], ...]


def read_listing(path: Path) -> tuple[CocoImage, ...]:
    """All images of an ``instances_*.json``, with and without annotations, by ascending id.

    Ids, sizes and areas may be written as text, and ``iscrowd`` as 0, 1, true, false, empty or text of one of these.
    Raises :class:`DataError` that names the file where it is no such JSON, repeats an id or annotates an unknown image.
    """
    content = _parse(path)
    images = [_checked(fields, "image", k, _image_fields, path) for k, fields in enumerate(content["images"])]
    annotations = [
        _checked(fields, "annotation", k, _annotation_fields, path) for k, fields in enumerate(content["annotations"])
    ]
    return _arrange(images, annotations, path)


def listing_digest(images: Iterable[CocoImage]) -> str:
    """Digest of image ids, sizes and annotations; the order of the file, licences and URLs play no part."""
    digest = hashlib.sha256()
    for image in images:
        annotations = sorted((_essence(a) for a in image.annotations), key=lambda essence: int(essence[0]))
        digest.update(canonical_json([image.id, image.size, annotations]))
    return digest.hexdigest()


def _essence(annotation: Mapping[str, Any]) -> list[Any]:
    names = ("id", "iscrowd", "category_id", "area", "bbox", "segmentation")
    return [annotation.get(name) for name in names]


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation of :func:`read_listing` is a crowd."""
    return bool(annotation.get("iscrowd"))


def _parse(path: Path) -> dict[str, Any]:
    content = read_json(path, "annotation file", "download the annotations again")
    lists = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))
    if not lists:
        raise DataError(f"{path} is not a COCO instances file: it needs the lists 'images' and 'annotations'")
    return dict(content)


def _checked(
    fields: Any, what: str, place: int, check: Callable[[Mapping[str, Any]], dict[str, Any]], path: Path
) -> Mapping[str, Any]:
    """``fields`` with those replaced that ``check`` gives; raises :class:`DataError` that says which are wrong."""
    if not isinstance(fields, dict):
        raise DataError(
            f"{path}: {what} number {place + 1} is of a wrong type: {str(fields)[:50]!r}, expected its fields"
        )
    try:
        replaced = check(fields)
    except KeyError as error:
        reason = f"lacks the field {error}"
    except (TypeError, ValueError, OverflowError) as error:
        reason = f"has a field of a wrong type: {error}"
    else:
        return {**fields, **replaced} if replaced else fields
    raise DataError(f"{path}: {what} number {place + 1} (id {fields.get('id')!r}) {reason}; give COCO's original file")


def _image_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    name = fields["file_name"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"file_name {name!r}, expected the name of a file")
    return {key: _whole(key, fields[key]) for key in ("id", "height", "width")}


def _annotation_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is not written as COCO does; the rest stays, since digests are made of it as it is."""
    float(fields["area"])
    replaced = {key: _whole(key, fields[key]) for key in ("id", "image_id")}
    replaced = {key: whole for key, whole in replaced.items() if isinstance(fields[key], str)}
    crowd = fields.get("iscrowd")
    if isinstance(crowd, str):
        crowd = replaced["iscrowd"] = _CROWD_TEXTS.get(crowd.strip().lower(), -1)
    if crowd not in (None, 0, 1):
        raise ValueError(f"iscrowd {fields['iscrowd']!r}, expected 0 or 1")
    return replaced


def _whole(key: str, value: Any) -> int:
    """The whole number that a field holds, maybe as text; the same object where it is one already."""
    if type(value) is int:
        return value
    found = int(value) if isinstance(value, str) else value
    if isinstance(found, bool) or found != int(found):
        raise ValueError(f"{key} {value!r}, expected a whole number")
    return int(found)


def _arrange(
    images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], path: Path
) -> tuple[CocoImage, ...]:
    _refuse_repeats([image["id"] for image in images], "image", path)
    _refuse_repeats([annotation["id"] for annotation in annotations], "annotation", path)
    by_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        if annotation["image_id"] not in by_image:
            raise DataError(
                f"{path}: annotation {annotation['id']} is for image {annotation['image_id']}, which is not listed"
            )
        by_image[annotation["image_id"]].append(annotation)
    return tuple(_image(image, by_image[image["id"]]) for image in sorted(images, key=lambda image: image["id"]))


def _image(fields: Mapping[str, Any], annotations: list[Mapping[str, Any]]) -> CocoImage:
    return CocoImage(
        id=fields["id"],
        file_name=fields["file_name"],
        size=(fields["height"], fields["width"]),
        annotations=tuple(sorted(annotations, key=_painting_order)),
    )


def _painting_order(annotation: Mapping[str, Any]) -> tuple[bool, float, int]:
    return not is_crowd(annotation), -float(annotation["area"]), annotation["id"]


def _refuse_repeats(ids: list[Any], what: str, path: Path) -> None:
    if len(set(ids)) < len(ids):
        repeated = next(id_ for id_, count in Counter(ids).items() if count > 1)
        raise DataError(f"{path}: {what} id {repeated} is listed more than once; give COCO's original file")
