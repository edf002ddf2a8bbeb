"""Removal that is killed, or meets links, live runs and strays: no work is lost, and nothing half is called whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from deapcache_caches import DIM, GRID, feature_recipe, image_ids, served, volumes

from deapcache.cache import (
    FeatureCache,
    create_cache,
    encode_cls,
    encode_features,
    feature_arrays,
    features_path,
    flush,
    list_cache,
    list_caches,
    list_folders,
    open_cache,
    read_manifest,
    rebuild,
    remove_bad_shards,
    remove_cache,
    set_aside,
    transfer_cache,
    verify_cache,
)
from deapcache.cache.claims import CLAIM_SECONDS, Claim, this_machine
from deapcache.errors import CacheInUseError, CacheMissError, LocationError, ReadOnlyError
from deapcache.locations import LocalLocation, locate

KINDS = [("float16", False), ("float16", True), ("int8", False), ("int8", True)]
COUNT = 3


def new_cache(home: LocalLocation, storage: str = "float16", cls: bool = True, count: int = COUNT) -> FeatureCache:
    recipe = feature_recipe(storage=storage, **({"tokens": "cls"} if cls else {}))
    cache = create_cache(
        home,
        features_path("coco", "train", recipe.backbone, recipe.digest),
        recipe=recipe,
        arrays=feature_arrays(storage, GRID, DIM, cls=cls),
        image_ids=image_ids(count),
    )
    assert isinstance(cache, FeatureCache)
    return cache


def fill(cache: FeatureCache) -> None:
    """As an extraction does: what is missing, and nothing else."""
    for k in cache.missing_shards():
        rows = cache.shard_rows(k)
        ids = [cache.image_ids[row] for row in rows]
        arrays = encode_features(volumes(rows), cache.storage, ids)
        if cache.has_cls:
            arrays |= encode_cls(volumes(rows)[:, 0, 0], cache.storage, ids)
        cache.write_shard(k, arrays)
    flush(cache)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class _Killed(LocalLocation):
    """A folder whose owner is killed by SIGKILL before the n-th deletion."""

    left = 0

    def delete(self, key: str) -> None:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        super().delete(key)


def remove_and_be_killed(path: Path, after: int) -> bool:
    """Whether a process of its own was killed while it removed the cache."""
    child = os.fork()
    if not child:
        place = _Killed(path)
        place.left = after
        try:
            remove_cache(place)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(("storage", "cls"), KINDS)
def test_a_removal_killed_at_any_file_and_an_extraction_after_it_leave_a_whole_cache(
    home: LocalLocation, storage: str, cls: bool
) -> None:
    cache = new_cache(home, storage, cls)
    fill(cache)
    lab, whole = home.path.with_name("lab"), files(cache.location.path)
    shutil.copytree(home.path, lab)
    for after in range(len(whole) + 1):
        shutil.rmtree(home.path)
        shutil.copytree(lab, home.path)
        killed = remove_and_be_killed(cache.location.path, after)
        assert killed == (after < len(whole))
        if after:
            assert list_caches(home) == []
            with pytest.raises(CacheMissError):
                open_cache(cache.location)
        again = new_cache(home, storage, cls)
        listed = list_cache(again.location)
        assert listed.is_complete == again.is_complete()
        for shard in again.present_shards():  # what is called present can be read, in all its arrays
            for name in again.arrays:
                again.read(again.shard_rows(shard), name)
        fill(again)
        assert again.is_complete()
        assert verify_cache(again.location).is_sound
        assert files(again.location.path) == whole, f"killed after {after} files"


@pytest.mark.parametrize(("storage", "array"), [("float16", "cls"), ("int8", "scales"), ("int8", "cls")])
def test_no_shard_is_there_that_lacks_a_file_whoever_asks(home: LocalLocation, storage: str, array: str) -> None:
    cache = new_cache(home, storage)
    fill(cache)
    next((cache.location.path / array).glob("c.2*")).unlink()
    place = cache.location
    assert cache.missing_shards() == [2]
    assert (list_cache(place).images, list_cache(place).is_complete) == (COUNT - len(cache.shard_rows(2)), False)
    found = verify_cache(place)
    assert ({one.shard for one in found.bad}, found.missing) == (
        {2},
        (),
    )  # what is there of it is damage, not work to be done
    copy = LocalLocation(home.path.with_name("copy"))
    report = transfer_cache(cache, copy / "features/coco/train/x.zarr")
    assert (report.absent, report.complete) == (1, False)
    other = LocalLocation(home.path.with_name("other"))
    fill(new_cache(other, storage))
    with served(home.path) as (url, _):
        away = open_cache(locate(url) / str(place.path.relative_to(home.path)))
        (place.path / "manifest.json").unlink()
        assert away.missing_shards() == [2]
    whole = open_cache(other / str(place.path.relative_to(home.path)))
    assert transfer_cache(whole, place).complete
    assert cache.is_complete()
    next((place.path / array).glob("c.1*")).unlink()
    fill(cache)
    assert files(place.path) == files(whole.location.path)
    remove_bad_shards(cache, found.bad)  # looked at once more: it is whole again
    assert cache.is_complete()


@pytest.fixture
def colleague(tmp_path: Path) -> FeatureCache:
    (tmp_path / "colleague").mkdir()
    cache = new_cache(LocalLocation(tmp_path / "colleague"))
    fill(cache)
    return cache


def test_of_a_linked_cache_the_link_is_removed(home: LocalLocation, colleague: FeatureCache) -> None:
    before, path = files(colleague.location.path), list_caches(LocalLocation(home.path.with_name("colleague")))[0].path
    link = home.path / path
    link.parent.mkdir(parents=True)
    link.symlink_to(colleague.location.path)
    assert [entry.path for entry in list_caches(home)] == [path]
    rebuild(home)
    assert files(colleague.location.path) == before
    with pytest.raises(ReadOnlyError, match="links lead out of the home"):
        remove_bad_shards(open_cache(home / path), [])
    with pytest.raises(ReadOnlyError):
        set_aside(home / path, ["features/zarr.json"])
    with pytest.raises(ReadOnlyError):
        transfer_cache(colleague, home / path)
    old = colleague.location.path / "features" / ".c.0.0.0.0.x.partial"
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    (home / path).sweep()
    assert old.exists()
    old.unlink()
    remove_cache(home / path)
    assert not link.is_symlink()
    assert files(colleague.location.path) == before
    assert json.loads(home.read("index.json"))["caches"] == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_lies_outside_the_home_is_not_removed(home: LocalLocation, colleague: FeatureCache, depth: int) -> None:
    theirs = home.path.with_name("colleague")
    before = files(theirs)
    (path,) = (entry.path for entry in list_caches(LocalLocation(theirs)))
    part = "/".join(path.split("/")[:depth])
    (home.path / part).parent.mkdir(parents=True, exist_ok=True)
    (home.path / part).symlink_to(theirs / part)
    with pytest.raises(ReadOnlyError, match=r"links lead out of the home to .*colleague"):
        remove_cache(home / path)
    assert files(theirs) == before


def test_a_home_that_is_a_link_itself_is_a_home(home: LocalLocation) -> None:
    fill(new_cache(home))
    other = home.path.with_name("linked")
    other.symlink_to(home.path)
    (entry,) = list_caches(LocalLocation(other))
    remove_cache(entry.location)
    assert list_caches(home) == []


def test_links_inside_a_cache_are_removed_and_not_followed(home: LocalLocation, tmp_path: Path) -> None:
    cache = new_cache(home)
    fill(cache)
    elsewhere = tmp_path / "scratch"
    shutil.move(cache.location.path / "features", elsewhere)
    (cache.location.path / "features").symlink_to(elsewhere)
    before = files(elsewhere)
    remove_cache(cache.location)
    assert not cache.location.path.exists()
    assert files(elsewhere) == before


@contextmanager
def a_process() -> Iterator[int]:
    child = subprocess.Popen(["sleep", "600"])
    try:
        yield child.pid
    finally:
        child.kill()
        child.wait()


def claim(cache: FeatureCache, pid: int, *, machine: str = "", age: float = 0.0) -> Path:
    made = Claim(writer="w", host="gpu7", pid=pid, machine=machine or this_machine())
    cache.location.publish("claims/3.json", made.to_bytes(), replace=True)
    path = cache.location.path / "claims" / "3.json"
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


def test_a_cache_that_a_live_run_is_at_work_on_is_not_removed(
    home: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = new_cache(home)
    fill(cache)
    before = files(cache.location.path)
    with a_process() as pid:
        claim(cache, pid)
        with pytest.raises(CacheInUseError, match=rf"extracted by gpu7 \(process {pid}\)"):
            remove_cache(cache.location)
    claim(cache, 1, machine="another", age=CLAIM_SECONDS / 2)
    for off in (-86_400, 0, 86_400, 400 * 86_400):  # this host's clock plays no part
        now = time.time()
        monkeypatch.setattr(time, "time", lambda now=now, off=off: now + off)
        with pytest.raises(CacheInUseError):
            remove_cache(cache.location)
        monkeypatch.undo()
    (cache.location.path / "claims" / "3.json").write_text("{")
    with pytest.raises(CacheInUseError, match="an unknown run"):
        remove_cache(cache.location)
    (cache.location.path / "claims" / "3.json").unlink()
    assert files(cache.location.path) == before


def test_claims_of_runs_that_ended_do_not_keep_a_cache(home: LocalLocation) -> None:
    cache = new_cache(home)
    fill(cache)
    with a_process() as pid:
        pass
    claim(cache, pid)  # killed on this machine
    remove_cache(cache.location)
    cache = new_cache(home)
    claim(cache, 1, machine="another", age=CLAIM_SECONDS + 5)
    remove_cache(cache.location)
    cache = new_cache(home)
    for stray in ("._3.json", "notes.txt", ".DS_Store"):
        (cache.location.path / "claims").mkdir(exist_ok=True)
        (cache.location.path / "claims" / stray).write_text("x")
    remove_cache(cache.location)
    assert list_folders(home) == []
    assert not cache.location.path.exists()


def test_a_store_is_watched_for_a_beat(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    from deapcache.cache import claims

    monkeypatch.setattr(claims, "CLAIM_SECONDS", 8.0)
    place = locate(s3.url)
    cache = new_cache(place, count=2)
    made = Claim(writer="w", host="gpu7", pid=1, machine="another")
    cache.location.publish("claims/0.json", made.to_bytes())
    beats = iter(range(1, 99))

    def beat(_: float) -> None:
        data = Claim(writer="w", host="gpu7", pid=1, machine="another", beat=next(beats)).to_bytes()
        cache.location.publish("claims/0.json", data, replace=True)

    with monkeypatch.context() as patched:
        patched.setattr(claims.time, "sleep", beat)
        with pytest.raises(CacheInUseError):
            remove_cache(cache.location)
    remove_cache(cache.location)
    assert [key for key in place.keys() if not key.startswith("removals/")] in ([], ["index.json"])  # noqa: SIM118


def test_a_cache_that_is_removed_while_a_home_is_listed_is_left_out(home: LocalLocation) -> None:
    stays, comes_and_goes = new_cache(home, "float32"), new_cache(home, "int8").location
    kept = home.path.with_name("kept")
    comes_and_goes.path.rename(kept)
    child = os.fork()  # it touches no library that has threads
    if not child:
        while True:
            shutil.copytree(kept, kept.with_name("copy"))
            comes_and_goes.path.parent.mkdir(parents=True, exist_ok=True)
            kept.with_name("copy").rename(comes_and_goes.path)
            remove_cache(comes_and_goes)
    try:
        for _ in range(60):
            assert str(stays.location.path) in [str(entry.location) for entry in list_caches(home)]
            assert [folder for folder in list_folders(home) if folder.location == stays.location]
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "nothing came and went any more"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_dangling_link_is_out_of_reach_and_not_empty(home: LocalLocation) -> None:
    (home.path / "results").symlink_to(home.path / "unmounted")
    with pytest.raises(LocationError, match="is it mounted"):
        home.keys("results")
    cache = new_cache(home)
    fill(cache)
    shutil.rmtree(cache.location.path / "features")
    (cache.location.path / "features").symlink_to(home.path / "unmounted")
    with pytest.raises(LocationError, match="is it mounted"):
        cache.present_shards()


def test_reading_class_tokens_after_all(home: LocalLocation) -> None:
    cache = new_cache(home)
    fill(cache)
    np.testing.assert_array_equal(cache.read_cls([2]), volumes([2])[:, 0, 0].astype(np.float16))
    assert read_manifest(cache.location) == list_cache(cache.location)
