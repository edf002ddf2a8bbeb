"""The data sets ``folder:NAME``: finding one of them under a data root."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from deapcache.datasets.base import DATASETS, DatasetEntry, SplitStatus
from deapcache.datasets.folder.dataset import FAMILY, SPLIT_FILE, FolderDataset, find_splits, name_of
from deapcache.datasets.folder.listing import IMAGES, list_files
from deapcache.datasets.folders import describe
from deapcache.errors import DataError, MissingDataError, UsageError

LAYOUT = """\
NAME/train/images/*            any image files, also in sub-folders; NAME/val/ alike; of each image by its name:
NAME/train/labels/*.png        the class of each pixel, as its place in classes.json; 255 void
NAME/train/instances/*.png     the object of each pixel, 1 to K; 0 background; 255 (of 16 bits: 65535) void, no object
NAME/train/depth/*.png|*.npy   16-bit millimetres, 0 unknown; or floating-point metres, 0 or NaN unknown
NAME/classes.json              ["wall", "floor", ...], where there are labels
labels, instances and depth where you have them. Instead of train/ and val/: NAME/images/, NAME/labels/, ... and
NAME/split.json                {"train": ["a", "b", ...], "val": ["c", ...]}
under the data root, or the data root itself where NAME is its name; write --dataset folder:NAME"""


def _has_layout(root: Path) -> bool:
    try:
        own = any((root / split / IMAGES).is_dir() for split in FolderDataset.splits)
        return own or ((root / IMAGES).is_dir() and (root / SPLIT_FILE).is_file())
    except OSError:  # someone else's folder, or one that is gone by now
        return False


def _candidates(data_root: Path) -> list[Path]:
    """Folders that look like this layout, sorted by name: the data root itself, else those in it."""
    if _has_layout(data_root):
        return [data_root]
    return sorted(path for path in data_root.iterdir() if _has_layout(path)) if data_root.is_dir() else []


def _find_root(name: str, data_root: Path) -> Path:
    return data_root if name_of(data_root) == name and not (data_root / name).is_dir() else data_root / name


def open_folder(name: str, data_root: Path) -> FolderDataset:
    """The folder ``name`` under ``data_root``, or that folder itself; raises :class:`MissingDataError`."""
    root = _find_root(name, data_root)
    if not root.is_dir():
        others = ", ".join(f"{FAMILY}:{name_of(path)}" for path in _candidates(data_root))
        there = f"there is {others}" if others else f"found {describe(data_root)}"
        raise MissingDataError(
            f"{FAMILY}:{name} is not under {data_root}: expected its folder {name}/ there; {there}. "
            "Give the folder that holds it with --data-root or DEAPCACHE_DATA"
        )
    return FolderDataset(root)


def _open_unnamed(data_root: Path) -> FolderDataset:
    found = ", ".join(f"{FAMILY}:{name_of(path)}" for path in _candidates(data_root))
    raise UsageError(
        f"--dataset {FAMILY} needs the name of the folder, {FAMILY}:NAME, which its caches then have; "
        f"under {data_root} is {found or 'no folder of this layout'}"
    )


def _status(name: str, data_root: Path) -> dict[str, SplitStatus]:
    root = _find_root(name, data_root)
    try:
        bases, lists = find_splits(root)
        return {split: _split_status(root, split, bases, lists) for split in FolderDataset.splits}
    except MissingDataError:
        return {split: _lacking(str(root / split / IMAGES)) for split in FolderDataset.splits}
    except DataError as error:
        return {split: _lacking(f"one sound layout: {error}") for split in FolderDataset.splits}


def _split_status(root: Path, split: str, bases: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> SplitStatus:
    if split not in bases:
        return _lacking(f"{split} in {root / SPLIT_FILE}" if lists else str(root / split / IMAGES))
    count = len(lists[split]) if lists else sum(map(len, list_files(root / split / IMAGES).values()))
    return SplitStatus(images=count) if count else _lacking(f"images of {split} in {root}")


def _lacking(what: str) -> SplitStatus:
    return SplitStatus(images=0, missing=(what,))


def _status_of_all(data_root: Path) -> dict[str, SplitStatus]:
    """Of every folder of this layout: ``folder:NAME train`` → status."""
    found = {
        f"{FAMILY}:{name} {split}": status
        for name in map(name_of, _candidates(data_root))
        for split, status in _status(name, data_root).items()
    }
    return found or {split: _lacking(str(data_root / "NAME" / split / IMAGES)) for split in FolderDataset.splits}


_SUMMARY = "Your own images, with class maps, instance maps and depth where you have them"


def _member(name: str) -> DatasetEntry:
    if not name or name in (".", "..") or set(name) & {"/", os.sep}:
        raise UsageError(
            f"--dataset {FAMILY}:{name}: expected the name of a folder without its path; give the folder that holds it "
            "with --data-root"
        )
    return DatasetEntry(
        name=f"{FAMILY}:{name}",
        summary=_SUMMARY,
        layout=LAYOUT.replace("NAME", name),
        licence="your own",
        open=functools.partial(open_folder, name),
        status=functools.partial(_status, name),
    )


DATASETS.add(
    FAMILY,
    DatasetEntry(
        name=FAMILY,
        summary=_SUMMARY,
        layout=LAYOUT,
        licence="your own",
        open=_open_unnamed,
        status=_status_of_all,
        member=_member,
    ),
)
