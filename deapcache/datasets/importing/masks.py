"""Masks: a picture of classes for each image, in colours of a palette file or by index, and one of objects."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import VOID
from deapcache.datasets.folder import composed
from deapcache.datasets.importing.labels import (
    IMAGE_FOLDERS,
    FileTree,
    LabelledImage,
    Labels,
    listed_splits,
    read_lines,
    repeated,
    split_of,
    unique,
)
from deapcache.datasets.io import open_picture, read_index_map
from deapcache.errors import DataError, DatasetFileError, UsageError

PALETTE_FILES = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "_classes.csv", "palette.json")
"""CVAT's and datumaro's, CamVid's, Kaggle's, Roboflow's (by index), and {"class": [red, green, blue]}."""

CLASS_FOLDERS = frozenset((
    "segmentationclass", "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "gt", "segmentation",
    "seg",
))  # fmt: skip
INSTANCE_FOLDERS = frozenset(("segmentationobject", "instances"))
_MASK_END = re.compile(r"[_\-.](masks?|labels?|gt|seg|segmentation|annotation)$", re.I)
_JPEG = "a JPEG picture blurs the colours of a mask: export it as PNG"
_VOID_NAMES = frozenset(["void", "ignore", "ignored", "unlabelled", "unlabeled"])
_FOLDER_END = re.compile(r"[_\-]?(annot|masks?|labels?)$|[_\-](images?)$", re.I)
"""``train_images`` and ``train_masks``, ``train`` and ``trainannot`` are of one split."""
_VOID_16 = 2**16 - 1
"""Void in masks of 16 bits by index, beside the usual 255."""
VOC_BORDER = 0xE0E0C0
"""Colour of what VOC does not score, the last one of its palette."""


def read_masks(tree: FileTree, palette: Path | None = None) -> Labels:
    """Class masks, and instance masks where there are any, beside their images or in folders of their own.

    A mask has the path of its image, but for folders such as ``images`` and ``masks`` and an ending such as ``_mask``.
    Classes come from the palette file, given or one of :data:`PALETTE_FILES`; without one, grey and palette pictures
    are read by index. Raises :class:`DataError` where there is no mask, and for colours without a palette.
    """
    labels = Labels()
    pair_masks(tree, labels)
    if any(image.class_mask for image in labels.images):
        read_palette(tree, labels, palette)
    elif not any(image.instance_mask for image in labels.images):
        found = "".join(f"; {name}: {why}" for name, why in list(labels.left_out.items())[:1])
        raise DataError(f"{tree.root} has no mask: expected images/ and masks/ with files of the same names{found}")
    return labels


def is_masked(tree: FileTree) -> bool:
    """Whether some image of a folder has a mask; raises :class:`UsageError` where only the names of folders say so."""
    labels = Labels()
    pair_masks(tree, labels)
    if any(image.class_mask or image.instance_mask for image in labels.images) or _JPEG in labels.left_out.values():
        return True
    if labels.left_out:
        first = tree.root / next(iter(labels.left_out))
        raise UsageError(
            f"{first} is named as a mask is, and no image has its name: give both the same, or say --from photos"
        )
    return False


def pair_masks(tree: FileTree, labels: Labels) -> None:
    """List the images of a folder in ``labels``, each with its masks, and leave out masks without image.

    JPEG pictures are none: they are left out where they have the name of an image, else they are photographs.
    """
    kinds: dict[str, dict[tuple[str, ...], Path]] = {"class": {}, "instance": {}}
    images: list[tuple[tuple[str, ...], Path]] = []
    blurred: list[tuple[tuple[str, ...], Path]] = []
    for path in tree.images:
        parts = [composed(part) for part in tree.relative(path).parts]
        parts = [
            piece
            for part in parts
            for piece in _FOLDER_END.sub(lambda end: f"/{end[1] or end[2]}", part).split("/")
            if piece
        ]
        folders = {part.lower() for part in parts[:-1]}
        stem = PurePosixPath(parts[-1]).stem
        own = _MASK_END.sub("", stem)
        named = own != stem and not folders & IMAGE_FOLDERS
        kind = "instance" if folders & INSTANCE_FOLDERS else "class" if named or folders & CLASS_FOLDERS else ""
        dropped = IMAGE_FOLDERS | CLASS_FOLDERS | INSTANCE_FOLDERS
        key = (*(part for part in parts[:-1] if part.lower() not in dropped), own if kind else stem)
        if not kind:
            images.append((key, path))
        elif path.suffix.lower() in (".jpg", ".jpeg"):
            blurred.append((key, path))
        elif key in kinds[kind]:
            labels.left_out[str(tree.relative(path))] = f"{tree.relative(kinds[kind][key])} is a mask of the same image"
        else:
            kinds[kind][key] = path
    known = {key for key, _ in images}
    labels.left_out |= {str(tree.relative(path)): _JPEG for key, path in blurred if key in known}
    images += [one for one in blurred if one[0] not in known]
    lists = listed_splits(tree)
    for key, path in images:
        found = {name: masks.pop(key, None) for name, masks in kinds.items()}
        split = split_of(tree.relative(path).parent) or lists.get(composed(path.stem), "")
        labels.images.append(
            LabelledImage(path=path, split=split, class_mask=found["class"], instance_mask=found["instance"])
        )
    for masks in kinds.values():
        labels.left_out |= {str(tree.relative(path)): "its image is missing" for path in masks.values()}


