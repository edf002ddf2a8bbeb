"""What every reader of a label format gives: images with their objects or masks; and the files of a folder."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.folder import composed
from deapcache.datasets.io import dataset_error, read_bytes
from deapcache.errors import DataError, DatasetFileError, UsageError, printable

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".avif", ".tif", ".tiff", ".gif", ".ppm")
)
UNREADABLE_SUFFIXES = frozenset(
    (".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".mp4", ".mov", ".avi")
)
"""Photographs and videos that must be converted first."""

IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "jpegimages", "photos", "obj_train_data"))
"""Names of folders, in lower case, that say no more than that images are in them."""

RECORD_FILE = "import.json"
"""What was imported from where and what was left out, beside the images of an import."""

_SPLIT = re.compile(r"(?:^|[_\-. ])(train|training|val|valid|validation|test|testing)(?:\d{4})?(?:$|[_\-. ])", re.I)
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}


@dataclass(kw_only=True)
class LabelledObject:
    """One object of an image, in pixels of the image as the labels were drawn on it."""

    category: str
    segmentation: Any = None
    """As COCO writes it: a list of polygons [x, y, x, y, ...], or run lengths; None where there is a box alone."""
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height; None: that of the segmentation."""
    area: float | None = None
    """Pixels; None: counted."""
    is_crowd: bool = False
    layer: int = 0
    """What is in a higher layer covers what is in a lower one."""


@dataclass(kw_only=True)
class LabelledImage:
    """One image file, with its objects or its masks."""

    path: Path
    split: str = ""
    """``train``, ``val`` or ``test``; empty where nothing says which."""
    size: tuple[int, int] | None = None
    """Height and width that the labels are for; None where they do not say."""
    objects: list[LabelledObject] = field(default_factory=list)
    class_mask: Path | None = None
    instance_mask: Path | None = None


@dataclass(kw_only=True)
class Labels:
    """All that a reader found in a folder."""

    images: list[LabelledImage] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """In the order of the format, without repetition; of class masks all values, of objects without a background."""
    values: Mapping[int, int] = field(default_factory=dict)
    """Of class masks: value of a pixel, see ``masks.read_values`` → place in ``classes``, or 255 for void."""
    by_index: bool = False
    """Whether the values of class masks are numbers, not colours."""
    notes: list[str] = field(default_factory=list)
    """What was not understood or was decided for the user, a line each."""
    left_out: dict[str, str] = field(default_factory=dict)
    """File, or file and object → why it is not in the result."""


def split_of(*names: str | os.PathLike[str]) -> str:
    """The split that the parts of paths speak of, the last one that does: ``train``, ``val``, ``test`` or empty.

    ``train2017/a``, ``valid/images/a``, ``instances_val2017`` do; ``trainer/a`` and ``vales/a`` do not.
    """
    found = [
        match[1].lower() for name in names for part in PurePosixPath(name).parts for match in _SPLIT.finditer(part)
    ]
    return _SPLITS.get(found[-1], "val") if found else ""


class FileTree:
    """All files below a folder and the folders that it links to, but for hidden ones and what was imported before.

    Images are found by the names that labels give them. ``notes`` says what lies there and is not read, ``left_out``
    which files are taken for absent, and why: names that are not UTF-8, and JSON and XML that cannot be opened.
    """

    def __init__(self, root: Path) -> None:
        """Raises ``OSError`` where a folder cannot be listed, and where a disk or server fails."""
        self.root = root

        def refuse(error: OSError) -> None:
            raise error  # os.walk would go on

        self.files: list[Path] = []
        self.notes: list[str] = []
        self.left_out: dict[str, str] = {}
        met: set[str] = set()  # a link may lead back
        for place, folders, names in os.walk(root, followlinks=True, onerror=refuse):
            met.add(os.path.realpath(place))
            if {RECORD_FILE, "split.json"} <= set(names):
                if Path(place) == root:
                    raise UsageError(f"{root} is a dataset already, folder:{root.resolve().name}: import its source")
                folders.clear()
                self.notes.append(f"{Path(place).relative_to(root)}/ was made by deapcache import: not read")
                continue
            inner = [Path(place, name) for name in sorted(folders) if not name.startswith(".")]
            folders[:] = [path.name for path in inner if os.path.realpath(path) not in met]
            files = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
            self.files += [path for path in files if self._is_usable(path)]
        self.images = [path for path in self.files if path.suffix.lower() in IMAGE_SUFFIXES]
        self._by_name: dict[str, list[Path]] = {}
        for path in self.images:
            self._by_name.setdefault(composed(path.name).casefold(), []).append(path)
        unread = Counter(suffix for path in self.files if (suffix := path.suffix.lower()) in UNREADABLE_SUFFIXES)
        if unread:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
            self.notes.append(f"{kinds}: such files cannot be read; convert them to JPEG or PNG")

    def _is_usable(self, path: Path) -> bool:
        """Whether a file can be named and, if it may hold labels of images, opened; else why not is in ``left_out``."""
        shown = str(self.relative(path))
        if printable(shown) != shown:
            self.left_out[printable(shown)] = f"the name of {printable(str(path))} is not UTF-8: rename it"
            return False
        if path.suffix.lower() in (".json", ".xml"):
            try:
                path.open("rb").close()
            except OSError as error:
                found = dataset_error(error, path)
                if not isinstance(found, DatasetFileError):
                    raise found from None
                self.left_out[shown] = str(found)
                return False
        return True

    def require_readable(self, *suffixes: str) -> None:
        """Raise :class:`DataError` where a file that ends so is left out, for those in which all labels may be."""
        for name, why in self.left_out.items():
            if name.lower().endswith(suffixes):
                raise DataError(why)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files whose names end so, in lower case or not."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def relative(self, path: Path) -> PurePosixPath:
        """A path below the folder, as it is shown and as ids are made of it."""
        return PurePosixPath(path.relative_to(self.root).as_posix())

    def find_image(self, name: str, *, near: Path, split: str = "") -> Path:
        """The image that a label file ``near`` calls ``name``, which may have folders that exist no more.

        Capitals count where names differ in nothing else. Of several of one name the one whose last folders are those
        of ``name``, else that in the label file's folder or split. Raises ``ValueError`` that says why there is not
        exactly one.
        """
        wanted = [
            composed(part) for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", "..")
        ]
        found = self._by_name.get(wanted[-1].casefold(), []) if wanted else []
        found = [path for path in found if composed(path.name) == wanted[-1]] or found
        if not found:
            raise ValueError("its image is missing")
        if len(found) > 1:
            common = [self._common(path, wanted) for path in found]
            found = [path for path, parts in zip(found, common, strict=True) if parts == max(common)]
        if len(found) > 1 and (beside := [path for path in found if path.parent == near.parent]):
            found = beside
        if len(found) > 1 and split:
            found = [path for path in found if split_of(self.relative(path)) == split] or found
        if len(found) > 1:
            first, second = map(self.relative, found[:2])
            raise ValueError(f"{len(found)} images could be meant, {first} and {second} among them")
        return found[0]

    def _common(self, path: Path, wanted: list[str]) -> int:
        parts = [composed(part) for part in self.relative(path).parts]
        count = 0
        while count < min(len(parts), len(wanted)) and parts[-1 - count] == wanted[-1 - count]:
            count += 1
        return count


