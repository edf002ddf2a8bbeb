"""Shards appear whole or not at all: after kills, between racing processes, on a full disk, without permission."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from deapcache_caches import DIM, GRID, IMAGES, feature_cache, feature_recipe, fill, image_ids, shard_file, volumes
from deapcache_testing import mounted

from deapcache.cache import ArraySpec, Cache, create_cache, feature_arrays, list_caches, open_cache
from deapcache.errors import CorruptCacheError, ReadOnlyError, StorageFullError, UsageError
from deapcache.locations import LocalLocation

CHILD = Path(__file__).with_name("writer_child.py")
ROOT = CHILD.parents[2]


def _start(home: LocalLocation, mode: str, umask: int = -1) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    command = [sys.executable, str(CHILD), str(home), mode]
    child = subprocess.Popen(command, env=env, umask=umask, text=True, stdin=-1, stdout=-1)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    return child


def _go(*children: subprocess.Popen[str]) -> None:
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()


def _finish(*children: subprocess.Popen[str]) -> None:
    for child in children:
        output, _ = child.communicate(timeout=600)
        assert child.returncode == 0
        assert "done" in output


def test_every_shape_and_dtype_is_checked(home: LocalLocation) -> None:
    cache = feature_cache(home)
    good = np.zeros((3, *GRID, DIM), np.float16)
    wrong = [
        ({"features": good[:2]}, r"\(3, 3, 4, 8\) float16; found \(2, 3, 4, 8\)"),
        ({"features": good.astype(np.float32)}, "found .* float32"),
        ({"features": good, "scales": good}, "found features, scales"),
        ({}, "found none"),
    ]
    for arrays, message in wrong:
        with pytest.raises(UsageError, match=message):
            cache.write_shard(0, arrays)
    with pytest.raises(UsageError, match=r"\(1, 3, 4, 8\)"):
        cache.write_shard(43, {"features": good})
    assert cache.present_shards() == set()


def test_the_first_shard_published_stays(home: LocalLocation) -> None:
    cache = feature_cache(home)
    ones = np.ones((3, *GRID, DIM), np.float16)
    assert cache.write_shard(0, {"features": ones})
    assert not cache.write_shard(0, {"features": 2 * ones})
    np.testing.assert_array_equal(cache.read([0, 1, 2]), ones)


def test_a_shard_without_its_last_array_is_not_there(home: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, [0])
    shard_file(cache, 0).unlink()  # as a kill between the two leaves it
    assert cache.present_shards() == set()
    fill(cache, [0])
    assert cache.read_features([2]).shape == (1, *GRID, DIM)


def test_creating_again_opens_what_is_there(home: LocalLocation) -> None:
    first = feature_cache(home)
    fill(first, [0])
    assert feature_cache(home).present_shards() == {0}


def _create(home: LocalLocation, recipe: object = None, ids: list[str] | None = None, dim: int = DIM) -> Cache:
    return create_cache(
        home,
        "features/x.zarr",
        recipe=recipe or feature_recipe(),  # type: ignore[arg-type]
        arrays=feature_arrays("float16", GRID, dim),
        image_ids=ids or image_ids(),
        attributes={"dataset": "coco"},
    )


def test_creating_over_something_else_is_refused(home: LocalLocation) -> None:
    assert _create(home).attributes == {"dataset": "coco"}
    with pytest.raises(UsageError, match="tf32: True here, False there"):
        _create(home, recipe=feature_recipe(tf32=True))
    with pytest.raises(UsageError, match="ids or order differ"):
        _create(home, ids=image_ids()[::-1])
    with pytest.raises(UsageError, match="item_shape"):
        _create(home, dim=9)
    with pytest.raises(UsageError, match="at least one image"):
        create_cache(
            home, "empty.zarr", recipe=feature_recipe(), arrays=feature_arrays("float16", GRID, 8), image_ids=()
        )


def test_a_cache_exists_only_with_its_root(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    published = []
    publish = LocalLocation.publish

    def recording(self: LocalLocation, key: str, data: bytes, **options: bool) -> bool:
        published.append(key)
        return publish(self, key, data, **options)

    monkeypatch.setattr(LocalLocation, "publish", recording)
    cache = feature_cache(home)
    assert published.count("zarr.json") == 1
    assert published[-1] == "zarr.json"
    (cache.location.path / "zarr.json").unlink()  # as a kill before the last step leaves it
    assert list_caches(home) == []
    fill(feature_cache(home))
    assert len(list_caches(home)) == 1


def test_a_second_writer_takes_the_shard_size_from_the_cache(
    home: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature_cache(home)
    monkeypatch.setattr("deapcache.cache.format.MIN_SHARDS", 2)  # another version's idea
    cache = feature_cache(home)
    assert cache.shard_images == 3
    fill(cache)
    np.testing.assert_array_equal(cache.read(range(IMAGES)), volumes(range(IMAGES)).astype(np.float16))


def test_kills_leave_only_whole_shards(home: LocalLocation) -> None:
    cache = feature_cache(home)
    expected = volumes(range(IMAGES)).astype(np.float16)
    seen, rng = set(), np.random.default_rng(0)
    for kills in range(60):
        if kills >= 8 and len(seen) > 3:
            break
        child = _start(home, "forever")
        _go(child)
        assert child.stdout
        assert child.stdout.readline() == "created\n"
        time.sleep(rng.uniform(0, 0.25 * (1 + kills / 8)))  # longer and longer, for a machine that is busy
        child.send_signal(signal.SIGKILL)
        child.communicate()
        present = sorted(cache.present_shards())
        seen.add(len(present))
        rows = [row for k in present for row in cache.shard_rows(k)]
        np.testing.assert_array_equal(cache.read(rows), expected[rows])
    assert len(seen) > 3, "the kills all came at the same moment: this test shows nothing"
    fill(cache)
    np.testing.assert_array_equal(cache.read(range(IMAGES)), expected)


def test_leftover_temporaries_are_no_shards_and_are_swept_by_age(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, [0])
    left = shard_file(cache, 1).with_name(".c.1.0.0.0.host-1-abc.partial")
    left.write_bytes(b"half")
    assert cache.present_shards() == {0}
    assert cache.location.sweep() == 0  # it may be a living writer's
    os.utime(left, (0, time.time() - 2 * 86_400))
    assert cache.location.sweep() == 1
    assert not left.exists()
    assert cache.present_shards() == {0}


def test_two_processes_write_one_cache(home: LocalLocation) -> None:
    children = [_start(home, "once") for _ in range(2)]
    _go(*children)
    _finish(*children)
    (entry,) = list_caches(home)
    cache = entry.open()
    assert cache.is_complete()
    np.testing.assert_array_equal(cache.read(range(IMAGES)), volumes(range(IMAGES)).astype(np.float16))
    alone = feature_cache(LocalLocation(home.path.parent / "alone"))
    fill(alone)
    for k in range(cache.shard_count):
        assert shard_file(cache, k).read_bytes() == shard_file(alone, k).read_bytes()
    assert not list(home.path.rglob("*.partial"))


def test_many_processes_create_one_cache(home: LocalLocation) -> None:
    children = [_start(home, "create") for _ in range(4)]
    _go(*children)
    _finish(*children)
    (entry,) = list_caches(home)
    assert entry.open().image_ids == tuple(image_ids())


def test_files_are_readable_by_the_group_whatever_the_umask(home: LocalLocation) -> None:
    home.path.chmod(0o2775)
    child = _start(home, "once", umask=0o077)
    _go(child)
    _finish(child)
    for path in home.path.rglob("*"):
        mode = path.stat().st_mode
        assert mode & stat.S_IRGRP, path
        assert path.stat().st_gid == home.path.stat().st_gid
        if path.is_dir():
            assert mode & stat.S_IXGRP, path
            assert mode & stat.S_ISGID, path


def _noise(cache: Cache, k: int) -> dict[str, np.ndarray]:
    shape = (len(cache.shard_rows(k)), *cache.arrays["features"].item_shape)
    return {"features": np.random.default_rng(k).normal(size=shape).astype(np.float16)}


def _write_noise(cache: Cache) -> None:
    for k in cache.missing_shards():
        assert cache.write_shard(k, _noise(cache, k))


def test_a_full_disk_leaves_whole_shards_and_is_resumed(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=2m") as folder:
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(800_000))
        home = LocalLocation(folder / "home")
        spec = ArraySpec(name="features", dtype="float16", item_shape=(50, 1000), dimensions=("row", "channel"))
        cache = create_cache(home, "f.zarr", recipe=feature_recipe(), arrays=[spec], image_ids=image_ids(16))
        with pytest.raises(StorageFullError, match=r"No space left.*goes on where it stopped"):
            _write_noise(cache)
        written = len(cache.present_shards())
        assert 2 < written < 15
        assert cache.present_shards() == set(range(written))
        assert not list(folder.rglob("*.partial"))
        for k in range(written):
            np.testing.assert_array_equal(cache.read([k]), _noise(cache, k)["features"])
        ballast.unlink()
        _write_noise(cache)
        assert cache.is_complete()


def test_a_full_disk_at_creation_leaves_no_cache(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=64k") as folder:
        (folder / "ballast").write_bytes(bytes(40_000))
        with pytest.raises(StorageFullError):
            feature_cache(LocalLocation(folder / "home"), count=20_000)
        assert list_caches(LocalLocation(folder / "home")) == []


def test_a_read_only_home_is_read_but_not_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "fixed", "size=4m") as folder:
        home = LocalLocation(folder / "home")
        cache = feature_cache(home)
        fill(cache, [0])
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        before = sorted(folder.rglob("*"))
        reader = open_cache(cache.location)
        np.testing.assert_array_equal(reader.read([1]), volumes([1]).astype(np.float16))
        assert feature_cache(home).present_shards() == {0}  # creating what exists writes nothing
        with pytest.raises(ReadOnlyError, match="--home, or DEAPCACHE_HOME"):
            fill(cache, [1])
        with pytest.raises(ReadOnlyError):
            feature_cache(home, "float32")
        with pytest.raises(ReadOnlyError):
            cache.record_provenance({})
        assert sorted(folder.rglob("*")) == before


def test_an_array_file_that_cannot_be_opened_names_itself(home: LocalLocation) -> None:
    cache = feature_cache(home)
    path = cache.location.path / "features" / "zarr.json"
    path.write_text(path.read_text().replace('"lz4"', '"lz5"'))
    with pytest.raises(CorruptCacheError, match=r"features/zarr\.json"):
        open_cache(cache.location).read([0])
