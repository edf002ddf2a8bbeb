"""A read-only web server for the caches of a home: nothing but caches and their lists, and a page for people.

Clients change nothing; the server itself notes in ``uses/http.json`` which caches are read.

One thread a connection, byte ranges, files sent by the operating system, GET and HEAD only.

The standard library's server is enough here: everything is a file, and a shard is sent without passing through Python.
It is made for a lab's network; to the open internet, put nginx or an object store over the same folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import io
import math
import os
import re
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from deapcache.cache.format import read_group
from deapcache.cache.image_ids import BYTES, OFFSETS
from deapcache.cache.names import DEPTH, KINDS, SUFFIX
from deapcache.cache.records import RENEWED_AFTER, add_use
from deapcache.cache.web_index import (
    IndexEntry,
    index_bytes,
    list_cache,
    list_home,
    manifest_bytes,
    parse_index,
    parse_manifest,
)
from deapcache.errors import CacheMissError, DeapcacheError, LocationError, UsageError
from deapcache.locations import INDEX, MANIFEST, LocalLocation, Location, access_error, file_state, format_bytes

# --- the server -------------------------------------------------------------------------------------------------------

SHARDS_KEPT = "public, max-age=31536000, immutable"
"""How long others may keep a shard: it is written once."""
ASKED_AGAIN = "no-cache"
"""Metadata and lists may be kept, but must be asked for again: an ETag says whether they are new."""
HTTP = "http"
"""Who a reader over HTTP is in ``uses/``."""
_SILENCE = 60.0
"""Seconds after which a connection on which nothing moves is closed."""


class HomeServer(http.server.ThreadingHTTPServer):
    """Serves the caches of a home; ``serve_forever`` until ``shutdown`` or Ctrl-C.

    Raises :class:`UsageError` where the home is no folder, :class:`LocationError` where the port cannot be had.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, home: Location, host: str, port: int) -> None:
        if not isinstance(home, LocalLocation) or not home.path.is_dir():
            raise UsageError(f"{home} is no folder of this machine: serve a home that is a path (--home)")
        if not 0 <= port < 65_536:  # the resolver would take it modulo 65,536
            raise UsageError(f"there is no port {port}: give one from 0 to 65535")
        self.home = home
        self.derived = DerivedLists(home)
        self._noted: dict[str, float] = {}
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self.address_family = family
            super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise LocationError(
                f"cannot listen on {host}, port {port}: {error}; give another --host or --port"
            ) from error

    @property
    def url(self) -> str:
        """The address at which this machine reaches the server."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host!s}:{port}"

    def note_use(self, key: str) -> None:
        """Note in the home, where this process may write there, that somebody reads the cache of a shard's key.

        At most once an hour; who it was is not known, nor asked: ``http``.
        """
        path, now = "/".join(key.split("/")[:DEPTH]), time.monotonic()
        if now - self._noted.get(path, -math.inf) < RENEWED_AFTER.total_seconds():
            return
        self._noted[path] = now
        with contextlib.suppress(DeapcacheError, OSError):
            add_use(self.home, path, read_group(self.home / path).digest, HTTP)

    def server_bind(self) -> None:
        # not HTTPServer's, which asks name servers who we are
        super(http.server.HTTPServer, self).server_bind()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        # a reader that has gone away is no event
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HomeServer
    protocol_version = "HTTP/1.1"
    server_version = "deapcache"
    sys_version = ""
    timeout = _SILENCE
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _refuse(self) -> None:
        self.close_connection = True  # what the request carries is not read
        self._send_text(HTTPStatus.METHOD_NOT_ALLOWED, "this server is read only", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815 - names that the library looks for

    def log_message(self, *_: Any) -> None:
        """Nothing: a training run makes a request for every image."""

    def _answer(self) -> None:
        key = key_of(self.path)
        try:
            if self.path.partition("?")[0] in ("/", "/index.html"):
                self._send_page()
                return
            with self._open(key) as found:
                self._send_found(key, found)
        except CacheMissError:
            self._send_found(key, None)
        except PermissionError:
            self._send_text(HTTPStatus.FORBIDDEN, "the server may not read this file")
        except DeapcacheError as error:
            # told to the server's own people: it may name folders of this machine
            print(f"{key or 'index page'}: {error}", file=sys.stderr)
            self._send_text(HTTPStatus.INTERNAL_SERVER_ERROR, "the server cannot read this cache")

    @contextlib.contextmanager
    def _open(self, key: str | None) -> Iterator[OpenFile | None]:
        found = open_key(self.server.home.path, key) if key else None
        if found and key and not self.server.derived.can_be_sent(key, found.content):
            found.content.close()
            found = None
        if found is None and key and (data := self.server.derived.document(key)) is not None:
            etag = hashlib.sha256(data).hexdigest()[:32]
            found = OpenFile(content=io.BytesIO(data), size=len(data), etag=f'"{etag}"')
        try:
            yield found
        finally:
            if found:
                found.content.close()

    def _send_found(self, key: str | None, found: OpenFile | None) -> None:
        if key is None or found is None:
            self._send_text(HTTPStatus.NOT_FOUND, "no such key")
            return
        kept = SHARDS_KEPT if is_shard(key) else ASKED_AGAIN
        about = {"ETag": found.etag, "Cache-Control": kept, "Accept-Ranges": "bytes"}
        known = self.headers.get("If-None-Match") or ""
        if found.etag in known or known.strip() == "*":
            self._send_head(HTTPStatus.NOT_MODIFIED, about)
            return
        about["Content-Type"] = "application/json" if key.endswith(".json") else "application/octet-stream"
        self._send_file(key, found, about)

    def _send_file(self, key: str, found: OpenFile, about: dict[str, str]) -> None:
        unchanged = self.headers.get("If-Range") in (None, found.etag)
        try:
            part = requested_range(self.headers.get("Range") if unchanged else None, found.size)
        except UnsatisfiableError:
            self._send_text(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "no such bytes", {"Content-Range": f"bytes */{found.size}"}
            )
            return
        whole = range(found.size) if part is None else part
        if part is not None:
            about["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{found.size}"
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        self._send_head(status, about, len(whole))
        if self.command == "GET" and whole:
            if is_shard(key) and key.split("/")[DEPTH] not in (BYTES, OFFSETS):
                self.server.note_use(key)
            sent = self.connection.sendfile(found.content, whole.start, len(whole))
            # a file that became shorter: fewer bytes than announced must not look like all of them
            self.close_connection = self.close_connection or sent < len(whole)

    def _send_page(self) -> None:
        host = self.headers.get("Host") or self.server.url.removeprefix("http://")
        page = index_page(self.server.derived.entries(), f"http://{host}")
        about = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
        self._send_head(HTTPStatus.OK, {**about, "Cache-Control": ASKED_AGAIN}, len(page))
        if self.command == "GET":
            self.wfile.write(page)

    def _send_text(self, status: HTTPStatus, text: str, about: dict[str, str] | None = None) -> None:
        data = f"{text}\n".encode()
        headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store", **(about or {})}
        self._send_head(status, headers, len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_head(self, status: HTTPStatus, about: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in about.items():
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


# --- which file a request means ---------------------------------------------------------------------------------------

_PART = re.compile(r"[A-Za-z0-9_@+=~-][A-Za-z0-9_.@+=~-]*", re.ASCII)
"""One part of a key: what names and shards are made of. No dot comes first, so neither ``..`` nor a temporary fits."""

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
"""Of what is not there, or is no file: a socket is ENXIO."""

_SHARD = re.compile(r"c\.\d+(\.0)*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """A file to be sent; whoever holds it closes ``content``."""

    content: BinaryIO
    size: int
    etag: str


def key_of(target: str) -> str | None:
    """The key that a request's target means; None for anything that is no key of a cache or the index."""
    path = unquote(target.partition("?")[0].partition("#")[0], errors="replace").removeprefix("/")
    parts = path.split("/")
    if path == INDEX:
        return path
    belongs = len(parts) > DEPTH and parts[0] in KINDS and parts[DEPTH - 1].endswith(SUFFIX)
    return path if belongs and all(_PART.fullmatch(part) for part in parts) else None


