"""A proxy between deapcache and a real server that breaks some of the requests, as networks and busy stores do."""

from __future__ import annotations

import collections
import http.client
import http.server
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deapcache_servers import in_a_thread

ERRORS = ("500", "503")
FAULTS = (*ERRORS, "reset", "truncate", "lost", "stall")
"""``reset``: the connection is cut before the request goes on; ``truncate``: half of the answer; ``lost``: the request
is carried out, its answer is not delivered; ``stall``: silence from the middle of the answer on. Any other number is
answered as a status, too."""


class FaultyProxy(http.server.ThreadingHTTPServer):
    """Passes requests on to ``upstream`` (host, port), and does to some what :attr:`plan` says.

    Set ``plan`` to a function of the request (``"GET /path"``, and the names of headers that are conditions) that gives
    the name of a fault, or "".
    """

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.plan = lambda request: ""
        self.dropped = ""
        """Name of a header that is not passed on, in lower case."""
        self.injected: collections.Counter[str] = collections.Counter()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no news."""


def some(faults: tuple[str, ...], *, share: float, seed: int = 0, where: str = "") -> Any:
    """A plan: this share of the requests that fit the regular expression ``where`` meets one of ``faults``."""
    rng, lock = random.Random(seed), threading.Lock()

    def plan(request: str) -> str:
        with lock:
            return rng.choice(faults) if re.search(where, request) and rng.random() < share else ""

    return plan


def always(fault: str, where: str = "") -> Any:
    """A plan: every request that fits ``where`` meets this fault."""
    return lambda request: fault if re.search(where, request) else ""


@contextmanager
def proxied(upstream: tuple[str, int]) -> Iterator[FaultyProxy]:
    """A proxy that runs in threads of this process while the block does."""
    proxy = FaultyProxy(upstream)
    with in_a_thread(proxy):
        try:
            yield proxy
        finally:
            proxy.over.set()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the receipt of its headers
    server: FaultyProxy

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        conditions = [name.lower() for name in self.headers if name.lower().startswith("if-")]
        fault = self.server.plan(" ".join([self.command, self.path, *conditions]))
        if fault:
            self.server.injected[fault] += 1
        if fault == "reset":
            self._reset()
        elif fault.isdigit():
            self._answer(int(fault), [], self._refusal())
        else:
            self._deliver(fault, *self._ask(body))

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 - names of http.server

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        # Host as the client sent it: a signature covers it.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect", self.server.dropped):
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def _refusal(self) -> bytes:
        """As stores explain themselves: with what the request said of its keys."""
        key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        return f"<Error><Code>Sorry</Code><AWSAccessKeyId>{key}</AWSAccessKeyId></Error>".encode()

    def _deliver(self, fault: str, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        if fault == "lost":
            self._reset()
            return
        self._answer(status, headers, data, part=len(data) // 2 if fault in ("truncate", "stall") else None)
        if fault == "stall":
            self.server.over.wait()
        if fault:
            self._reset()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, part: int | None = None) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD: what the body would be
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:part])

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
