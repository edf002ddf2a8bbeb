"""Caches that would take all memory: refused, or named, with little of it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c
from deapcache_caches import feature_cache, fill
from deapcache_hostile import edit
from numcodecs import Blosc

from deapcache.cache import FeatureCache, open_cache, verify_cache
from deapcache.errors import CorruptCacheError
from deapcache.locations import LocalLocation

MOST = 400_000
"""kB that a check may take beside what the process has."""


@pytest.fixture
def cache(home: LocalLocation) -> FeatureCache:
    made = feature_cache(home)
    fill(made, [0, 1])
    return made


def sealed(data: bytes) -> bytes:
    return data + crc32c(data).to_bytes(4, "little")


def many_ids(cache: FeatureCache, count: int) -> None:
    """As many ids as are claimed, each empty, in a few kilobytes."""
    edit(cache, "zarr.json", lambda d: d["attributes"]["deapcache"].update(images=count))

    def longer(d: dict) -> None:
        d["shape"][0] = count
        d["chunk_grid"]["configuration"]["chunk_shape"][0] = -(-count // 64)

    edit(cache, "features/zarr.json", longer)
    for name, values in (("image_id_offsets", np.zeros(count + 1, np.int64)), ("image_id", np.zeros(0, np.uint8))):
        length = len(values)
        edit(cache, f"{name}/zarr.json", lambda d, length=length: d.update(shape=[length]))
        edit(
            cache,
            f"{name}/zarr.json",
            lambda d, length=length: d["chunk_grid"]["configuration"].update(chunk_shape=[max(1, length)]),
        )
        packed = Blosc("zstd", clevel=9, shuffle=1).encode(values) if length else b""
        (cache.location.path / name / "c.0").write_bytes(sealed(bytes(packed)))


def many_shards(cache: FeatureCache) -> None:
    count = 2**26
    edit(cache, "zarr.json", lambda d: d["attributes"]["deapcache"].update(images=count))

    def longer(d: dict) -> None:
        d["shape"][0] = count
        d["chunk_grid"]["configuration"]["chunk_shape"][0] = 1

    edit(cache, "features/zarr.json", longer)


def one_large_shard(cache: FeatureCache) -> None:
    count = 2**26
    edit(cache, "zarr.json", lambda d: d["attributes"]["deapcache"].update(images=count))

    def longer(d: dict) -> None:
        d["shape"][0] = count
        d["chunk_grid"]["configuration"]["chunk_shape"][0] = count

    edit(cache, "features/zarr.json", longer)


def long_metadata(cache: FeatureCache) -> None:
    with (cache.location.path / "zarr.json").open("ab") as file:
        file.truncate(3_000_000_000)  # it has no bytes on the disk


def long_ids(cache: FeatureCache) -> None:
    with (cache.location.path / "image_id" / "c.0").open("ab") as file:
        file.truncate(3_000_000_000)


CASES: dict[str, Callable[[FeatureCache], None]] = {
    "many ids": lambda cache: many_ids(cache, 2**25),
    "more shards than can be": many_shards,
    "more images in a shard than can be": one_large_shard,
    "long metadata": long_metadata,
    "long ids": long_ids,
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_cache_claims_takes_no_memory(cache: FeatureCache, case: str) -> None:
    CASES[case](cache)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = verify_cache(cache.location)
    assert not report.is_sound
    with pytest.raises(CorruptCacheError):
        _ = open_cache(cache.location).image_ids
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST


@pytest.mark.parametrize("name", ["zarr.json", "features/zarr.json", "image_id/c.0", "image_id_offsets/zarr.json"])
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_named(cache: FeatureCache, name: str) -> None:
    import os

    path: Path = cache.location.path / name
    for make in (os.mkfifo, os.mkdir):
        path.unlink() if path.is_file() else None
        make(path)
        report = verify_cache(cache.location)
        assert not report.is_sound
        path.rmdir() if path.is_dir() else path.unlink()
