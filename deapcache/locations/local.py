"""Folders of a file system: whole files, put in place in one step that fails if another writer was first."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from deapcache.errors import ClosedError, LocationError, NotAFileError, ReadOnlyError, StorageFullError
from deapcache.locations.base import PLAIN, Location, Use, inside, is_hidden

TEMPORARY_SUFFIX = ".partial"
"""Ending of files that are being written; a kill can leave them behind, :meth:`LocalLocation.sweep` removes them."""

_ABANDONED_AFTER = 86_400.0
"""Seconds after which a temporary belongs to a writer that was killed."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalLocation(Location):
    """A folder of a file system, local or network."""

    def __init__(self, path: Path, *, use: Use = PLAIN) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a lab's symbolic links
        super().__init__(str(self.path), use=use)

    def __truediv__(self, part: str) -> LocalLocation:
        return LocalLocation(self.path / inside(part), use=self.use)

    def read(self, key: str) -> bytes:
        path = self.path / inside(key)
        try:
            return _read_file(path)
        except PermissionError as error:
            raise _closed("read", path, error) from error

    def stamp(self, key: str) -> str:
        facts = (self.path / inside(key)).stat()
        return f"{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}"

    def exists(self, key: str) -> bool:
        path = self.path / inside(key)
        try:
            return path.is_file()
        except OSError as error:
            raise _closed("look at", path, error) from error

    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        top = self.path / inside(prefix) if prefix else self.path
        _require_target(top)
        found = [
            str(PurePosixPath(Path(folder).relative_to(self.path)) / name)
            for folder, _, names in os.walk(top, onerror=_not_listed)
            for name in names
        ]
        return sorted(key for key in found if hidden or not is_hidden(key))

    def find(self, pattern: str) -> list[str]:
        # Looks at the named levels only: a home holds thousands of shard files below them.
        return sorted(_fitting(self.path, PurePosixPath(inside(pattern)).parts))

    def folders(self, pattern: str) -> list[str]:
        return [folder for folder in self.find(pattern) if _holds_files(self.path / folder)]

    def size(self, key: str) -> int:
        with _loops_as_absent():
            return (self.path / inside(key)).stat().st_size

    def delete(self, key: str) -> None:
        self._require_own()
        (self.path / inside(key)).unlink(missing_ok=True)

    def kvstore(self) -> dict[str, Any]:
        # Locks and temporaries of the driver play no part: deapcache publishes files itself (see publish).
        return {"driver": "file", "path": f"{self.path}/", "file_io_locking": {"mode": "none"}}

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(_nearest_existing(self.path)).free

    def require_writable(self) -> None:
        self._require_own()
        folder = _nearest_existing(self.path)
        with _explained(folder):
            probe = folder / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
            probe.touch(exist_ok=False)
            probe.unlink()

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        self._require_own()
        target = self.path / inside(key)
        with _explained(target):
            modes = _Modes.like(_nearest_existing(self.path))
            _make_folders(target.parent, modes)
            temporary = target.with_name(
                f".{target.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
            )
            try:
                _write_whole(temporary, data, modes)
                published = _put_in_place(temporary, target, replace=replace)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
        if published:
            _sweep_once(target)
        return published

    def sweep(self, *, older_than_seconds: float = _ABANDONED_AFTER) -> int:
        self._require_own()
        if self.path.is_symlink():  # to another's cache, as a rule
            return 0
        places = [Path(folder, name) for folder, _, names in os.walk(self.path) for name in names]
        found = [path for path in places if _is_temporary(path.name)]
        return _remove_old(found, _now_in(self.path) - older_than_seconds) if found else 0


_SWEPT: set[tuple[int, Path]] = set()
"""Folders, each with the process that has looked there for what killed writers left."""


def _sweep_once(published: Path) -> None:
    """Remove what killed writers left beside a file that was just published, at a process's first write there."""
    mark = os.getpid(), published.parent
    if mark in _SWEPT:
        return
    _SWEPT.add(mark)
    with contextlib.suppress(OSError):
        limit = published.stat().st_mtime - _ABANDONED_AFTER
        _remove_old([path for path in published.parent.iterdir() if _is_temporary(path.name)], limit)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def _remove_old(paths: Iterable[Path], limit: float) -> int:
    """Remove those files that were last written before ``limit``; how many."""
    removed = 0
    for path in paths:
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < limit:
                path.unlink()
                removed += 1
    return removed


def _now_in(folder: Path) -> float:
    """The time of the file system's own clock, by which files are dated: a host's may be days off."""
    probe = folder / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    except OSError:
        return float("-inf")  # where nothing can be written nothing is removed
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def file_age(path: Path) -> float:
    """Seconds since a file was written, by its file system's own clock; 0 where nothing can be written beside it."""
    return max(0.0, _now_in(path.parent) - path.stat().st_mtime)


