"""Folders of a file system: whole files, put in place in one step that fails if another writer was first."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import functools
import os
import shutil
import stat
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from deapcache.errors import DeapcacheError, LocationError, ReadOnlyError, StorageFullError, UnreadableError
from deapcache.locations.base import DEFAULT_OPTIONS, Location, LocationOptions, relative_key
from deapcache.locations.files import (
    access_error,
    advice,
    file_state,
    files_below,
    is_file,
    is_folder,
    list_entries,
    open_file,
    read_file,
    reading,
    stat_or_none,
)
from deapcache.untrusted import is_hidden

TEMPORARY_SUFFIX = ".partial"
"""Ending of files that are being written; a kill can leave them behind, :meth:`LocalLocation.sweep` removes them."""

_ABANDONED_AFTER = 86_400.0
"""Seconds after which a temporary belongs to a writer that was killed."""

_NOT_SUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTTY}
"""How file systems (CIFS, FAT, FUSE, NFS) say that they do not know permissions, hard links or syncing of folders."""


class LocalLocation(Location):
    """A folder of a file system, local or network."""

    def __init__(self, path: Path, *, options: LocationOptions = DEFAULT_OPTIONS) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a lab's symbolic links
        super().__init__(str(self.path), options=options)

    def __truediv__(self, part: str) -> LocalLocation:
        return LocalLocation(self.path / relative_key(part), options=self.options)

    def read(self, key: str, *, most: int | None = None) -> bytes:
        return read_file(self.path / relative_key(key), most)

    def etag(self, key: str) -> str:
        return "-".join(map(str, file_state(self._stat(key))))

    def exists(self, key: str) -> bool:
        return is_file(self.path / relative_key(key))

    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        found = files_below(self.path / relative_key(prefix) if prefix else self.path)
        return sorted(key for key in map(self._key, found) if hidden or not is_hidden(key))

    def find(self, pattern: str) -> list[str]:
        # Looks at the named levels only: a home holds thousands of shard files below them.
        found = [self.path]
        forgiving = False
        for part in PurePosixPath(relative_key(pattern)).parts:
            found = [path for folder in found for path in _match_entries(folder, part, forgiving)]
            forgiving = forgiving or "*" in part
        return sorted(self._key(path) for path in found)

    def folders(self, pattern: str, fits: Callable[[str], bool] = lambda _: True) -> list[str]:
        return [folder for folder in self.find(pattern) if fits(folder) and _holds_files(self.path / folder)]

    def _key(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _stat(self, key: str) -> os.stat_result:
        path = self.path / relative_key(key)
        found = stat_or_none(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return found

    def size(self, key: str) -> int:
        return self._stat(key).st_size

    def sizes_of(self, keys: Iterable[str]) -> dict[str, int]:
        # a file system answers sooner than a thread begins
        found = ((key, stat_or_none(self.path / relative_key(key))) for key in keys)
        return {key: facts.st_size for key, facts in found if facts is not None}

    def delete(self, key: str) -> None:
        self._require_not_read_only()
        path = self.path / relative_key(key)
        with _write_errors(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with open_file(self.path / relative_key(key)) as file:
            return [_read_part(file, start, length) for start, length in ranges]

    def read_tail(self, key: str, length: int) -> memoryview:
        with open_file(self.path / relative_key(key)) as file:
            return _read_part(file, max(0, os.fstat(file.fileno()).st_size - length), length)

    def free_bytes(self) -> int | None:
        folder = _nearest_existing(self.path)
        with reading(folder):
            return shutil.disk_usage(folder).free

    def clock(self) -> datetime:
        seconds = _file_system_time(_nearest_existing(self.path))
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else super().clock()

    def require_writable(self) -> None:
        self._require_not_read_only()
        folder = _nearest_existing(self.path)
        with _write_errors(folder):
            _try_name(folder, _temporary_name())

    def require_names(self, keys: Iterable[str]) -> None:
        longest = max((self.path / relative_key(key) for key in keys), key=_name_bytes, default=self.path)
        folder, count = _nearest_existing(longest.parent), _name_bytes(longest)
        try:
            with _write_errors(folder):
                _try_name(folder, _temporary_name().rjust(count, "."))
        except LocationError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENAMETOOLONG:
                raise
            raise LocationError(
                f"the file system of {folder} takes no name of {count} bytes, as {longest.name} has: choose another "
                "file system, or shorter names"
            ) from error

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        return self._publish(key, data, lambda file, target: _put_in_place(file, target, replace=replace))

    def publish_unless_changed(self, key: str, data: bytes, etag: str | None) -> bool:
        def put(file: Path, target: Path) -> bool:  # looks once the bytes are on the disk: that may take long
            return self.etag_or_none(key) == etag and _put_in_place(file, target, replace=True)

        return self._publish(key, data, put)

    def _publish(self, key: str, data: bytes, put: Callable[[Path, Path], bool]) -> bool:
        self._require_not_read_only()
        target = self.path / relative_key(key)
        with _write_errors(target):
            modes = _Modes.like(_nearest_existing(self.path))
            _make_folders(target.parent, modes)
            temporary = target.with_name(_temporary_name())
            try:
                _write_whole(temporary, data, modes)
                published = put(temporary, target)
            finally:
                with contextlib.suppress(OSError):  # what stays behind is swept one day
                    temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
        if published:
            _sweep_once(target)
        return published

    def sweep(self) -> int:
        self._require_not_read_only()
        if self.path.is_symlink():  # to another's cache, as a rule
            return 0
        places = [Path(folder, name) for folder, _, names in os.walk(self.path) for name in names]
        found = [path for path in places if _is_temporary(path.name)]
        return _remove_old(found, _file_system_time(self.path) - _ABANDONED_AFTER) if found else 0


def _match_entries(folder: Path, part: str, forgiving: bool) -> list[Path]:
    """What is in ``folder`` and fits one part of a pattern.

    Where ``forgiving``, a folder that may not be entered is left out with a warning: it is one of many in a home.
    """
    try:
        if "*" not in part:
            return [folder / part] if stat_or_none(folder / part) is not None else []
        names = [entry.name for entry in list_entries(folder)]
    except UnreadableError as error:
        if not forgiving:
            raise
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        warnings.warn(f"left out: {access_error(cause, folder, 'list')}", stacklevel=4)
        return []
    return [folder / name for name in fnmatch.filter(names, part) if not is_hidden(name)]


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


def _file_system_time(folder: Path) -> float:
    """The time of the file system's own clock, by which files are dated: a host's may be days off."""
    probe = folder / _temporary_name()
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
    return max(0.0, _file_system_time(path.parent) - path.stat().st_mtime)


def _holds_files(folder: Path) -> bool:
    """Whether there is a file at any depth; True where that may not be looked at."""
    try:
        return any(not is_hidden(path.relative_to(folder).as_posix()) for path in files_below(folder))
    except UnreadableError:
        return True


def _read_part(file: BinaryIO, start: int, length: int) -> memoryview:
    file.seek(start)
    return memoryview(file.read(length))


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if is_folder(folder))


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
            _if_supported(os.chown, path, -1, self.group)
        _if_supported(os.chmod, path, mode)


def _if_supported(call: Callable[..., None], *arguments: Any) -> None:
    """Do what not every file system can do; one that cannot is no reason to refuse a home that can be written."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


