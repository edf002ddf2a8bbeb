"""Looking at files and folders so that what could not be looked at is never taken for absent or damaged.

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

from deapcache.errors import DeapcacheError, LocationError, UnreadableError

_OF_THE_FILE = {
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EOVERFLOW,
    errno.ESPIPE,
}
"""What an odd file itself can make a decoder run into."""


def require_reached(error: Exception, path: str | os.PathLike[str]) -> None:
    """Raise :class:`LocationError` for an error of the disk, server or limits on the way to a file.

    One of what the file holds, as a decoder raises it, is left to the caller.
    """
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_THE_FILE:
        raise error if isinstance(error, DeapcacheError) else not_reached(error, path) from error


def not_reached(error: OSError, path: str | os.PathLike[str]) -> LocationError:
    """``error`` as one line that names ``path``, the cause, and what to do."""
    cause = error.strerror or error
    if isinstance(error, PermissionError):
        return UnreadableError(f"cannot read {os.fspath(path)}: {cause}; ask its owner to let your group read it")
    return LocationError(f"cannot read {os.fspath(path)}: {cause}; {advice(error)}")


def advice(error: OSError) -> str:
    """What to do about an error of the operating system that is not about one file."""
    if isinstance(error, FileNotFoundError):
        return "it was moved or removed meanwhile"
    if isinstance(error, PermissionError):
        return "ask its owner"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"this process may have {_limit()} files open (`ulimit -n`): raise that limit, and run it again"
    return "see to the disk or the file server, then run the same command again"


def _limit() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return "no more"
    return str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


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
        raise not_reached(error, path) from error


def read_file(path: Path) -> bytes:
    """The bytes of a file; raises ``FileNotFoundError``, and :class:`LocationError` where it could not be read."""
    with reading(path):
        return path.read_bytes()


def facts_of(path: Path) -> os.stat_result | None:
    """What ``path`` is; None where nothing is there. Raises :class:`LocationError` where one could not look."""
    with contextlib.suppress(FileNotFoundError), reading(path):
        return path.stat()
    return None


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; raises :class:`LocationError` where one could not look."""
    found = facts_of(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; raises :class:`LocationError` where one could not look."""
    found = facts_of(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, [] where it is not there; raises :class:`LocationError` where one could not look."""
    with contextlib.suppress(FileNotFoundError), reading(folder), os.scandir(folder) as entries:
        return list(entries)
    return []


def files_below(top: Path) -> Iterator[Path]:
    """Every file below a folder, in any order; links to folders are not followed. Raises as :func:`entries_of`."""
    for folder, _, names in os.walk(top, onerror=_refuse):
        yield from (Path(folder, name) for name in names)


def _refuse(error: OSError) -> None:
    with contextlib.suppress(FileNotFoundError), reading(error.filename):
        raise error
