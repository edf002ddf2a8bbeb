"""Folders of a file system: whole files, put in place in one step that fails if another writer was first."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from deapcache.errors import LocationError, NotAFileError, ReadOnlyError, StorageFullError
from deapcache.locations.base import PLAIN, Location, Use, inside

TEMPORARY_SUFFIX = ".partial"
"""Ending of files that are being written; a kill can leave them behind, :meth:`LocalLocation.sweep` removes them."""

_NO_FILE = {errno.EISDIR: "a folder", errno.ELOOP: "a link that leads to itself", errno.ENXIO: "a socket"}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalLocation(Location):
    """A folder of a file system, local or network."""

    def __init__(self, path: Path, *, use: Use = PLAIN) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a lab's symbolic links
        super().__init__(str(self.path), use=use)

    def __truediv__(self, part: str) -> LocalLocation:
        return LocalLocation(self.path / inside(part), use=self.use)

    def read(self, key: str, *, most: int | None = None) -> bytes:
        path = self.path / inside(key)
        try:
            with open(path, "rb", opener=_open_without_waiting) as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise NotAFileError(f"cannot read {path}: it is a pipe or a device, and no file")
                if most is not None and facts.st_size > most:
                    raise NotAFileError(f"{path} has {facts.st_size:,} bytes: at most {most:,} are read of such a file")
                return file.read()
        except OSError as error:
            if error.errno in _NO_FILE:
                raise NotAFileError(f"cannot read {path}: it is {_NO_FILE[error.errno]}, and no file") from None
            if isinstance(error, PermissionError):
                raise LocationError(
                    f"cannot read {error.filename}: {error.strerror}; ask its owner to let your group read it"
                ) from error
            raise

    def stamp(self, key: str) -> str:
        facts = (self.path / inside(key)).stat()
        return f"{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}"

    def exists(self, key: str) -> bool:
        try:
            return (self.path / inside(key)).is_file()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return False  # no file here can have that name
            raise

    def keys(self, prefix: str = "") -> list[str]:
        top = self.path / inside(prefix) if prefix else self.path
        found = [
            str(PurePosixPath(Path(folder).relative_to(self.path)) / name)
            for folder, _, names in os.walk(top)
            for name in names
            if not name.endswith(TEMPORARY_SUFFIX)
        ]
        return sorted(found)

    def find(self, pattern: str) -> list[str]:
        # Looks at the named levels only: a home holds thousands of shard files below them.
        return sorted(str(found.relative_to(self.path)) for found in self.path.glob(inside(pattern)))

    def size(self, key: str) -> int:
        return (self.path / inside(key)).stat().st_size

    def delete(self, key: str) -> None:
        self._require_own()
        (self.path / inside(key)).unlink(missing_ok=True)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with (self.path / inside(key)).open("rb") as file:
            return [_part(file, start, length) for start, length in ranges]

    def read_tail(self, key: str, length: int) -> memoryview:
        with (self.path / inside(key)).open("rb") as file:
            return _part(file, max(0, os.fstat(file.fileno()).st_size - length), length)

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(_nearest_existing(self.path)).free

    def require_writable(self) -> None:
        self._require_own()
        folder = _nearest_existing(self.path)
        with _explained(folder):
            _try_name(folder, _temporary_name())

    def require_names(self, keys: Iterable[str]) -> None:
        longest = max((self.path / inside(key) for key in keys), key=_name_bytes, default=self.path)
        folder, count = _nearest_existing(longest.parent), _name_bytes(longest)
        try:
            with _explained(folder):
                _try_name(folder, _temporary_name().rjust(count, "."))
        except LocationError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENAMETOOLONG:
                raise
            raise LocationError(
                f"the file system of {folder} takes no name of {count} bytes, as {longest.name} has: choose another "
                "file system, or shorter names"
            ) from error

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        self._require_own()
        target = self.path / inside(key)
        with _explained(target):
            modes = _Modes.like(_nearest_existing(self.path))
            _make_folders(target.parent, modes)
            temporary = target.with_name(_temporary_name())
            try:
                _write_whole(temporary, data, modes)
                published = _put_in_place(temporary, target, replace=replace)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
        return published

    def sweep(self, *, older_than_seconds: float = 86_400.0) -> int:
        self._require_own()
        limit = time.time() - older_than_seconds
        swept = 0
        for path in self.path.rglob(f".*{TEMPORARY_SUFFIX}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    path.unlink()
                    swept += 1
        return swept


def _part(file: BinaryIO, start: int, length: int) -> memoryview:
    file.seek(start)
    return memoryview(file.read(length))


def _open_without_waiting(path: str, flags: int) -> int:
    # without it, opening a pipe waits until somebody writes to it
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _temporary_name() -> str:
    """A short one: what is written must not fail for the name that it has meanwhile."""
    return f".{uuid.uuid4().hex[:16]}{TEMPORARY_SUFFIX}"


def _name_bytes(path: Path) -> int:
    return len(os.fsencode(path.name))


def _try_name(folder: Path, name: str) -> None:
    (folder / name).touch(exist_ok=False)
    (folder / name).unlink()


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
