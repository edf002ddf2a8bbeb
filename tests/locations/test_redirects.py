"""Web servers that redirect to signed addresses of another host, and those that refuse."""

from __future__ import annotations

import http.server
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from deapcache_hub import Hub, Storage
from deapcache_servers import in_a_thread

from deapcache.cache import list_caches
from deapcache.errors import LocationError
from deapcache.locations import locate, stores

DATA = b"0123456789" * 100


@pytest.fixture
def redirecting() -> Iterator[tuple[str, Hub]]:
    """A server that answers all with 302 to an address of another that is signed for GET."""
    hub = Hub()

    class Front(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{hub.storage}/blob?Signature=signed-1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - a name of http.server

        def log_message(self, *_: object) -> None:
            pass

    with ExitStack() as running:
        for handler in (Front, Storage):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.hub = hub  # type: ignore[attr-defined]
            running.enter_context(in_a_thread(server))
            url, hub.storage = hub.storage, f"http://127.0.0.1:{server.server_port}"
        hub.blobs["blob"] = DATA
        yield f"{url}/home", hub


def test_redirects_to_a_signed_address_are_followed(redirecting: tuple[str, Hub]) -> None:
    url, hub = redirecting
    place = locate(url)
    assert place.read("a/c.0") == DATA
    assert [bytes(part) for part in place.read_ranges("a/c.0", [(3, 4), (990, 20)])] == [DATA[3:7], DATA[990:]]
    assert bytes(place.read_tail("a/c.0", 5)) == DATA[-5:]
    assert place.size("a/c.0") == len(DATA)  # though the address is not signed for HEAD
    assert place.exists("a/c.0")
    assert {request[3] for request in hub.requests} == {None}
    hub.signature = "another"
    for attempt in (lambda: place.read("x"), lambda: place.read_ranges("x", [(0, 1)])):
        with pytest.raises(LocationError, match="asks who reads") as raised:
            attempt()
        assert "signed-1" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "what"),
    [
        (401, "the server asks who reads.*hf://datasets/OWNER/REPO with HF_TOKEN"),
        (403, "the server asks who reads, and no credentials are sent over HTTP"),
        (404, r"has no index\.json, and a web server lists no folders"),
        (429, "too many requests: wait some minutes.*--local-tier"),
    ],
)
def test_a_refusal_names_its_cause_and_what_to_do(status: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 1)
    monkeypatch.setitem(stores.RETRIES, "initial_seconds", 0.01)

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_HEAD = do_GET  # noqa: N815 - a name of http.server

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    with in_a_thread(server):
        place = locate(f"http://127.0.0.1:{server.server_port}/home")
        with pytest.raises(LocationError, match=what) as raised:
            list_caches(place)
        assert "\n" not in str(raised.value)
        if status != 404:
            with pytest.raises(LocationError, match=what):
                place.read_ranges("features/c.0", [(0, 4)])
        else:
            with pytest.raises(FileNotFoundError):
                place.read_ranges("features/c.0", [(0, 4)])
