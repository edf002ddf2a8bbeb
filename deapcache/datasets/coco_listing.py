"""COCO's annotation files, parsed and checked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deapcache.errors import DataError, MissingDataError
from deapcache.locations import read_file
from deapcache.recipe import canonical_json


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

    Raises :class:`DataError` that names the file where it is no such JSON, repeats an id or annotates an unknown image.
    """
    content = _parse(path)
    try:
        return _arrange(content, path)
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks the field {error}" if isinstance(error, KeyError) else f"has a field of a wrong type ({error})"
        raise DataError(f"{path}: an image or annotation {what}; give COCO's original file") from None


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


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_file(path))
    except FileNotFoundError:
        raise MissingDataError(f"annotation file {path} is missing") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}); download the annotations again") from None
    lists = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))
    if not lists:
        raise DataError(f"{path} is not a COCO instances file: it needs the lists 'images' and 'annotations'")
    return dict(content)


def _arrange(content: Mapping[str, Any], path: Path) -> tuple[CocoImage, ...]:
    images = {int(image["id"]): image for image in content["images"]}
    _refuse_repeats([image["id"] for image in content["images"]], "image", path)
    by_image: dict[int, list[Mapping[str, Any]]] = {id_: [] for id_ in images}
    _refuse_repeats([annotation["id"] for annotation in content["annotations"]], "annotation", path)
    for annotation in content["annotations"]:
        if annotation["image_id"] not in by_image:
            raise DataError(
                f"{path}: annotation {annotation['id']} is for image {annotation['image_id']}, which is not listed"
            )
        by_image[annotation["image_id"]].append(annotation)
    return tuple(_image(images[id_], by_image[id_]) for id_ in sorted(images))


def _image(fields: Mapping[str, Any], annotations: list[Mapping[str, Any]]) -> CocoImage:
    return CocoImage(
        id=int(fields["id"]),
        file_name=str(fields["file_name"]),
        size=(int(fields["height"]), int(fields["width"])),
        annotations=tuple(sorted(annotations, key=_painting_order)),
    )


def _painting_order(annotation: Mapping[str, Any]) -> tuple[bool, float, int]:
    return not annotation.get("iscrowd", 0), -float(annotation["area"]), int(annotation["id"])


def _refuse_repeats(ids: list[Any], what: str, path: Path) -> None:
    if len(set(ids)) < len(ids):
        repeated = next(id_ for id_, count in Counter(ids).items() if count > 1)
        raise DataError(f"{path}: {what} id {repeated} is listed more than once; give COCO's original file")
