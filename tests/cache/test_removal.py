"""Removing: a half-removed cache is no cache, removal goes on where it was cut off, and only what is bad is deleted."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill, shard_file, volumes

from deapcache.cache import (
    BadShard,
    FeatureCache,
    flush,
    last_written,
    list_cache,
    list_caches,
    list_folders,
    open_cache,
    read_manifest,
    remove_bad_shards,
    remove_cache,
    set_aside,
    verify_cache,
)
from deapcache.errors import CacheMissError
from deapcache.locations import MANIFEST, LocalLocation


def content(cache: FeatureCache) -> dict[str, bytes]:
    keys = set(cache.location.keys()) - {MANIFEST}
    return {key: cache.location.read(key) for key in keys}


class CutOff(LocalLocation):
    """A folder whose owner's process ends before the n-th deletion."""

    left = 0

    def delete(self, key: str) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().delete(key)


def cut_off(cache: FeatureCache, after: int) -> None:
    place = CutOff(cache.location.path)
    place.left = after
    with pytest.raises(KeyboardInterrupt):
        remove_cache(place)


def test_nothing_is_left_of_a_removed_cache(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, range(4))
    cache.record_provenance({"user": "ada"})
    other = feature_cache(home, "float32")
    flush(other)
    (cache.location.path / "features" / ".c.9.0.0.0.x.partial").write_bytes(b"half")
    size = sum(map(len, content(cache).values())) + cache.location.size(MANIFEST)
    removed = remove_cache(cache.location)
    assert removed.bytes == size
    assert removed.files == 4 + 1 + 1 + 1 + 4 + 1  # shards, provenance, the root, the array, the ids, the manifest
    assert not cache.location.path.exists()
    left = str(other.location.path.relative_to(home.path))
    assert [entry.path for entry in list_caches(home)] == [left]
    assert [entry["path"] for entry in json.loads(home.read("index.json"))["caches"]] == [left]


@pytest.mark.parametrize("after", range(1, 10))
def test_wherever_removal_is_cut_off_there_is_no_cache_and_removing_again_goes_on(
    home: LocalLocation, after: int
) -> None:
    cache = feature_cache(home)
    fill(cache, range(4))
    whole = content(cache)
    cut_off(cache, after)
    with pytest.raises(CacheMissError):
        open_cache(cache.location)
    assert not list_caches(home)
    (rest,) = list_folders(home)
    assert (rest.has_root, rest.entry, rest.digest) == (False, None, "")
    assert len(rest.location.keys()) == len(whole) + 1 - after
    if after % 2:
        remove_cache(rest.location)
        assert not list_folders(home)
        return
    # an extraction of the same recipe comes in between: what it finds is whole, and it makes the rest
    again = feature_cache(home)
    fill(again, range(4))
    assert content(again) == whole
    np.testing.assert_array_equal(again.read([11]), volumes([11]).astype(np.float16))


def test_only_bad_shards_are_deleted_with_all_their_files(home: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, range(5))
    scales = shard_file(cache, 3, "scales")
    scales.write_bytes(scales.read_bytes()[:-1])
    good = {key: data for key, data in content(cache).items() if "/c.3." not in key}
    assert remove_bad_shards(cache, verify_cache(cache.location).bad) == (3,)
    assert content(cache) == good
    assert read_manifest(cache.location) == list_cache(cache.location)


def test_a_shard_that_was_made_anew_meanwhile_stays(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, range(2))
    key = "features/c.1.0.0.0"
    said = BadShard(shard=1, key=key, keys=(key,), rows=(3,), image_ids=(), reason="it was")
    assert remove_bad_shards(cache, [said]) == ()
    assert cache.present_shards() == {0, 1}


def test_small_files_that_are_set_aside_are_kept_and_shards_are_found_again(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, range(2))
    path = cache.location.path / "features" / "zarr.json"
    path.write_text("{")
    moved = set_aside(cache.location, ["features/zarr.json"])
    assert set(moved) == {"zarr.json", "features/zarr.json"}
    assert path.with_name("zarr.json.damaged").read_text() == "{"
    again = feature_cache(home)
    assert again.present_shards() == {0, 1}
    assert verify_cache(again.location).is_sound


def test_when_a_cache_was_last_written(home: LocalLocation) -> None:
    cache = feature_cache(home)
    long_ago = time.time() - 1e6
    for folder in (cache.location.path, *cache.location.path.iterdir()):
        os.utime(folder, (long_ago, long_ago))
    found = last_written(cache.location)
    assert found is not None
    assert abs((datetime.now(UTC) - found) - timedelta(seconds=1e6)) < timedelta(minutes=5)
    cache.record_provenance({"started": "2031-01-01T00:00:00+00:00", "finished": "2031-01-02T00:00:00+00:00"})
    assert last_written(cache.location) == datetime(2031, 1, 2, tzinfo=UTC)
