"""Servers: in processes of their own (another library's static server, Python's, ``deapcache cache serve``, moto's S3,
Dask's), and the tests' own in a thread."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deapcache_testing import deapcache

STATIC = """
import asyncio, json, sys
import tornado.web

class Counted(tornado.web.StaticFileHandler):
    def on_finish(self):
        sent = int(self._headers.get("Content-Length", 0)) if self.request.method == "GET" else 0
        told = [self.request.path, self.request.headers.get("Range"), self.get_status(), sent]
        print(json.dumps(told), file=log, flush=True)

async def main():
    tornado.web.Application([(r"/(.*)", Counted, {"path": sys.argv[1]})], log_function=lambda _: None).listen(
        int(sys.argv[2]), "127.0.0.1")
    await asyncio.Event().wait()

log = open(sys.argv[3], "a")
asyncio.run(main())
"""
"""Tornado's static files, byte ranges and all; each request is one line of a log: path, Range, status, bytes."""


@dataclass
class Server:
    """A server that runs: its address, its process, and what it has printed to its log."""

    url: str
    command: list[str]
    log: Path
    process: subprocess.Popen[str] = field(init=False)

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        place = urlsplit(self.url)
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection((place.hostname, place.port), timeout=1).close()
                return
            if self.process.poll() is not None:
                raise AssertionError(f"{self.command[:4]} ended: {self.process.communicate()}")
            time.sleep(0.05)
        raise AssertionError(f"{self.url} does not answer")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()

    def requests(self) -> list[tuple[str, str | None, int, int]]:
        """(path, Range header, status, bytes sent) of each request so far; of :func:`static_server` only."""
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def static_server(folder: Path, log: Path) -> Iterator[Server]:
    """Tornado over ``folder``."""
    log.touch()
    with running(lambda port: [sys.executable, "-c", STATIC, str(folder), str(port), str(log)], log) as server:
        yield server


@contextlib.contextmanager
def python_server(folder: Path, log: Path) -> Iterator[Server]:
    """``python -m http.server``, which ignores Range."""
    module = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder)]
    with running(lambda port: [*module, str(port)], log) as server:
        yield server


@contextlib.contextmanager
def cache_serve(home: Path, log: Path) -> Iterator[Server]:
    """``deapcache cache serve``."""
    with running(lambda port: deapcache("cache", "serve", "--home", home, "--port", port), log) as server:
        yield server


def ask(server: Server, target: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request, whose target is sent as it is."""
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@contextlib.contextmanager
def running(command: Callable[[int], list[str]], log: Path, *, scheme: str = "http") -> Iterator[Server]:
    """A server in a process of its own, started with ``command`` of a free port; killed at the end of the block."""
    port = free_port()
    server = Server(f"{scheme}://127.0.0.1:{port}", command(port), log)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def in_a_thread(server: socketserver.BaseServer) -> Iterator[None]:
    """A server of this process, which answers while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_below(folder: Path) -> dict[str, int]:
    """Path → bytes of every file, by the operating system."""
    return {
        str((Path(top) / name).relative_to(folder)): (Path(top) / name).stat().st_size
        for top, _, names in os.walk(folder)
        for name in names
    }
