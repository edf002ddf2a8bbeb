"""Reading shard files directly: what the store reads, or an error, never other bytes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from deapcache_caches import IMAGES, feature_cache, feature_recipe, fill, shard_file

from deapcache.cache import STORAGE_FORMATS, FeatureCache, create_cache, feature_arrays, reading
from deapcache.cache.format import StoredArray, stored_array
from deapcache.cache.reading import LocalShards, NotReadError, RangeShards
from deapcache.locations import LocalLocation


def _stored(cache: FeatureCache) -> StoredArray:
    return stored_array(cache.location, "features")


def _shards(cache: FeatureCache) -> LocalShards:
    assert isinstance(cache.location, LocalLocation)
    return LocalShards(cache.location.path / "features", _stored(cache))


@pytest.mark.parametrize("storage", STORAGE_FORMATS)
def test_rows_are_those_that_zarr_python_reads(home: LocalLocation, storage: str) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    rows = np.random.default_rng(0).integers(0, IMAGES, 300)
    found = _shards(cache).start(rows)()
    expected = zarr.open_group(str(cache.location), mode="r")["features"][:][rows]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(RangeShards(cache.location, _stored(cache)).start(rows)(), expected)


def test_zarr_python_writes_what_is_read(home: LocalLocation) -> None:
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


def _one_volume(home: LocalLocation, volume: np.ndarray, compression: str) -> FeatureCache:
    cache = create_cache(
        home,
        "one.zarr",
        recipe=feature_recipe(),
        arrays=[replace(feature_arrays("float16", volume.shape[:2], volume.shape[2])[0], compression=compression)],
        image_ids=["only"],
    )
    cache.write_shard(0, {"features": volume[None]})
    assert isinstance(cache, FeatureCache)
    return cache


_NOISE = np.frombuffer(np.random.default_rng(0).bytes(3 * 4 * 8 * 2), np.float16).reshape(3, 4, 8)
_CHUNKS = {
    "packed": (np.ones((3, 4, 8), np.float16), "lz4+shuffle"),
    "stored by blosc": (_NOISE, "lz4+shuffle"),
    "no compressor": (_NOISE, "none"),
}


@pytest.mark.parametrize("kind", _CHUNKS)
def test_a_flipped_bit_anywhere_in_a_chunk_is_found(home: LocalLocation, kind: str) -> None:
    volume, compression = _CHUNKS[kind]
    cache = _one_volume(home, volume, compression)
    path = shard_file(cache, 0)
    data = path.read_bytes()
    chunk = len(data) - 16 - 4
    assert {"packed": chunk < 16 + 192, "stored by blosc": chunk == 16 + 192 + 4, "no compressor": chunk == 192 + 4}[
        kind
    ]
    shards = _shards(cache)
    assert shards.start(np.array([0]))().tobytes() == volume.tobytes()
    for place in range(len(data)):  # of the index, too
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(NotReadError):
            _shards(cache).start(np.array([0]))()


def test_zarr_python_reads_what_is_stored_without_a_compressor(home: LocalLocation) -> None:
    cache = _one_volume(home, _NOISE, "none")
    array = zarr.open_group(str(cache.location), mode="r")["features"]
    assert np.asarray(array[0]).tobytes() == _NOISE.tobytes()
    assert stored_array(cache.location, "features").spec.compression == "none"


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_few_shards_are_kept_open(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = feature_cache(home)
    fill(cache)
    assert cache.shard_count > 5
    monkeypatch.setattr(reading, "_MOST_OPEN", 2)
    monkeypatch.setattr(reading, "_OPEN", OrderedDict())
    before = _open_files()
    expected = _shards(cache).start(np.arange(IMAGES))()
    assert _open_files() <= before + 2
    np.testing.assert_array_equal(_shards(cache).start(np.arange(IMAGES))(), expected)


def _sum_of_first(cache: FeatureCache) -> float:
    return float(cache.read([0]).sum(dtype=np.float64))


def test_a_forked_process_reads_too(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache)
    expected = _sum_of_first(cache)  # threads are running now
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_sum_of_first, (cache,)).get(timeout=600) == expected
