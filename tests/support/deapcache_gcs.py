"""As much of Google Cloud Storage's XML interface as a home needs, in memory."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from deapcache_servers import in_a_thread

BUCKET = "/lab"


def environment_of(url: str) -> dict[str, str]:
    """Variables that let a process into the buckets of the server at ``url``."""
    return {"GOOGLE_BASE_URL": url, "GOOGLE_BEARER_TOKEN": "token"}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path.removeprefix(f"{BUCKET}/"))

    def do_GET(self) -> None:
        parts, objects = urlsplit(self.path), self.server.objects  # type: ignore[attr-defined]
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        if parts.path.rstrip("/") == BUCKET:
            prefix = parse_qs(parts.query).get("prefix", [""])[0]
            listed = [_listed(name, *objects[name]) for name in sorted(objects) if name.startswith(prefix)]
            page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(listed)}</ListBucketResult>"
            self._answer(200, page.encode())
            return
        if self._name() not in objects:
            self._answer(404, b"")
            return
        data, generation = objects[self._name()]
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        headers = _headers(generation)
        if not found:
            self._answer(200, data, {**headers, "Content-Length": str(len(data))})
            return
        start = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
        stop = min(int(found[2]) + 1, len(data)) if found[1] and found[2] else len(data)
        self._answer(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    do_HEAD = do_GET  # noqa: N815 - a name of http.server

    def do_PUT(self) -> None:
        data, name = self.rfile.read(int(self.headers["Content-Length"])), self._name()
        with self.server.lock:  # type: ignore[attr-defined]
            _, generation = self.server.objects.get(name, (b"", 0))  # type: ignore[attr-defined]
            wanted = self.headers.get("x-goog-if-generation-match")
            if wanted is not None and int(wanted) != generation:
                self._answer(412, b"")
                return
            self.server.generation += 1  # type: ignore[attr-defined]
            self.server.objects[name] = data, self.server.generation  # type: ignore[attr-defined]
            self._answer(200, b"", _headers(self.server.generation))  # type: ignore[attr-defined]

    def do_DELETE(self) -> None:
        there = self.server.objects.pop(self._name(), None)  # type: ignore[attr-defined]
        self._answer(204 if there else 404, b"")


def _headers(generation: int) -> dict[str, str]:
    return {
        "ETag": f'"{generation}"',
        "x-goog-generation": str(generation),
        "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT",
    }


def _listed(name: str, data: bytes, generation: int) -> str:
    facts = f"<Size>{len(data)}</Size><ETag>{generation}</ETag><LastModified>2026-11-02T10:00:00.000Z</LastModified>"
    return f"<Contents><Key>{escape(name)}</Key>{facts}</Contents>"


@contextmanager
def gcs_served() -> Iterator[tuple[str, dict[str, tuple[bytes, int]], list[str]]]:
    """A server: its address, its objects by name with their generations, and the reads that it was asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.objects, server.requests = {}, []  # type: ignore[attr-defined]
    server.generation, server.lock = 100, threading.Lock()  # type: ignore[attr-defined]
    with in_a_thread(server):
        yield f"http://127.0.0.1:{server.server_port}", server.objects, server.requests  # type: ignore[attr-defined]
