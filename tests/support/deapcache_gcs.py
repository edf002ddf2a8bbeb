"""As much of Google Cloud Storage's JSON interface as a home needs, in memory."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from deapcache_servers import in_a_thread


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}

    def _refused(self, name: str, query: dict[str, str]) -> bool:
        """Whether the object's generation is not as the request supposes."""
        _, generation = self.server.objects.get(name, (b"", 0))  # type: ignore[attr-defined]
        wanted, other = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        if wanted is not None and int(wanted) != generation:
            self._answer(412, b"")
            return True
        if other is not None and int(other) == generation:
            self._answer(304, b"")
            return True
        return False

    def do_GET(self) -> None:
        path, query = self._asked()
        objects = self.server.objects  # type: ignore[attr-defined]
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        if path.endswith("/o"):
            first, last = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
            named = sorted(n for n in objects if n.startswith(query.get("prefix", "")) and first <= n < last)
            self._answer(200, json.dumps({"items": [_metadata(n, *objects[n]) for n in named]}).encode())
            return
        name = unquote(path.partition("/o/")[2])
        if self._refused(name, query):
            return
        if name not in objects:
            self._answer(404, b"")
            return
        data, generation = objects[name]
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        headers = {"x-goog-generation": str(generation)}
        if not found:
            self._answer(200, data, headers)
            return
        start = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
        stop = min(int(found[2]) + 1, len(data)) if found[1] and found[2] else len(data)
        self._answer(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def do_POST(self) -> None:
        _, query = self._asked()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:  # type: ignore[attr-defined]
            if self._refused(query["name"], query):
                return
            self.server.generation += 1  # type: ignore[attr-defined]
            self.server.objects[query["name"]] = data, self.server.generation  # type: ignore[attr-defined]
            self._answer(200, json.dumps(_metadata(query["name"], data, self.server.generation)).encode())  # type: ignore[attr-defined]

    def do_DELETE(self) -> None:
        path, query = self._asked()
        name = unquote(path.partition("/o/")[2])
        if not self._refused(name, query):
            there = self.server.objects.pop(name, None)  # type: ignore[attr-defined]
            self._answer(204 if there else 404, b"")


def _metadata(name: str, data: bytes, generation: int) -> dict[str, str]:
    return {"name": name, "size": str(len(data)), "generation": str(generation), "bucket": "lab"}


@contextmanager
def gcs_served() -> Iterator[tuple[str, dict[str, tuple[bytes, int]], list[str]]]:
    """A server: its address, its objects by name with their generations, and the reads that it was asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.objects, server.requests = {}, []  # type: ignore[attr-defined]
    server.generation, server.lock = 100, threading.Lock()  # type: ignore[attr-defined]
    with in_a_thread(server):
        yield f"http://127.0.0.1:{server.server_port}", server.objects, server.requests  # type: ignore[attr-defined]
