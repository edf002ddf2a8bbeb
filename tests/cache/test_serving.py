"""``cache serve``: the right bytes of the right files, in its own process, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from deapcache_caches import IMAGES, feature_cache, fill, shard_file
from deapcache_servers import Server, ask, cache_serve, files_below, python_server, static_server

from deapcache.cache import FeatureCache, flush, list_caches, open_cache
from deapcache.cache.serve import UnsatisfiableError, index_page, key_of, requested_range
from deapcache.errors import LocationError
from deapcache.locations import LocalLocation, locate, stores


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A whole cache in a home that also holds what is nobody's business."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "secret").write_text("secret")
    home = LocalLocation(folder / "home")
    cache = feature_cache(home, count=640)
    fill(cache)
    home.publish("results/run.json", b"secret")
    (cache.location.path / "features" / ".c.9.partial").write_bytes(b"secret")
    (cache.location.path / "inside").symlink_to(shard_file(cache, 3))
    (cache.location.path / "outside").symlink_to(folder / "secret")
    (home.path / "features" / "coco" / "train" / "away.zarr").symlink_to(folder)
    os.mkfifo(cache.location.path / "pipe")
    return cache


@pytest.fixture(scope="module")
def server(lab: FeatureCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``deapcache cache serve`` over that home."""
    with cache_serve(_home(lab), tmp_path_factory.mktemp("log") / "log") as running:
        yield running


def _home(cache: FeatureCache) -> Path:
    return cache.location.path.parents[3]


def _target(cache: FeatureCache, key: str) -> str:
    return "/" + str(cache.location.path.relative_to(_home(cache)) / key)


def test_whole_files_and_heads(lab: FeatureCache, server: Server) -> None:
    shard = shard_file(lab, 3).read_bytes()
    status, headers, body = ask(server, _target(lab, "features/c.3.0.0.0"))
    assert (status, body) == (200, shard)
    assert headers["Content-Length"] == str(len(shard))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, of_head, body = ask(server, _target(lab, "features/c.3.0.0.0"), "HEAD")
    assert (status, body) == (200, b"")
    assert {k: v for k, v in of_head.items() if k != "Date"} == {k: v for k, v in headers.items() if k != "Date"}
    status, headers, body = ask(server, "/index.json")
    assert (status, headers["Cache-Control"], headers["Content-Type"]) == (200, "no-cache", "application/json")
    assert body == (_home(lab) / "index.json").read_bytes()


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", slice(0, 1)), ("bytes=5-99", slice(5, 100)), ("bytes=7-", slice(7, None)),
        ("bytes=-20", slice(-20, None)), ("bytes=10-99999999", slice(10, None)), ("bytes=-99999999", slice(0, None)),
        ("BYTES=1-2", slice(1, 3)),
    ],
)  # fmt: skip
def test_parts_of_files(lab: FeatureCache, server: Server, asked: str, part: slice) -> None:
    shard = shard_file(lab, 3).read_bytes()
    status, headers, body = ask(server, _target(lab, "features/c.3.0.0.0"), Range=asked)
    start, stop, _ = part.indices(len(shard))
    assert (status, body) == (206, shard[part])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(shard)}"
    assert headers["Content-Length"] == str(stop - start)


def test_parts_that_are_not_there(lab: FeatureCache, server: Server) -> None:
    size = shard_file(lab, 3).stat().st_size
    for asked in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        status, headers, _ = ask(server, _target(lab, "features/c.3.0.0.0"), Range=asked)
        assert (status, headers["Content-Range"]) == (416, f"bytes */{size}")


