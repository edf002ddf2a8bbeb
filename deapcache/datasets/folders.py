"""What lies in a dataset's folders, and what is missing there, told by file names."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from deapcache.errors import MissingDataError


def describe(folder: Path) -> str:
    """The first names in a folder, for error messages: ``a.txt, b/ and 3 more``."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) + more) or "an empty folder"


def not_under(data_root: Path, dataset: str, expected: str, remark: str = "") -> MissingDataError:
    """The error where nothing of a dataset was found: what is ``expected`` under the data root, and what is there."""
    return MissingDataError(
        f"{dataset} is not under {data_root}: expected {expected}; found {describe(data_root)}. "
        f"{remark}Give the folder with --data-root or DEAPCACHE_DATA"
    )


def stems(folder: Path, suffix: str) -> set[str]:
    """Names without ``suffix`` of the files that end in it; hidden files and a folder that is not there have none."""
    if not folder.is_dir():
        return set()
    names = os.listdir(folder)  # noqa: PTH208 - one call for all names
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")}


def absent(paths: Collection[Path]) -> tuple[str, ...]:
    """Those of the files and folders that are not there."""
    return tuple(str(path) for path in paths if not path.exists())


def require_split(dataset: str, split: str, root: Path, parts: Collection[Path], remark: str = "") -> None:
    """Raise :class:`MissingDataError` where some files or folders that a split consists of are not there."""
    if missing := absent(parts):
        raise MissingDataError(
            f"{dataset} has no {split} split under {root}: {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; put it there, or give another --data-root{remark}"
        )


def absent_files(paths: Collection[Path]) -> list[Path]:
    """Those of the files that are not there, in order; each folder is listed once."""
    folders = {path.parent for path in paths}
    present = {folder: set(os.listdir(folder)) for folder in folders if folder.is_dir()}  # noqa: PTH208 - as in stems
    return [path for path in paths if path.name not in present.get(path.parent, ())]


def require_all(ids: Collection[str], folder: Path, suffix: str, advice: str) -> None:
    """Raise :class:`MissingDataError` where ``folder`` lacks ``ID + suffix`` for some of the ids: how many, and one."""
    present = stems(folder, suffix)
    if lacking := sorted(name for name in ids if name not in present):
        raise MissingDataError(
            f"{folder} lacks {len(lacking):,} of {len(ids):,} files, the first is {lacking[0]}{suffix}; {advice}"
        )
