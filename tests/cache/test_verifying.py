"""Verify finds every damaged byte, names it, and calls nothing damaged that is not."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from deapcache_caches import feature_cache, feature_recipe, fill, image_ids, served, shard_file, volumes

from deapcache.cache import (
    Cache,
    FeatureCache,
    VerifyReport,
    create_cache,
    feature_arrays,
    flush,
    open_cache,
    verify_cache,
)
from deapcache.cache.verify import metadata_problems
from deapcache.errors import CacheMissError, CorruptCacheError
from deapcache.locations import LocalLocation, locate

INDEX_BYTES = 16 * 3 + 4


@pytest.fixture
def cache(home: LocalLocation) -> FeatureCache:
    made = feature_cache(home)
    fill(made, range(6))
    return made


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def lost_rows(cache: Cache, shard: int) -> tuple[int, ...]:
    """The rows of a shard that a read through tensorstore refuses."""
    reader, lost = open_cache(cache.location), []
    for row in cache.shard_rows(shard):
        try:
            for name in reader.arrays:
                reader.read([row], name)
        except CorruptCacheError:
            lost.append(row)
    return tuple(lost)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32", "int8"])
def test_a_sound_cache_is_sound_in_every_format(home: LocalLocation, storage: str) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    heard = []
    report = verify_cache(cache.location, progress=heard.append)
    assert report.is_sound
    assert (report.missing, report.images, report.shards, report.digest) == ((), 130, 44, cache.digest)
    assert report.files == 44 * len(cache.arrays)
    assert report.bytes == cache.stored_bytes() == heard[-1].bytes
    assert (heard[-1].done, heard[-1].total) == (report.files, report.files)


def test_numbers_that_are_stored_as_they_are_are_verified_too(home: LocalLocation) -> None:
    (spec,) = feature_arrays("float16", (3, 4), 8)
    plain = dataclasses.replace(spec, compression="none")
    ids = image_ids(6)
    cache = create_cache(home, "features/a/b/c.zarr", recipe=feature_recipe(), arrays=[plain], image_ids=ids)
    values = volumes(range(6)).astype(np.float16)
    for k in range(6):
        cache.write_shard(k, {"features": values[k : k + 1] if k != 4 else np.full_like(values[:1], np.inf)})
    flip(shard_file(cache, 2), 100, 1)
    report = verify_cache(cache.location)
    assert report.problems == {}
    assert [(bad.shard, bad.reason) for bad in report.bad] == [
        (2, "the checksum is another"),
        (4, "a number in it is not finite"),
    ]


def test_missing_shards_are_told_and_are_no_damage(cache: FeatureCache) -> None:
    report = verify_cache(cache.location)
    assert report.is_sound
    assert report.missing == tuple(range(6, 44))
    assert verify_cache(cache.location, shards=[2, 5]).files == 2


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_names_the_file_and_exactly_the_images_that_cannot_be_read(
    cache: FeatureCache, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    path = shard_file(cache, 1)
    size = path.stat().st_size
    place = int(rng.integers(size - INDEX_BYTES, size) if seed % 3 == 0 else rng.integers(size - INDEX_BYTES))
    flip(path, place, int(rng.integers(8)))
    report = verify_cache(cache.location)
    (bad,) = report.bad
    assert (bad.shard, bad.key, bad.keys) == (1, "features/c.1.0.0.0", ("features/c.1.0.0.0",))
    assert bad.rows == lost_rows(cache, 1)
    assert len(bad.rows) == (3 if seed % 3 == 0 else 1)
    assert bad.image_ids == tuple(image_ids()[row] for row in bad.rows)
    assert "checksum" in bad.reason
    assert not report.is_sound
    assert report.to_json()["sound"] is False


def test_all_damaged_shards_are_reported_not_only_the_first(cache: FeatureCache) -> None:
    flip(shard_file(cache, 0), 5, 0)
    shard_file(cache, 2).write_bytes(b"")
    shard_file(cache, 3).write_bytes(shard_file(cache, 3).read_bytes()[:-10])
    with shard_file(cache, 5).open("ab") as file:
        file.write(b"\0")
    report = verify_cache(cache.location)
    assert {one.shard for one in report.bad} == {0, 2, 3, 5}
    assert report.files == 6
    assert "cut short" in report.bad[1].reason


def test_a_shard_of_another_cache_is_damage(home: LocalLocation, cache: FeatureCache) -> None:
    other = feature_cache(home, "float32")
    fill(other, [1])
    shutil.copy(shard_file(other, 1), shard_file(cache, 1))
    (bad,) = verify_cache(cache.location).bad
    assert bad.rows == (3, 4, 5)
    assert "does not unpack to 192 bytes" in bad.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("storage", ["float16", "float32", "int8"])
def test_a_number_that_is_not_finite_is_damage_with_right_checksums(
    home: LocalLocation, storage: str, value: float
) -> None:
    cache = feature_cache(home, storage)
    rows = cache.shard_rows(7)
    arrays = {name: np.zeros((len(rows), *spec.item_shape), spec.dtype) for name, spec in cache.arrays.items()}
    name = "scales" if storage == "int8" else "features"
    arrays[name][1, 2, 3] = value
    cache.write_shard(7, arrays)
    (bad,) = verify_cache(cache.location).bad
    assert bad.rows == (22,)
    assert bad.reason == "a number in it is not finite"
    assert bad.key.startswith(f"{name}/c.7")


def test_the_largest_and_smallest_numbers_are_finite(home: LocalLocation) -> None:
    cache = feature_cache(home)
    values = np.zeros((3, 3, 4, 8), np.float16)
    values.reshape(-1)[:5] = [65504, -65504, 6e-8, -6e-8, -0.0]
    cache.write_shard(0, {"features": values})
    assert verify_cache(cache.location).is_sound


def test_an_image_that_the_index_lacks_is_damage(cache: FeatureCache) -> None:
    import tensorstore

    metadata = json.loads((cache.location / "features").read("zarr.json"))
    del metadata["storage_transformers"]
    spec = {"driver": "zarr3", "kvstore": f"file://{cache.location}/features/", "metadata": metadata}
    tensorstore.open(spec, open=True).result()[30:32].write(volumes([30, 31]).astype(np.float16)).result()
    (bad,) = verify_cache(cache.location).bad
    assert (bad.shard, bad.rows) == (10, (32,))


def test_scales_that_are_missing_are_damage_and_scales_alone_are_not(home: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, [0, 1])
    shard_file(cache, 0, "scales").unlink()
    shard_file(cache, 1).unlink()
    (bad,) = verify_cache(cache.location).bad
    assert (bad.key, bad.keys) == ("scales/c.0.0.0", ("features/c.0.0.0.0", "scales/c.0.0.0"))


def test_no_cache_is_a_miss(home: LocalLocation) -> None:
    with pytest.raises(CacheMissError):
        verify_cache(home / "features/x/y/z.zarr")


SMALL = ("zarr.json", "features/zarr.json", "image_id/zarr.json", "image_id_offsets/zarr.json")


@pytest.mark.parametrize("key", SMALL)
def test_every_flipped_bit_of_the_metadata_that_means_something_is_found_and_named(
    cache: FeatureCache, key: str
) -> None:
    path = cache.location.path / key
    whole = path.read_bytes()
    assert metadata_problems(cache.location) == {}
    rng = np.random.default_rng(0)
    unfound = []
    for position in rng.choice(len(whole), size=250, replace=False).tolist():
        flip(path, position, int(rng.integers(8)))
        if not any(found == key for found in metadata_problems(cache.location)):
            unfound.append(_meaning(path.read_bytes()))
        path.write_bytes(whole)
    assert all(meaning == _meaning(whole) for meaning in unfound)
    assert len(unfound) <= 5


def _meaning(data: bytes) -> str:
    """A document less how hard Blosc tried, which no reader needs."""
    document = json.loads(data)
    text = json.dumps(document, sort_keys=True)
    for codec in [
        c for outer in document.get("codecs", []) for c in outer.get("configuration", {}).get("codecs", [outer])
    ]:
        for name in ("clevel", "blocksize"):
            value = codec.get("configuration", {}).get(name)
            text = text.replace(f'"{name}": {value}', "")
    return text


@pytest.mark.parametrize("key", ["image_id/c.0", "image_id_offsets/c.0"])
def test_damaged_ids_are_named_and_shards_are_looked_at_all_the_same(cache: FeatureCache, key: str) -> None:
    flip(cache.location.path / key, 25, 3)
    flip(shard_file(cache, 4), 3, 3)
    report = verify_cache(cache.location)
    assert set(report.problems) == {key}
    (bad,) = report.bad
    assert (bad.rows, bad.image_ids) == (lost_rows(cache, 4), ())


def test_provenance_that_is_no_json_is_named(cache: FeatureCache) -> None:
    cache.record_provenance({"user": "a"}, writer="one")
    assert verify_cache(cache.location).is_sound
    (cache.location.path / "provenance" / "one.json").write_text("{")
    assert set(verify_cache(cache.location).problems) == {"provenance/one.json"}
    cache.record_provenance({"user": "b"}, writer="two")
    with pytest.warns(UserWarning, match=r"left out: .*provenance/one\.json.* delete it"):
        assert cache.provenance() == [{"user": "b"}]


def test_a_web_server_is_verified_like_a_disk(home: LocalLocation, cache: FeatureCache) -> None:
    path = str(cache.location.path.relative_to(home.path))
    flush(cache)
    flip(shard_file(cache, 4), 3, 3)
    with served(home.path) as (address, _):
        report: VerifyReport = verify_cache(locate(address) / path, shards=range(6))
    here = verify_cache(cache.location, shards=range(6))
    assert report.bad == here.bad
    assert (report.files, report.bytes, report.problems) == (here.files, here.bytes, {})


def test_memory_does_not_grow_with_the_cache(home: LocalLocation) -> None:
    cache = feature_cache(home, count=6400)
    rows = {"features": np.random.default_rng(0).normal(size=(100, 3, 4, 8)).astype(np.float16)}
    for shard in range(cache.shard_count):
        cache.write_shard(shard, rows)
    peaks = []
    for shards in (range(8), range(64)):
        tracemalloc.start()
        assert verify_cache(cache.location, shards=shards, threads=4).is_sound
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
