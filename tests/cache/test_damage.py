"""Missing and damaged bytes are errors that name shard and image, never numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill, shard_file, volumes

from deapcache.cache import Cache, FeatureCache, open_cache
from deapcache.errors import CacheMissError, CorruptCacheError, DeapcacheError, FormatVersionError, IncompleteCacheError
from deapcache.locations import LocalLocation


@pytest.fixture
def cache(home: LocalLocation) -> FeatureCache:
    made = feature_cache(home)
    fill(made, range(6))
    return made


def _flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def _failure(reader: Cache, row: int) -> str:
    """The message of a failed read; where it does not fail, the numbers must be right."""
    try:
        found = reader.read([row])
    except CorruptCacheError as error:
        return str(error)
    np.testing.assert_array_equal(found, volumes([row]).astype(np.float16))
    return ""


def test_missing_volumes_name_their_images_and_the_way_on(cache: FeatureCache) -> None:
    with pytest.raises(IncompleteCacheError) as raised:
        cache.read([0, 18, 19, 129])
    message = str(raised.value)
    assert "3 of the 4 images" in message
    assert "'000018' (row 18), '000019é' (row 19), '000129' (row 129)" in message
    assert "shards without: 6, 43" in message
    assert "Extract again" in message
    assert isinstance(raised.value, LookupError)


def test_a_volume_missing_from_a_shard_that_is_there_is_damage(cache: FeatureCache) -> None:
    # What another program leaves that writes a shard in parts: the shard's key exists, one image is absent.
    import tensorstore

    metadata = json.loads((cache.location / "features").read("zarr.json"))
    del metadata["storage_transformers"]
    spec = {"driver": "zarr3", "kvstore": f"file://{cache.location}/features/", "metadata": metadata}
    tensorstore.open(spec, open=True).result()[30:32].write(volumes([30, 31]).astype(np.float16)).result()
    np.testing.assert_array_equal(cache.read([31]), volumes([31]).astype(np.float16))
    with pytest.raises(CorruptCacheError, match=r"c\.10\.0\.0\.0: damaged, image '000032éé' \(row 32\)"):
        cache.read([31, 32])


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_names_shard_and_image(cache: FeatureCache, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = shard_file(cache, 1)
    size = path.stat().st_size
    index_bytes = 16 * 3 + 4
    # half of the positions in the index, half in the data
    position = int(rng.integers(size - index_bytes, size) if seed % 2 else rng.integers(0, size - index_bytes))
    _flip(path, position, int(rng.integers(8)))
    reader = open_cache(cache.location)
    failures = {row: _failure(reader, row) for row in (3, 4, 5)}
    damaged = [row for row, message in failures.items() if message]
    for row in damaged:
        assert f"{path}: damaged, image '{reader.image_ids[row]}' (row {row})" in failures[row]
        assert f"Delete {path} and extract again" in failures[row]
    assert len(damaged) == (3 if seed % 2 else 1)  # a bad index loses the shard, bad data one image
    with pytest.raises(CorruptCacheError, match=f"row {damaged[0]}"):  # in a batch, the same image is named
        reader.read([17, 5, 4, 3, 0, 3])
    np.testing.assert_array_equal(reader.read([0, 17]), volumes([0, 17]).astype(np.float16))


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_shard_names_itself(cache: FeatureCache, fraction: float) -> None:
    path = shard_file(cache, 2)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(CorruptCacheError) as raised:
        cache.read([0, 7, 8])
    assert f"{path}: damaged, images '000007é' (row 7), '000008éé' (row 8)" in str(raised.value)
    assert isinstance(raised.value, OSError)


def test_a_deleted_shard_is_made_anew_under_an_open_reader(cache: FeatureCache) -> None:
    path = shard_file(cache, 2)
    path.write_bytes(b"rubbish")
    reader = open_cache(cache.location)
    with pytest.raises(CorruptCacheError):
        reader.read([6])
    path.unlink()
    fill(cache, [2])
    np.testing.assert_array_equal(reader.read([6]), volumes([6]).astype(np.float16))


@pytest.mark.parametrize("array", ["scales", "features"])
def test_int8_advice_deletes_both_arrays(home: LocalLocation, array: str) -> None:
    cache = feature_cache(home, "int8")
    fill(cache)
    _flip(shard_file(cache, 0, array), 10, 1)
    with pytest.raises(CorruptCacheError) as raised:
        cache.read_features([0, 1, 2])
    both = f"{shard_file(cache, 0, 'scales')} {shard_file(cache, 0)}"
    assert f"{shard_file(cache, 0, array)}: damaged" in str(raised.value)
    assert f"Delete {both} and extract again" in str(raised.value)
    shard_file(cache, 0, "scales").unlink()
    shard_file(cache, 0).unlink()
    fill(cache, [0])
    assert cache.read_features([0, 1, 2]).shape == (3, 3, 4, 8)


def test_swapped_shards_of_another_cache_are_not_read_as_numbers(home: LocalLocation, cache: FeatureCache) -> None:
    other = feature_cache(home, "float32")
    fill(other, [1])
    shutil.copy(shard_file(other, 1), shard_file(cache, 1))
    with pytest.raises(CorruptCacheError, match=r"c\.1\.0\.0\.0"):
        cache.read([3])


def _attributes(cache: Cache, **changes: object) -> None:
    path = Path(str(cache.location)) / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"]["deapcache"].update(changes)
    path.write_text(json.dumps(metadata))


def test_a_changed_recipe_does_not_fit_its_digest(cache: FeatureCache) -> None:
    _attributes(cache, recipe={**cache.recipe, "storage": "bfloat16"})
    with pytest.raises(CorruptCacheError, match=f"{cache.digest} is written beside it"):
        open_cache(cache.location)


def test_a_recipe_of_a_newer_version_says_so(cache: FeatureCache) -> None:
    _attributes(cache, recipe={**cache.recipe, "register_tokens": 4})
    with pytest.raises(CorruptCacheError, match=r"zarr\.json: .*register_tokens.*upgrade"):
        open_cache(cache.location)


def test_another_format_version_is_refused(cache: FeatureCache) -> None:
    _attributes(cache, format=2)
    with pytest.raises(FormatVersionError, match=r"version 2.*reads version 1.*upgrade"):
        open_cache(cache.location)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}', b"\xff\xfe"],
)
def test_a_foreign_root_is_refused(cache: FeatureCache, content: bytes) -> None:
    (cache.location.path / "zarr.json").write_bytes(content)
    with pytest.raises(CorruptCacheError, match=r"zarr\.json is not what deapcache writes"):
        open_cache(cache.location)


@pytest.mark.parametrize("change", [{"kind": "weather"}, {"recipe": [1]}, {"arrays": 3}, {"images": "many"}])
def test_foreign_attributes_are_refused(cache: FeatureCache, change: dict[str, object]) -> None:
    _attributes(cache, **change)
    with pytest.raises(CorruptCacheError, match=r"zarr\.json"):
        open_cache(cache.location)


def test_names_in_attributes_do_not_leave_the_cache(cache: FeatureCache) -> None:
    _attributes(cache, arrays=["../../../../secret"])
    with pytest.raises(CorruptCacheError, match="expected plain words"):
        open_cache(cache.location)


def test_no_cache_is_a_miss(home: LocalLocation, cache: FeatureCache) -> None:
    with pytest.raises(CacheMissError, match="no cache at"):
        open_cache(home / "features")
    (cache.location.path / "features" / "zarr.json").unlink()
    with pytest.raises(CorruptCacheError, match=r"features/zarr\.json: it is missing"):
        open_cache(cache.location)


def test_damaged_image_ids_are_an_error(cache: FeatureCache) -> None:
    _flip(cache.location.path / "image_id" / "c.0", 30, 3)
    with pytest.raises(CorruptCacheError, match="image_id"):
        _ = open_cache(cache.location).image_ids


@pytest.mark.parametrize("name", ["zarr.json", "features/zarr.json", "image_id_offsets/zarr.json"])
@pytest.mark.filterwarnings("ignore")
def test_a_flipped_bit_in_metadata_gives_an_error_or_the_right_numbers(cache: FeatureCache, name: str) -> None:
    path = cache.location.path / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    expected, ids = cache.read([5, 0]), cache.image_ids
    for _ in range(400):
        _flip(path, int(rng.integers(len(whole))), int(rng.integers(8)))
        try:
            found = open_cache(cache.location)
            np.testing.assert_array_equal(found.read([5, 0]), expected)
            assert found.image_ids == ids
            assert len(found) == len(ids)
        except DeapcacheError:
            pass
        path.write_bytes(whole)
