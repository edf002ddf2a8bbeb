"""LabelMe: a JSON file for each image."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deapcache.datasets.importing.labels import (
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    complete,
    ellipse,
    extent,
    place_mask,
    split_of,
)
from deapcache.datasets.io import image_size, read_json
from deapcache.errors import DeapcacheError


def is_labelme(path: Path) -> bool:
    """Whether a JSON file looks like LabelMe's, by its text."""
    text = path.read_bytes()
    return b'"shapes"' in text and b'"imagePath"' in text


def read_labelme(tree: FileTree) -> Labels:
    """Polygons, rectangles, circles and masks of LabelMe; shapes of one label and group are one object."""
    labels = Labels()
    odd: Counter[str] = Counter()
    found: set[Path] = set()
    for path in filter(is_labelme, tree.with_suffix(".json")):
        try:
            content = read_json(path, "label file", "save it again")
            image = tree.find_image(str(content["imagePath"]), near=path, split=split_of(tree.relative(path).parent))
            if image in found:
                raise ValueError(f"another file is of the same image {image.name}")
            height, width = content.get("imageHeight"), content.get("imageWidth")
            size = (int(height), int(width)) if height and width else image_size(image)
            objects = _labelme_objects(content["shapes"], size, odd)
        except (DeapcacheError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            labels.left_out[str(tree.relative(path))] = " ".join(str(error).split())
            continue
        found.add(image)
        split = split_of(tree.relative(image).parent)
        labels.images.append(LabelledImage(path=image, split=split, size=size, objects=objects))
    return complete(tree, labels, odd, "label file")


def _labelme_objects(
    shapes: Iterable[dict[str, Any]], size: tuple[int, int], odd: Counter[str]
) -> list[LabelledObject]:
    objects: list[LabelledObject] = []
    groups: dict[tuple[str, Any], LabelledObject] = {}
    for shape in shapes:
        kind, name = shape.get("shape_type") or "polygon", str(shape["label"])
        points = [float(value) for point in shape["points"] for value in point]
        drawn = LabelledObject(category=name)
        if kind == "mask":
            picture = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
            drawn.segmentation = place_mask(np.asarray(picture) > 0, round(points[0]), round(points[1]), size)
        elif kind == "rectangle" and len(points) >= 4:
            drawn.box = extent(points)
        elif kind == "circle" and len(points) == 4:
            radius = math.hypot(points[2] - points[0], points[3] - points[1])
            drawn.segmentation = [ellipse(points[0], points[1], radius, radius)]
        elif kind == "polygon":
            drawn.segmentation = [points]
        else:
            odd[f"{kind} shapes"] += 1
            continue
        group = shape.get("group_id")
        first = groups.setdefault((name, group), drawn) if group is not None else drawn
        both = isinstance(first.segmentation, list) and isinstance(drawn.segmentation, list)
        if first is not drawn and both:
            first.segmentation += drawn.segmentation
        else:
            objects.append(drawn)
    return objects
