"""Object stores (S3, Google Cloud Storage), and what they share with web servers: whole objects through obstore."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from deapcache.errors import DeapcacheError, LocationError, NotAFileError, ReadOnlyError
from deapcache.locations.addresses import redacted
from deapcache.locations.base import DEFAULT_OPTIONS, Location, LocationOptions, relative_key
from deapcache.locations.stores import RETRIES, open_store, silence_seconds, store_settings
from deapcache.untrusted import is_hidden

Answer = TypeVar("Answer")

SCHEMES = ("s3", "gs", "http", "https")
"""URL schemes that are not of a file system."""


class RemoteLocation(Location):
    """A prefix in an object store."""

    def __init__(self, url: str, *, options: LocationOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(url, options=options)
        store_settings(self.url)  # an address that cannot be used is refused here, not at the first read

    def __truediv__(self, part: str) -> RemoteLocation:
        return type(self)(f"{self.url}/{relative_key(part)}", options=self.options)

    @property
    def origin(self) -> str:
        return json.dumps(store_settings(self.url), sort_keys=True)

    def _store(self, *, retries: int | None = None) -> Any:
        with _store_errors(self.url):
            return open_store(store_settings(self.url), retries=retries)

    def _request(self, question: Callable[[Any], Answer]) -> Answer:
        """What a store answers to a read, again after a while where it was lost or the server was busy."""
        store = self._store(retries=None if urlsplit(self.url).scheme in ("s3", "gs") else 0)
        return _retry(lambda: question(store))

    def read(self, key: str, *, most: int | None = None) -> bytes:
        return self._read(key, most)[0]

    def read_with_etag(self, key: str) -> tuple[bytes, str | None]:
        return self._read(key, None)

    def _read(self, key: str, most: int | None) -> tuple[bytes, str | None]:
        import obstore

        def whole(store: Any) -> tuple[bytes, str | None]:
            found = obstore.get(store, relative_key(key))
            if most is not None and (size := int(found.meta["size"])) > most:
                raise NotAFileError(f"{self}/{key} has {size:,} bytes: at most {most:,} are read of such a file")
            return bytes(found.bytes()), found.meta["e_tag"]

        with _store_errors(f"{self}/{key}"):
            return self._request(whole)

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        import obstore

        starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
        with _store_errors(f"{self}/{key}", verb="read"):
            found = self._request(
                lambda store: obstore.get_ranges(store, relative_key(key), starts=starts, lengths=lengths)
            )
            return [memoryview(part) for part in found]

    def read_tail(self, key: str, length: int) -> memoryview:
        import obstore

        with _store_errors(f"{self}/{key}", verb="read"):
            options: Any = {"range": {"suffix": length}}
            return self._request(
                lambda store: memoryview(obstore.get(store, relative_key(key), options=options).bytes())
            )

    def etag(self, key: str) -> str | None:
        tag: str | None = self._head(key)["e_tag"]
        return tag

    def size(self, key: str) -> int:
        return int(self._head(key)["size"])

    def exists(self, key: str) -> bool:
        try:
            self._head(key)
        except FileNotFoundError:
            return False
        return True

    def _head(self, key: str) -> Any:
        import obstore

        with _store_errors(f"{self}/{key}"):
            return self._request(lambda store: obstore.head(store, relative_key(key)))

    def _meta_of_first_byte(self, key: str) -> Any:
        import obstore

        options: Any = {"range": (0, 1)}
        with _store_errors(f"{self}/{key}"):
            return self._request(lambda store: obstore.get(store, relative_key(key), options=options).meta)

    def find(self, pattern: str) -> list[str]:
        # An object store lists all keys below a prefix, shards too: the answer is kept for the moments in which a
        # probe asks again and again.
        place = self.origin, pattern
        with _lock:
            known = _kept.get(place)
        if known is None or time.monotonic() - known[0] >= KEPT_SECONDS:
            known = (time.monotonic(), super().find(pattern))
            with _lock:
                _kept[place] = known
        return list(known[1])

    def require_writable(self) -> None:
        # Only a write can tell: what a user may do is decided by policies that nobody can read.
        self.publish(_WRITABLE, b"", replace=True)
        with contextlib.suppress(LocationError):  # some may put objects, and not delete them
            self.delete(_WRITABLE)

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        import obstore

        self._require_not_read_only()
        forget_listings()
        with _store_errors(f"{self}/{key}", writing=True):
            if not replace:
                return not self.exists(key) and self._create(relative_key(key), data)
            _retry(lambda: obstore.put(self._store(), relative_key(key), data))
            return True

    def _create(self, key: str, data: bytes) -> bool:
        """Put ``data`` where there was nothing a moment ago; False where there is now.

        The store decides, in one step: Google's by the generation, S3 by ``If-None-Match: *``. A server that ignores
        the header lets the last of two writers win; so does one that refuses it, which is then asked without.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        server = str(store_settings(self.url).get("config", {}).get("endpoint", ""))
        once = self._store(retries=0)  # a refusal of the condition is an error 501, which obstore would try again
        if server not in _UNCONDITIONAL:
            try:
                _retry(lambda: obstore.put(once, key, data, mode="create"))
                return True
            except AlreadyExistsError:
                return False
            except Exception as error:
                if not server or _status_of(error) != "501":
                    raise
        obstore.put(self._store(), key, data)
        _UNCONDITIONAL.add(server)
        return True

    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        return sorted(key for key in self._listed(prefix) if hidden or not is_hidden(key))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {key: size for key, size in self._listed(prefix).items() if not is_hidden(key)}

    def _listed(self, prefix: str) -> dict[str, int]:
        """All keys below a prefix, with the bytes that the listing says."""
        import obstore

        folder = relative_key(prefix) if prefix else None

        def listed() -> dict[str, int]:
            pages = obstore.list(self._store(), prefix=folder)
            return {str(each["path"]): int(each["size"]) for page in pages for each in page}

        with _store_errors(f"{self}/{prefix}"):
            return _retry(listed)

    def delete(self, key: str) -> None:
        import obstore

        self._require_not_read_only()
        forget_listings()
        with _store_errors(f"{self}/{key}", writing=True), contextlib.suppress(FileNotFoundError):
            # S3 deletes by a POST, which obstore does not repeat where its answer is lost
            _retry(lambda: obstore.delete(self._store(), relative_key(key)))


