"""Web servers: read only, and listed by the documents that writers keep there, since plain HTTP cannot list."""

from __future__ import annotations

import errno
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from deapcache.errors import LocationError, NotAFileError, ReadOnlyError, UsageError
from deapcache.locations.addresses import redacted
from deapcache.locations.base import DEFAULT_OPTIONS, LocationOptions, relative_key
from deapcache.locations.remote import TOO_MANY, WHO_READS_A_WEB_SERVER, RemoteLocation
from deapcache.locations.stores import RETRIES, silence_seconds

INDEX = "index.json"
"""In a home: its caches."""
MANIFEST = "manifest.json"
"""In a cache: its keys and their sizes."""
LISTING_FORMAT = 1
"""Version of both documents."""

_LISTED = ("features", "images", "targets")
_ROOT_KEY = "zarr.json"
_LIFE = 10.0
"""Seconds for which a document is believed; writers renew theirs about as often."""
_BURST = 1.0
"""Seconds within which a document is not fetched again even where something seems to be missing."""

_OF_ADDRESS = "%/:@[]+=~,;!$&'()*"
"""Characters of an address that stay as they are."""

Listed = dict[str, int]
"""Key → bytes."""


class WebLocation(RemoteLocation):
    """A folder on a web server.

    ``exists`` and ``read`` ask the server for the key itself. ``keys``, ``find`` and ``size`` are answered from
    ``manifest.json`` (the folder is a cache) or ``index.json`` (it is a home), which may lag behind a writer: they list
    less then, never more.
    """

    def __init__(self, url: str, *, options: LocationOptions = DEFAULT_OPTIONS) -> None:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            place = f"{parts.scheme}://{parts.hostname}{parts.path}"
            raise UsageError(
                f"{place}: give the address without user, password, ? and #; they would end in logs and results"
            )
        super().__init__(url, options=options)
        self._remembered: dict[str, tuple[float, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remembered": {}}  # another process looks for itself

    @property
    def can_list(self) -> bool:
        return self._manifest() is not None or self._index() is not None

    def keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        folder = relative_key(prefix) if prefix else ""
        manifest = self._manifest()
        if manifest is None:
            paths = [path for path in self._caches(folder) if _is_below(path, folder) or _is_below(folder, path)]
            found = [f"{path}/{key}" for path in paths for key in (self / path).keys("")]
        else:
            found = list(manifest)
        return sorted(key for key in found if _is_below(key, folder))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return self.sizes_of(self.keys(prefix))

    def find(self, pattern: str) -> list[str]:
        if not pattern.endswith(f"/{_ROOT_KEY}"):
            return super().find(pattern)
        keys = [f"{path}/{_ROOT_KEY}" for path in self._caches(relative_key(pattern))]
        parts = len(PurePosixPath(pattern).parts)
        return sorted(k for k in keys if len(PurePosixPath(k).parts) == parts and PurePosixPath(k).match(pattern))

    def size(self, key: str) -> int:
        listed = (self._manifest() or {}).get(relative_key(key))
        return super().size(key) if listed is None else listed

    def refresh(self) -> bool:
        times = [then for then, _ in self._remembered.values()]
        if not times or time.monotonic() - min(times) < _BURST:
            return False
        self._remembered.clear()
        return True

    def read(self, key: str, *, most: int | None = None) -> bytes:
        try:
            return read_url(quote(f"{self.url}/", safe=_OF_ADDRESS) + quote(relative_key(key), safe="/+=~"), most)
        except RefusedError as error:
            raise LocationError(f"cannot read {self}/{key}: {error}") from error

    def read_with_etag(self, key: str) -> tuple[bytes, str | None]:
        etag = self.etag(key)
        return self.read(key), etag

    def _head(self, key: str) -> Any:
        from obstore.exceptions import PermissionDeniedError

        try:
            return super()._head(key)
        except LocationError as error:
            if not isinstance(error.__cause__, PermissionDeniedError):
                raise
            # an address that is signed for GET, to which a server redirects, refuses HEAD
            return self._meta_of_first_byte(key)

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        raise self._read_only()

    def delete(self, key: str) -> None:
        raise self._read_only()

    def require_writable(self) -> None:
        raise self._read_only()

    def _read_only(self) -> ReadOnlyError:
        return ReadOnlyError(f"{self.url} is a web server, which is read only: write to a path, s3:// or gs://")

    def _caches(self, wanted: str) -> list[str]:
        """Paths of the caches; raises :class:`LocationError` where ``wanted`` is nothing that an index lists."""
        index = self._index()
        if index is None:
            raise LocationError(
                f"{self.url} has no {INDEX}, and a web server lists no folders: run `deapcache cache index --home …` "
                "over the folder that it serves, or give the address of one cache"
            )
        if wanted and wanted.partition("/")[0] not in _LISTED:
            raise LocationError(
                f"{self.url} is a web server, whose {INDEX} lists caches and nothing else: what {wanted} is there "
                "cannot be told. Give a home that can be listed (a path, s3:// or gs://)"
            )
        return index

    def _manifest(self) -> Listed | None:
        found: Listed | None = self._document(MANIFEST)
        return found

    def _index(self) -> list[str] | None:
        found: list[str] | None = self._document(INDEX)
        return found

    def _document(self, name: str) -> Any:
        """What the document says, None where there is none; a manifest that cannot be used is as if there were none."""
        then, found = self._remembered.get(name, (0.0, None))
        if then and time.monotonic() - then < _LIFE:
            return found
        try:
            found = _parse_document(f"{self.url}/{name}", self.read(name))
        except FileNotFoundError:
            found = None
        except _UnusableError:
            if name == INDEX:
                raise
            found = None
        self._remembered[name] = time.monotonic(), found
        return found


class _UnusableError(LocationError):
    """A document is not what this version of deapcache writes."""


def _parse_document(place: str, data: bytes) -> Any:
    """Of an index the paths of its caches, of a manifest its keys with their bytes."""
    try:
        document = json.loads(data)
        if (version := document["format"]) == LISTING_FORMAT:
            if place.endswith(f"/{INDEX}"):
                return [relative_key(entry["path"]) for entry in document["caches"]]
            sizes: dict[str, Any] = document["keys"]
            if odd := [key for key, size in sizes.items() if type(size) is not int or size < 0]:
                raise ValueError(f"{odd[0]!r} has no size")
            return {relative_key(key): size for key, size in sizes.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise _UnusableError(
            f"{place} is not what deapcache writes ({type(error).__name__}: {error}): check the address, or run "
            "`deapcache cache index --home …` over the folder that is served"
        ) from None
    raise _UnusableError(f"{place} has format {version!r}, this deapcache reads {LISTING_FORMAT}: upgrade deapcache")


def _is_below(key: str, folder: str) -> bool:
    return not folder or key.startswith(f"{folder}/") or key == folder


# --- whole files from servers that may be anybody's: no more bytes than expected, in no more time than sensible -------

MOST_BYTES = 1 << 32
"""Of a file for which nobody says how large it may be."""
MOST_OF_A_DOCUMENT = 1 << 24
"""Of a file of JSON: the manifest of a cache of a hundred thousand shards has half of that."""

_LEAST_RATE = 1 << 16
"""Bytes a second: below it, on the whole, a server is given up as if it were silent."""
_PIECE = 1 << 20
_HEADERS = {"Accept-Encoding": "identity", "Cache-Control": "no-cache", "User-Agent": "deapcache"}
_MISSING = (404, 410)
_REFUSED = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(LocationError):
    """The server wants to know who asks."""


def read_url(url: str, most: int | None) -> bytes:
    """The file at ``url``, of ``most`` bytes at most.

    What a server sends compressed is not unpacked but refused: the length says nothing of what comes of it. Hiccups are
    waited out for some seconds. Raises ``FileNotFoundError``, :class:`NotAFileError` for a larger file, and
    :class:`LocationError`.
    """
    silence = silence_seconds()
    limit = most if most is not None else MOST_OF_A_DOCUMENT if url.endswith(".json") else MOST_BYTES
    for attempt in range(RETRIES["max_retries"] + 1):
        try:
            return _fetch_within(silence + limit / _LEAST_RATE, url, limit, silence)
        except (OSError, http.client.HTTPException) as error:
            problem: Exception = error
        if isinstance(problem, urllib.error.HTTPError):
            _raise_for_status(url, problem)
        if isinstance(problem, (FileNotFoundError, LocationError)):
            raise problem
        if attempt < RETRIES["max_retries"]:
            time.sleep(min(RETRIES["most_seconds"], RETRIES["initial_seconds"] * 2**attempt))
    raise LocationError(f"cannot reach {redacted(url)}: {_reason(problem)}") from problem


def _raise_for_status(url: str, answer: urllib.error.HTTPError) -> None:
    """Raise what an answer stands for; nothing for one that may be another in a moment."""
    answer.close()
    if answer.code in _MISSING:
        raise FileNotFoundError(errno.ENOENT, "no such key", redacted(url)) from None
    if answer.code in _REFUSED:
        reason = f"{_REFUSED[answer.code]}: HTTP response code: {answer.code}"
        raise RefusedError(f"{reason}; {WHO_READS_A_WEB_SERVER}") from None
    if answer.code not in _PASSING:
        raise LocationError(f"cannot reach {redacted(url)}: HTTP response code: {answer.code}") from None


def _reason(problem: Exception) -> str:
    if isinstance(problem, urllib.error.HTTPError):
        return f"HTTP response code: {problem.code}{f'; {TOO_MANY}' if problem.code == 429 else ''}"
    inner = problem.reason if isinstance(problem, urllib.error.URLError) else problem
    return redacted(" ".join(str(inner).split()) or type(inner).__name__)


def _fetch_within(seconds: float, url: str, limit: int, silence: float) -> bytes:
    """:func:`_fetch`, given up after so many seconds, wherever the server lets it hang."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["data"] = _fetch(url, limit, silence, outcome)
        except BaseException as error:  # raised in the thread that asked
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(2 * silence)
    if thread.is_alive() and "answered" in outcome:
        thread.join(seconds)
    if thread.is_alive():
        raise LocationError(f"cannot reach {redacted(url)}: no whole answer in the time that it may take")
    if "error" in outcome:
        raise outcome["error"]
    data: bytes = outcome["data"]
    return data


def _fetch(url: str, limit: int, silence: float, outcome: dict[str, Any]) -> bytes:
    begun = time.monotonic()
    request = urllib.request.Request(url, headers=_HEADERS)
    with urllib.request.urlopen(request, timeout=silence) as answer:
        outcome["answered"] = True
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise LocationError(
                f"cannot read {redacted(url)}: the web server sends it compressed ({encoding[:20]}), though it is "
                "asked not to: switch that off for the folder"
            )
        announced = answer.headers.get("Content-Length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise _too_large(url, limit)
        pieces, received = [], 0
        while piece := answer.read1(_PIECE):
            pieces.append(piece)
            received += len(piece)
            if received > limit:
                raise _too_large(url, limit)
            if time.monotonic() - begun > silence + received / _LEAST_RATE:
                raise LocationError(f"cannot reach {redacted(url)}: it comes too slowly, {received:,} bytes so far")
        if announced.isdecimal() and received < int(announced):
            raise http.client.IncompleteRead(b"", int(announced) - received)
    return b"".join(pieces)


def _too_large(url: str, limit: int) -> NotAFileError:
    return NotAFileError(f"{redacted(url)} has more than {limit:,} bytes: no more are read of such a file")
