"""Object stores, and what they share with web servers: reading through tensorstore's key-value stores."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from deapcache.errors import DeapcacheError, LocationError, ReadOnlyError
from deapcache.locations.base import PLAIN, Location, Use, inside, is_hidden
from deapcache.locations.listings import forget_listings, remembered_listing
from deapcache.locations.redaction import redacted
from deapcache.locations.stores import RETRIES as _RETRIES
from deapcache.locations.stores import gcs_spec, s3_spec
from deapcache.locations.waiting import limit_silence


class RemoteLocation(Location):
    """A prefix in an object store, through tensorstore's key-value stores."""

    def __init__(self, url: str, *, use: Use = PLAIN) -> None:
        super().__init__(url, use=use)
        self.kvstore()  # an address that cannot be used is refused here, not at the first read

    def __truediv__(self, part: str) -> RemoteLocation:
        return type(self)(f"{self.url}/{inside(part)}", use=self.use)

    def kvstore(self) -> dict[str, Any]:
        limit_silence()
        return SCHEMES[urlsplit(self.url).scheme](self.url + "/")

    def _store(self) -> Any:
        with _explained_remote(self.url):
            return _opened_store(json.dumps(self.kvstore()))

    def read(self, key: str) -> bytes:
        return self.read_stamped(key)[0]

    def read_stamped(self, key: str) -> tuple[bytes, str | None]:
        with _explained_remote(f"{self.url}/{key}"):
            found = self._store().read(inside(key)).result()
        return bytes(self._required(found, key).value), _stamp_of(found)

    def stamp(self, key: str) -> str | None:
        with _explained_remote(f"{self.url}/{key}"):
            found = _read_first_byte(self._store(), inside(key))
        return _stamp_of(self._required(found, key))

    def size(self, key: str) -> int | None:
        if self._scheme != "s3":
            return None
        try:
            # S3 tells the size of an object in its refusal of a range that lies behind it.
            with _explained_remote(f"{self.url}/{key}"):
                self._required(self._store().read(inside(key), byte_range=_BEHIND_ANY).result(), key)
        except LocationError as error:
            told = re.search(r"<ActualObjectSize>(\d+)<", str(error.__cause__).replace("\\n", ""))
            if told is None and "OUT_OF_RANGE" not in str(error.__cause__):
                raise
            return int(told[1]) if told else None
        return None

    def _required(self, found: Any, key: str) -> Any:
        if found.state != "value":
            raise FileNotFoundError(errno.ENOENT, "no such key", f"{self}/{key}")
        return found

    def exists(self, key: str) -> bool:
        with _explained_remote(f"{self.url}/{key}"):
            return bool(_read_first_byte(self._store(), inside(key)).state == "value")

    @property
    def _scheme(self) -> str:
        return urlsplit(self.url).scheme

    def find(self, pattern: str) -> list[str]:
        # An object store lists all keys below a prefix, shards too: the answer is kept for the moments in which a
        # probe asks again and again.
        return remembered_listing(
            (json.dumps(self.kvstore()), pattern), lambda: super(RemoteLocation, self).find(pattern)
        )

    def require_writable(self) -> None:
        # Only a write can tell: what a user may do is decided by policies that nobody can read.
        self.publish(_WRITABLE, b"", replace=True)
        with contextlib.suppress(LocationError):  # some may put objects, and not delete them
            self.delete(_WRITABLE)

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        self._require_own()
        store = self._store()
        forget_listings()
        with _explained_remote(f"{self.url}/{key}", writing=True):
            if replace:
                store.write(inside(key), data).result()
                return True
            before = _read_first_byte(store, inside(key))
            return before.state != "value" and _create(self.kvstore(), inside(key), data, before.stamp.generation)

    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        import tensorstore

        folder = f"{inside(prefix)}/" if prefix else ""
        # "0" follows "/" in ASCII: the range holds exactly the keys that begin with the folder's name
        keys = tensorstore.KvStore.KeyRange(folder, folder[:-1] + "0" if folder else "")
        with _explained_remote(f"{self.url}/{folder}"):
            found = [key.decode() for key in self._store().list(keys).result()]
        return sorted(key for key in found if hidden or not is_hidden(key))

    def delete(self, key: str) -> None:
        self._require_own()
        forget_listings()
        with _explained_remote(f"{self.url}/{key}", writing=True):
            self._store().delete_range(_single_key(inside(key))).result()