def _read_file(path: Path) -> bytes:
    """The bytes of a file; a pipe is not waited for."""
    with _loops_as_absent():
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotAFileError(f"cannot read {path}: it is a folder, a pipe or a device, and no file")
        with os.fdopen(handle, "rb", buffering=0, closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


@contextlib.contextmanager
def _loops_as_absent() -> Iterator[None]:
    """A link that leads to itself leads to nothing, as ``is_file`` says, too."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename) from None


_ABSENT = (FileNotFoundError, NotADirectoryError)


def _fitting(folder: Path, parts: Sequence[str], *, forgiving: bool = False) -> Iterator[str]:
    """What lies below ``folder`` and fits, part by part; ``*`` stands for any names but hidden ones.

    Where ``forgiving``, a folder that may not be entered is left out with a warning: it is one of many in a home.
    """
    first, *rest = parts
    try:
        if "*" in first:
            everything = [path.name for path in folder.iterdir()]
            names = [name for name in everything if fnmatchcase(name, first) and not is_hidden(name)]
        else:
            with _loops_as_absent():
                names = [first] if rest or (folder / first).stat() else []
    except _ABSENT:
        return
    except OSError as error:
        problem = _closed("list", folder, error)
        if not (forgiving and isinstance(error, PermissionError)):
            raise problem from error
        warnings.warn(f"left out: {problem}", stacklevel=2)
        return
    for name in names:
        if rest:
            below = _fitting(folder / name, rest, forgiving=forgiving or "*" in first)
            yield from (f"{name}/{one}" for one in below)
        else:
            yield name


def _holds_files(folder: Path) -> bool:
    """Whether there is a file at any depth; True where that may not be looked at."""
    try:
        return any(not is_hidden(name) for _, _, names in os.walk(folder, onerror=_not_listed) for name in names)
    except ClosedError:
        return True


def _require_target(folder: Path) -> None:
    """Raise :class:`LocationError` for a link that leads nowhere: what it means is not empty, but out of reach."""
    if folder.is_symlink() and not folder.exists():
        raise LocationError(
            f"cannot list {folder}: it leads to {folder.readlink()}, which is not there; is it mounted?"
        )


def _not_listed(error: OSError) -> None:
    if not isinstance(error, _ABSENT):
        raise _closed("list", error.filename, error) from error


def _closed(verb: str, path: Path | str, error: OSError) -> LocationError:
    if isinstance(error, PermissionError):
        return ClosedError(f"cannot {verb} {path}: {error.strerror}; ask its owner to let your group read it")
    return LocationError(f"cannot {verb} {path}: {error.strerror}")


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


class _Modes:
    """Group and permission bits of new files and folders: the home's own, group-readable whatever the umask."""

    def __init__(self, group: int, file: int, folder: int) -> None:
        self.group = group
        self.file = file
        self.folder = folder

    @classmethod
    def like(cls, folder: Path) -> _Modes:
        found = folder.stat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IROTH)
        searchable = stat.S_IXGRP | (stat.S_IXOTH if found.st_mode & stat.S_IROTH else 0)
        keep_group = found.st_mode & stat.S_ISGID
        return cls(found.st_gid, 0o640 | shared, 0o740 | shared | searchable | keep_group)

    def apply(self, path: Path, mode: int) -> None:
        # Only a member of the group may give a file to it; a reader outside it still gets the mode.
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, self.group)
        path.chmod(mode)


def _make_folders(folder: Path, modes: _Modes) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent, modes)
    try:
        folder.mkdir()
    except FileExistsError:
        return
    modes.apply(folder, modes.folder)


def _write_whole(path: Path, data: bytes, modes: _Modes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    modes.apply(path, modes.file)


def _put_in_place(temporary: Path, target: Path, *, replace: bool) -> bool:
    if replace:
        temporary.replace(target)
        return True
    try:
        os.link(temporary, target)  # fails where the target exists: create-if-absent in one step
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            return False
        temporary.rename(target)
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain_os_error(error, path) from error


def _explain_os_error(error: OSError, path: Path) -> OSError:
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyError(
            f"cannot write {path}: {error.strerror}; give a home that you may write to (--home, or DEAPCACHE_HOME)"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            f"cannot write {path}: {error.strerror}; what was published before is whole and stays. "
            "Free some space, then run the same command again: it goes on where it stopped"
        )
    if error.errno == errno.EFBIG:
        return StorageFullError(
            f"cannot write {path}: {error.strerror}; the file system, or the limit that `ulimit -f` shows, allows no "
            "files of this size. What was published before is whole and stays: raise the limit, or choose another home"
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return LocationError(
            f"cannot write {path}: {error.strerror}; a file stands where a folder should be, or the reverse"
        )
    return LocationError(f"cannot write {path}: {error.strerror or error}")
