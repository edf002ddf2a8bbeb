"""Object stores, and what they share with web servers: reading through tensorstore's key-value stores."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from deapcache.errors import LocationError
from deapcache.locations.base import Location, inside


class RemoteLocation(Location):
    """A prefix in an object store, through tensorstore's key-value stores."""

    def __truediv__(self, part: str) -> RemoteLocation:
        return type(self)(f"{self.url}/{inside(part)}")

    def kvstore(self) -> dict[str, Any]:
        return SCHEMES[urlsplit(self.url).scheme](self.url + "/")

    def _store(self) -> Any:
        import tensorstore

        with _explained_remote(self.url):
            return tensorstore.KvStore.open(self.kvstore()).result()

    def read(self, key: str) -> bytes:
        with _explained_remote(f"{self.url}/{key}"):
            found = self._store().read(inside(key)).result()
        if found.state != "value":
            raise FileNotFoundError(errno.ENOENT, "no such key", f"{self.url}/{key}")
        return bytes(found.value)

    def exists(self, key: str) -> bool:
        with _explained_remote(f"{self.url}/{key}"):
            return bool(_read_first_byte(self._store(), inside(key)).state == "value")

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        store = self._store()
        with _explained_remote(f"{self.url}/{key}"):
            if replace:
                store.write(inside(key), data).result()
                return True
            before = _read_first_byte(store, inside(key))
            if before.state == "value":
                return False
            written = store.write(inside(key), data, if_equal=before.stamp.generation).result()
        return bool(written.generation)

    def keys(self, prefix: str = "") -> list[str]:
        import tensorstore

        folder = f"{inside(prefix)}/" if prefix else ""
        # "0" follows "/" in ASCII: the range holds exactly the keys that begin with the folder's name
        keys = tensorstore.KvStore.KeyRange(folder, folder[:-1] + "0" if folder else "")
        with _explained_remote(f"{self.url}/{folder}"):
            return sorted(key.decode() for key in self._store().list(keys).result())

    def delete(self, key: str) -> None:
        with _explained_remote(f"{self.url}/{key}"):
            self._store().delete_range(_single_key(inside(key))).result()


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


SCHEMES = {"s3": _s3_spec, "gs": _gcs_spec, "http": _http_spec, "https": _http_spec}
"""URL scheme → the specification of its key-value store."""


@contextlib.contextmanager
def _explained_remote(url: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, (LocationError, FileNotFoundError)):
            raise
        reason = remote_reason(error)
        raise LocationError(f"cannot reach {url}: {reason}") from error


_NO_RANGES = "was ignored by server"


def ignores_ranges(error: Exception) -> bool:
    """Whether a tensorstore error says that a web server sent a whole file where a part was asked for."""
    return _NO_RANGES in str(error)


def remote_reason(error: Exception) -> str:
    """The part of a tensorstore error that is meant for people."""
    if ignores_ranges(error):
        return (
            "the web server ignores byte ranges (Range was ignored by server) and would send whole files for every "
            "image: serve the folder with `deapcache cache serve`, nginx or any server that answers 206"
        )
    return str(error).split(" [source locations=")[0].split(" [tensorstore_spec=")[0]