_WRITABLE = ".deapcache-writable"
"""A key that is put, and deleted again, to know whether a store can be written."""

_BEHIND_ANY = slice(1 << 50, (1 << 50) + 1)
"""A byte that no object has."""


@functools.cache
def _shared_context() -> Any:
    """Connections, and credentials once they are found, serve all stores of this process."""
    import tensorstore

    return tensorstore.Context()


@functools.lru_cache(maxsize=1024)
def _opened_store(spec: str) -> Any:
    import tensorstore

    return tensorstore.KvStore.open(json.loads(spec), context=_shared_context()).result()


_UNCONDITIONAL: set[str] = set()
"""Servers that speak S3, and know no condition on a write."""


def _create(spec: dict[str, Any], key: str, data: bytes, nothing: bytes) -> bool:
    """Put ``data`` where there was nothing a moment ago, whose generation is ``nothing``; False where there is now.

    The store decides, in one step: Google's by the generation, S3 by ``If-None-Match: *``. A server that ignores the
    header lets the last of two writers win; so does one that refuses it, which is then asked without.
    """
    server = spec.get("endpoint", "")
    conditional = {**spec, "use_conditional_write": True} if spec["driver"] == "s3" else spec
    if server not in _UNCONDITIONAL:
        try:
            return bool(_opened_store(json.dumps(conditional)).write(key, data, if_equal=nothing).result().generation)
        except NotImplementedError:  # status 501: the server does not know a header
            if not server:
                raise
    _opened_store(json.dumps(spec)).write(key, data).result()
    _UNCONDITIONAL.add(server)
    return True


def _stamp_of(found: Any) -> str | None:
    generation: bytes = found.stamp.generation
    return generation.hex() or None


def _read_first_byte(store: Any, key: str) -> Any:
    """Whether a key is there, and its generation, without fetching all of it."""
    return store.read(key, byte_range=slice(0, 1)).result()


def _single_key(key: str) -> Any:
    import tensorstore

    return tensorstore.KvStore.KeyRange(key, key + "\0")


def _http_spec(url: str) -> dict[str, Any]:
    return {"driver": "http", "base_url": url, "http_request_retries": _RETRIES}


SCHEMES = {"s3": s3_spec, "gs": gcs_spec, "http": _http_spec, "https": _http_spec}
"""URL scheme → the specification of its key-value store."""


@contextlib.contextmanager
def _explained_remote(url: str, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, RuntimeError, LookupError) as error:  # tensorstore has no class of its own
        if isinstance(error, (DeapcacheError, FileNotFoundError)):
            raise
        place, reason = redacted(url), remote_reason(error)
        if not reason.startswith(_REFUSED):
            raise LocationError(f"cannot reach {place}: {reason}") from error
        if writing:
            raise ReadOnlyError(f"cannot write {place}: {reason}; {_WHO}, or give another --home") from error
        raise LocationError(f"cannot read {place}: {reason}; {_WHO}") from error


_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_WHO = (
    "check whose credentials are used (AWS_PROFILE, s3://PROFILE@bucket/prefix, s3://anonymous@bucket/prefix for what "
    "is public, GOOGLE_APPLICATION_CREDENTIALS) and what they may do"
)


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
    # What follows in brackets are the server's words, which can name keys and accounts.
    return redacted(str(error).split(" [")[0].removesuffix(": Unknown"))
