"""What killed writers leave is swept in time, wherever it lies, and by the file system's clock alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from deapcache_caches import DIM, GRID, feature_cache, feature_recipe, fill, image_ids

from deapcache.cache import feature_arrays, features_path, tier
from deapcache.cache.tier import TierFolder
from deapcache.extraction.create import make_cache
from deapcache.locations import LocalLocation, LocalTier, file_age, local

DAY = 86_400.0
CLOCKS = [-400 * DAY, -2 * DAY, 0.0, 1.5 * DAY, 400 * DAY]
"""By how much a host's clock is off."""


def left(folder: Path, name: str, age: float) -> Path:
    """A temporary of a writer that was killed so long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.gpu7-1-ab.partial"
    path.write_bytes(b"half")
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


@pytest.fixture(autouse=True)
def first_write_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SWEPT", set())


@pytest.mark.parametrize("off", CLOCKS)
def test_a_hosts_clock_plays_no_part(home: LocalLocation, monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off)
    old, new = left(home.path / "a" / "b", "x", 1.1 * DAY), left(home.path / "a" / "b", "y", 0.9 * DAY)
    assert abs(file_age(new) - 0.9 * DAY) < 60
    assert home.sweep() == 1
    assert (old.exists(), new.exists()) == (False, True)
    old = left(home.path / "results", "x", 1.1 * DAY)
    new = left(home.path / "results", "y", 0.9 * DAY)
    home.publish("results/run.json", b"{}")
    assert (old.exists(), new.exists()) == (False, True)
    assert not [path for path in home.path.rglob("*.partial") if "gpu7" not in path.name], "the clock's own file stays"


@pytest.mark.parametrize(
    "key", ["results/a.json", "digests/a.json", "readouts/a.safetensors", "speeds/a.json", "index.json"]
)
def test_the_first_write_into_a_folder_sweeps_it(home: LocalLocation, key: str) -> None:
    old = left((home.path / key).parent, "other", 2 * DAY)
    strays = [(home.path / key).parent / name for name in ("mine.partial", ".hidden", "notes.txt")]
    for stray in strays:
        stray.write_bytes(b"x")
        os.utime(stray, (1, 1))
    home.publish(key, b"{}", replace=True)
    assert not old.exists()
    assert all(stray.exists() for stray in strays)
    old = left((home.path / key).parent, "other", 2 * DAY)
    home.publish(key, b"{}", replace=True)
    assert old.exists(), "once in a process: it is a look at the whole folder"


def test_a_complete_cache_is_swept_when_it_is_found_again(home: LocalLocation) -> None:
    cache = feature_cache(home, count=3)
    fill(cache)
    old = [left(cache.location.path / part, "c.1.0.0.0", 2 * DAY) for part in ("features", "image_id", "claims", ".")]
    new = left(cache.location.path / "features", "c.2.0.0.0", 60)
    recipe = feature_recipe()
    path = features_path("coco", "train", recipe.backbone, recipe.digest)
    arrays, ids = feature_arrays("float16", GRID, DIM), image_ids(3)
    make_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids, rows=range(3), progress=lambda _: None)
    assert not [path for path in old if path.exists()]
    assert new.exists()


@pytest.mark.parametrize("off", CLOCKS)
def test_a_tier_keeps_what_others_are_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    real = time.time
    folder = TierFolder(LocalTier(folder=tmp_path, bytes=10_000_000))
    new = left(folder.tier.shards / "x", "c.0.0", 60)
    old = left(folder.tier.shards / "x", "c.1.0", tier._ABANDONED_AFTER + 60)
    monkeypatch.setattr(time, "time", lambda: real() + off)
    assert folder.keep(folder.tier.shards / "x" / "c.2.0", b"data", None)
    assert (old.exists(), new.exists()) == (False, True)


def test_where_nothing_can_be_written_nothing_is_swept(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    old = left(home.path, "x", 2 * DAY)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "touch", refused)
    assert home.sweep() == 0
    assert old.exists()
