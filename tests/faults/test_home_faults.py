"""A home that is damaged, moved or half removed while others work in it: each looks after itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_caches import DIM, GRID, feature_cache, feature_recipe, fill, image_ids, volumes
from deapcache_faults import LONG

from deapcache.cache import (
    FeatureCache,
    cache_contents,
    create_cache,
    encode_cls,
    encode_features,
    feature_arrays,
    features_path,
    list_cache,
    list_caches,
    list_folders,
    open_cache,
    read_index,
    rebuild,
    refresh_manifest,
    remove_cache,
    verify_cache,
)
from deapcache.errors import CacheMissError, DeapcacheError
from deapcache.extraction.claims import WorkQueue
from deapcache.locations import LocalLocation

WRONG: list[Any] = [None, True, -1, 2**70, 1.5, "x\x1b[2J", [], [[]], {}, {"x": "y"}, {"../x": 3}]
"""What no field of a list may be, each in the place of each."""


def damaged(document: dict[str, Any]) -> Iterator[Any]:
    """A JSON document with each of its fields replaced, lost, or joined by another."""
    for name in document:
        yield {other: value for other, value in document.items() if other != name}
        for wrong in WRONG if LONG else WRONG[::2]:
            yield {**document, name: wrong}
    yield {**document, "more": 1}
    yield from ([], None, "x", 3)


def test_damage_in_one_caches_manifest_ends_no_command_about_another(home: LocalLocation) -> None:
    one, other = feature_cache(home, count=4), feature_cache(home, "float32", count=4)
    fill(one)
    fill(other)
    whole = json.loads(one.location.read("manifest.json"))
    expected = {entry.path: entry for entry in read_index(home)}
    for wrong in damaged(whole):
        one.location.publish("manifest.json", json.dumps(wrong).encode(), replace=True)
        home.delete("index.json")
        fill(other, [0])
        assert {entry.path: entry for entry in read_index(home)} == expected, wrong
        assert cache_contents(one.location, one.digest) == list_cache(one.location), wrong
    rebuild(home)
    assert json.loads(one.location.read("manifest.json")) == whole


def test_damage_in_the_index_is_mended_by_the_next_who_writes(home: LocalLocation) -> None:
    cache = feature_cache(home, count=4)
    fill(cache)
    whole = json.loads(home.read("index.json"))
    entry = whole["caches"][0]
    for wrong in (*damaged(whole), *({**whole, "caches": [found]} for found in damaged(entry))):
        if isinstance(wrong, dict) and wrong.get("caches") == []:
            continue  # an index may be behind
        home.publish("index.json", json.dumps(wrong).encode(), replace=True)
        fill(cache, [0])
        assert json.loads(home.read("index.json")) == whole, wrong


def with_class_tokens(home: LocalLocation) -> FeatureCache:
    recipe = feature_recipe(tokens="cls", storage="int8")
    arrays = feature_arrays("int8", GRID, DIM, cls=True)
    path = features_path("coco", "train", recipe.backbone, recipe.digest)
    cache = create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=image_ids(2))
    assert isinstance(cache, FeatureCache)
    return cache


def write_all(cache: FeatureCache) -> None:
    for shard in cache.missing_shards():
        rows = cache.shard_rows(shard)
        ids = image_ids(2)[rows.start : rows.stop]
        found = volumes(rows)
        arrays = {**encode_features(found, cache.storage, ids), **encode_cls(found[:, 0, 0], cache.storage, ids)}
        cache.write_shard(shard, arrays)


def test_a_removal_with_class_tokens_that_is_killed_at_each_file(tmp_path: Path) -> None:
    lab = LocalLocation(tmp_path / "lab")
    write_all(with_class_tokens(lab))
    rebuild(lab)
    (entry,) = list_caches(lab)
    files = len(entry.location.keys())
    for number in range(files + 1):
        home = LocalLocation(tmp_path / f"home{number}")
        shutil.copytree(lab.path, home.path)
        child = os.fork()
        if not child:
            left, unlink = [number], Path.unlink

            def killed(self: Path, missing_ok: bool = False, left: list[int] = left, unlink: Any = unlink) -> None:
                if entry.path in str(self) and not self.name.endswith(".partial"):
                    if not left[0]:
                        os._exit(9)
                    left[0] -= 1
                unlink(self, missing_ok=missing_ok)

            Path.unlink = killed  # type: ignore[method-assign]
            try:
                remove_cache(home / entry.path)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        if number:
            with pytest.raises(CacheMissError):
                open_cache(home / entry.path)
            assert list_caches(home) == []
        else:
            assert verify_cache(home / entry.path).is_sound
        if number % 2:  # an extraction comes in between, and finds whole shards or none
            again = with_class_tokens(home)
            write_all(again)
            assert again.is_complete()
            report = verify_cache(again.location)
            assert report.is_sound, report
            np.testing.assert_array_equal(again.read_cls([0, 1]), volumes([0, 1])[:, 0, 0])
        remove_cache(home / entry.path)
        assert list_folders(home) == []
        shutil.rmtree(home.path)


@pytest.mark.parametrize("kind", ["moved", "removed"])
def test_a_home_that_goes_while_it_is_filled_leaves_nothing_half(tmp_path: Path, kind: str) -> None:
    home, moved = LocalLocation(tmp_path / "lab"), LocalLocation(tmp_path / "moved")
    cache = feature_cache(home)
    with contextlib.suppress(DeapcacheError):  # or it goes on, in a folder of that name
        for shard in range(cache.shard_count):
            if shard == 10 and kind == "moved":
                home.path.rename(moved.path)
            elif shard == 10:
                shutil.rmtree(home.path)
            rows = cache.shard_rows(shard)
            cache.write_shard(shard, encode_features(volumes(rows), cache.storage, image_ids()[rows.start : rows.stop]))
    if kind == "moved":
        (entry,) = list_caches(moved)
        assert sorted(entry.open().present_shards()) == list(range(10))
        assert verify_cache(entry.location).is_sound
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_caches(home) == [], "what was put there meanwhile is no cache before its root is there"
        rebuild(home)
    fill(feature_cache(home))
    assert verify_cache(list_caches(home)[0].location).is_sound


def test_writers_whose_clocks_are_hours_apart_share_the_work(home: LocalLocation, tmp_path: Path) -> None:
    cache = feature_cache(home)
    children = []
    for hours in (-9, 9):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            now, now_ns = time.time, time.time_ns
            time.time = lambda hours=hours, now=now: now() + 3600 * hours
            time.time_ns = lambda hours=hours, now=now_ns: now() + 3_600_000_000_000 * hours
            made = 0
            queue = WorkQueue(
                cache.location, range(cache.shard_count), present=cache.present_shards, images=lambda _: 1
            )
            with queue, refresh_manifest(cache):
                for batch in queue.batches():
                    for shard in batch:
                        rows = cache.shard_rows(shard)
                        made += cache.write_shard(shard, encode_features(volumes(rows), "float16", cache.image_ids))
                        time.sleep(0.002)
                        queue.finish(shard)
            (tmp_path / f"made{hours}").write_text(str(made))
        finally:
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
    made = [int((tmp_path / f"made{hours}").read_text()) for hours in (-9, 9)]
    assert sum(made) == cache.shard_count, "what one has made, or is at work on, the other leaves"
    assert min(made) > 0
    assert verify_cache(cache.location).is_sound
    assert cache_contents(cache.location, cache.digest).is_complete
    assert [entry.images for entry in read_index(home)] == [len(cache)]
