"""Manifests and indexes are derived: whatever becomes of them, the caches, and all others, are as usable as before."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from deapcache_caches import feature_cache, fill, served
from deapcache_servers import in_a_thread

from deapcache.cache import (
    FeatureCache,
    flush,
    list_cache,
    list_caches,
    list_home,
    open_cache,
    read_manifest,
    rebuild,
    remove_cache,
    write_index,
    write_manifest,
)
from deapcache.cache.serve import HomeServer
from deapcache.errors import UnreadableError
from deapcache.locations import LocalLocation, locate


def changed(**changes: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))

    return damage


def holding(data: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(data)

    return damage


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").write_text("x")


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": holding(b""),
    "truncated": truncated,
    "zeros": holding(bytes(4096)),
    "no UTF-8": holding(b"\xff\xfe{}"),
    "null": holding(b"null"),
    "a list": holding(b"[]"),
    "a number": holding(b"3"),
    "deep nesting": holding(b"[" * 200_000),
    "a deep object": holding(b'{"a":' * 100_000),
    "a page": holding(b"<html>hello</html>"),
    "another format": changed(format=99),
    "no keys": changed(keys=None),
    "a list of keys": changed(keys=["zarr.json"]),
    "sizes as text": changed(keys={"zarr.json": "3"}),
    "negative sizes": changed(keys={"zarr.json": -3}),
    "sizes that are true": changed(keys={"zarr.json": True}),
    "images as text": changed(images="43"),
    "images as a fraction": changed(images=1.5),
    "not a number": changed(bytes=float("nan")),
    "huge": changed(bytes=10**400),
    "a field more": changed(more=1),
    "a digest that is none": changed(digest=["x"]),
    "a pipe": a_pipe,
    "a folder": a_folder,
    "a link to itself": a_link_to_itself,
    "a dangling link": a_dangling_link,
}
IN_PLACE = ("a folder",)
"""What no file can be put in the place of."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = LocalLocation(tmp_path_factory.mktemp("lab") / "home")
    for storage in ("float16", "int8"):
        fill(feature_cache(home, storage, count=3))
    write_index(home)
    return home.path


@pytest.fixture
def lab(template: Path, tmp_path: Path) -> LocalLocation:
    shutil.copytree(template, tmp_path / "home")
    return LocalLocation(tmp_path / "home")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_gone_without_and_made_anew(lab: LocalLocation, damage: str) -> None:
    one, other = list_caches(lab)
    before = list_home(lab)
    DAMAGES[damage](one.location.path / "manifest.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_manifest(one.location) is None
        assert [entry.path for entry in list_caches(lab)] == [one.path, other.path]
        assert list_home(lab) == before
    server = HomeServer(lab, "127.0.0.1", 0)
    with in_a_thread(server):
        sent = json.loads(urllib.request.urlopen(f"{server.url}/{one.path}/manifest.json").read())
        assert sent["keys"] == dict(list_cache(one.location).keys)
        away = locate(server.url)
        assert all(open_cache(away / entry.path).is_complete() for entry in list_caches(away))
    if damage != "a dangling link":  # what else it leads to is not asked here
        with served(lab.path) as (url, _):
            away = locate(url)
            assert all(open_cache(away / entry.path).is_complete() for entry in list_caches(away))
    writes = damage not in IN_PLACE
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert rebuild(lab) == before
        cache = one.open()
        assert isinstance(cache, FeatureCache)
        flush(cache)
    assert bool(told) != writes
    assert (read_manifest(one.location) == list_cache(one.location)) == writes
    remove_cache(other.location)
    remove_cache(one.location)
    assert (list_caches(lab), json.loads(lab.read("index.json"))["caches"]) == ([], [])
    assert not one.location.path.exists()


def test_the_manifest_of_another_cache_is_not_believed(lab: LocalLocation) -> None:
    one, other = list_caches(lab)
    before = list_home(lab)
    shutil.copy(other.location.path / "manifest.json", one.location.path / "manifest.json")
    assert list_home(lab) == before
    write_manifest(one.location)
    assert read_manifest(one.location) == list_cache(one.location)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if "keys" not in name and "sizes" not in name])
def test_a_damaged_index_is_made_anew(lab: LocalLocation, damage: str) -> None:
    if damage in IN_PLACE or not (lab.path / "index.json").exists():
        pytest.skip("nothing can be put in its place")
    DAMAGES[damage](lab.path / "index.json")
    server = HomeServer(lab, "127.0.0.1", 0)
    with in_a_thread(server):
        away = list_caches(locate(server.url))
        assert [entry.path for entry in away] == [entry.path for entry in list_caches(lab)]
    assert [entry["path"] for entry in json.loads(_renewed(lab))["caches"]] == [e.path for e in list_caches(lab)]


def _renewed(home: LocalLocation) -> bytes:
    write_index(home)
    return home.read("index.json")


def test_what_an_old_index_names_is_left_out(lab: LocalLocation) -> None:
    one, other = list_caches(lab)
    shutil.rmtree(one.location.path)
    with served(lab.path) as (url, _), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [entry.path for entry in list_caches(locate(url))] == [other.path]


@pytest.mark.parametrize("damage", ["empty", "deep nesting", "a pipe", "a folder", "a link to itself", "zeros"])
@pytest.mark.parametrize("key", ["zarr.json", "features/zarr.json", "image_id/zarr.json", "image_id_offsets/c.0"])
def test_other_damaged_small_files_end_nothing_about_others(lab: LocalLocation, damage: str, key: str) -> None:
    one, other = list_caches(lab)
    DAMAGES[damage](one.location.path / key)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert other.path in [entry.path for entry in list_caches(lab)]
        assert other.path in [entry.path for entry in rebuild(lab)]
        remove_cache(other.location)
        remove_cache(one.location)
    assert list_caches(lab) == []


@pytest.mark.parametrize("unreadable", ["index.json", "manifest.json"])
def test_a_list_that_its_writer_cannot_read_is_not_written_for_ever(
    lab: LocalLocation, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    entry, _ = list_caches(lab)
    cache = entry.open()
    read, asked = LocalLocation.read, []

    def refused(location: LocalLocation, key: str, *, most: int | None = None) -> bytes:
        if key == unreadable:
            asked.append(key)
            assert len(asked) < 20, "again and again"
            raise UnreadableError(f"cannot read {location.path / key}: Operation not permitted; ask its owner")
        return read(location, key, most=most)

    monkeypatch.setattr(LocalLocation, "read", refused)
    with pytest.warns(UserWarning, match=f"{unreadable}: Operation not permitted"):
        flush(cache)  # what is derived does not end an extraction
    if unreadable == "index.json":
        with pytest.raises(UnreadableError, match="Operation not permitted"):
            write_index(lab)
        with pytest.raises(UnreadableError, match="Operation not permitted"):
            remove_cache(entry.location)
    else:
        with pytest.raises(UnreadableError, match="Operation not permitted"):
            write_manifest(entry.location)
