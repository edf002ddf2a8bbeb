"""A folder on a web server, listed by the documents in it."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from deapcache_caches import feature_cache, fill, served

from deapcache.cache import flush, list_caches, open_cache, rebuild
from deapcache.errors import LocationError, ReadOnlyError, UsageError
from deapcache.locations import LocalLocation, WebLocation, locate


@pytest.fixture
def cache(home: LocalLocation):
    """A cache of which two shards are there, with true lists."""
    cache = feature_cache(home, "int8")
    fill(cache, [0, 5])
    cache.record_provenance({"device": "cpu"})
    flush(cache)
    return cache


def test_a_cache_is_listed_by_its_manifest(home: LocalLocation, cache) -> None:
    path = str(cache.location.path.relative_to(home.path))
    with served(home.path) as (url, requests):
        place = locate(url) / path
        assert isinstance(place, WebLocation)
        expected = [key for key in cache.location.keys("") if key != "manifest.json"]
        assert place.keys() == expected
        assert place.keys("features") == [key for key in expected if key.startswith("features/")]
        assert place.keys("feat") == []
        assert [place.size(key) for key in expected] == [cache.location.size(key) for key in expected]
        assert place.can_list
        assert len(requests) == 1  # the manifest, once
        with pytest.raises(FileNotFoundError):
            place.size("features/c.1.0.0.0")
        found = open_cache(place)
        assert found.present_shards() == {0, 5}
        assert found.stored_bytes() == cache.stored_bytes()
        assert found.provenance() == cache.provenance()
        assert pickle.loads(pickle.dumps(found)).missing_shards([0, 3, 15]) == [1]


def test_a_home_is_listed_by_its_index(home: LocalLocation, cache) -> None:
    other = feature_cache(home, "float32")
    fill(other, [0])
    with served(home.path) as (url, _):
        place = locate(url)
        assert [entry.path for entry in list_caches(place)] == [entry.path for entry in list_caches(home)]
        assert list_caches(place, "images") == []
        assert place.find("features/*/*/*.zarr/zarr.json") == home.find("features/*/*/*.zarr/zarr.json")
        everything = [key for key in home.keys("features") if not key.endswith("manifest.json")]
        assert place.keys("features") == everything
        path = str(other.location.path.relative_to(home.path))
        assert place.keys(f"{path}/features") == [f"{path}/{key}" for key in other.location.keys("features")]
        for attempt in (lambda: place.keys("results"), lambda: place.find("results/*.json")):
            with pytest.raises(LocationError, match="lists caches and nothing else"):
                attempt()


def test_without_lists_a_home_cannot_be_listed_and_a_cache_is_asked_shard_by_shard(home: LocalLocation, cache) -> None:
    (home.path / "index.json").unlink()
    (cache.location.path / "manifest.json").unlink()
    with served(home.path) as (url, _):
        with pytest.raises(LocationError, match=r"no index\.json.*cache index.*address of one cache"):
            list_caches(locate(url))
        place = locate(url) / str(cache.location.path.relative_to(home.path))
        assert not place.can_list
        assert open_cache(place).present_shards() == {0, 5}
        assert place.size("features/c.0.0.0.0") == cache.location.size("features/c.0.0.0.0")


def test_a_list_is_fetched_anew_when_it_is_old_or_something_is_missing(
    home: LocalLocation, cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    with served(home.path) as (url, requests):
        found = open_cache(locate(url) / str(cache.location.path.relative_to(home.path)))
        assert found.present_shards() == {0, 5}
        fill(cache, [1])
        flush(cache)
        requests.clear()
        assert found.present_shards() == {0, 5}  # asked again within a second
        assert not requests
        seconds += 2
        assert found.is_complete([0, 15])  # nothing is missing: nothing is fetched
        assert not requests
        assert found.present_shards() == {0, 1, 5}
        assert [path.rpartition("/")[2] for path, _ in requests] == ["manifest.json"]
        seconds += 11
        assert found.is_complete([0])
        assert len(requests) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>hello</html>", "not what deapcache writes"),  # a server that answers everything with a page
        (b"[]", "not what deapcache writes"),
        (b'{"format": 2, "caches": []}', "format 2, this deapcache reads 1: upgrade"),
        (b'{"format": 1, "caches": [{"path": "features/../../x.zarr"}]}', "must be relative and without"),
        (b'{"format": 1, "caches": [{"path": "/etc/x/y.zarr"}]}', "must be relative and without"),
        (b'{"format": 1, "caches": 3}', "not what deapcache writes"),
    ],
)
def test_a_foreign_index_is_refused(home: LocalLocation, cache, content: bytes, reason: str) -> None:
    (home.path / "index.json").write_bytes(content)
    with served(home.path) as (url, _), pytest.raises(LocationError, match=rf"index\.json.*{reason}"):
        list_caches(locate(url))


def test_a_manifest_that_cannot_be_used_is_gone_without(home: LocalLocation, cache) -> None:
    document = json.loads((cache.location.path / "manifest.json").read_bytes())
    document["keys"]["../../../x"] = 1
    (cache.location.path / "manifest.json").write_text(json.dumps(document))
    with served(home.path) as (url, _):
        found = open_cache(locate(url) / str(cache.location.path.relative_to(home.path)))
        assert found.present_shards() == cache.present_shards()


def test_nothing_is_written_to_a_web_server() -> None:
    place = locate("http://127.0.0.1:9/home")
    for attempt in (
        place.require_writable, lambda: place.publish("a", b""), lambda: place.delete("a"), lambda: rebuild(place)
    ):  # fmt: skip
        with pytest.raises(ReadOnlyError, match="web server, which is read only"):
            attempt()


@pytest.mark.parametrize(
    "url", ["https://me:secret@host/home", "https://host/home?token=secret", "http://host/#secret"]
)
def test_secrets_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="without user, password") as raised:
        locate(url)
    assert "secret" not in str(raised.value)
