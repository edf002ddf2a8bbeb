"""XML: CVAT's for all images of a task ("CVAT for images" 1.1), and Pascal VOC's for each image, with its masks."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from deapcache.datasets.importing.labels import (
    FileTree,
    LabelledImage,
    LabelledObject,
    Labels,
    complete,
    ellipse,
    place_mask,
    split_of,
    unique,
)
from deapcache.datasets.importing.masks import PALETTE_FILES, pair_masks, read_palette
from deapcache.datasets.io import read_bytes
from deapcache.errors import DataError, DeapcacheError


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
                size = (int(element.get("height", "")), int(element.get("width", "")))
                objects = [one for each in element if (one := _cvat_object(each, size, odd))]
            except (ValueError, TypeError) as error:
                labels.left_out[f"{tree.relative(path)}: {name}"] = str(error)
                continue
            found.add(image)
            split = split or split_of(tree.relative(image).parent)
            labels.images.append(LabelledImage(path=image, split=split, size=size, objects=objects))
    labels.classes = unique(declared)
    return complete(tree, labels, odd, "entry in the XML file")


def _cvat_object(element: ElementTree.Element, size: tuple[int, int], odd: Counter[str]) -> LabelledObject | None:
    def number(name: str) -> float:
        return float(element.get(name, ""))

    drawn = LabelledObject(category=element.get("label", ""), layer=int(element.get("z_order") or 0))
    kind = element.tag
    if kind == "box" and not float(element.get("rotation") or 0):
        left, top = number("xtl"), number("ytl")
        drawn.box = (left, top, number("xbr") - left, number("ybr") - top)
    elif kind == "polygon":
        drawn.segmentation = [_cvat_points(element)]
    elif kind == "ellipse" and not float(element.get("rotation") or 0):
        drawn.segmentation = [ellipse(number("cx"), number("cy"), number("rx"), number("ry"))]
    elif kind == "mask":
        lengths = [int(word) for word in element.get("rle", "").split(",")]
        height, width = int(number("height")), int(number("width"))
        inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        if len(inside) != height * width:
            raise ValueError(f"a mask's run lengths give {len(inside)} pixels, it has {height} x {width}")
        drawn.segmentation = place_mask(inside.reshape(height, width), int(number("left")), int(number("top")), size)
    else:
        turned = "turned " if kind in ("box", "ellipse") else ""
        odd[f"{turned}{kind} shapes"] += 1
        return None
    return drawn


def _cvat_points(element: ElementTree.Element) -> list[float]:
    return [float(value) for point in element.get("points", "").split(";") for value in point.split(",") if value]


# Pascal VOC: an XML file of boxes for each image, in part of them masks.


def is_voc(path: Path) -> bool:
    """Whether an XML file looks like VOC's."""
    return xml_root(path) == "annotation"


def read_voc(tree: FileTree, palette: Path | None = None) -> Labels:
    """Boxes of VOC's XML files, and masks where some image has one; splits are those of the lists in ``ImageSets``."""
    labels = Labels()
    pair_masks(tree, labels)
    by_path = {image.path: image for image in labels.images}
    has_masks = any(image.class_mask for image in labels.images)
    boxed: set[Path] = set()
    odd: Counter[str] = Counter()
    for path in filter(is_voc, tree.with_suffix(".xml")):
        try:
            root = parse_xml(path)
            image = by_path[_voc_image(tree, path, root)]
            height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
            first = 1 if re.search(r"VOC20\d\d", root.findtext("source/database") or "") else 0
            image.objects = [_voc_object(each, first) for each in root.iterfind("object")]
        except (DeapcacheError, ValueError, KeyError) as error:
            labels.left_out[str(tree.relative(path))] = " ".join(str(error).split())
            continue
        image.size = (height, width) if height and width else None
        odd["parts of objects"] += len(root.findall("object/part"))
        boxed.add(image.path)
    if has_masks or palette or any(path.name in PALETTE_FILES for path in tree.files):
        read_palette(tree, labels, palette)
    labels.images = [image for image in labels.images if image.path in boxed or (has_masks and image.class_mask)]
    return complete(tree, labels, odd, "XML file")


def _voc_image(tree: FileTree, path: Path, root: ElementTree.Element) -> Path:
    """By the name in the file, else by that of the file: many an export renames images and not what it says of them."""
    named = (root.findtext("filename") or "").strip()
    try:
        return tree.find_image(named, near=path, split=split_of(tree.relative(path).parent))
    except ValueError as error:
        same = [image for image in tree.images if image.stem == path.stem and "JPEGImages" in image.parts]
        if len(same) == 1:
            return same[0]
        raise error from None


def _voc_object(element: ElementTree.Element, first: int) -> LabelledObject:
    """``first`` 1: corners count from 1 and are both inside, as in VOC itself; 0: as all tools of today write them."""
    left, top, right, bottom = (
        float(element.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return LabelledObject(
        category=(element.findtext("name") or "").strip(),
        box=(left - first, top - first, right - left + first, bottom - top + first),
    )