@pytest.mark.parametrize(
    "asked", ["bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "x" * 99]
)
def test_ranges_that_are_not_understood_give_the_whole_file(lab: FeatureCache, server: Server, asked: str) -> None:
    status, _, body = ask(server, _target(lab, "features/c.3.0.0.0"), Range=asked)
    assert (status, body) == (200, shard_file(lab, 3).read_bytes())


def test_ranges_of_every_kind_are_python_slices() -> None:
    data = bytes(range(7))
    for first in range(10):
        for last in range(10):
            try:
                found = requested_range(f"bytes={first}-{last}", len(data))
                got = data if found is None else data[found.start : found.stop]
                assert got == (data[first : last + 1] if last >= first else data)
            except UnsatisfiableError:
                assert first >= len(data)
                assert last >= first
    with pytest.raises(UnsatisfiableError):
        requested_range("bytes=0-", 0)
    assert requested_range("bytes=" + "9" * 40 + "-", 7) is None


def test_what_has_not_changed_is_not_sent_again(lab: FeatureCache, server: Server) -> None:
    target = _target(lab, "features/c.4.0.0.0")
    _, headers, shard = ask(server, target)
    tag = headers["ETag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        status, headers, body = ask(server, target, If_None_Match=known)
        assert (status, headers["ETag"], body) == (304, tag, b"")
    assert ask(server, target, If_None_Match='"other"')[0] == 200
    assert ask(server, target, Range="bytes=0-3", If_Range=tag)[::2] == (206, shard[:4])
    assert ask(server, target, Range="bytes=0-3", If_Range='"other"')[::2] == (200, shard)
    replaced = shard_file(lab, 4)
    replaced.unlink()
    replaced.write_bytes(shard)
    assert ask(server, target)[1]["ETag"] != tag


@pytest.mark.parametrize(
    "target",
    [
        "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/features/../../secret", "/features/..%2f..%2fsecret",
        "//secret", "/results/run.json", "/features/", "/features/coco/train", "/readouts/x", "/digests/x.json", "/x",
        "CACHE", "CACHE/", "CACHE/features", "CACHE/features/.c.9.partial", "CACHE/features/%2ec.9.partial",
        "CACHE/../../../../results/run.json", "CACHE/%2e%2e/%2e%2e/%2e%2e/%2e%2e/results/run.json",
        "CACHE/..%2f..%2f..%2f..%2fresults/run.json", "CACHE/%252e%252e/zarr.json", "CACHE/features\\c.3.0.0.0",
        "CACHE/zarr.json%00", "CACHE/zarr.json%0a", "CACHE/outside", "CACHE/pipe", "CACHE/features/c.99999.0.0.0",
        "/features/coco/train/away.zarr/secret", "/features/coco/train/away.zarr/manifest.json",
        "/features/coco/train/none.zarr/manifest.json", "CACHE/features/manifest.json", "http://other/index.json",
        "/features/coco/train/%ff.zarr/zarr.json", "*",
    ],
)  # fmt: skip
def test_nothing_else_is_served(lab: FeatureCache, server: Server, target: str) -> None:
    status, headers, body = ask(server, target.replace("CACHE", _target(lab, "")[:-1]))
    assert status == 404
    assert b"secret" not in body
    assert headers["Cache-Control"] == "no-store"  # it may be there soon


def test_links_within_the_home_and_queries_are_followed(lab: FeatureCache, server: Server) -> None:
    assert ask(server, _target(lab, "inside"))[::2] == (200, shard_file(lab, 3).read_bytes())
    assert ask(server, _target(lab, "zarr.json") + "?version=3")[0] == 200
    assert key_of("/features/a/b/timm~3a.vit@untrained-01.zarr/zarr.json") is not None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(lab: FeatureCache, server: Server, method: str) -> None:
    before = files_below(_home(lab))
    status, headers, _ = ask(server, "/index.json", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert files_below(_home(lab)) == before


def test_many_read_parts_at_once(lab: FeatureCache, server: Server) -> None:
    rng = np.random.default_rng(0)
    shards = {k: shard_file(lab, k).read_bytes() for k in range(8)}

    def read(_: int) -> bool:
        k, (start, stop) = int(rng.integers(8)), sorted(rng.integers(0, 500, 2).tolist())
        asked = f"bytes={start}-{stop}"
        return ask(server, _target(lab, f"features/c.{k}.0.0.0"), Range=asked)[2] == shards[k][start : stop + 1]

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(read, range(300)))


def test_a_page_for_people(lab: FeatureCache, server: Server) -> None:
    status, headers, body = ask(server, "/", Host='evil"><script>alert(1)</script>')
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    page = body.decode()
    assert "<script" not in page
    assert "vit-b-16" in page
    assert lab.digest[:12] in page
    assert "deapcache probe --task TASK --home http://" in page
    links = _Links()
    links.feed(page)
    assert len(links.found) == 2
    assert all(ask(server, f"/{link}")[0] == 200 for link in links.found)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        self.found += [value for name, value in attributes if name == "href" and value]


def test_names_on_the_page_are_text() -> None:
    from deapcache.cache import IndexEntry

    evil = "<img src=x onerror=alert(1)>"
    entry = IndexEntry(
        path=f"features/{evil}", kind="features", dataset=evil, split=evil, name=evil, view=evil, digest=evil,
        images=1, total=2, bytes=3_000_000,
    )  # fmt: skip
    page = index_page([entry], "http://here").decode()
    assert "<img" not in page
    assert "1 of 2" in page
    assert "3.0 MB" in page
    assert "no caches yet" in index_page([], "http://here").decode()


def test_a_home_without_lists_is_listed_by_the_server_which_writes_nothing(home: LocalLocation, tmp_path: Path) -> None:
    cache = feature_cache(home)
    fill(cache, [0, 1])
    flush(cache)
    lists = [(home.path / name) for name in ("index.json", _target(cache, "manifest.json")[1:])]
    documents = [json.loads(path.read_bytes()) for path in lists]
    for path in lists:
        path.unlink()
    before = files_below(home.path)
    with cache_serve(home.path, tmp_path / "log") as server:
        for path, document in zip(lists, documents, strict=True):
            status, headers, body = ask(server, f"/{path.relative_to(home.path)}")
            assert (status, json.loads(body)) == (200, document)
            asked = ask(server, f"/{path.relative_to(home.path)}", If_None_Match=headers["ETag"])
            assert asked[0] == 304
            assert ask(server, f"/{path.relative_to(home.path)}", Range="bytes=1-5")[::2] == (206, body[1:6])
        (entry,) = list_caches(locate(server.url))
        np.testing.assert_array_equal(entry.open().read([0, 5, 2]), cache.read([0, 5, 2]))
    assert {name: size for name, size in files_below(home.path).items() if name != "uses/http.json"} == before


@pytest.mark.parametrize("serve", [cache_serve, static_server])
def test_a_cache_is_read_by_byte_ranges(lab: FeatureCache, tmp_path: Path, serve) -> None:
    rows = [639, 0, 318, 639]  # of three shards: neighbours would be fetched in one request
    with serve(_home(lab), tmp_path / "log") as server:
        (entry,) = [each for each in list_caches(locate(server.url)) if each.digest == lab.digest]
        found = entry.open()
        np.testing.assert_array_equal(found.read(rows), lab.read(rows))
        assert found.is_complete()
        assert found.image_ids == lab.image_ids
        if serve is static_server:
            shards = [each for each in server.requests() if "/features/c." in each[0]]
            touched = {row // lab.shard_images for row in rows}
            index, volume = 16 * lab.shard_images + 4, lab.arrays["features"].item_bytes
            assert {status for _, _, status, _ in shards} == {206}
            assert sum(sent for *_, sent in shards) <= len(touched) * index + len(set(rows)) * (volume + 64)
            assert len(shards) == len(touched) + len(set(rows))  # an index each, then a volume each


def test_a_server_without_byte_ranges_is_told_apart(lab: FeatureCache, tmp_path: Path) -> None:
    with python_server(_home(lab), tmp_path / "log") as server:
        entry = list_caches(locate(server.url))[0]
        with pytest.raises(
            LocationError, match=r"ignores byte ranges .* serve the folder with `deapcache cache serve`"
        ):
            entry.open().read([0])
        assert entry.location.exists("features/c.0.0.0.0")  # asked without a range


def test_reading_goes_on_when_a_server_is_killed_and_started_again(lab: FeatureCache, tmp_path: Path) -> None:
    with cache_serve(_home(lab), tmp_path / "log") as server:
        found = list_caches(locate(server.url))[0].open()
        np.testing.assert_array_equal(found.read([0]), lab.read([0]))
        server.kill()
        starting = threading.Timer(0.5, server.start)
        starting.start()
        np.testing.assert_array_equal(found.read([7, 300]), lab.read([7, 300]))
        starting.join()


def test_a_server_that_stays_away_is_an_error(
    lab: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 1)
    with cache_serve(_home(lab), tmp_path / "log") as server:
        found = open_cache(locate(server.url) / str(lab.location.path.relative_to(_home(lab))))
        found.read([0])
        server.kill()
        with pytest.raises(LocationError, match=f"cannot read {server.url}"):
            found.read([IMAGES])


def test_ctrl_c_ends_it_cleanly(home: LocalLocation, tmp_path: Path) -> None:
    with cache_serve(home.path, tmp_path / "log") as server:
        assert ask(server, "/")[0] == 200
        server.process.send_signal(signal.SIGINT)
        out, err = server.process.communicate(timeout=600)
        assert server.process.returncode == 0
        assert out.startswith(f"serving {home} at {server.url}/")
        assert err == "stopped\n"