_WRITABLE = ".deapcache-writable"
"""A key that is put, and deleted again, to know whether a store can be written."""

_UNCONDITIONAL: set[str] = set()
"""Servers that speak S3, and know no condition on a write."""


def _retry(attempt: Callable[[], Answer]) -> Answer:
    """``attempt``, again after a while where the answer was lost or the server busy.

    For what obstore does not repeat by itself, such as a body that is broken off. A conditional write that has
    succeeded is refused when it is repeated, for then the key is there.
    """
    wait = RETRIES["initial_seconds"]
    for _ in range(RETRIES["max_retries"]):
        try:
            return attempt()
        except Exception as error:
            lost, status = "HTTP error" in str(error), _status_of(error)  # no answer came, or not all of it
            if not (lost or status.startswith("5") or status == "429") or status == "501":
                raise
            if re.search(r"after [1-9]\d* retries", str(error)):  # obstore has waited long enough
                raise
        time.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(2 * wait, RETRIES["most_seconds"])
    return attempt()


def _status_of(error: Exception) -> str:
    found = re.search(r"status code: (\d+)", str(error))
    return found[1] if found else ""


@contextlib.contextmanager
def _store_errors(place: str, *, writing: bool = False, verb: str = "reach") -> Iterator[None]:
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except DeapcacheError:
        raise
    except FileNotFoundError as error:
        if not writing:
            raise FileNotFoundError(errno.ENOENT, "no such key", redacted(place)) from error
        raise LocationError(f"cannot write {redacted(place)}: {remote_reason(error)}") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        reason = remote_reason(error)
        if writing:
            raise ReadOnlyError(f"cannot write {redacted(place)}: {reason}; {_WHO}, or give another --home") from error
        who = WHO_READS_A_WEB_SERVER if place.startswith("http") else _WHO
        raise LocationError(f"cannot read {redacted(place)}: {reason}; {who}") from error
    except (BaseError, ValueError, OSError, RuntimeError) as error:
        if verb == "read" and (_status_of(error) == "416" or "InvalidRange" in str(error)):
            raise ValueError("the file ends early") from error
        raise LocationError(f"cannot {verb} {redacted(place)}: {remote_reason(error)}") from error


_WHO = (
    "check whose credentials are used (AWS_PROFILE, s3://PROFILE@bucket/prefix, s3://anonymous@bucket/prefix for what "
    "is public, GOOGLE_APPLICATION_CREDENTIALS) and what they may do"
)

WHO_READS_A_WEB_SERVER = (
    "the server asks who reads, and no credentials are sent over HTTP: have the folder opened to you, or give "
    "s3:// or gs:// with credentials, or hf://datasets/OWNER/REPO with HF_TOKEN"
)
TOO_MANY = "too many requests: wait some minutes, or read each shard once with --local-tier or `deapcache cache pull`"

_STATUS = re.compile(r"status code: (\d+[A-Za-z ]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_KINDS = {"ConnectionRefused": "connection refused", "ConnectionReset": "connection reset", "Connect": "no connection"}


def remote_reason(error: Exception) -> str:
    """The part of an obstore error that is meant for people."""
    text = str(error)
    if "range request not supported" in text.lower() or "wasn't a partial content" in text.lower():
        return (
            "the web server ignores byte ranges (Range was ignored by server) and would send whole files for every "
            "image: serve the folder with `deapcache cache serve`, nginx or any server that answers 206"
        )
    if "token request" in text:
        return "no credentials were found; check GOOGLE_APPLICATION_CREDENTIALS"
    if found := _STATUS.search(text):
        code = _CODE.search(text)
        said = f"{found[1].strip()} ({code[1]})" if code else found[1].strip()
        return f"{said}; {TOO_MANY}" if said.startswith("429") else said
    if "kind: Timeout" in text:
        return f"the server is too slow, or silent: no byte for {silence_seconds():g} s"
    if known := next((said for kind, said in _KINDS.items() if f"kind: {kind}" in text), ""):
        tries = re.search(r"after (\d+) retries", text)
        return f"{known} after {tries[1]} retries" if tries else known
    return redacted(text.split("\n\nDebug source")[0])


KEPT_SECONDS = 10.0
"""How long the keys that a store listed are taken for all there are; what this process writes ends it at once."""

_lock = threading.Lock()
_kept: dict[tuple[str, str], tuple[float, list[str]]] = {}
"""Place and pattern → when they were listed, and what was there."""


def forget_listings() -> None:
    """Ask the stores again: something was written."""
    with _lock:
        _kept.clear()
