"""The web server: one thread a connection, files sent by the operating system, GET and HEAD only.

The standard library's server is enough here: everything is a file, and a shard is sent without passing through Python.
It is made for a lab's network; to the open internet, put nginx or an object store over the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import socket
import sys
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from deapcache.cache.serving.derived import Derived
from deapcache.cache.serving.files import OpenFile, is_shard, key_of, open_key
from deapcache.cache.serving.page import CONTENT_SECURITY_POLICY, index_page
from deapcache.cache.serving.ranges import UnsatisfiableError, requested_range
from deapcache.errors import CacheMissError, DeapcacheError, LocationError, UsageError
from deapcache.locations import LocalLocation, Location

SHARDS_KEPT = "public, max-age=31536000, immutable"
"""How long others may keep a shard: it is written once."""
ASKED_AGAIN = "no-cache"
"""Metadata and lists may be kept, but must be asked for again: an ETag says whether they are new."""
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
        self.derived = Derived(home)
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
            with self._opened(key) as found:
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
    def _opened(self, key: str | None) -> Iterator[OpenFile | None]:
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
        self._send_file(found, about)

    def _send_file(self, found: OpenFile, about: dict[str, str]) -> None:
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
