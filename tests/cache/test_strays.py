"""Files that are none of deapcache's beside every one of a home: nobody counts, copies, serves or fears them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from deapcache_caches import feature_cache, fill
from deapcache_servers import in_a_thread

from deapcache.cache import (
    flush,
    last_written,
    list_cache,
    list_caches,
    list_folders,
    open_cache,
    rebuild,
    remove_cache,
    transfer_cache,
    verify_cache,
    write_manifest,
)
from deapcache.cache.serve import HomeServer
from deapcache.locations import LocalLocation, locate

APPLE = b"\0\5\26\7\0\2\0\0Mac OS X        "
HIDDEN = (".DS_Store", ".nfs00000000a1b2c3", ".x.json.swp", ".fuse_hidden0001", ".sync_abc.tmp")
PLAIN = ("Thumbs.db", "desktop.ini", "c.0.0.0.0 (conflicted copy)", "zarr.json~", "notes.json.bak")


def litter(home: Path) -> None:
    for path in [path for path in home.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(APPLE)
    for folder in [home, *(path for path in home.rglob("*") if path.is_dir())]:
        for name in (*HIDDEN, *PLAIN):
            (folder / name).write_bytes(APPLE)
        for name in (".Trashes", "._folder"):
            (folder / name).mkdir()
            (folder / name / "zarr.json").write_bytes(APPLE)


@pytest.fixture
def lab(home: LocalLocation) -> LocalLocation:
    cache = feature_cache(home, "int8", count=6)
    fill(cache)
    cache.record_provenance({"user": "ada", "host": "gpu7"}, writer="a")
    flush(cache)
    return home


def test_strays_are_ignored_and_go_with_the_folder(lab: LocalLocation, tmp_path: Path) -> None:
    (entry,) = list_caches(lab)
    place = entry.location
    known = list_cache(place), entry.open().provenance(), lab.read("index.json"), last_written(place)
    litter(lab.path)
    assert [one.path for one in list_caches(lab)] == [entry.path]
    assert [one.path for one in list_folders(lab)] == [entry.path]
    assert verify_cache(place).is_sound
    rebuild(lab)
    written = last_written(place)
    assert known[3] is not None
    assert written is not None
    assert known[:3] == (write_manifest(place), entry.open().provenance(), lab.read("index.json"))
    copy = LocalLocation(tmp_path / "copy")
    assert transfer_cache(entry.open(), copy / entry.path).complete
    assert set((copy / entry.path).keys(hidden=True)) == {*known[0].keys, "manifest.json"}
    remove_cache(place)
    assert not place.path.exists()
    assert list_folders(lab) == []


def test_a_server_sends_no_strays(lab: LocalLocation) -> None:
    (entry,) = list_caches(lab)
    litter(lab.path)
    server = HomeServer(lab, "127.0.0.1", 0)
    with in_a_thread(server):
        for key in ("._zarr.json", ".DS_Store", "features/._c.0.0.0.0", "provenance/._a.json", ".Trashes/zarr.json"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{server.url}/{entry.path}/{key}")
        away = locate(server.url)
        assert [one.path for one in list_caches(away)] == [entry.path]
        assert open_cache(away / entry.path).is_complete()
        assert open_cache(away / entry.path).provenance() == [{"host": "gpu7", "user": "ada"}]


def test_strays_of_a_store_are_ignored_and_removed(s3, lab: LocalLocation) -> None:
    place = locate(s3.url)
    (entry,) = list_caches(lab)
    transfer_cache(entry.open(), place / entry.path)
    listed = (place / entry.path).keys()
    for key in (*listed, "provenance/b.json", "features/c.9"):
        folder, _, name = f"{entry.path}/{key}".rpartition("/")
        s3.write(f"{s3_prefix(s3)}{folder}/._{name}", APPLE)
    assert (place / entry.path).keys() == listed
    assert verify_cache(place / entry.path).is_sound
    remove_cache(place / entry.path)
    assert (place / entry.path).keys(hidden=True) == []


def s3_prefix(s3: object) -> str:
    """The part of the address behind the bucket."""
    _, _, path = str(s3.url).partition("://")[2].partition("/")  # type: ignore[attr-defined]
    return f"{path.partition('?')[0].rstrip('/')}/" if path.partition("?")[0] else ""


def test_a_stray_alone_is_no_cache(home: LocalLocation) -> None:
    folder = home.path / "features" / "coco" / "train" / "x.zarr"
    folder.mkdir(parents=True)
    for name in HIDDEN:
        (folder / name).write_bytes(b"x")
    assert list_folders(home) == []
    (folder / "Thumbs.db").write_bytes(b"x")
    (rest,) = list_folders(home)
    assert not rest.has_root
    remove_cache(rest.location)
    assert not folder.exists()
    assert json.loads(home.read("index.json"))["caches"] == []
