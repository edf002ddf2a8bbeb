"""LabelMe: a JSON file for each image."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deapcache.datasets.checking import one_line
from deapcache.datasets.importing.labels import (
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    complete,
    ellipse,
    extent,
    numbers,
    place_mask,
    split_of,
)
from deapcache.datasets.io import image_size, read_json
from deapcache.errors import DatasetFileError


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
        shown = tree.relative(path)
        try:
            content = read_json(path, "label file", "save it again")
            shapes = content["shapes"] if isinstance(content, dict) else None
            if not (isinstance(shapes, list) and all(isinstance(shape, dict) for shape in shapes)):
                raise ValueError("its shapes are no list of shapes")
            try:
                image = tree.find_image(str(content["imagePath"]), near=path, split=split_of(shown.parent))
            except ValueError as error:
                inside = "; the copy in its imageData is not read: save that as a file"
                raise ValueError(f"{error}{inside if content.get('imageData') else ''}") from None
            if image in found:
                raise ValueError(f"another file is of the same image {image.name}")
            height, width = content.get("imageHeight"), content.get("imageWidth")
            size = (int(height), int(width)) if height and width else image_size(image)
        except (DatasetFileError, ValueError, KeyError, TypeError) as error:
            labels.left_out[str(shown)] = one_line(error)
            continue
        found.add(image)
        labels.images.append(LabelledImage(path=image, split=split_of(tree.relative(image).parent), size=size))
        groups: dict[tuple[str, str], LabelledObject] = {}
        for number, shape in enumerate(shapes, start=1):
            try:
                drawn = _labelme_object(shape, size)
            except (ValueError, KeyError, TypeError, OSError) as error:
                what = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
                labels.left_out[f"{shown}, shape {number}"] = what
                continue
            if drawn is None:
                odd[f"{shape['shape_type']} shapes"] += 1
                continue
            group = shape.get("group_id")
            first = drawn if group is None else groups.setdefault((drawn.category, str(group)), drawn)
            if first is not drawn and isinstance(first.segmentation, list) and isinstance(drawn.segmentation, list):
                first.segmentation += drawn.segmentation
            else:
                labels.images[-1].objects.append(drawn)
    return complete(tree, labels, odd, "label file")


def _labelme_object(shape: dict[str, Any], size: tuple[int, int]) -> LabelledObject | None:
    """The object that a shape is, None of a kind that is not understood; raises for one that is not sound."""
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    drawn = LabelledObject(category="" if shape.get("label") is None else str(shape["label"]))
    if kind not in ("mask", "rectangle", "circle", "polygon"):
        return None
    values = numbers([value for point in points for value in point], "a point")
    if len(values) < {"polygon": 6}.get(kind, 4) or len(values) % 2:
        raise ValueError(f"it has {len(points)} points, too few for a {kind}")
    if kind == "mask":
        picture = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
        drawn.segmentation = place_mask(np.asarray(picture.convert("L")) > 0, round(values[0]), round(values[1]), size)
    elif kind == "rectangle":
        drawn.box = extent(values)
    elif kind == "circle":
        radius = math.hypot(values[2] - values[0], values[3] - values[1])
        drawn.segmentation = [ellipse(values[0], values[1], radius, radius)]
    else:
        drawn.segmentation = [values]
    return drawn
