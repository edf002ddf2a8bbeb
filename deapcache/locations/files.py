"""Reading files and folders so that what could not be looked at is never taken for absent or damaged.

Only "no such file" says that something is not there. A disk that fails, a file server that is away, a limit on open
files or a missing permission is a :class:`LocationError` that names the path and the cause.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import resource  # here: where no more files can be opened, no module can be, either
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from deapcache.errors import DeapcacheError, LocationError, NotAFileError, UnreadableError

OF_THE_PATH = {
    errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EOVERFLOW, errno.ESPIPE,
}  # fmt: skip
"""Errors that tell what is wrong with a file or its path; all others tell that it could not be reached this time."""

_NO_FILE = {errno.EISDIR: "a folder", errno.ELOOP: "a link that leads to itself", errno.ENXIO: "a socket"}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""How the system says that nothing can be at a path: where a file stands in the place of a folder, a link leads to
itself, or the name is longer than any."""


def require_reached(error: Exception, path: str | os.PathLike[str]) -> None:
    """Raise :class:`LocationError` for an error of the disk, server or limits on the way to a file.

    One of what the file holds, as a decoder raises it, is left to the caller.
    """
    if isinstance(error, OSError) and error.errno is not None and error.errno not in OF_THE_PATH:
        raise error if isinstance(error, DeapcacheError) else access_error(error, path) from error


def access_error(error: OSError, path: str | os.PathLike[str], verb: str = "read") -> LocationError:
    """An error of the operating system as one line that names ``path``, the cause, and what to do.

    Of a missing permission :class:`UnreadableError`, which also names the folder that may not be entered, if any.
    """
    cause = error.strerror or error
    if isinstance(error, PermissionError):
        closed = next((folder for folder in reversed(Path(path).parents) if not _may_enter(folder)), None)
        why = f", since the folder {closed} may not be entered" if closed else ""
        return UnreadableError(
            f"cannot {verb} {os.fspath(path)}: {cause}{why}; ask its owner to let your group read it"
        )
    return LocationError(f"cannot {verb} {os.fspath(path)}: {cause}; {advice(error)}")


def _may_enter(folder: Path) -> bool:
    return os.access(folder, os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def advice(error: OSError) -> str:
    """What to do about an error of the operating system."""
    if isinstance(error, FileNotFoundError):
        return "it was moved or removed meanwhile"
    if isinstance(error, PermissionError):
        return "ask its owner"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit = "no more" if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may have {limit} files open (`ulimit -n`): raise that limit, and run it again"
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
        return "it is not the file or folder that belongs there"
    return "see to the disk or the file server, then run the same command again"


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the operating system raises in the block into :class:`LocationError`; ``FileNotFoundError`` stays.

    Where a file stands in the place of a folder, nothing can be below it: that is ``FileNotFoundError``, too.
    """
    try:
        yield
    except (DeapcacheError, FileNotFoundError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, os.fspath(path)) from error
    except OSError as error:
        if error.errno is None:
            raise
        if error.errno in _NO_FILE:
            raise NotAFileError(f"cannot read {path}: it is {_NO_FILE[error.errno]}, and no file") from error
        raise access_error(error, path) from error


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A plain file, open for reading; raises what :func:`reading` says, and :class:`NotAFileError` for a pipe."""
    with reading(path), open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotAFileError(f"cannot read {path}: it is a pipe or a device, and no file")
        yield file


def _open_without_waiting(path: str, flags: int) -> int:
    # without it, opening a pipe waits until somebody writes to it
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_file(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file, of ``most`` at most.

    Raises ``FileNotFoundError``, :class:`NotAFileError` for a larger file and for what is no plain one, and
    :class:`LocationError` where it could not be read.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise NotAFileError(f"{path} has {size:,} bytes: at most {most:,} are read of such a file")
        return file.read()


def stat_or_none(path: Path) -> os.stat_result | None:
    """What ``path`` is; None where nothing is there. Raises :class:`LocationError` where one could not look."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise access_error(error, path, "look at") from error


def file_state(facts: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is replaced: inode, bytes, modification time in nanoseconds."""
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; raises :class:`LocationError` where one could not look."""
    found = stat_or_none(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; raises :class:`LocationError` where one could not look."""
    found = stat_or_none(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, [] where it is not there; raises :class:`LocationError` where one could not look."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise access_error(error, folder, "list") from error


def files_below(top: Path) -> Iterator[Path]:
    """Every file below a folder, in any order; links to folders are not followed. Raises as :func:`list_entries`.

    A link that leads nowhere is an error: what it means is not empty, but out of reach.
    """
    if top.is_symlink() and stat_or_none(top) is None:
        raise LocationError(f"cannot list {top}: it leads to {top.readlink()}, which is not there; is it mounted?")
    for folder, _, names in os.walk(top, onerror=_refuse):
        yield from (Path(folder, name) for name in names)


def _refuse(error: OSError) -> None:
    if error.errno not in _ABSENT:
        raise access_error(error, error.filename, "list") from error
