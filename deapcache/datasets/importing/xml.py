"""XML: CVAT's for all images of a task ("CVAT for images" 1.1), and Pascal VOC's for each image, with its masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from deapcache.datasets.checking import one_line
from deapcache.datasets.folder import composed
from deapcache.datasets.importing.labels import (
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    complete,
    ellipse,
    numbers,
    place_mask,
    split_of,
    unique,
)
from deapcache.datasets.importing.masks import PALETTE_FILES, pair_masks, read_palette
from deapcache.datasets.io import image_size, read_bytes
from deapcache.errors import DataError, DatasetFileError


def xml_root(path: Path) -> str:
    """The name of the outermost element of an XML file; empty for what is none."""
    with path.open("rb") as file:
        match = re.search(rb"<([A-Za-z][\w.-]*)", file.read(4096))
    return match[1].decode() if match else ""


def is_cvat(path: Path) -> bool:
    """Whether an XML file looks like CVAT's."""
    return xml_root(path) == "annotations"


def parse_xml(path: Path) -> ElementTree.Element:
    """The outermost element of an XML file; raises :class:`DataError`."""
    try:
        return ElementTree.fromstring(read_bytes(path, "label file"))
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not valid XML ({error}); export it again", path=path) from None


def read_cvat(tree: FileTree) -> Labels:
    """Boxes, polygons, ellipses and masks of "CVAT for images"; a higher z_order covers a lower one."""
    tree.require_readable(".xml")
    labels = Labels()
    odd: Counter[str] = Counter()
    declared: list[str] = []
    found: set[Path] = set()
    for path in filter(is_cvat, tree.with_suffix(".xml")):
        root = parse_xml(path)
        declared += [text for each in root.iterfind("./meta//label/name") if (text := (each.text or "").strip())]
        odd["tracks of videos"] += len(root.findall("track"))
        for element in root.iterfind("image"):
            name = element.get("name", "")
            split = split_of(element.get("subset") or "") or split_of(tree.relative(path).with_suffix(""))
            try:
                image = tree.find_image(name, near=path, split=split)
                if image in found:
                    raise ValueError("it is listed twice")
                sides = [element.get(side) for side in ("height", "width")]
                size = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else image_size(image)
            except (DatasetFileError, ValueError) as error:
                labels.left_out[f"{tree.relative(path)}: {name}"] = one_line(error)
                continue
            found.add(image)
            split = split or split_of(tree.relative(image).parent)
            labels.images.append(LabelledImage(path=image, split=split, size=size))
            for number, each in enumerate(element, start=1):
                try:
                    drawn = _cvat_object(each, size, odd)
                except ValueError as error:
                    labels.left_out[f"{tree.relative(path)}: {name}, {each.tag} {number}"] = str(error)
                    continue
                labels.images[-1].objects += [drawn] if drawn else []
    labels.classes = unique(declared)
    return complete(tree, labels, odd, "entry in the XML file")


def _cvat_object(element: ElementTree.Element, size: tuple[int, int], odd: Counter[str]) -> LabelledObject | None:
    def get(*names: str) -> list[float]:
        return [number for name in names for number in numbers([element.get(name) or "missing"], name)]

    kind, turned = element.tag, numbers([element.get("rotation") or 0], "rotation") != [0]
    drawn = LabelledObject(category=element.get("label", ""))
    drawn.layer = int(numbers([element.get("z_order") or 0], "z_order")[0])
    if kind == "box" and not turned:
        left, top, right, bottom = get("xtl", "ytl", "xbr", "ybr")
        drawn.box = (left, top, right - left, bottom - top)
    elif kind == "polygon":
        words = element.get("points", "").replace(";", ",").split(",")
        drawn.segmentation = [numbers(filter(None, words), "points")]
    elif kind == "ellipse" and not turned:
        x, y, radius_x, radius_y = get("cx", "cy", "rx", "ry")
        drawn.segmentation = [ellipse(x, y, radius_x, radius_y)]
    elif kind == "mask":
        lengths = list(map(int, numbers(element.get("rle", "").split(","), "rle")))
        left, top, width, height = map(int, get("left", "top", "width", "height"))
        inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        if len(inside) != height * width:
            raise ValueError(f"its run lengths give {len(inside)} pixels, it has {height} x {width}")
        drawn.segmentation = place_mask(inside.reshape(height, width), left, top, size)
    else:
        odd[f"{'turned ' if turned else ''}{kind} shapes"] += 1
        return None
    return drawn


