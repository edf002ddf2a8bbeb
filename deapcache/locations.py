"""Where caches, results and datasets live, and how bytes get there whole.

A :class:`Location` is a folder: a local path, or a prefix in an object store or on a web server. Everything in a cache
home is written through :meth:`Location.publish`, in one atomic step, so that a key exists if and only if it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from deapcache.errors import LocationError, ReadOnlyError, StorageFullError, UsageError

TEMPORARY_SUFFIX = ".partial"
"""Ending of files that are being written; a kill can leave them behind, :meth:`Location.sweep` removes them."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def home(given: str | os.PathLike[str] | None = None) -> Location:
    """The cache home: ``given``, else ``$DEAPCACHE_HOME``, ``$XDG_CACHE_HOME/deapcache``, ``~/.cache/deapcache``."""
    if given:
        return locate(given)
    if configured := os.environ.get("DEAPCACHE_HOME"):
        return locate(configured)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return LocalLocation(Path(base) / "deapcache")


def data_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Where datasets lie: ``given``, else ``$DEAPCACHE_DATA``, else ``./data``. It need not exist."""
    return Path(given or os.environ.get("DEAPCACHE_DATA") or "data").expanduser()


def locate(place: str | os.PathLike[str]) -> Location:
    """A location from a path or URL (``file://``, ``s3://``, ``gs://``, ``http(s)://``).

    Raises :class:`UsageError` for any other scheme.
    """
    text = os.fspath(place)
    parts = urlsplit(text)
    if "://" not in text:
        return LocalLocation(Path(text).expanduser())
    if parts.scheme == "file":
        return LocalLocation(Path(parts.path))
    if parts.scheme in _REMOTE_SPECS:
        return RemoteLocation(text)
    known = ", ".join(f"{scheme}://" for scheme in ("file", *_REMOTE_SPECS))
    raise UsageError(f"location {text!r} has the unknown scheme {parts.scheme!r}: give a path, or one of {known}")


class Location(ABC):
    """A folder of keys (relative POSIX paths) with atomic, whole writes."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    @abstractmethod
    def __truediv__(self, part: str) -> Location:
        """The sub-folder ``part``; raises :class:`UsageError` where that would leave this folder."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of ``key``; raises ``FileNotFoundError``."""

    @abstractmethod
    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        """Write ``key`` whole, in one step.

        Without ``replace`` the first one published stays: False says that the key was there already. Raises
        :class:`ReadOnlyError` or :class:`StorageFullError`; the key then does not exist.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether ``key`` is there."""

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """All keys below the folder ``prefix``, relative to this location, sorted; temporaries are left out."""

    @property
    def can_list(self) -> bool:
        """Whether :meth:`keys` works here; a web server does not list its folders."""
        return True

    def find(self, pattern: str) -> list[str]:
        """The keys that fit a pattern such as ``features/*/*/*.zarr/zarr.json``, sorted; ``*`` stays within a part."""
        parts = len(PurePosixPath(pattern).parts)
        below = self.keys(pattern.partition("/")[0])
        return [key for key in below if len(PurePosixPath(key).parts) == parts and PurePosixPath(key).match(pattern)]

    def size(self, key: str) -> int | None:
        """Bytes of ``key``, None where the store does not say; raises ``FileNotFoundError``."""
        return None

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is absent."""

    @abstractmethod
    def kvstore(self) -> dict[str, Any]:
        """tensorstore's key-value store specification of this folder."""

    def free_bytes(self) -> int | None:
        """Bytes that can still be written here; None where that is not known."""
        return None

    def require_writable(self) -> None:  # noqa: B027 - a remote store says so at the first put
        """Raise :class:`ReadOnlyError` where nothing can be written here."""

    def sweep(self, *, older_than_seconds: float = 86_400.0) -> int:
        """Remove temporaries that killed writers left, by age; returns how many."""
        return 0


class LocalLocation(Location):
    """A folder of a file system, local or network."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a lab's symbolic links
        super().__init__(str(self.path))

    def __truediv__(self, part: str) -> LocalLocation:
        return LocalLocation(self.path / _inside(part))

    def read(self, key: str) -> bytes:
        try:
            return (self.path / _inside(key)).read_bytes()
        except PermissionError as error:
            raise LocationError(
                f"cannot read {error.filename}: {error.strerror}; ask its owner to let your group read it"
            ) from error

    def exists(self, key: str) -> bool:
        return (self.path / _inside(key)).is_file()

    def keys(self, prefix: str = "") -> list[str]:
        top = self.path / _inside(prefix) if prefix else self.path
        found = [
            str(PurePosixPath(Path(folder).relative_to(self.path)) / name)
            for folder, _, names in os.walk(top)
            for name in names
            if not name.endswith(TEMPORARY_SUFFIX)
        ]
        return sorted(found)

    def find(self, pattern: str) -> list[str]:
        # Looks at the named levels only: a home holds thousands of shard files below them.
        return sorted(str(found.relative_to(self.path)) for found in self.path.glob(_inside(pattern)))

    def size(self, key: str) -> int:
        return (self.path / _inside(key)).stat().st_size

    def delete(self, key: str) -> None:
        (self.path / _inside(key)).unlink(missing_ok=True)

    def kvstore(self) -> dict[str, Any]:
        # Locks and temporaries of the driver play no part: deapcache publishes files itself (see publish).
        return {"driver": "file", "path": f"{self.path}/", "file_io_locking": {"mode": "none"}}

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(_nearest_existing(self.path)).free

    def require_writable(self) -> None:
        folder = _nearest_existing(self.path)
        with _explained(folder):
            probe = folder / f".{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
            probe.touch(exist_ok=False)
            probe.unlink()

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        target = self.path / _inside(key)
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
        return published

    def sweep(self, *, older_than_seconds: float = 86_400.0) -> int:
        limit = time.time() - older_than_seconds
        swept = 0
        for path in self.path.rglob(f".*{TEMPORARY_SUFFIX}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    path.unlink()
                    swept += 1
        return swept


class RemoteLocation(Location):
    """A prefix in an object store, or on a web server (read only), through tensorstore's key-value stores."""

    def __truediv__(self, part: str) -> RemoteLocation:
        return RemoteLocation(f"{self.url}/{_inside(part)}")

    def kvstore(self) -> dict[str, Any]:
        return _REMOTE_SPECS[urlsplit(self.url).scheme](self.url + "/")

    def _store(self) -> Any:
        import tensorstore

        with _explained_remote(self.url):
            return tensorstore.KvStore.open(self.kvstore()).result()

    def read(self, key: str) -> bytes:
        with _explained_remote(f"{self.url}/{key}"):
            found = self._store().read(_inside(key)).result()
        if found.state != "value":
            raise FileNotFoundError(errno.ENOENT, "no such key", f"{self.url}/{key}")
        return bytes(found.value)

    def exists(self, key: str) -> bool:
        with _explained_remote(f"{self.url}/{key}"):
            return bool(_read_first_byte(self._store(), _inside(key)).state == "value")

    @property
    def can_list(self) -> bool:
        return not urlsplit(self.url).scheme.startswith("http")

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        if not self.can_list:
            raise ReadOnlyError(f"{self.url} is a web server, which is read only: write to a path, s3:// or gs://")
        store = self._store()
        with _explained_remote(f"{self.url}/{key}"):
            if replace:
                store.write(_inside(key), data).result()
                return True
            before = _read_first_byte(store, _inside(key))
            if before.state == "value":
                return False
            written = store.write(_inside(key), data, if_equal=before.stamp.generation).result()
        return bool(written.generation)

    def keys(self, prefix: str = "") -> list[str]:
        import tensorstore

        if not self.can_list:
            raise LocationError(f"{self.url} is a web server, which lists no folders: give the address of one cache")
        folder = f"{_inside(prefix)}/" if prefix else ""
        # "0" follows "/" in ASCII: the range holds exactly the keys that begin with the folder's name
        keys = tensorstore.KvStore.KeyRange(folder, folder[:-1] + "0" if folder else "")
        with _explained_remote(f"{self.url}/{folder}"):
            return sorted(key.decode() for key in self._store().list(keys).result())

    def delete(self, key: str) -> None:
        with _explained_remote(f"{self.url}/{key}"):
            self._store().delete_range(_single_key(_inside(key))).result()


def _read_first_byte(store: Any, key: str) -> Any:
    """Whether a key is there, and its generation, without fetching all of it."""
    return store.read(key, byte_range=slice(0, 1)).result()


def _single_key(key: str) -> Any:
    import tensorstore

    return tensorstore.KvStore.KeyRange(key, key + "\0")


_RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "4s"}
"""A hiccup is waited out for some ten seconds; tensorstore's own 32 retries would hide a dead server for minutes."""


