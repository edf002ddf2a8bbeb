"""Flipped bits, anywhere in a cache: an error that names what is damaged, or the right numbers all the same."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from deapcache_caches import IMAGES, feature_cache, fill, image_ids, served, volumes
from deapcache_faults import LONG, Tally

from deapcache.cache import FeatureCache, open_cache
from deapcache.errors import DeapcacheError
from deapcache.locations import LocalLocation, Location, locate

FLIPS = 400 if LONG else 30
ROWS = [16, 0, 3, 4, 5, 129]
WHERE = {
    "data": "features/c.1.0.0.0",
    "index": "features/c.1.0.0.0",
    "image ids": "image_id/c.0",
    "image id offsets": "image_id_offsets/c.0",
    "zarr.json of the group": "zarr.json",
    "zarr.json of an array": "features/zarr.json",
    "zarr.json of the image ids": "image_id/zarr.json",
    "provenance": "provenance/writer.json",
}
INDEX_BYTES = 16 * 3 + 4


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    made = feature_cache(LocalLocation(tmp_path))
    fill(made)
    made.record_provenance({"host": "one", "shards": list(range(44))}, writer="writer")
    return made


def _flipped(whole: bytes, what: str, rng: np.random.Generator) -> bytes:
    edge = len(whole) - INDEX_BYTES
    first, last = {"data": (0, edge), "index": (edge, len(whole))}.get(what, (0, len(whole)))
    data = bytearray(whole)
    data[int(rng.integers(first, last))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _read_all(location: Location, *, provenance: bool) -> str:
    """The message of the first error; where there is none, everything must be right."""
    try:
        cache = open_cache(location)
        found, ids = cache.read(ROWS), cache.image_ids
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            told = cache.provenance() if provenance else []
        if caught:
            return str(caught[0].message)
    except DeapcacheError as error:
        return f"{type(error).__name__}: {error}"
    np.testing.assert_array_equal(found, volumes(ROWS).astype(np.float16))
    assert ids == tuple(image_ids())
    assert len(cache) == IMAGES
    assert all(isinstance(facts, dict) for facts in told)
    return ""


@pytest.mark.parametrize("what", WHERE)
@pytest.mark.filterwarnings("ignore")
def test_a_flipped_bit_is_told_or_harmless(cache: FeatureCache, tally: Tally, what: str) -> None:
    path = cache.location.path / WHERE[what]
    whole, rng = path.read_bytes(), np.random.default_rng(len(what))
    for _ in range(FLIPS):
        path.write_bytes(_flipped(whole, what, rng))
        with tally.fault(f"a flipped bit: {what}", "CorruptCacheError: which file and images; or the right numbers"):
            said = _read_all(cache.location, provenance=what == "provenance")
            if what in ("data", "index"):
                assert said.startswith(f"CorruptCacheError: {path}: damaged, image")
            if what.startswith("image id"):
                assert said.startswith("CorruptCacheError")
                assert str(path.parent) in said
            if said and what == "provenance":
                assert str(path) in said
    path.write_bytes(whole)
    assert _read_all(cache.location, provenance=True) == ""


@pytest.mark.parametrize("what", ["data", "index", "image ids"])
def test_a_flipped_bit_behind_a_web_server_is_told(
    cache: FeatureCache, tally: Tally, tmp_path: Path, what: str
) -> None:
    path = cache.location.path / WHERE[what]
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    with served(tmp_path.parent) as (url, _):
        for number in range(FLIPS // 10):
            # A folder of its own each time: what a pool remembers of an address is not read again.
            copy = tmp_path / f"copy{number}"
            shutil.copytree(cache.location.path, copy)
            (copy / WHERE[what]).write_bytes(_flipped(whole, what, rng))
            with tally.fault(f"a flipped bit over HTTP: {what}", "CorruptCacheError: which file and images"):
                address = f"{url}/{tmp_path.name}/copy{number}"
                said = _read_all(locate(address), provenance=False)
                assert said.startswith(f"CorruptCacheError: {address}/{WHERE[what].rpartition('/')[0]}")


def test_provenance_that_is_no_object_names_its_file(cache: FeatureCache) -> None:
    for content in (b"", b"[1]", b"{", b"\xff", b"3", b"[" * 100_000):
        (cache.location.path / "provenance" / "writer.json").write_bytes(content)
        with pytest.warns(UserWarning, match=r"left out: .*provenance/writer\.json"):
            assert cache.provenance() == []
    assert json.loads((cache.location.path / "zarr.json").read_text())