# Pascal VOC: an XML file of boxes for each image, in part of them masks.


def is_voc(path: Path) -> bool:
    """Whether an XML file looks like VOC's."""
    return xml_root(path) == "annotation"


def read_voc(tree: FileTree, palette: Path | None = None) -> Labels:
    """Boxes of VOC's XML files, and masks where some image has one; splits are those of the lists in ``ImageSets``.

    Raises :class:`DataError` where none of the boxes has a class of the masks.
    """
    labels = Labels()
    pair_masks(tree, labels)
    by_path = {image.path: image for image in labels.images}
    by_stem: dict[str, list[LabelledImage]] = {}
    for image in labels.images:
        by_stem.setdefault(composed(image.path.stem), []).append(image)
    has_masks = any(image.class_mask for image in labels.images)
    boxed: set[Path] = set()
    odd: Counter[str] = Counter()
    difficult = 0
    for path in filter(is_voc, tree.with_suffix(".xml")):
        shown = tree.relative(path)
        try:
            root = parse_xml(path)
            image = _voc_image(tree, path, root, by_path, by_stem)
            if image.path in boxed:
                raise ValueError(f"another file is of the same image {image.path.name}")
            height, width = numbers([root.findtext(f"size/{side}") or 0 for side in ("height", "width")], "its size")
        except (DatasetFileError, ValueError) as error:
            labels.left_out[str(shown)] = one_line(error)
            continue
        first = 1 if re.search(r"VOC20\d\d", root.findtext("source/database") or "") else 0
        for number, each in enumerate(root.iterfind("object"), start=1):
            try:
                image.objects.append(_voc_object(each, first))
            except ValueError as error:
                labels.left_out[f"{shown}, object {number}"] = str(error)
        image.size = (int(height), int(width)) if height and width else None
        odd["parts of objects"] += len(root.findall("object/part"))
        difficult += sum(each.findtext("difficult") == "1" for each in root.iterfind("object"))
        boxed.add(image.path)
    if difficult:
        labels.notes.append(f"{difficult} objects are marked difficult: taken like all others")
    if has_masks or palette or any(path.name in PALETTE_FILES for path in tree.files):
        read_palette(tree, labels, palette)
    named = {one.category for image in labels.images for one in image.objects}
    if has_masks and named and not named & set(labels.classes):
        raise DataError(
            f"{tree.root}: boxes are of {', '.join(sorted(named)[:3])}, masks of {', '.join(labels.classes[:3])}: add "
            "labelmap.txt with lines name:red,green,blue, or classes.txt; or take the masks alone with --from masks"
        )
    labels.images = [image for image in labels.images if image.path in boxed or (has_masks and image.class_mask)]
    return complete(tree, labels, odd, "XML file")


def _voc_image(
    tree: FileTree,
    path: Path,
    root: ElementTree.Element,
    by_path: Mapping[Path, LabelledImage],
    by_stem: Mapping[str, Sequence[LabelledImage]],
) -> LabelledImage:
    """By the name in the file, else by that of the file: many an export renames images and not what it says of them."""
    named = (root.findtext("filename") or "").strip()
    try:
        return by_path[tree.find_image(named, near=path, split=split_of(tree.relative(path).parent))]
    except (ValueError, KeyError) as error:
        same = by_stem.get(composed(path.stem), ())
        if len(same) == 1:
            return same[0]
        raise ValueError("its image is missing" if isinstance(error, KeyError) else str(error)) from None


def _voc_object(element: ElementTree.Element, first: int) -> LabelledObject:
    """``first`` 1: corners count from 1 and are both inside, as in VOC itself; 0: as all tools of today write them."""
    sides = [element.findtext(f"bndbox/{side}") or "missing" for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = numbers(sides, "bndbox")
    return LabelledObject(
        category=(element.findtext("name") or "").strip(),
        box=(left - first, top - first, right - left + first, bottom - top + first),
    )