def _make_folders(folder: Path, modes: _Modes) -> None:
    if is_folder(folder):
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
        _if_supported(os.fsync, file.fileno())
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
        if error.errno not in {*_NOT_SUPPORTED, errno.EMLINK}:
            raise
        return _rename_where_free(temporary, target)
    return True


def _rename_where_free(temporary: Path, target: Path) -> bool:
    """Move a file to where there is none; False where there is one. In one step where the system can."""
    rename = _renameat2()
    if rename is not None:
        if not rename(_HERE, os.fsencode(temporary), _HERE, os.fsencode(target), _NO_REPLACE):
            return True
        if ctypes.get_errno() == errno.EEXIST:
            return False
        if ctypes.get_errno() not in _NOT_SUPPORTED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))
    if is_file(target):
        return False
    temporary.rename(target)
    return True


_HERE = -100
"""AT_FDCWD of Linux."""

_NO_REPLACE = 1
"""RENAME_NOREPLACE."""


@functools.cache
def _renameat2() -> Any:
    """The C library's function of that name; None where it has none."""
    try:
        found = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return found


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        _if_supported(os.fsync, handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DeapcacheError:
        raise
    except OSError as error:
        raise _write_error(error, path) from error


def _write_error(error: OSError, path: Path) -> OSError:
    cause = error.strerror or error
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyError(
            f"cannot write {path}: {cause}; give a home that you may write to (--home, or DEAPCACHE_HOME)"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            f"cannot write {path}: {cause}; what was published before is whole and stays. "
            "Free some space, then run the same command again: it goes on where it stopped"
        )
    if error.errno == errno.EFBIG:
        return StorageFullError(
            f"cannot write {path}: {cause}; the file system, or the limit that `ulimit -f` shows, allows no "
            "files of this size. What was published before is whole and stays: raise the limit, or choose another home"
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return LocationError(f"cannot write {path}: {cause}; a file stands where a folder should be, or the reverse")
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return LocationError(
            f"cannot write {path}: {cause}; its folder was moved or removed meanwhile. What was published before is "
            "whole, where the folder is now: put it back, or give another home, then run the same command again"
        )
    return LocationError(f"cannot write {path}: {cause}; {advice(error)}")
