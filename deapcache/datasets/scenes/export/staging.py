"""A folder that is whole or not there at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deapcache.datasets.folders import describe
from deapcache.errors import LocationError, ReadOnlyError, StorageFullError, UsageError
from deapcache.locations import local_path

STAGE = ".partial"
"""Folder within the one to be filled, where everything lies until it is whole. A kill leaves it behind."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Where to write what shall be in ``folder``; it is moved there when the block ends well, and removed otherwise.

    Raises :class:`UsageError` for an address, and where the folder holds anything, and :class:`LocationError` for what
    the file system refuses, in the block too.
    """
    local_path(folder, what="--out")
    with _explained(folder):
        stage, is_new = _prepare(folder)
        try:
            yield stage
            # Within one folder, so that it may be a mount point or have a parent nobody may write to.
            for path in sorted(stage.iterdir()):
                path.rename(folder / path.name)
            stage.rmdir()
        except BaseException:
            shutil.rmtree(folder if is_new else stage, ignore_errors=True)
            raise


def _prepare(folder: Path) -> tuple[Path, bool]:
    """The stage, and whether ``folder`` was made for it."""
    is_new = not os.path.lexists(folder)
    if not is_new:
        _require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stage = folder / STAGE
    stage.mkdir()
    return stage, is_new


def _require_empty(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; give a folder that is empty or not there yet")
    if (folder / STAGE).exists():
        raise UsageError(
            f"--out {folder} holds {STAGE}/: an export to it is under way, or one was killed; "
            "if none is under way, delete the folder and run the same command again"
        )
    if any(folder.iterdir()):
        raise UsageError(
            f"--out {folder} is not empty, it holds {describe(folder)}; give a folder that is empty or not there yet"
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Errors of the file system as one line each."""
    try:
        yield
    except LocationError:
        raise
    except OSError as error:
        what = f"cannot write {error.filename or folder}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(f"{what}; nothing was kept, free some space or give another --out") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyError(f"{what}; give an --out that you may write to") from error
        raise LocationError(f"{what}; nothing was kept, give another --out") from error