def _s3_spec(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    spec: dict[str, Any] = {"driver": "s3", "bucket": parts.netloc, "path": parts.path.lstrip("/")}
    spec["s3_request_retries"] = _RETRIES
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        spec["endpoint"] = endpoint
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        spec["aws_region"] = region
    return spec


def _gcs_spec(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    path = parts.path.lstrip("/")
    return {"driver": "gcs", "bucket": parts.netloc, "path": path, "gcs_request_retries": _RETRIES}


def _http_spec(url: str) -> dict[str, Any]:
    return {"driver": "http", "base_url": url, "http_request_retries": _RETRIES}


_REMOTE_SPECS = {"s3": _s3_spec, "gs": _gcs_spec, "http": _http_spec, "https": _http_spec}


def _inside(part: str) -> str:
    path = PurePosixPath(part)
    if path.is_absolute() or ".." in path.parts or "\\" in part or "\0" in part:
        raise UsageError(f"{part!r} is no name inside a location: it must be relative and without '..'")
    return str(path)


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
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return LocationError(
            f"cannot write {path}: {error.strerror}; a file stands where a folder should be, or the reverse"
        )
    return LocationError(f"cannot write {path}: {error.strerror or error}")


@contextlib.contextmanager
def _explained_remote(url: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, (LocationError, FileNotFoundError)):
            raise
        reason = str(error).split(" [source locations=")[0]
        raise LocationError(f"cannot reach {url}: {reason}") from error
