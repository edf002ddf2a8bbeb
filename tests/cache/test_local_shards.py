"""Reading shard files directly: what the store reads, or an error, never other bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deapcache_caches import IMAGES, feature_cache, fill, shard_file

from deapcache.cache import STORAGE_FORMATS, FeatureCache
from deapcache.cache.layout import StoredArray, stored_array
from deapcache.cache.local_shards import LocalShards, NotReadError, can_read
from deapcache.cache.store import open_for_reading
from deapcache.locations import LocalLocation


def _stored(cache: FeatureCache) -> StoredArray:
    return stored_array(cache.location, "features")


def _shards(cache: FeatureCache) -> LocalShards:
    assert isinstance(cache.location, LocalLocation)
    return LocalShards(cache.location.path / "features", _stored(cache))


@pytest.mark.parametrize("storage", STORAGE_FORMATS)
def test_rows_are_those_that_the_store_reads(home: LocalLocation, storage: str) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    rows = np.random.default_rng(0).integers(0, IMAGES, 300)
    stored = _stored(cache)
    assert can_read(stored)
    found = _shards(cache).start(rows)()
    expected = open_for_reading(cache.location / "features", stored.metadata)[rows].read().result()
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_zarr_python_writes_what_is_read(home: LocalLocation) -> None:
    import zarr

    cache = feature_cache(home)
    fill(cache)
    array = zarr.open_group(str(cache.location), mode="a")["features"]
    array[3:6] = np.full((3, 3, 4, 8), 7.5, np.float16)  # all chunks of shard 1, by another writer
    np.testing.assert_array_equal(_shards(cache).start(np.arange(3, 6))(), np.full((3, 3, 4, 8), 7.5, np.float16))


def test_a_shard_that_was_replaced_is_seen(home: LocalLocation, tmp_path: Path) -> None:
    cache = feature_cache(home)
    fill(cache)
    shards = _shards(cache)
    before = shards.start(np.arange(6))()
    shutil.copy(shard_file(cache, 1), tmp_path / "other")
    os.replace(tmp_path / "other", shard_file(cache, 0))  # noqa: PTH105 - the content of another shard
    np.testing.assert_array_equal(shards.start(np.arange(3))(), before[3:])


@pytest.mark.parametrize("kept", [0, 3, 20, 200, -1])
def test_a_shard_cut_short_or_absent_is_not_read(home: LocalLocation, kept: int) -> None:
    cache = feature_cache(home)
    fill(cache)
    path = shard_file(cache, 1)
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    with pytest.raises(NotReadError):
        _shards(cache).start(np.array([3]))()
    path.unlink()
    with pytest.raises(NotReadError):
        _shards(cache).start(np.array([3]))()


def test_a_chunk_of_another_size_is_not_read(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache)
    stored = _stored(cache)
    assert isinstance(cache.location, LocalLocation)
    larger = replace(stored, spec=replace(stored.spec, item_shape=(3, 4, 9)))
    path = shard_file(cache, 0)
    with pytest.raises(NotReadError, match="another size"):
        LocalShards(path.parent, larger).start(np.array([0]))()


def test_other_codecs_are_left_to_the_store(home: LocalLocation) -> None:
    stored = _stored(feature_cache(home))
    metadata = json.loads(json.dumps(stored.metadata))
    metadata["codecs"][0]["configuration"]["codecs"][1] = {"name": "zstd", "configuration": {"level": 3}}
    assert not can_read(replace(stored, metadata=metadata))


def _sum_of_first(cache: FeatureCache) -> float:
    return float(cache.read([0]).sum(dtype=np.float64))


def test_a_forked_process_reads_too(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache)
    expected = _sum_of_first(cache)  # threads are running now
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_sum_of_first, (cache,)).get(timeout=60) == expected
