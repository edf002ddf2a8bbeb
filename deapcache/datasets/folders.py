"""What lies in a dataset's folders, and what is missing there, told by file names."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deapcache.errors import DataError, DeapcacheError, LocationError, MissingDataError

_OF_THE_PATH = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
"""Errors that tell what is wrong with a path; all others tell that it could not be looked at this time."""


@contextmanager
def listing(root: Path) -> Iterator[None]:
    """Errors of looking into a dataset's folders turned into :class:`DeapcacheError`, as :func:`access_error` does."""
    try:
        yield
    except DeapcacheError:
        raise
    except OSError as error:
        raise access_error(error, root) from None


def access_error(error: OSError, path: Path) -> DeapcacheError:
    """What to raise where the operating system does not let a file or folder be read; ``path``, if it names none.

    Of something that vanished :class:`MissingDataError`, of what may not be read :class:`DataError` that names the
    folder which may not be entered. A failing disk or too many open files are no fault of the data, which nothing may
    be left out for: :class:`LocationError`.
    """
    if error.filename is not None:
        path = Path(os.fsdecode(error.filename))
    if isinstance(error, FileNotFoundError):
        return MissingDataError(f"{path} is gone: moved or deleted while it was read; put it back, and try again")
    if isinstance(error, PermissionError):
        closed = next((folder for folder in reversed(path.parents) if not _may_enter(folder)), None)
        why = f", since the folder {closed} may not be entered" if closed else ""
        return DataError(f"{path} may not be read{why}: ask its owner to allow it")
    reason = error.strerror or str(error)
    if error.errno in _OF_THE_PATH:
        return DataError(f"{path} cannot be read: {reason}")
    return LocationError(f"{path} cannot be read now: {reason}; nothing is known to be wrong with it, try again")


def _may_enter(folder: Path) -> bool:
    return os.access(folder, os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def read_bytes(path: Path, what: str) -> bytes:
    """All of a file that says what a dataset holds; raises as :func:`access_error` does."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingDataError(f"{what} {path} is missing") from None
    except OSError as error:
        raise access_error(error, path) from None


def read_json(path: Path, what: str, advice: str) -> Any:
    """What a JSON file holds; raises :class:`DataError` that names it and ends with ``advice`` where it is none."""
    data = read_bytes(path, what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); {advice}") from None


def describe(folder: Path) -> str:
    """The first names in a folder, for error messages: ``a.txt, b/ and 3 more``."""
    try:
        if not folder.is_dir():
            return "no such folder"
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    except OSError as error:
        return f"a folder that cannot be listed ({error.strerror})"
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


def matching(folder: Path, pattern: str) -> list[Path]:
    """What ``folder.glob(pattern)`` gives, in no order, but for hidden files, and that no folder is passed over.

    ``pattern`` has no ``**``. Raises ``OSError`` for a folder that may not be listed, where ``glob`` goes on.
    """
    found = [folder]
    for part in pattern.split("/"):
        listed = [(place, os.listdir(place)) for place in found if place.is_dir()]  # noqa: PTH208 - as in stems
        found = [
            place / name for place, names in listed for name in fnmatch.filter(names, part) if not name.startswith(".")
        ]
    return found


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
