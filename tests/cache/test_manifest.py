"""Manifests and index say what is there, whoever writes, and never more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from deapcache_caches import IMAGES, feature_cache, fill, image_ids, shard_file, volumes
from deapcache_servers import files_below

from deapcache.cache import (
    ArraySpec,
    FeatureCache,
    create_cache,
    encode_features,
    flush,
    images_path,
    list_cache,
    open_cache,
    read_manifest,
    rebuild,
    refresh_manifest,
    remove_from_index,
    remove_from_manifest,
    write_index,
    write_manifest,
)
from deapcache.cache.web_index import home_of
from deapcache.errors import CacheMissError, ReadOnlyError, UsageError
from deapcache.locations import LocalLocation, locate
from deapcache.recipe import ImageRecipe

CHILD = Path(__file__).with_name("manifest_child.py")


def told(cache: FeatureCache) -> dict[str, object]:
    return json.loads((Path(str(cache.location)) / "manifest.json").read_bytes())


def indexed(home: LocalLocation) -> list[dict[str, object]]:
    return json.loads((home.path / "index.json").read_bytes())["caches"]


def truth(cache: FeatureCache) -> dict[str, int]:
    """Sizes of the cache's files, by the operating system."""
    files = files_below(Path(str(cache.location)))
    return {key: size for key, size in files.items() if key != "manifest.json" and not key.endswith(".partial")}


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_complete_cache_is_told_without_being_asked(home: LocalLocation, storage: str) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    found = told(cache)
    assert found["keys"] == truth(cache)
    assert (found["images"], found["total"], found["digest"], found["format"]) == (IMAGES, IMAGES, cache.digest, 1)
    shards = {key: size for key, size in truth(cache).items() if key.startswith(("features/c.", "scales/c."))}
    assert len(shards) == cache.shard_count * len(cache.arrays)
    assert found["bytes"] == sum(shards.values()) == cache.stored_bytes()
    (entry,) = indexed(home)
    assert entry == {
        "path": str(cache.location.path.relative_to(home.path)), "kind": "features", "dataset": "coco",
        "split": "train", "name": "vit-b-16", "view": "original", "digest": cache.digest, "images": IMAGES,
        "total": IMAGES, "bytes": found["bytes"],
    }  # fmt: skip


def test_lists_are_written_when_a_writer_has_done_its_part_and_not_for_each_shard(home: LocalLocation) -> None:
    cache = feature_cache(home)
    with refresh_manifest(cache):
        for k in range(9):
            rows = cache.shard_rows(k)
            cache.write_shard(k, encode_features(volumes(rows), "float16", image_ids()[rows.start : rows.stop]))
            assert not (cache.location.path / "manifest.json").exists()
            assert not (home.path / "index.json").exists()
    assert told(cache)["keys"] == truth(cache)
    assert (told(cache)["images"], indexed(home)[0]["images"]) == (27, 27)
    fill(cache, [42, 43])  # the edge shard holds one image
    assert (told(cache)["images"], indexed(home)[0]["images"]) == (31, 31)


def test_lists_are_written_when_the_work_fails(home: LocalLocation) -> None:
    cache = feature_cache(home)
    with pytest.raises(UsageError):
        fill(cache, [0, cache.shard_count])
    assert (told(cache)["images"], indexed(home)[0]["images"]) == (3, 3)


def test_an_index_entry_is_changed_without_looking_at_other_caches(home: LocalLocation) -> None:
    first, second = feature_cache(home), feature_cache(home, "int8")
    fill(first)
    fill(second, [0])
    (entry,) = [one for one in indexed(home) if one["digest"] == first.digest]
    (Path(str(first.location)) / "manifest.json").unlink()
    (Path(str(first.location)) / "zarr.json").unlink()  # as if it could not be read now
    fill(second, [1])
    assert {one["digest"]: one["images"] for one in indexed(home)} == {first.digest: IMAGES, second.digest: 6}
    assert entry in indexed(home)


@pytest.mark.parametrize(
    "damage", [b"{}", b"", b'{"format": 1, "caches": [{"path": "x"}]}', b'{"format": 2, "caches": []}']
)
def test_an_index_that_cannot_be_used_is_made_from_all_caches(home: LocalLocation, damage: bytes) -> None:
    first, second = feature_cache(home), feature_cache(home, "int8")
    fill(first)
    (home.path / "index.json").write_bytes(damage)
    fill(second, [0])
    assert {one["digest"]: one["images"] for one in indexed(home)} == {first.digest: IMAGES, second.digest: 3}


