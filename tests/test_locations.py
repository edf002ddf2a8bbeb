"""Locations: whole writes, first one stays, nothing outside, explained errors; the same on disk and over http."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deapcache_caches import served
from deapcache_testing import mounted, require

import deapcache
from deapcache import locations
from deapcache.errors import LocationError, ReadOnlyError, StorageFullError, UsageError
from deapcache.locations import LocalLocation, RemoteLocation, local_tier, locate, stores


def test_publish_read_list_delete(home: LocalLocation) -> None:
    assert home.publish("a/b/c.0.0", b"one")
    assert home.publish("a/z", b"")
    assert home.read("a/b/c.0.0") == b"one"
    assert home.exists("a/z")
    assert not home.exists("a")
    assert not home.exists("nothing")
    assert home.keys() == ["a/b/c.0.0", "a/z"]
    assert home.keys("a/b") == ["a/b/c.0.0"]
    assert home.keys("nowhere") == []
    assert (home / "a").keys("b") == ["b/c.0.0"]
    assert home.size("a/b/c.0.0") == 3
    home.delete("a/z")
    home.delete("a/z")
    assert home.keys() == ["a/b/c.0.0"]
    with pytest.raises(FileNotFoundError):
        home.read("a/z")


def test_find_stays_within_a_part(home: LocalLocation) -> None:
    for key in (
        "f/a/b.zarr/zarr.json",
        "f/c/d.zarr/zarr.json",
        "f/a/b.zarr/features/zarr.json",
        "g/a/b.zarr/zarr.json",
    ):
        home.publish(key, b"{}")
    expected = ["f/a/b.zarr/zarr.json", "f/c/d.zarr/zarr.json"]
    assert home.find("f/*/*.zarr/zarr.json") == expected
    assert locations.Location.find(home, "f/*/*.zarr/zarr.json") == expected  # what object stores use


def test_the_first_one_published_stays(home: LocalLocation) -> None:
    assert home.publish("key", b"first")
    assert not home.publish("key", b"second")
    assert home.read("key") == b"first"
    assert home.publish("key", b"third", replace=True)
    assert home.read("key") == b"third"
    assert [p.name for p in home.path.iterdir()] == ["key"]


def test_one_of_many_racing_writers_wins(home: LocalLocation) -> None:
    contents = [bytes([i]) * 200_000 for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda data: home.publish("folder/key", data), contents))
    assert won.count(True) == 1
    assert home.read("folder/key") == contents[won.index(True)]
    assert not list(home.path.rglob("*.partial"))


def test_the_first_one_stays_without_hard_links_too(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # exFAT, some network file systems

    monkeypatch.setattr(os, "link", refuse)
    assert home.publish("key", b"first")
    assert not home.publish("key", b"second")
    assert home.read("key") == b"first"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "a\0b"])
def test_nothing_is_outside(home: LocalLocation, name: str) -> None:
    for attempt in (home.read, home.exists, home.delete, home.keys, home.__truediv__, lambda n: home.publish(n, b"")):
        with pytest.raises(UsageError, match="inside a location"):
            attempt(name)
    with pytest.raises(UsageError, match="inside a location"):
        RemoteLocation("http://127.0.0.1:1") / name


def test_sweep_removes_old_temporaries_only(home: LocalLocation) -> None:
    home.publish("a/key", b"x")
    old, young = (home.path / "a" / f".key.{n}.partial" for n in "12")
    for path in (old, young):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(old, (two_days_ago, two_days_ago))
    os.utime(home.path / "a" / "key", (two_days_ago, two_days_ago))
    assert home.keys() == ["a/key"]
    assert home.sweep() == 1
    assert not old.exists()
    assert young.exists()
    assert home.read("a/key") == b"x"


@pytest.mark.parametrize(("home_mode", "file_mode"), [(0o2770, 0o660), (0o750, 0o640), (0o755, 0o644), (0o2775, 0o664)])
def test_permissions_follow_the_home_whatever_the_umask(home: LocalLocation, home_mode: int, file_mode: int) -> None:
    home.path.chmod(home_mode)
    before = os.umask(0o077)
    try:
        home.publish("deep/er/key", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((home.path / "deep/er/key").stat().st_mode) == file_mode
    for folder in ("deep", "deep/er"):
        mode = stat.S_IMODE((home.path / folder).stat().st_mode)
        assert mode & 0o777 == (home_mode & 0o777) | 0o750 & home_mode
        assert mode & stat.S_ISGID == home_mode & stat.S_ISGID


def test_files_get_the_group_of_the_home(home: LocalLocation) -> None:
    require(os.geteuid() == 0, "root, to give a folder to another group")
    os.chown(home.path, -1, 12_345)
    home.publish("a/b", b"x")
    assert [(home.path / part).stat().st_gid for part in ("a", "a/b")] == [12_345, 12_345]


def test_a_full_disk_is_explained_and_nothing_is_left(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=256k") as folder:
        place = LocalLocation(folder)
        place.publish("first", bytes(100_000))
        free = place.free_bytes()
        assert free
        assert 0 < free < 256 * 1024
        with pytest.raises(StorageFullError, match=r"cannot write .*second: No space left") as raised:
            place.publish("second", os.urandom(200_000))
        assert isinstance(raised.value, OSError)
        assert place.keys() == ["first"]
        assert [p.name for p in folder.iterdir()] == ["first"]
        place.require_writable()


def test_a_read_only_place_is_explained(tmp_path: Path) -> None:
    with mounted(tmp_path / "fixed", "size=256k") as folder:
        place = LocalLocation(folder)
        place.publish("key", b"x")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert place.read("key") == b"x"
        for attempt in (place.require_writable, lambda: place.publish("a/b", b"x")):
            with pytest.raises(ReadOnlyError, match=r"Read-only file system; give a home that you may write to"):
                attempt()


def test_a_file_that_may_not_be_read_is_explained(home: LocalLocation) -> None:
    require(os.geteuid() == 0 and shutil.which("setpriv") is not None, "root and setpriv")
    home.publish("key", b"x")
    (home.path / "key").chmod(0o600)
    for folder in (home.path, *home.path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65_534)
    try:
        with pytest.raises(LocationError, match=r"cannot read .*key: Permission denied; ask its owner"):
            home.read("key")
    finally:
        os.seteuid(0)


def test_a_file_in_a_folders_place_is_explained(home: LocalLocation) -> None:
    home.publish("a", b"x")
    with pytest.raises(LocationError, match="a file stands where a folder should be"):
        home.publish("a/b", b"x")


def test_which_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAPCACHE_HOME", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert locations.home(tmp_path / "given") == LocalLocation(tmp_path / "given")
    assert locations.home() == LocalLocation(tmp_path / "env")
    monkeypatch.delenv("DEAPCACHE_HOME")
    assert locations.home() == LocalLocation(tmp_path / "xdg" / "deapcache")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert locations.home() == LocalLocation(tmp_path / "user" / ".cache" / "deapcache")
    assert locations.home("~/here") == LocalLocation(tmp_path / "user" / "here")


def test_locate_knows_its_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate("file:///data/x") == LocalLocation(Path("/data/x"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    found = json.loads((locate("s3://bucket/a/b/") / "c").origin)
    assert (found["bucket"], found["prefix"], found["config"]["endpoint"]) == (
        "bucket",
        "a/b/c",
        "http://127.0.0.1:9000",
    )
    assert json.loads(locate("gs://bucket/a").origin) == {"scheme": "gs", "bucket": "bucket", "prefix": "a"}
    assert json.loads(locate("https://host/a").origin)["url"] == "https://host/a"
    with pytest.raises(UsageError, match=r"'ftp'.*s3://"):
        locate("ftp://host/x")


def test_a_web_server_is_read_and_not_written(home: LocalLocation) -> None:
    home.publish("a/b", b"0123456789" * 1000)
    with served(home.path) as (url, requests):
        place = locate(url)
        assert place.read("a/b") == home.read("a/b")
        assert (place / "a").exists("b")
        assert [path for path, _ in requests] == ["/a/b"]  # that it is there is asked without fetching it
        assert not place.exists("a/c")
        with pytest.raises(FileNotFoundError):
            place.read("a/c")
        with pytest.raises(ReadOnlyError, match="read only"):
            place.publish("x", b"")
        with pytest.raises(LocationError, match="lists no folders"):
            place.keys()
        assert not place.can_list
        assert place.size("a/b") == 10_000


def test_a_server_that_is_gone_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stores.RETRIES, "max_retries", 1)
    with pytest.raises(LocationError, match=r"cannot reach http://127\.0\.0\.1:1/.*zarr\.json"):
        locate("http://127.0.0.1:1/").read("zarr.json")


def test_names_as_long_as_the_file_system_takes(home: LocalLocation, monkeypatch) -> None:
    """What is written under another name first has a shorter one; host names with their domain are long."""
    monkeypatch.setattr("socket.gethostname", lambda: "x" * 64)
    for name in ("a" * 255, "ä" * 127 + "b", "c.0.0.0"):
        home.require_names([f"results/{name}", "b"])
        assert home.publish(f"results/{name}", b"1")
        assert not home.publish(f"results/{name}", b"2")
        assert home.publish(f"results/{name}", b"3", replace=True)
        assert home.read(f"results/{name}") == b"3"
    assert not list(home.path.rglob("*.partial"))


@pytest.mark.parametrize("name", ["a" * 256, "ä" * 128, "a" * 1000])
def test_longer_names_are_told_beforehand(home: LocalLocation, name: str) -> None:
    for place in (home, home.with_read_homes([home / "other"]), LocalLocation(home.path / "not" / "yet" / "there")):
        with pytest.raises(LocationError, match=f"takes no name of {len(name.encode())} bytes"):
            place.require_names(["short", f"results/{name}"])
    assert not home.exists(f"results/{name}")
    with pytest.raises(LocationError, match="cannot write"):
        home.publish(f"results/{name}", b"")
    assert not list(home.path.rglob("*.partial"))


@pytest.mark.parametrize(
    "address", ["s3://lab/home", "gs://lab/home", "https://host/home", "az://x/y", "S3://lab/home"]
)
def test_an_address_as_a_path_is_told(address: str, tmp_path, monkeypatch) -> None:
    """pathlib takes one of the two slashes away."""
    monkeypatch.chdir(tmp_path)
    for given in (Path(address), str(Path(address))):
        for ask in (locate, deapcache.home):
            with pytest.raises(UsageError, match=f"lacks a slash.*give {address!r} as text"):
                ask(given)
    with pytest.raises(UsageError, match="local tier"):
        local_tier(address, "1GB")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_colon_is_a_folder(tmp_path) -> None:
    for name in ("s3:", "a:b", "folder:birds"):
        assert locate(tmp_path / name).path == tmp_path / name
    assert locate("a:b").path.name == "a:b"
