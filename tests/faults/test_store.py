"""Stores that fail: real servers behind a proxy that answers 500, resets, truncates, forgets to answer or falls silent.

Either the bytes are right after retries, or there is one LocationError; never a wrong volume, never half a shard.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from deapcache_bucket import KEYS, S3Bucket, environment_of
from deapcache_caches import IMAGES, feature_cache, fill, served, volumes
from deapcache_faults import LONG, Extractors, Tally, cache_bytes, environment, shard_keys
from deapcache_proxy import FAULTS, FaultyProxy, always, proxied, some

from deapcache.cache import open_cache
from deapcache.errors import DeapcacheError, LocationError, UsageError
from deapcache.extraction.claims import Claims
from deapcache.locations import LocalLocation, Location, locate, stores

QUICK = tuple(fault for fault in FAULTS if fault != "stall") if LONG else ("503", "truncate", "lost")
RIGHT, CLEAR = "the right bytes, after retries", "LocationError: which file or cache, which failure"
SHARDS = range(44) if LONG else range(4)
ROWS = range(IMAGES) if LONG else range(3 * len(SHARDS))
"""The images of those shards."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """More retries than outside of tests, since more fails here, with shorter waits between."""
    monkeypatch.setitem(stores.RETRIES, "max_retries", 8)
    monkeypatch.setitem(stores.RETRIES, "initial_seconds", 0.01)
    monkeypatch.setitem(stores.RETRIES, "most_seconds", 0.05)


@pytest.fixture
def bucket(s3: S3Bucket, impatient: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Location, FaultyProxy]]:
    """A home in the store, and the proxy in front of it."""
    with proxied(s3.server.place) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield locate(s3.url), proxy


def _require_right(cache, rows) -> None:
    np.testing.assert_array_equal(cache.read(rows), volumes(list(rows)).astype(np.float16))


def _count(tally: Tally, proxy: FaultyProxy, where: str, seen: str) -> None:
    for fault, count in sorted(proxy.injected.items()):
        with tally.fault(f"{where}: {fault}", seen, count=count):
            pass
    proxy.injected.clear()


@pytest.mark.parametrize("fault", QUICK)
def test_writing_to_a_store_that_fails_now_and_then(bucket: tuple[Location, FaultyProxy], tally: Tally, fault: str):
    home, proxy = bucket
    proxy.plan = some((fault,), share=0.5 if fault == "truncate" else 0.25)  # a put's answer has nothing to cut
    cache = feature_cache(home)
    fill(cache, SHARDS)
    proxy_said = sum(proxy.injected.values())
    proxy.plan = always("")
    assert proxy_said > 3, "too few faults: this test shows nothing"
    assert cache.present_shards() == set(SHARDS)
    _require_right(cache, ROWS)
    _count(tally, proxy, "S3, writing", RIGHT)


@pytest.mark.parametrize("fault", QUICK)
def test_writing_to_a_store_that_fails_for_good(bucket: tuple[Location, FaultyProxy], tally: Tally, fault: str):
    home, proxy = bucket
    cache = feature_cache(home)
    fill(cache, [0])
    proxy.plan = always(fault, "^PUT")
    if fault == "truncate":  # an answer to a put has no body to cut
        proxy.plan = always("reset", "^PUT")
    with pytest.raises(LocationError, match=r"features/c\.1\.0\.0\.0"):
        fill(cache, [1])
    proxy.plan = always("")
    # Where only the answers are lost, the store has the shard.
    assert cache.present_shards() == ({0, 1} if fault == "lost" else {0})
    _require_right(cache, [row for shard in sorted(cache.present_shards()) for row in cache.shard_rows(shard)])
    fill(cache, [1, 2])
    _require_right(cache, range(9))
    _count(tally, proxy, "S3, writing, for good", CLEAR)


@pytest.mark.parametrize("fault", QUICK)
def test_reading_from_a_store_that_fails(bucket: tuple[Location, FaultyProxy], tally: Tally, fault: str):
    home, proxy = bucket
    fill(feature_cache(home), SHARDS)
    proxy.plan = some((fault,), share=0.25)
    cache = open_cache(home / "features/coco/train" / _name(home))
    _require_right(cache, ROWS)
    _count(tally, proxy, "S3, reading", RIGHT)
    proxy.plan = always(fault, "^GET")
    with pytest.raises(LocationError, match="cannot re"):
        open_cache(cache.location).read(ROWS)
    _count(tally, proxy, "S3, reading, for good", CLEAR)


def test_a_claim_is_held_although_the_stores_answer_was_lost(bucket: tuple[Location, FaultyProxy], tally: Tally):
    home, proxy = bucket
    losses = iter(["lost"])
    proxy.plan = lambda request: next(losses, "") if request.startswith("PUT") else ""
    with Claims(home, "ours") as claims:
        assert claims.take(3)
        claims.release(3)
        assert claims.take(3)
    assert home.keys("claims") == []
    _count(tally, proxy, "S3, a claim", "it is held: what was put is recognised")


def _name(home: Location) -> str:
    return home.find("features/*/*/*.zarr/zarr.json")[0].split("/")[-2]


@pytest.fixture
def website(impatient: None, tmp_path: Path) -> Iterator[tuple[str, FaultyProxy]]:
    """The address of a cache behind a proxy in front of a static web server."""
    cache = feature_cache(LocalLocation(tmp_path))
    fill(cache)
    with served(tmp_path.parent) as (url, _), proxied(("127.0.0.1", urlsplit(url).port or 0)) as proxy:
        yield f"{proxy.url}/{cache.location.path.relative_to(tmp_path.parent)}", proxy


@pytest.mark.parametrize("fault", QUICK)
def test_reading_from_a_web_server_that_fails(website: tuple[str, FaultyProxy], tally: Tally, fault: str):
    address, proxy = website
    proxy.plan = some((fault,), share=0.25, seed=2)
    cache = open_cache(locate(address))
    # Not all of it: what was read stays in memory, and would be given out below without asking the server.
    _require_right(cache, np.random.default_rng(0).permutation(IMAGES - 60)[: 60 if LONG else 30])
    assert cache.image_ids[-1] == "000129"
    _count(tally, proxy, "HTTP, reading", RIGHT)
    proxy.plan = always(fault)
    start = time.monotonic()
    with pytest.raises(LocationError):
        open_cache(cache.location)
    with pytest.raises(LocationError, match="cannot read"):  # one error for a batch: rows are not tried one by one
        cache.read(range(IMAGES - (60 if LONG else 15), IMAGES))
    assert time.monotonic() - start < 30
    _count(tally, proxy, "HTTP, reading, for good", CLEAR)


def test_a_server_that_is_gone_is_told(website: tuple[str, FaultyProxy], tally: Tally):
    address, proxy = website
    cache = open_cache(locate(address))
    proxy.plan = always("reset")  # connections that are open end, and no new one begins
    proxy.shutdown()
    proxy.server_close()
    with tally.fault("HTTP, a server that is gone", CLEAR), pytest.raises(LocationError, match="cannot read"):
        cache.read(range(100))


def _silent(address: str, **more: str) -> dict[str, object]:
    limits = {"DEAPCACHE_SILENCE_SECONDS": "1", **more}
    command = [sys.executable, str(Path(__file__).with_name("silent_child.py")), address]
    done = subprocess.run(command, env=environment(**limits), capture_output=True, text=True, check=True, timeout=180)
    return dict(json.loads(done.stdout))


def test_a_web_server_that_falls_silent_is_given_up(website: tuple[str, FaultyProxy], tally: Tally):
    address, proxy = website
    proxy.plan = always("stall", r"/c\.")
    told = _silent(address)
    assert told["error"] == "LocationError", told
    assert "too slow" in str(told["message"])
    _count(tally, proxy, "HTTP, silence", CLEAR)


def test_a_store_that_falls_silent_once_is_asked_again(bucket: tuple[Location, FaultyProxy], tally: Tally):
    home, proxy = bucket
    fill(feature_cache(home), SHARDS)
    silences = iter(["stall"])
    proxy.plan = lambda request: next(silences, "") if "/c." in request else ""
    told = _silent(f"{home}/features/coco/train/{_name(home)}", AWS_ENDPOINT_URL=proxy.url)
    assert told["error"] == "", told
    np.testing.assert_array_equal(np.array(told["found"], np.float16), volumes(range(8)).astype(np.float16))
    _count(tally, proxy, "S3, silence, once", RIGHT)


def test_silence_is_limited_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch):
    name = "DEAPCACHE_SILENCE_SECONDS"
    for given, expected in ((None, 30), ("7", 7)):
        monkeypatch.delenv(name, raising=False)
        if given:
            monkeypatch.setenv(name, given)
        assert stores.silence_seconds() == expected
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(UsageError, match=f"{name}='{wrong}': expected a number of seconds above 0"):
            locate("https://host/home").exists("zarr.json")


@pytest.mark.slow
def test_an_extraction_to_a_store_that_fails_now_and_then(
    undisturbed_few, extractors: Extractors, bucket: tuple[Location, FaultyProxy], tally: Tally, tmp_path: Path
):
    home, proxy = bucket
    proxy.plan = some(QUICK, share=0.05, seed=1)
    extractors.run(undisturbed_few.root, home, tmp_path / "log", **environment_of(proxy.url))
    proxy.plan = always("")
    written = {key: home.read(key) for key in home.keys("")}
    said = b"".join(written.values()) + (tmp_path / "log").read_bytes()
    assert not any(secret.encode() in said for secret in KEYS.values()), "a key of the store was written down"
    assert any("/provenance/" in key for key in written)
    derived = ("/provenance/", "/manifest.json")
    found = {
        key: data
        for key, data in written.items()
        if key.startswith("features/") and not any(part in key for part in derived)
    }
    assert found == {key: data for key, data in undisturbed_few.kept.items() if key.startswith("features/")}
    assert len(shard_keys(found)) == len(shard_keys(cache_bytes(undisturbed_few.home)))
    _count(tally, proxy, "S3, an extraction", RIGHT)


def test_every_error_of_a_store_is_one_of_ours(website: tuple[str, FaultyProxy]):
    address, proxy = website
    for status in ("401", "403", "404", "416", "501"):
        proxy.plan = always(status)
        with pytest.raises(DeapcacheError):
            open_cache(locate(address))