def cache_of(key: str) -> str | None:
    """The path of the cache whose manifest ``key`` is."""
    cache, _, name = key.rpartition("/")
    return cache if name == MANIFEST and cache.count("/") == DEPTH - 1 else None


def is_shard(key: str) -> bool:
    """Whether ``key`` holds a chunk or a shard, which is written once."""
    return bool(_SHARD.fullmatch(key.rpartition("/")[2]))


def open_key(home: Path, key: str) -> OpenFile | None:
    """The file of ``key``; None where there is none, or where links lead out of ``home``.

    Raises ``PermissionError`` where it may not be read, :class:`LocationError` where one could not look.
    """
    try:
        path = (home / key).resolve(strict=True)
        if not path.is_relative_to(home.resolve()):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except RuntimeError:  # links in a circle
        return None
    except OSError as error:
        if error.errno not in _ABSENT:
            raise access_error(error, home / key) from error
        return None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        return None
    content = os.fdopen(descriptor, "rb", buffering=0)
    # A file is never changed in place: a new one has another inode or time.
    etag = "-".join(f"{number:x}" for number in file_state(facts))
    return OpenFile(content=content, size=facts.st_size, etag=f'"{etag}"')


# --- which bytes of it (RFC 9110, section 14) -------------------------------------------------------------------------