class Interrupted(LocalLocation):
    """A home in which another writer changes the index between this one's look and its write."""

    def read(self, key: str, **limits: object) -> bytes:
        data = super().read(key, **limits)
        if key == "index.json" and Interrupted.others:
            fill(Interrupted.others.pop(), [0])
        return data

    others: ClassVar[list[FeatureCache]] = []


def test_writers_of_one_index_keep_what_the_other_wrote(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = [feature_cache(home, storage) for storage in ("float16", "int8", "float32", "bfloat16")]
    fill(caches[0])
    monkeypatch.setattr("deapcache.cache.names.locate", Interrupted)
    Interrupted.others = caches[2:]
    fill(caches[1], [0])
    assert not Interrupted.others
    assert {one["digest"] for one in indexed(home)} == {cache.digest for cache in caches}


def test_provenance_is_listed(home: LocalLocation) -> None:
    cache = feature_cache(home)
    cache.record_provenance({"device": "cpu"}, writer="a")
    flush(cache)
    assert told(cache)["keys"] == truth(cache)
    assert "provenance/a.json" in truth(cache)


def test_several_writers_leave_true_lists(home: LocalLocation) -> None:
    cache = feature_cache(home)
    command = [sys.executable, str(CHILD), str(home)]
    children = [_child([*command, str(first), "4"]) for first in range(4)]
    for child in children:
        _go(child)
    for child in children:
        child.communicate(timeout=600)
    assert [child.returncode for child in children] == [0] * 4
    assert told(cache)["keys"] == truth(cache)
    assert cache.is_complete()
    assert [entry["images"] for entry in indexed(home)] == [IMAGES]


class Overtaken(LocalLocation):
    """A home in which another writer publishes a shard and its manifest between this one's look and its write."""

    def publish(self, key: str, data: bytes, *, replace: bool = False) -> bool:
        if key == "manifest.json" and not Overtaken.done:
            Overtaken.done = True
            other = open_cache(LocalLocation(self.path))
            fill(other, [7])
            flush(other)
        return super().publish(key, data, replace=replace)

    done = False


def test_a_writer_that_was_overtaken_looks_again(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, [0])
    (Path(str(cache.location)) / "manifest.json").unlink()
    written = write_manifest(Overtaken(Path(str(cache.location))))
    assert Overtaken.done
    assert written.images == 6
    assert told(cache)["keys"] == truth(cache)


def test_a_killed_writer_never_leaves_more_than_there_is(home: LocalLocation) -> None:
    cache = feature_cache(home)
    rng = np.random.default_rng(0)
    seen = []
    while len(seen) < 6:
        child = _child([sys.executable, str(CHILD), str(home), "0", "1"])
        _go(child)
        time.sleep(float(rng.uniform(0, 0.25)))
        child.kill()
        child.communicate()
        if (Path(str(cache.location)) / "manifest.json").exists():
            assert told(cache)["keys"].items() <= truth(cache).items()
            seen.append(told(cache)["images"])
        if (home.path / "index.json").exists():
            assert all(entry["images"] <= 3 * len(cache.present_shards()) for entry in indexed(home))
    fill(cache)
    flush(cache)
    assert told(cache)["keys"] == truth(cache)


def test_what_is_to_be_deleted_is_left_out_first(home: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, [0, 1])
    flush(cache)
    remove_from_manifest(cache.location, ["scales/c.1.0.0", "features/c.1.0.0.0"])
    left = told(cache)
    assert left["images"] == 3
    assert left["keys"].keys() == truth(cache).keys() - {"scales/c.1.0.0", "features/c.1.0.0.0"}
    assert left["bytes"] < cache.stored_bytes()
    shard_file(cache, 1).unlink()
    shard_file(cache, 1, "scales").unlink()
    assert write_manifest(cache.location).keys == truth(cache)
    remove_from_index(cache.location)
    assert indexed(home) == []
    assert len(write_index(home)) == 1


def test_lists_of_a_home_are_made_anew_from_its_keys(home: LocalLocation, tmp_path: Path) -> None:
    first, second = feature_cache(home), feature_cache(home, "int8")
    fill(first)
    fill(second, [0, 5])
    recipe = ImageRecipe(size=(6, 7), fit="squash", interpolation="bicubic", colour="rgb", images="ab" * 32)
    spec = ArraySpec(name="images", dtype="uint8", item_shape=(6, 7, 3), dimensions=("row", "column", "channel"))
    path = images_path("coco", "train", recipe.digest)
    images = create_cache(home, path, recipe=recipe, arrays=[spec], image_ids=image_ids(2))
    images.write_shard(0, {"images": np.zeros((1, 6, 7, 3), np.uint8)})
    copied = LocalLocation(tmp_path / "copy")
    shutil.copytree(home.path, copied.path, ignore=shutil.ignore_patterns("manifest.json", "index.json"))
    lying = copied.path / second.location.path.relative_to(home.path) / "manifest.json"
    lying.write_text('{"format": 1, "kind": "features", "images": 999}')
    entries = rebuild(copied)
    assert [(entry.kind, entry.images, entry.total) for entry in entries if entry.kind == "images"] == [
        ("images", 1, 2)
    ]
    assert sorted(entry.images for entry in entries if entry.kind == "features") == [6, IMAGES]
    for entry in entries:
        folder = copied.path / entry.path
        files = {key: size for key, size in files_below(folder).items() if key != "manifest.json"}
        assert json.loads((folder / "manifest.json").read_bytes())["keys"] == files
    assert [entry["path"] for entry in indexed(copied)] == sorted(entry.path for entry in entries)
    before = (copied.path / "index.json").stat().st_mtime_ns
    rebuild(copied)
    assert (copied.path / "index.json").stat().st_mtime_ns == before  # what is true is not written again


@pytest.mark.parametrize(
    "change", [{"images": "<b>"}, {"keys": [1]}, {"keys": {"a": "b"}}, {"format": 2}, {"bytes": None}, {"more": 1}]
)
def test_a_foreign_manifest_is_no_manifest(home: LocalLocation, change: dict[str, object]) -> None:
    cache = feature_cache(home)
    fill(cache, [0])
    assert read_manifest(cache.location) == list_cache(cache.location)
    (cache.location.path / "manifest.json").write_text(json.dumps({**told(cache), **change}))
    assert read_manifest(cache.location) is None
    flush(cache)
    assert told(cache)["keys"] == truth(cache)


def test_a_damaged_cache_is_left_out_with_a_warning(home: LocalLocation) -> None:
    good, bad = feature_cache(home), feature_cache(home, "int8")
    fill(good, [0])
    (bad.location.path / "features" / "zarr.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"left out: .*features/zarr\.json"):
        entries = rebuild(home)
    assert [entry.digest for entry in entries] == [good.digest]


def test_lists_that_cannot_be_written_cost_no_extraction(home: LocalLocation) -> None:
    cache = feature_cache(home)
    (home.path / "index.json").mkdir()
    with pytest.warns(UserWarning, match="could not be written down .*`deapcache cache index` does it later"):
        fill(cache)
    assert cache.is_complete()


def test_a_cache_that_lies_in_no_home_has_a_manifest_alone(home: LocalLocation) -> None:
    assert home_of(home / "features/coco/train/a.zarr") == home
    assert home_of(locate("s3://bucket/lab/features/coco/train/a.zarr")) == locate("s3://bucket/lab")
    assert home_of(home / "a.zarr") is None
    assert home_of(home / "weather/coco/train/a.zarr") is None
    with pytest.raises(CacheMissError):
        list_cache(home / "a.zarr")
    assert read_manifest(home / "a.zarr") is None
    with pytest.raises(ReadOnlyError):
        rebuild(locate("http://127.0.0.1:9"))


def _child(command: list[str]) -> subprocess.Popen[str]:
    support = Path(__file__).parents[1] / "support"
    environment = dict(os.environ)
    environment["PYTHONPATH"] = f"{support}:{environment.get('PYTHONPATH', '')}"
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout.readline() == "ready\n"
    return child


def _go(child: subprocess.Popen[str]) -> None:
    child.stdin.write("go\n")
    child.stdin.flush()


def test_a_key_that_cannot_be_shown_does_not_keep_a_writer_busy(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, [0])
    (cache.location.path / "provenance").mkdir(exist_ok=True)
    (cache.location.path / "provenance" / "a\x1b[2J.json").write_text("{}")
    odd = home.path / "features" / "co\x1bco" / "train"
    odd.mkdir(parents=True)
    shutil.copytree(cache.location.path, odd / cache.location.path.name)
    flush(cache)
    assert read_manifest(cache.location) is None
    assert len(rebuild(home)) == len(write_index(home)) == 2
