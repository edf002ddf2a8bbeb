"""Answers of a web server that may be anybody's: bounded in size and in time."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from deapcache.cache import list_caches, open_cache
from deapcache.errors import DeapcacheError, LocationError, NotAFileError
from deapcache.locations import locate, stores

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], str]]:
    """A function that starts a server which answers every request so; silence is a second."""
    servers: list[http.server.ThreadingHTTPServer] = []
    monkeypatch.setenv(stores.SILENCE_SECONDS, "1")
    monkeypatch.setitem(stores.RETRIES, "max_retries", 1)

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):  # who asked has gone
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/home"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def headers(asked: http.server.BaseHTTPRequestHandler, **named: str) -> None:
    asked.send_response(200)
    for name, value in named.items():
        asked.send_header(name.replace("_", "-"), value)
    asked.end_headers()


def bomb(encoding: str) -> Answer:
    packed = gzip.compress(bytes(100_000_000))

    def answer(asked: http.server.BaseHTTPRequestHandler) -> None:
        headers(asked, Content_Encoding=encoding, Content_Length=str(len(packed)))
        asked.wfile.write(packed)

    return answer


def endless(**named: str) -> Answer:
    def answer(asked: http.server.BaseHTTPRequestHandler) -> None:
        headers(asked, **named)
        for _ in range(200):
            asked.wfile.write(bytes(1_000_000))

    return answer


def dripping(asked: http.server.BaseHTTPRequestHandler) -> None:
    headers(asked, Content_Length="1000")
    for _ in range(1000):
        asked.wfile.write(b" ")
        asked.wfile.flush()
        time.sleep(0.1)


def dripping_headers(asked: http.server.BaseHTTPRequestHandler) -> None:
    asked.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(1000):
        asked.wfile.write(b"X-A: 1\r\n")
        asked.wfile.flush()
        time.sleep(0.1)


def silent(asked: http.server.BaseHTTPRequestHandler) -> None:
    headers(asked, Content_Length="1000")
    time.sleep(20)


def in_chunks_without_end(asked: http.server.BaseHTTPRequestHandler) -> None:
    asked.protocol_version = "HTTP/1.1"
    headers(asked, Transfer_Encoding="chunked")
    for _ in range(200):
        asked.wfile.write(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")


ANSWERS: dict[str, Answer] = {
    "gzip": bomb("gzip"),
    "deflate": bomb("deflate"),
    "brotli": bomb("br"),
    "without end": endless(),
    "a length of its own": endless(Content_Length="200000000"),
    "a length without end": endless(Content_Length="9" * 400),
    "chunks without end": in_chunks_without_end,
    "drops": dripping,
    "drops of headers": dripping_headers,
    "silence": silent,
    "the wrong length": lambda asked: (headers(asked, Content_Length="1000"), asked.wfile.write(b"{}"))[0],
    "no HTTP": lambda asked: asked.wfile.write(b"\0" * 100_000) and None,
    "500": lambda asked: asked.send_error(500),
    "403": lambda asked: asked.send_error(403),
    "418": lambda asked: asked.send_error(418),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_bounded_in_size_and_time(answered: Callable[[Answer], str], answer: str) -> None:
    place = locate(answered(ANSWERS[answer]))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for attempt in (lambda: list_caches(place), lambda: place.read("index.json"), lambda: open_cache(place / "x.zarr")):
        with pytest.raises(DeapcacheError) as raised:
            attempt()
        assert "\n" not in str(raised.value)
        assert place.url in str(raised.value)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB


def test_what_is_larger_than_asked_for_is_not_read(answered: Callable[[Answer], str]) -> None:
    place = locate(answered(lambda asked: (headers(asked), asked.wfile.write(b"12345"))[0]))
    assert place.read("a.bin", most=5) == b"12345"
    with pytest.raises(NotAFileError, match=r"a\.bin has more than 4 bytes"):
        place.read("a.bin", most=4)


def test_a_hiccup_is_waited_out(answered: Callable[[Answer], str]) -> None:
    asked_for: list[str] = []

    def once(asked: http.server.BaseHTTPRequestHandler) -> None:
        asked_for.append(asked.path)
        if len(asked_for) == 1:
            asked.send_error(503)
            return
        headers(asked)
        asked.wfile.write(json.dumps({"format": 1, "caches": []}).encode())

    assert list_caches(locate(answered(once))) == []
    assert asked_for == ["/home/index.json"] * 2


def test_what_is_not_there_is_not_there(answered: Callable[[Answer], str]) -> None:
    with pytest.raises(FileNotFoundError):
        locate(answered(lambda asked: asked.send_error(404))).read("a ö.json")
    with pytest.raises(LocationError, match="cannot reach"):
        locate("http://127.0.0.1:9/home").read("a.json")