def listed_splits(tree: FileTree) -> dict[str, str]:
    """Name of an image without ending → its split, from the lists in VOC's folder ``ImageSets``."""
    found: dict[str, str] = {}
    for path in tree.with_suffix(".txt"):
        if "ImageSets" in path.parts and (split := split_of(path.stem)):
            lines = [composed(line.strip('"')) for line in read_lines(path)]
            found |= {line.rpartition("/")[2]: split for line in lines}
            for line in lines:  # lists of one class end in whether it is in the image
                found.setdefault(re.sub(r"\s+-?[01]$", "", line), split)
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without what surrounds them; raises :class:`DataError` where it is no UTF-8."""
    try:
        return [line.strip() for line in read_bytes(path, "file").decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it so", path=path) from None


def numbers(values: Iterable[Any], what: str) -> list[float]:
    """Finite numbers; raises ``ValueError`` that says what ``what`` is instead."""
    values = list(values)
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError):
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{what} is {', '.join(map(str, values))[:60]}: expected numbers")
    return found


def unique(names: Iterable[str]) -> list[str]:
    """Names without repetition, in their order."""
    return list(dict.fromkeys(names))


def repeated(names: Iterable[str], where: object) -> list[str]:
    """A note for each name of a class that is there more than once."""
    counts = Counter(names)
    return [
        f"{where}: class {name!r} is there {count} times: taken as one" for name, count in counts.items() if count > 1
    ]


def complete(tree: FileTree, labels: Labels, odd: Counter[str], what: str) -> Labels:
    """Labels with what was not understood and the images that nothing is said of; classes by name where none were."""
    labels.notes += [f"{count} {kind}: not understood, left out" for kind, count in sorted(odd.items()) if count]
    known = {path for image in labels.images for path in (image.path, image.class_mask, image.instance_mask)}
    labels.left_out = tree.left_out | labels.left_out
    unusable = {PurePosixPath(name.rpartition(": ")[2]).stem for name in labels.left_out}
    for path in tree.images:
        if path not in known:
            why = f"its {what} cannot be used" if path.stem in unusable else f"it has no {what}"
            labels.left_out.setdefault(str(tree.relative(path)), why)
    if not labels.classes:
        labels.classes = sorted({one.category for image in labels.images for one in image.objects} - {""})
    return labels


_ARC = 100
"""Corners of the polygon that a circle or an ellipse becomes."""


def place_mask(mask: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> dict[str, Any]:
    """A mask at (left, top) of an image of ``size`` (height, width), as COCO's run lengths; cut at the border."""
    from pycocotools import mask as coco_mask

    whole = np.zeros(size, np.uint8, order="F")
    seen, place = mask[max(0, -top) :, max(0, -left) :], whole[max(0, top) :, max(0, left) :]
    height, width = np.minimum(seen.shape, place.shape)
    place[:height, :width] = seen[:height, :width]
    return {"size": list(size), "counts": coco_mask.encode(whole)["counts"].decode()}


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    """A polygon for an ellipse around (x, y)."""
    angles = np.arange(_ARC) * (2 * math.pi / _ARC)
    return np.column_stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)]).ravel().tolist()


def extent(points: Sequence[float]) -> tuple[float, float, float, float]:
    """x, y, width, height of points x, y, x, y, ..."""
    x, y = min(points[::2]), min(points[1::2])
    return x, y, max(points[::2]) - x, max(points[1::2]) - y