_ONE_RANGE = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE | re.ASCII)


class UnsatisfiableError(Exception):
    """The range begins behind the end of the file."""


def requested_range(header: str | None, size: int) -> range | None:
    """The bytes that a ``Range`` header asks for, of a file of ``size`` bytes; None where all are to be sent.

    All are sent where there is no header, several ranges, another unit or something that cannot be read, as the
    standard allows. Raises :class:`UnsatisfiableError`.
    """
    found = _ONE_RANGE.fullmatch(header or "")
    if not found or found[0].strip().endswith("=-"):
        return None
    first, last = found.groups()
    if not first:
        return _clip_range(max(0, size - int(last)), size, size)
    if last and int(last) < int(first):
        return None
    return _clip_range(int(first), int(last) + 1 if last else size, size)


def _clip_range(start: int, stop: int, size: int) -> range:
    wanted = range(start, min(stop, size))
    if not wanted:
        raise UnsatisfiableError
    return wanted


# --- lists that the home lacks, written nowhere -----------------------------------------------------------------------

LIFE = 5.0
"""Seconds for which a listing is kept."""


class DerivedLists:
    """What ``index.json`` and ``manifest.json`` would say; safe between threads, one of which lists at a time."""

    def __init__(self, home: LocalLocation) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Any]] = {}

    def entries(self) -> list[IndexEntry]:
        """The caches of the home."""
        return list(self._listed(INDEX, lambda: list_home(self._home)))

    def document(self, key: str) -> bytes | None:
        """The content of a document; None where ``key`` is none. Raises what listing a cache raises."""
        if key == INDEX:
            return index_bytes(self.entries())
        cache = cache_of(key)
        if cache is None:
            return None
        return bytes(self._listed(cache, lambda: manifest_bytes(list_cache(self._home / cache))))

    def can_be_sent(self, key: str, content: BinaryIO) -> bool:
        """Whether a file can be sent as it is: not one of these documents where it is damaged. It is left rewound."""
        if key != INDEX and cache_of(key) is None:
            return True
        data = content.read()
        content.seek(0)
        return (parse_index(data) if key == INDEX else parse_manifest(data)) is not None

    def _listed(self, what: str, look: Callable[[], Any]) -> Any:
        with self._lock:
            then, found = self._kept.get(what, (-math.inf, None))
            if time.monotonic() - then > LIFE:
                found = look()
                self._kept[what] = time.monotonic(), found
            return found


# --- the page for people: no script, nothing from afar ----------------------------------------------------------------

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_PAGE = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>deapcache: {{ entries | length }} caches</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}
table{border-collapse:collapse}th,td{padding:.25em .8em .25em 0;text-align:left;border-bottom:1px solid #ddd}
td.n,th.n{text-align:right}pre,code{background:#f4f4f4;padding:.1em .3em}pre{padding:.8em;overflow-x:auto}
</style></head>
<body>
<h1>Feature caches</h1>
<p>{{ entries | length }} caches, {{ entries | sum("bytes") | size }}, read only.
For machines: <a href="index.json">index.json</a>.</p>
{% if entries %}<table>
<tr><th>kind</th><th>dataset</th><th>split</th><th>name</th><th>view</th>
<th class="n">images</th><th class="n">size</th><th>digest</th></tr>
{% for one in entries %}<tr><td>{{ one.kind }}</td><td>{{ one.dataset }}</td><td>{{ one.split }}</td>
<td>{{ one.name }}</td><td>{{ one.view }}</td>
<td class="n">{{ one.images | number }}{% if one.images < one.total %} of {{ one.total | number }}{% endif %}</td>
<td class="n">{{ one.bytes | size }}</td><td><a href="{{ one.path }}/zarr.json">{{ one.digest[:12] }}</a></td></tr>
{% endfor %}</table>{% else %}<p>There are no caches yet.</p>{% endif %}
<h2>Use them</h2>
<pre>deapcache cache ls --home {{ address }}
deapcache probe --task TASK --home {{ address }} --results-home PATH</pre>
<p>Or in Python: <code>deapcache.list_caches(deapcache.home("{{ address }}"))</code></p>
</body>
</html>
"""


def index_page(entries: Sequence[IndexEntry], address: str) -> bytes:
    """The page as UTF-8 HTML; ``address`` is how the visitor reaches this home."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"size": format_bytes, "number": "{:,}".format}
    return environment.from_string(_PAGE).render(entries=entries, address=address).encode()
