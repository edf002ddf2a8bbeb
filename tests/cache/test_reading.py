"""What is written is read back: by us, by plain zarr-python in another process, in any order, over http."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from deapcache_caches import DIM, GRID, IMAGES, feature_cache, feature_recipe, fill, image_ids, served, volumes

from deapcache.cache import (
    STORAGE_FORMATS,
    ArraySpec,
    Cache,
    FeatureCache,
    create_cache,
    decode_features,
    encode_features,
    images_path,
    open_cache,
    targets_path,
)
from deapcache.errors import IncompleteCacheError, LocationError, ReadOnlyError, UsageError
from deapcache.locations import LocalLocation, locate
from deapcache.recipe import ImageRecipe, TargetRecipe

PLAIN_READER = """
import sys, numpy, zarr
group = zarr.open_group(sys.argv[1], mode="r")
assert not [name for name in sys.modules if name.startswith(("deapcache", "tensorstore", "torch"))]
array = group["features"]
assert array.metadata.dimension_names == ("image", "row", "column", "channel"), array.metadata.dimension_names
assert array.chunks == (1, 3, 4, 8) and array.shards == (3, 3, 4, 8), (array.chunks, array.shards)
saved = {name: group[name][:] for name in ("features", "scales") if name in group}
ids, ends = group["image_id"][:].tobytes(), group["image_id_offsets"][:]
saved["ids"] = numpy.array([ids[a:b].decode() for a, b in zip(ends, ends[1:])])
saved["fill"] = numpy.array(array.fill_value)
numpy.savez(sys.argv[2], **saved)
"""


@pytest.mark.parametrize("storage", STORAGE_FORMATS)
def test_plain_zarr_reads_what_was_written(home: LocalLocation, tmp_path: Path, storage: str) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    command = [sys.executable, "-c", PLAIN_READER, str(cache.location), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as found:
        expected = encode_features(volumes(range(IMAGES)), storage, image_ids())
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
        assert found["ids"].tolist() == image_ids()
        assert np.isnan(found["fill"]) or storage == "int8"


@pytest.mark.parametrize("storage", STORAGE_FORMATS)
def test_rows_come_in_the_order_asked_repeats_included(home: LocalLocation, storage: str) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    rows = [129, 0, 64, 0, 5, 128, 129]
    expected = decode_features(encode_features(volumes(rows), storage, image_ids(len(rows))), storage)
    found = open_cache(cache.location)
    assert isinstance(found, FeatureCache)
    for read in (found.read_features(rows), found.read_features_async(np.array(rows)).result()):
        np.testing.assert_array_equal(read, expected)
        assert read.dtype == (np.float16 if storage in ("float16", "bfloat16") else np.float32)
    assert (found.grid, found.dim, found.storage, found.backbone) == (GRID, DIM, storage, "vit-b-16")
    assert found.read([]).shape == (0, *GRID, DIM)
    assert found.read(range(2)).flags.writeable


@pytest.mark.parametrize("rows", [[-1], [IMAGES], [0.5], [[0, 1]], [True]])
def test_rows_that_do_not_exist_are_refused(home: LocalLocation, rows: list[int]) -> None:
    cache = feature_cache(home)
    with pytest.raises(UsageError, match="row"):
        cache.read(rows)


def test_shards_divide_the_images(home: LocalLocation) -> None:
    cache = feature_cache(home)
    assert (len(cache), cache.shard_images, cache.shard_count) == (IMAGES, 3, 44)
    assert [row for k in range(44) for row in cache.shard_rows(k)] == list(range(IMAGES))
    assert len(cache.shard_rows(43)) == 1  # the edge shard
    assert (cache.shard_of(2), cache.shard_of(3), cache.shard_of(129)) == (0, 1, 43)
    with pytest.raises(UsageError, match="0 to 43"):
        cache.shard_rows(44)


def test_a_shard_holds_about_a_hundred_megabytes(home: LocalLocation) -> None:
    spec = ArraySpec(
        name="features", dtype="float16", item_shape=(24, 24, 768), dimensions=("row", "column", "channel")
    )
    cache = create_cache(home, "big.zarr", recipe=feature_recipe(), arrays=[spec], image_ids=image_ids(118_287))
    assert cache.shard_images == 100_000_000 // (24 * 24 * 768 * 2)
    assert open_cache(cache.location).image_ids == tuple(image_ids(118_287))


def test_missing_shards_are_listed_and_filled(home: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, [0, 43])
    assert cache.present_shards() == {0, 43}
    assert cache.missing_shards() == list(range(1, 43))
    assert cache.missing_shards([0, 3, 129, 4]) == [1]
    assert cache.is_complete([0, 1, 2, 129])
    assert not cache.is_complete()
    half = cache.stored_bytes()
    fill(cache)
    assert cache.is_complete()
    files = [p for p in cache.location.path.rglob("c.*") if "image_id" not in str(p)]
    assert cache.stored_bytes() == sum(p.stat().st_size for p in files) > half


def test_foreign_files_are_not_shards(home: LocalLocation) -> None:
    cache = feature_cache(home)
    for name in ("c.0.0.0.0.bak", "c.99.0.0.0", "c.1.0.0", "c.1.0.0.1", ".c.2.0.0.0.host.partial", "c.x.0.0.0"):
        (cache.location.path / "features" / name).write_bytes(b"x")
    assert cache.present_shards() == set()


def test_a_reader_sees_shards_that_appear_later(home: LocalLocation) -> None:
    cache = feature_cache(home)
    reader = open_cache(cache.location)
    with pytest.raises(IncompleteCacheError):
        reader.read([7])
    fill(cache, [2])
    np.testing.assert_array_equal(reader.read([7]), volumes([7]).astype(np.float16))
    assert reader.present_shards() == {2}


def test_threads_share_a_cache(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache)
    reader = open_cache(cache.location)
    orders = [np.random.default_rng(seed).permutation(IMAGES)[:40] for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for order, found in zip(orders, pool.map(reader.read, orders), strict=True):
            np.testing.assert_array_equal(found, volumes(order.tolist()).astype(np.float16))


def test_a_cache_travels_to_another_process(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, [0])
    copy = pickle.loads(pickle.dumps(cache))
    assert type(copy) is FeatureCache
    np.testing.assert_array_equal(copy.read([1]), cache.read([1]))


def _image_cache(home: LocalLocation, count: int = 5) -> Cache:
    recipe = ImageRecipe(size=(6, 7), fit="squash", interpolation="bicubic", colour="rgb", images="x")
    spec = ArraySpec(name="image", dtype="uint8", item_shape=(6, 7, 3), dimensions=("row", "column", "channel"))
    path = images_path("coco", "train", recipe.digest)
    return create_cache(home, path, recipe=recipe, arrays=[spec], image_ids=image_ids(count))


def test_black_images_are_stored(home: LocalLocation) -> None:
    cache = _image_cache(home)
    for k in range(5):
        assert cache.write_shard(k, {"image": np.zeros((1, 6, 7, 3), np.uint8)})
    assert cache.is_complete()
    assert not cache.read(range(5)).any()


@pytest.mark.parametrize(("dtype", "value"), [("int32", 0), ("int16", -1), ("uint8", 255), ("float32", 0.0)])
def test_constant_targets_are_stored(home: LocalLocation, dtype: str, value: float) -> None:
    recipe = TargetRecipe(
        annotation="depth", size=(6, 7), fit="squash", options={}, classes=(), images="x", annotations=dtype
    )
    spec = ArraySpec(name="depth", dtype=dtype, item_shape=(6, 7), dimensions=("row", "column"))
    path = targets_path("nyuv2", "val", "depth", recipe.digest)
    cache = create_cache(home, path, recipe=recipe, arrays=[spec], image_ids=image_ids(2))
    written = np.full((1, 6, 7), value, dtype)
    assert cache.write_shard(1, {"depth": written})
    np.testing.assert_array_equal(cache.read([1]), written)
    np.testing.assert_array_equal(zarr.open_group(str(cache.location), mode="r")["depth"][1:], written)
    with pytest.raises(IncompleteCacheError, match="000000"):  # 0 is the fill value of integers, yet no answer
        cache.read([0, 1])


def test_zero_volumes_are_stored(home: LocalLocation) -> None:
    for storage in STORAGE_FORMATS:
        cache = feature_cache(home, storage)
        cache.write_shard(0, encode_features(np.zeros((3, *GRID, DIM), np.float32), storage, image_ids(3)))
        assert not cache.read_features([0, 1, 2]).any()


def test_reading_needs_no_torch(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache)
    script = (
        "import sys; from pathlib import Path; from deapcache.cache import list_caches\n"
        "from deapcache.locations import LocalLocation\n"
        "(entry,) = list_caches(LocalLocation(Path(sys.argv[1])))\n"
        "assert entry.open().read_features([3, 1]).shape == (2, 3, 4, 8)\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'zarr', 'dask'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script, str(home)], check=True)


def test_an_image_costs_one_request_over_http_once_its_shard_is_known(home: LocalLocation) -> None:
    cache = feature_cache(home, count=640)
    fill(cache)
    with served(home.path) as (url, requests):
        reader = open_cache(locate(url) / str(cache.location.path.relative_to(home.path)))
        assert isinstance(reader, FeatureCache)
        np.testing.assert_array_equal(reader.read_features([0, 639]), cache.read([0, 639]))
        requests.clear()
        for row in (3, 1, 8, 5):
            np.testing.assert_array_equal(reader.read_features([row]), cache.read([row]))
        assert len(requests) == 4
        assert all(asked and not asked.startswith("bytes=-") for _, asked in requests)
        assert reader.image_ids == cache.image_ids


def test_http_tells_missing_shards_and_sizes_without_listing(home: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, [0, 3, 43])
    (cache.location.path / "manifest.json").unlink()
    with served(home.path) as (url, requests):
        reader = open_cache(locate(url) / str(cache.location.path.relative_to(home.path)))
        assert reader.present_shards() == {0, 3, 43}
        assert reader.missing_shards([0, 3, 9]) == [1]
        assert reader.stored_bytes() == cache.stored_bytes()
        assert all(asked for path, asked in requests if "/c." in path)  # never a whole shard
        with pytest.raises(IncompleteCacheError, match="000004é"):
            reader.read_features([0, 4])
        fill(cache, [1])
        np.testing.assert_array_equal(reader.read([4]), cache.read([4]))
        with pytest.raises(ReadOnlyError, match="web server"):
            reader.write_shard(2, {n: np.zeros((3, *s.item_shape), s.dtype) for n, s in reader.arrays.items()})


def test_a_server_without_byte_ranges_is_no_damage(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, [0])
    with served(home.path, ranges=False) as (url, _):
        reader = open_cache(locate(url) / str(cache.location.path.relative_to(home.path)))
        with pytest.raises(LocationError, match="ignored by server"):
            reader.read([0])


def test_a_file_that_cannot_be_opened_is_no_damage(home: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, [0])
    shard = cache.location.path / "features" / "c.0.0.0.0"
    shard.unlink()
    shard.symlink_to(shard.name)  # a loop: as unreadable to root as a file without permission
    with pytest.raises(LocationError, match=r"c\.0\.0\.0\.0"):
        cache.read([0])


def test_provenance_is_one_file_a_writer(home: LocalLocation) -> None:
    cache = feature_cache(home)
    cache.record_provenance({"device": "cpu", "started": 1}, writer="a/b")
    cache.record_provenance({"device": "cpu", "started": 1, "finished": 2}, writer="a/b")
    other = open_cache(cache.location)
    other.record_provenance({"device": "cuda"})
    other.record_provenance({"device": "cuda:1"})
    found = sorted(cache.provenance(), key=lambda facts: facts["device"])
    assert found == [{"device": "cpu", "started": 1, "finished": 2}, {"device": "cuda:1"}]
    assert open_cache(cache.location).digest == cache.digest
