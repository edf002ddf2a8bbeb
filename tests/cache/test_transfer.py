"""Push and pull: equal bytes, only what is missing, nothing damaged passed on, and no kill that matters."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from deapcache_bucket import S3Bucket
from deapcache_caches import feature_cache, fill, served, shard_file, volumes

from deapcache.cache import (
    Cache,
    FeatureCache,
    flush,
    list_cache,
    open_cache,
    read_manifest,
    remove_cache,
    select_folder,
    transfer_cache,
    verify_cache,
)
from deapcache.errors import CacheMissError, IncompleteCacheError, UsageError
from deapcache.locations import MANIFEST, LocalLocation, Location, locate

CHILD = Path(__file__).with_name("transfer_child.py")


@pytest.fixture
def other(tmp_path: Path) -> LocalLocation:
    """Another home, empty."""
    return LocalLocation(tmp_path / "other")


def path_of(home: LocalLocation, cache: Cache) -> str:
    return str(Path(str(cache.location)).relative_to(home.path))


def content(location: Location) -> dict[str, bytes]:
    keys = set(location.keys()) - {MANIFEST}
    return {key: location.read(key) for key in keys}


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_there_and_back_every_byte_is_equal_and_nothing_is_copied_twice(
    home: LocalLocation, other: LocalLocation, tmp_path: Path, storage: str
) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    cache.record_provenance({"user": "ada"}, writer="one")
    heard = []
    first = transfer_cache(cache, other / "x/y.zarr", progress=heard.append)
    files = 44 * len(cache.arrays)
    assert (first.copied, first.there, first.absent, first.complete, first.refused) == (files, 0, 0, True, ())
    assert first.bytes == cache.stored_bytes() == heard[-1].bytes
    again = transfer_cache(cache, other / "x/y.zarr")
    assert (again.copied, again.there, again.bytes) == (0, files, 0)
    back = LocalLocation(tmp_path / "back")
    transfer_cache(open_cache(other / "x/y.zarr"), back)
    assert content(back) == content(other / "x/y.zarr") == content(cache.location)
    assert back.exists("provenance/one.json")
    kept = read_manifest(back)
    assert kept == list_cache(back)
    assert kept.is_complete


def test_a_part_is_a_valid_incomplete_cache_and_the_rest_can_follow(home: LocalLocation, other: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, range(10))
    part = transfer_cache(cache, other, shards=[2, 3, 40])
    assert (part.asked, part.absent, part.copied, part.complete) == (3, 1, 2, False)
    copy = open_cache(other)
    np.testing.assert_array_equal(copy.read([6, 11]), volumes([6, 11]).astype(np.float16))
    with pytest.raises(IncompleteCacheError):
        copy.read([0])
    rest = transfer_cache(cache, other)
    assert (rest.copied, rest.there, rest.absent) == (8, 2, 34)
    assert content(other) == content(cache.location)


def test_a_damaged_shard_is_not_passed_on_and_the_others_are(home: LocalLocation, other: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, range(5))
    whole = {name: shard_file(cache, 3, name).read_bytes() for name in cache.arrays}
    spoiled = bytearray(whole["scales"])
    spoiled[20] ^= 4
    shard_file(cache, 3, "scales").write_bytes(spoiled)
    shard_file(cache, 1).write_bytes(b"short")
    report = transfer_cache(cache, other)
    assert [one.key for one in report.refused] == ["features/c.1.0.0.0", "scales/c.3.0.0"]
    assert "checksum" in report.refused[1].reason
    assert open_cache(other).present_shards() == {0, 2, 4}
    assert verify_cache(other).is_sound
    shard_file(cache, 3, "scales").write_bytes(whole["scales"])
    transfer_cache(cache, other)
    assert open_cache(other).present_shards() == {0, 2, 3, 4}


def test_a_shard_of_another_size_is_reported_and_stays(home: LocalLocation, other: LocalLocation) -> None:
    cache = feature_cache(home)
    fill(cache, range(5))
    transfer_cache(cache, other)
    copy = open_cache(other)
    shard_file(copy, 2).write_bytes(shard_file(copy, 2).read_bytes() + b"more")
    report = transfer_cache(cache, other)
    (refused,) = report.refused
    assert refused.key == "features/c.2.0.0.0"
    assert "verify both" in refused.reason
    assert shard_file(copy, 2).read_bytes().endswith(b"more")
    assert report.there == 4


def test_another_cache_at_the_destination_is_refused(home: LocalLocation, other: LocalLocation) -> None:
    cache = feature_cache(home)
    transfer_cache(feature_cache(home, "float32"), other)
    before = content(other)
    with pytest.raises(UsageError, match="storage: 'float16' here, 'float32' there"):
        transfer_cache(cache, other)
    with pytest.raises(UsageError, match="both source and destination"):
        transfer_cache(cache, cache.location)
    assert content(other) == before


def test_a_cache_that_is_cut_into_other_shards_is_refused(home: LocalLocation, other: LocalLocation) -> None:
    cache = feature_cache(home)
    transfer_cache(cache, other)
    metadata = other.path / "features" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("3,\n        3,\n        4,", "5,\n        3,\n        4,", 1))
    assert open_cache(other).shard_images == 5
    with pytest.raises(UsageError, match="cut into other shards"):
        transfer_cache(cache, other)


def test_kills_at_any_moment_leave_a_valid_part_and_the_last_run_ends_with_equal_bytes(
    home: LocalLocation, other: LocalLocation
) -> None:
    cache = feature_cache(home, "int8")
    fill(cache)
    rng = np.random.default_rng(0)
    counts = []
    for lines in (1, 15):
        with _child(cache.location, other) as child:
            assert child.stdout is not None
            for _ in range(lines):
                child.stdout.readline()
            time.sleep(float(rng.uniform(0, 0.02)))
            child.send_signal(signal.SIGKILL)
        counts.append(_check_part(cache, other))
    assert 0 < counts[-1] < 44, "the kills did not fall within the transfer"
    with _child(cache.location, other) as child:
        assert child.stdout is not None
        assert child.stdout.read().splitlines()[-1] == "whole"
    assert content(other) == content(cache.location)


def _child(source: Location, destination: Location) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), str(source), str(destination)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _check_part(cache: FeatureCache, destination: LocalLocation) -> int:
    try:
        copy = open_cache(destination)
    except CacheMissError:
        return 0
    assert verify_cache(destination).is_sound
    assert content(destination).items() <= content(cache.location).items()
    return len(copy.present_shards())


def test_pull_from_a_web_server(home: LocalLocation, other: LocalLocation) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, range(4))
    flush(cache)  # a web server lists what the manifest names
    with served(home.path) as (address, _):
        report = transfer_cache(open_cache(locate(address) / path_of(home, cache)), other, shards=range(8))
    assert (report.copied, report.absent) == (8, 4)
    assert content(other) == content(cache.location)


def test_there_and_back_through_an_s3_server(home: LocalLocation, other: LocalLocation, s3: S3Bucket) -> None:
    cache = feature_cache(home, "int8")
    fill(cache, range(6))
    remote = locate(s3.url) / path_of(home, cache)
    first = transfer_cache(cache, remote)
    assert (first.copied, first.refused) == (12, ())
    assert transfer_cache(cache, remote).there == 12
    report = verify_cache(remote)
    assert report.is_sound
    assert report.bytes == cache.stored_bytes()
    transfer_cache(open_cache(remote), other)
    assert content(other) == content(cache.location)
    data = bytearray(remote.read("features/c.2.0.0.0"))
    data[7] ^= 1
    remote.publish("features/c.2.0.0.0", bytes(data), replace=True)
    assert {one.shard for one in verify_cache(remote).bad} == {2}
    assert select_folder(locate(s3.url), cache.digest[:12]).path == path_of(home, cache)
    remove_cache(remote)
    assert remote.keys() == []
    with pytest.raises(CacheMissError):
        open_cache(remote)
