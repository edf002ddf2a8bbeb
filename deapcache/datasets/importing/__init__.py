"""Labels of other tools, read from a folder and written as a dataset ``folder:NAME``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deapcache.datasets.importing.coco import CATEGORY, SUPERCATEGORY, is_coco, read_coco
from deapcache.datasets.importing.labelme import is_labelme, read_labelme
from deapcache.datasets.importing.labels import FileTree, LabelledImage, Labels, split_of
from deapcache.datasets.importing.masks import is_masked, read_masks
from deapcache.datasets.importing.writing import ImportReport, write_folder
from deapcache.datasets.importing.xml import is_cvat, is_voc, read_cvat, read_voc
from deapcache.datasets.importing.yolo import is_yolo, read_yolo
from deapcache.datasets.io import file_errors
from deapcache.errors import MissingDataError, UsageError, require_choice

AUTO = "auto"
FORMATS = ("coco", "yolo", "labelme", "cvat", "voc", "masks", "photos")
CLASSES = (CATEGORY, SUPERCATEGORY)

_LABEL_SUFFIXES = frozenset((".json", ".xml", ".txt", ".csv", ".yaml", ".yml", ".mat", ".tfrecord", ".parquet", ".npy"))
"""Of files that may hold labels."""

__all__ = ["AUTO", "CLASSES", "FORMATS", "ImportReport", "detect_format", "import_labels"]


def import_labels(
    source: Path,
    out: Path,
    *,
    format: str = AUTO,
    classes: str = CATEGORY,
    palette: Path | None = None,
    val: float = 0.2,
    seed: int = 0,
    copy: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportReport:
    """Read the labels of a folder and write them, with links to its images, as the dataset ``folder:NAME``.

    Parameters
    ----------
    source
        Folder with images and labels; nothing in it is changed.
    out
        New folder, whose name is NAME.
    format
        One of :data:`FORMATS`, or ``auto``.
    classes
        One of :data:`CLASSES`: what of COCO's categories the classes are.
    palette
        File of the colours of masks, where none lies beside them.
    val, seed
        Share of the images for scoring and seed of their choice, where nothing says which those are.
    copy
        Whether images are copied, not linked.
    progress
        Called with the number of images done, and of all.

    Raises :class:`UsageError` for values that cannot be used, :class:`MissingDataError` and :class:`DataError` for a
    folder without images or with labels that cannot be read as a whole; what concerns one image is in the report.
    """
    require_choice("format", format, (AUTO, *FORMATS))
    require_choice("classes", classes, CLASSES)
    if not 0 <= val < 1:
        raise UsageError(f"--val {val}: expected the share of images for scoring, from 0 to less than 1")
    if not source.is_dir():
        raise MissingDataError(f"{source} is no folder: give the one that holds images and labels", path=source)
    if palette is not None and not palette.is_file():
        raise UsageError(f"--palette {palette} is no file: give the one with the classes and colours of the masks")
    with file_errors(source):
        tree = FileTree(source)
        if not tree.images:
            why = f" ({'; '.join(tree.notes)})" if tree.notes else ""
            raise MissingDataError(
                f"{source} holds no image{why}: give the folder that holds images and labels", path=source
            )
        format = detect_format(tree) if format == AUTO else format
        if classes != CATEGORY and format != "coco":
            raise UsageError(
                f"--classes {classes}: only COCO's categories have groups, and {source} is read as {format}"
            )
        if palette is not None and format not in ("masks", "voc"):
            raise UsageError(f"--palette {palette}: only masks have one, and {source} is read as {format}")
        readers: dict[str, Callable[[], Labels]] = {
            "coco": lambda: read_coco(tree, classes),
            "yolo": lambda: read_yolo(tree),
            "labelme": lambda: read_labelme(tree),
            "cvat": lambda: read_cvat(tree),
            "voc": lambda: read_voc(tree, palette),
            "masks": lambda: read_masks(tree, palette),
            "photos": lambda: read_photos(tree),
        }
        labels = readers[format]()
        labels.notes = tree.notes + labels.notes
        labels.left_out = tree.left_out | labels.left_out
        return write_folder(labels, tree, out, format=format, val=val, seed=seed, copy=copy, progress=progress)


def detect_format(tree: FileTree) -> str:
    """The format of a folder's labels, ``photos`` where it has none.

    Raises :class:`UsageError` for several, and :class:`DataError` where all there may be is in files that cannot be
    read.
    """
    signs: dict[str, Callable[[], bool]] = {
        "coco": lambda: any(map(is_coco, tree.with_suffix(".json"))),
        "labelme": lambda: any(map(is_labelme, tree.with_suffix(".json"))),
        "cvat": lambda: any(map(is_cvat, tree.with_suffix(".xml"))),
        "voc": lambda: any(map(is_voc, tree.with_suffix(".xml"))),
        "yolo": lambda: is_yolo(tree),
    }
    found = [name for name, has in signs.items() if has()]
    if len(found) > 1:
        raise UsageError(f"{tree.root} has labels of {' and '.join(found)}: say which with --from")
    if not found and is_masked(tree):
        return "masks"
    if not found:
        tree.require_readable(".json", ".xml")
    return found[0] if found else "photos"


def read_photos(tree: FileTree) -> Labels:
    """All images of a folder, without labels."""
    others = [path for path in tree.files if path.suffix.lower() in _LABEL_SUFFIXES]
    notes = [f"{len(others)} file(s), {tree.relative(others[0])} first, are of no known label format"] if others else []
    images = [LabelledImage(path=path, split=split_of(tree.relative(path).parent)) for path in tree.images]
    return Labels(images=images, notes=notes)
