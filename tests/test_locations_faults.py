"""File systems that refuse what others offer, and folders that fail, move away or are private."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill, shard_file, volumes
from deapcache_testing import require

from deapcache.cache import list_caches, list_folders, reading, verify_cache
from deapcache.cache.serve import open_key
from deapcache.datasets.digests import file_digest
from deapcache.datasets.folder import read_split_file
from deapcache.datasets.io import decode_image
from deapcache.errors import DataError, LocationError, UnreadableError
from deapcache.locations import LocalLocation, local
from deapcache.results.last_used import last_uses

NOT_OFFERED = [errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS]


def refuses(number: int) -> Callable[..., None]:
    """A system call that always fails."""

    def refuse(*given: object, **_: object) -> None:
        raise OSError(number, os.strerror(number), *(str(one) for one in given[:1]))

    return refuse


@pytest.mark.parametrize("call", ["chmod", "fsync", "chown", "link"])
@pytest.mark.parametrize("number", NOT_OFFERED)
def test_what_a_file_system_does_not_offer_is_done_without(
    home: LocalLocation, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    monkeypatch.setattr(os, call, refuses(number))
    home.require_writable()
    assert home.publish("a/b/key", b"first")
    assert not home.publish("a/b/key", b"second")
    assert home.read("a/b/key") == b"first"
    assert [path.name for path in (home.path / "a" / "b").iterdir()] == ["key"]


@pytest.mark.parametrize("renaming", [True, False])
def test_without_hard_links_the_first_one_stays(
    home: LocalLocation, monkeypatch: pytest.MonkeyPatch, renaming: bool
) -> None:
    monkeypatch.setattr(os, "link", refuses(errno.ENOTSUP))
    if not renaming:  # no renameat2 either, or a file system that does not know its flag
        monkeypatch.setattr(local, "_renameat2", lambda: None)
        assert home.publish("key", b"x")
        assert not home.publish("key", b"y")
        return
    contents = [bytes([number]) * 50_000 for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(lambda data: home.publish("folder/key", data), contents))
    assert won.count(True) == 1
    assert home.read("folder/key") == contents[won.index(True)]


@pytest.mark.parametrize("call", ["chmod", "fsync", "link"])
def test_a_disk_that_fails_is_told(home: LocalLocation, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(os, call, refuses(errno.EIO))
    with pytest.raises(LocationError, match=r"cannot write .*/key: Input/output error; see to the disk"):
        home.publish("key", b"x")


def test_a_folder_that_moves_away_while_it_is_filled_is_told(
    home: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def move_first(source: Path, target: Path) -> None:
        (home.path / "cache").rename(home.path / "elsewhere")
        link(source, target)

    home.publish("cache/one", b"x")
    monkeypatch.setattr(os, "link", move_first)
    with pytest.raises(LocationError, match=r"cannot write .*cache/two: .*; its folder was moved or removed meanwhile"):
        home.publish("cache/two", b"x")
    assert (home.path / "elsewhere" / "one").read_bytes() == b"x"


def test_a_full_disk_is_told_with_how_to_go_on(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuses(errno.ENOSPC))
    with pytest.raises(LocationError, match=r"No space left on device; what was published before is whole and stays"):
        home.publish("key", b"x")
    assert list(home.path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_what_cannot_be_looked_at_is_neither_absent_nor_damaged(
    home: LocalLocation, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cache = feature_cache(home)
    fill(cache, range(2))
    home.publish("results/run.json", b"{}")
    picture = home.path / "picture.png"
    told = rf"(?s)(?=.*{re.escape(str(home.path))})(?=.*cannot (be )?(read|list|look at)).*{os.strerror(number)}"
    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", refuses(number))
        looks: list[Callable[[], Any]] = [
            lambda: home.keys(),
            lambda: home.find("features/*/*/*.zarr/zarr.json"),
            lambda: list_caches(home),
            lambda: list_folders(home),
            lambda: last_uses([home]),
            lambda: cache.present_shards(),
            lambda: verify_cache(cache.location),
        ]
        for look in looks:
            with pytest.raises(LocationError, match=told):
                look()
    with monkeypatch.context() as broken:
        broken.setattr(Path, "stat", refuses(number))
        for look in (lambda: home.exists("key"), lambda: home.size("key"), lambda: home.etag("key")):
            with pytest.raises(LocationError, match=told):
                look()
    with monkeypatch.context() as broken:
        broken.setattr("io.open", refuses(number))
        broken.setattr("builtins.open", refuses(number))
        for read in (
            lambda: home.read("key"),
            lambda: decode_image(picture),
            lambda: file_digest(picture),
            lambda: read_split_file(picture, ("train",)),
        ):
            with pytest.raises(LocationError, match=told) as raised:
                read()
            assert not isinstance(raised.value, DataError)
    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", refuses(number))
        np.testing.assert_array_equal(cache.read([0]), volumes([0]).astype(np.float16))  # another way to read is there
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", refuses(number))
        with pytest.raises(LocationError, match=os.strerror(number)):  # a server answers 500 to that, not 404
            open_key(home.path, "results/run.json")


@contextmanager
def as_nobody(home: LocalLocation) -> Iterator[None]:
    """As a user who may enter the home, and owns nothing in it."""
    require(os.geteuid() == 0, "root, to become another user")
    for folder in (home.path, *home.path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_private_folder_is_left_out_with_a_warning_and_the_others_are_listed(home: LocalLocation) -> None:
    for split in ("one", "two"):
        fill(feature_cache(home, backbone=split), range(1))
    for path in home.path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.copytree(home.path / "features" / "coco", home.path / "features" / "private")
    (home.path / "features" / "private").chmod(0o700)
    with as_nobody(home):
        with pytest.warns(UserWarning, match=r"left out: cannot list .*/private: Permission denied; ask its owner"):
            listed = list_caches(home, "features")
        with pytest.warns(UserWarning, match="ask its owner"):
            folders = list_folders(home)
        assert {entry.name for entry in listed} == {"one", "two"}
        assert [folder.path for folder in folders] == [entry.path for entry in listed]
    private = listed[0].location.path / "features"
    private.chmod(0o700)
    with as_nobody(home):
        for look in (lambda: listed[0].open().present_shards(), lambda: verify_cache(listed[0].location)):
            with pytest.raises(
                UnreadableError, match=r"cannot (list|read) .*/features.*ask its owner to let your group"
            ):
                look()
    (home.path / "features").chmod(0o700)
    with as_nobody(home), pytest.raises(UnreadableError, match="ask its owner"):
        list_caches(home, "features")


def test_a_share_of_the_open_files_is_kept_open(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = feature_cache(home)
    fill(cache)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    reading._OPEN.clear()
    limit = 64 + len(list(Path("/dev/fd").iterdir()))  # this process may have many
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        found = cache.read(range(len(cache)))
        assert 0 < len(reading._OPEN) <= limit // 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    np.testing.assert_array_equal(found, volumes(range(len(cache))).astype(np.float16))
    assert shard_file(cache, 0).exists()