def read_palette(tree: FileTree, labels: Labels, palette: Path | None = None) -> None:
    """Fill ``labels`` with the classes of its masks and their values; raises :class:`DataError`."""
    found = [palette] if palette else [path for path in tree.files if path.name in PALETTE_FILES]
    if found:
        entries, labels.by_index = _entries(found[0])
        labels.notes += [f"{tree.relative(path)}: not read, since there is {found[0]}" for path in found[1:]]
    else:
        entries, labels.by_index = _index_entries(tree, labels), True
    void = [name for name, _ in entries if name.lower() in _VOID_NAMES]
    labels.notes += [f"class {name!r} of the palette is taken for void" for name in void]
    names = [name for name, _ in entries if name not in void]
    labels.notes += repeated(names, found[0].name if found else "classes.txt")
    labels.classes = unique(names)
    place = {name: labels.classes.index(name) for name in labels.classes} | dict.fromkeys(void, VOID)
    usual = (VOID, _VOID_16) if labels.by_index else (VOC_BORDER,)
    labels.values = dict.fromkeys(usual, VOID) | {value: place[name] for name, value in entries}


def _index_entries(tree: FileTree, labels: Labels) -> list[tuple[str, int]]:
    """(name, value) of masks without a palette file: of all names that there are, else of the values that occur.

    Raises :class:`DataError` for colours, and shows them.
    """
    values: set[int] = set()
    for path in [image.class_mask for image in labels.images if image.class_mask]:
        try:
            found, has_colours = read_values(path)
        except DatasetFileError:
            continue  # it is left out later
        if has_colours:
            colours = [f"{c >> 16},{c >> 8 & 255},{c & 255}" for c in np.unique(found)]
            raise DataError(
                f"mask {path} has {len(colours)} colours ({' '.join(colours[:5])}{' ...' * (len(colours) > 5)}) and "
                f"there is no palette file: put a labelmap.txt with lines name:red,green,blue into {tree.root}, or "
                "give one with --palette",
                path=path,
            )
        values |= set(map(int, np.unique(found)))
    if values == {0, VOID}:
        labels.notes.append("masks hold 0 and 255 alone: taken for background and foreground")
        return [("background", 0), ("foreground", VOID)]
    lists = [path for path in tree.files if path.name in ("classes.txt", "labels.txt")]
    names = list(filter(None, read_lines(lists[0]))) if lists else []
    shown = ", ".join(map(str, sorted(values)[:10])) + " ..." * (len(values) > 10)
    labels.notes.append(
        f"no palette file ({', '.join(PALETTE_FILES)}): masks are read by index, they hold {shown}"
        + (f"; {lists[0].name} has {len(names)} names" if names else "; classes.txt, a name a line, would name them")
    )
    others = sorted(values - {VOID, _VOID_16} - set(range(len(names))))
    return [(name, v) for v, name in enumerate(names)] + [(f"class {v}", v) for v in others]


def _entries(path: Path) -> tuple[list[tuple[str, int]], bool]:
    """(name, value) of a palette file, in its order, and whether the values are indices."""
    is_indexed = False
    text = read_lines(path)
    try:
        if path.suffix.lower() == ".json":
            content = json.loads("\n".join(text))
            entries = [(str(name), _packed(value)) for name, value in content.items()]
        elif path.suffix.lower() == ".csv":
            rows = [[cell.strip() for cell in row] for row in csv.reader(filter(None, text))][1:]
            is_indexed = all(row[0].isdecimal() for row in rows)
            entries = [(row[1], int(row[0])) if is_indexed else (row[0], _packed(row[1:4])) for row in rows]
        else:
            lines = [line for line in text if line and not line.startswith("#")]
            is_indexed = all(line.endswith(":::") for line in lines)  # names alone
            entries = (
                [(line.rstrip(":"), k) for k, line in enumerate(lines)] if is_indexed else [*map(_line_entry, lines)]
            )
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} is no palette file ({error}): expected lines name:red,green,blue as in labelmap.txt, red green "
            'blue name as in label_colors.txt, name,red,green,blue as in class_dict.csv, or {"name": [red, green, '
            "blue]} as in palette.json",
            path=path,
        ) from None
    if len({value for _, value in entries}) < len(entries) or not entries:
        raise DataError(f"{path} gives {'one colour to two classes' if entries else 'no class'}", path=path)
    if not all(name for name, _ in entries):
        raise DataError(f"{path} gives a colour without a name: name it, void if it is none", path=path)
    return entries, is_indexed


def _line_entry(line: str) -> tuple[str, int]:
    name, colon, rest = line.partition(":")
    if colon:
        return name.strip(), _packed(rest.partition(":")[0].split(","))
    words = line.split()
    return " ".join(words[3:]), _packed(words[:3])


def _packed(colour: Any) -> int:
    if isinstance(colour, str):
        return int(colour.removeprefix("#"), 16)
    red, green, blue = map(int, colour)
    if not all(0 <= number <= 255 for number in (red, green, blue)):
        raise ValueError(f"colour {colour!r}")
    return red << 16 | green << 8 | blue


def read_values(path: Path, *, by_index: bool = True) -> tuple[NDArray[np.int32], bool]:
    """(h, w): of each pixel of a mask its index, or red · 65536 + green · 256 + blue; and whether it is the colour.

    It is where the picture has no index, or not ``by_index``. Greys in three channels are indices as well. Raises as
    ``decode_image`` does.
    """
    with open_picture(path, "mask") as (image, _):
        image.load()
        is_index = by_index and image.mode in ("P", "L", "1", "I;16", "I", "F")
        if is_index and image.format != "PNG":
            values = np.asarray(image)
            if (values != values.astype(np.int32)).any():
                raise DataError(f"mask {path} holds fractions: expected whole numbers", path=path)
            return values.astype(np.int32), False
        if not is_index:
            rgb = np.asarray(image.convert("RGB"), dtype=np.int32)
            if by_index and (rgb == rgb[..., :1]).all():
                return rgb[..., 0], False
            return rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], True
    return read_index_map(path), False
