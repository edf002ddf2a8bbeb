"""The local tier: whole shards once, never a wrong number, never more than its size, never stale for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from deapcache_bucket import S3Bucket
from deapcache_caches import feature_cache, fill, served, shard_file, volumes

from deapcache.cache import FeatureCache, open_cache, tier
from deapcache.errors import CorruptCacheError, IncompleteCacheError
from deapcache.locations import LocalLocation, LocalTier, Location, locate

ROWS = [5, 129, 0, 77, 5, 128]
"""Of the shards 0, 1, 25, 42 and 43 (the last one is of one image)."""


@pytest.fixture
def kept(tmp_path: Path) -> LocalTier:
    """A tier with room for everything."""
    return LocalTier(folder=tmp_path / "tier", bytes=10**9)


@pytest.fixture
def made(home: LocalLocation) -> FeatureCache:
    """A whole cache in a folder, as NFS would hold it."""
    cache = feature_cache(home)
    fill(cache)
    return cache


def _folder(cache: FeatureCache) -> Path:
    assert isinstance(cache.location, LocalLocation)
    return cache.location.path


def _through(cache: FeatureCache, kept: LocalTier, location: Location | None = None) -> FeatureCache:
    opened = open_cache((location or cache.location).with_options(tier=kept))
    assert isinstance(opened, FeatureCache)
    return opened


def _shards(kept: LocalTier) -> list[Path]:
    return sorted(path for path in kept.shards.rglob("c.*") if not path.name.endswith((".json", ".partial")))


def _shard(kept: LocalTier, k: int) -> Path:
    (found,) = kept.shards.rglob(f"c.{k}.0.0.0")
    return found


def _size(kept: LocalTier) -> int:
    return sum(path.stat().st_size for path in kept.shards.rglob("*") if path.is_file())


def _three_shards(cache: FeatureCache) -> int:
    """Bytes of a tier for three shards with their notes, and what is reserved while one is written."""
    return 3 * (shard_file(cache, 0).stat().st_size + 150) + 1100


def _long_ago(path: Path, seconds: float = 3600) -> None:
    before = time.time() - seconds
    os.utime(path, (before, path.stat().st_mtime))


def _equal(cache: FeatureCache, rows: list[int]) -> None:
    np.testing.assert_array_equal(cache.read_features(rows), volumes(rows).astype(np.float16))


def test_a_shard_is_fetched_whole_once_and_then_nothing_is_asked(s3: S3Bucket, made: FeatureCache, kept: LocalTier):
    s3.upload(_folder(made))
    cache = _through(made, kept, locate(s3.url))
    order = np.random.default_rng(0).permutation(len(cache)).tolist()
    for epoch in range(3):
        for start in range(0, len(order), 16):
            _equal(cache, order[start : start + 16])
        asked = s3.requests("/features/c.")
        if epoch == 0:
            assert sorted(found[1] for found in asked) == sorted(
                f"/{s3.name}/home/features/c.{k}.0.0.0" for k in range(cache.shard_count)
            )
            assert {(method, status) for method, _, status in asked} == {("GET", 200)}
            first = len(asked)
        assert len(asked) == first
    again = _through(made, kept, locate(s3.url))  # as another process would
    _equal(again, ROWS)
    assert len(s3.requests("/features/c.")) == first


def test_without_a_tier_shard_indexes_are_fetched_once_and_not_for_each_image(s3: S3Bucket, made: FeatureCache):
    s3.upload(_folder(made))
    cache = open_cache(locate(s3.url))
    assert isinstance(cache, FeatureCache)
    for row in [*range(12), *reversed(range(12))]:
        _equal(cache, [row])
    asked = s3.requests("/features/c.")
    assert len(asked) <= 4 + 24  # four indexes, and one range for each image


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_folder_is_put_through_it_when_asked_for(home: LocalLocation, kept: LocalTier, storage: str) -> None:
    cache = feature_cache(home, storage)
    fill(cache)
    plain = cache.read_features(ROWS)
    np.testing.assert_array_equal(_through(cache, kept).read_features(ROWS), plain)
    assert len(_shards(kept)) == 5 * len(cache.arrays)
    for path in _shards(kept):  # plain copies of the shards
        assert path.read_bytes() == shard_file(cache, int(path.name.split(".")[1]), path.parent.name).read_bytes()


def test_web_servers_too(made: FeatureCache, kept: LocalTier) -> None:
    with served(_folder(made)) as (url, requests):
        cache = _through(made, kept, locate(url))
        _equal(cache, ROWS)
        asked = [found for found in requests if "features/c." in found[0]]
        assert sorted(ranges or "whole" for _, ranges in asked) == ["whole"] * 5
        _equal(cache, ROWS)
        assert [found for found in requests if "features/c." in found[0]] == asked


def test_what_is_evicted_truncated_or_flipped_under_a_reader_is_fetched_again(made: FeatureCache, kept: LocalTier):
    cache = _through(made, kept)
    rows = [0, 77, 76, 75]
    _equal(cache, rows)
    whole = _shard(kept, 25).read_bytes()

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[10] ^= 4
        path.write_bytes(data)

    def cut(path: Path) -> None:
        os.truncate(path, 100)

    for harm in (Path.unlink, flip, cut, lambda path: path.write_bytes(b"")):
        harm(_shard(kept, 25))
        _equal(cache, rows)
        assert _shard(kept, 25).read_bytes() == whole
        harm(_shard(kept, 25))
        _equal(_through(made, kept), rows)
        assert _shard(kept, 25).read_bytes() == whole


def test_its_size_holds_and_what_was_long_unused_goes_first(made: FeatureCache, tmp_path: Path) -> None:
    small = LocalTier(folder=tmp_path / "small", bytes=_three_shards(made))
    cache = _through(made, small)
    for row in (0, 3, 6):
        _equal(cache, [row])
        assert _size(small) <= small.bytes
    assert [path.name for path in _shards(small)] == [f"c.{k}.0.0.0" for k in range(3)]
    for k, ago in ((0, 5000), (1, 9000), (2, 7000)):
        _long_ago(_shard(small, k), ago)
    _equal(cache, [9])
    assert [path.name for path in _shards(small)] == [f"c.{k}.0.0.0" for k in (0, 2, 3)]
    _equal(cache, [12])
    assert [path.name for path in _shards(small)] == [f"c.{k}.0.0.0" for k in (0, 3, 4)]
    assert _size(small) <= small.bytes
    _equal(cache, [3])


def test_the_room_of_what_goes_is_free_at_once_though_it_is_held_open(made: FeatureCache, kept: LocalTier) -> None:
    cache = _through(made, kept)
    _equal(cache, [0, 3])
    with _shard(kept, 0).open("rb") as held:  # as a reader in another process does
        tier.tier_folder(kept).discard(_shard(kept, 0))
        assert os.fstat(held.fileno()).st_size == 0
    _equal(cache, [0, 3])


def test_shards_in_use_are_not_given_up_and_others_are_read_where_they_are(made: FeatureCache, tmp_path: Path) -> None:
    small = LocalTier(folder=tmp_path / "small", bytes=_three_shards(made))
    with served(_folder(made)) as (url, requests):
        cache = _through(made, small, locate(url))
        with pytest.warns(UserWarning, match=r"the local tier .*small may hold .* image by image"):
            _equal_one_by_one(cache)
        _equal(cache, list(range(len(cache))))
        assert 1 <= len(_shards(small)) <= 3
        assert _size(small) <= small.bytes
        whole = [found for found in requests if "features/c." in found[0] and found[1] is None]
        assert len(whole) <= 5  # those kept, and those for which there turned out to be no room


def _equal_one_by_one(cache: FeatureCache) -> None:
    for row in range(len(cache)):
        _equal(cache, [row])


def test_a_tier_smaller_than_a_shard_keeps_none_and_says_so(made: FeatureCache, tmp_path: Path) -> None:
    tiny = LocalTier(folder=tmp_path / "tiny", bytes=100)
    with pytest.warns(UserWarning, match="and a shard has"):
        _equal(_through(made, tiny), ROWS)
    assert _size(tiny) == 0


def test_a_tier_that_cannot_be_written_stops_nothing(made: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be written"):
        _equal(_through(made, LocalTier(folder=tmp_path / "file", bytes=10**9)), ROWS)


def test_a_shard_made_anew_in_a_folder_is_noticed(made: FeatureCache, kept: LocalTier) -> None:
    _equal(_through(made, kept), ROWS)
    _rewrite(made, 25, volumes(made.shard_rows(25)) + 1)
    again = _through(made, kept).read_features(ROWS)
    np.testing.assert_array_equal(again[3], (volumes([77]) + 1).astype(np.float16)[0])
    shard_file(made, 25).unlink()
    with pytest.raises(IncompleteCacheError, match="row 77"):
        _through(made, kept).read_features(ROWS)


def _rewrite(cache: FeatureCache, k: int, values: np.ndarray) -> None:
    shard_file(cache, k).unlink()
    assert cache.write_shard(k, {"features": values.astype(np.float16)})


def test_a_shard_made_anew_in_a_store_is_noticed_within_a_day(
    s3: S3Bucket, made: FeatureCache, kept: LocalTier
) -> None:
    s3.upload(_folder(made))
    place = locate(s3.url)
    _equal(_through(made, kept, place), ROWS)
    _rewrite(made, 25, volumes(made.shard_rows(25)) + 1)
    s3.write("home/features/c.25.0.0.0", shard_file(made, 25).read_bytes())
    asked = len(s3.requests("/features/c."))
    _equal(_through(made, kept, place), ROWS)  # trusted for a day
    assert len(s3.requests("/features/c.")) == asked
    for path in _shards(kept):
        note = path.with_name(path.name + ".json")
        yesterday = time.time() - tier.CONFIRM_SECONDS - 60
        os.utime(note, (yesterday, yesterday))
    later = _through(made, kept, place)
    changed = later.read_features(ROWS)
    np.testing.assert_array_equal(changed[3], (volumes([77]) + 1).astype(np.float16)[0])
    since = s3.requests("/features/c.")[asked:]
    assert len(since) == 5 + 1  # five were compared, one was fetched
    later.read_features(ROWS)
    _through(made, kept, place).read_features(ROWS)
    assert len(s3.requests("/features/c.")) == asked + 6


def test_damage_at_the_origin_is_reported_of_the_origin(made: FeatureCache, kept: LocalTier) -> None:
    for harm, k in ((lambda path: _flip(path, 10), 25), (lambda path: os.truncate(path, 40), 1)):
        harm(shard_file(made, k))
        row = made.shard_rows(k)[0]
        with pytest.raises(CorruptCacheError) as raised:
            _through(made, kept).read_features([0, row, row + 1, row + 2])
        assert str(shard_file(made, k)) in str(raised.value)
        assert str(kept.folder) not in str(raised.value)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_caches_cut_differently_do_not_share_files(made: FeatureCache, kept: LocalTier, tmp_path: Path) -> None:
    other = feature_cache(LocalLocation(tmp_path / "other"), precision="fp16")
    fill(other)
    _equal(_through(made, kept), ROWS)
    _equal(_through(other, kept), ROWS)
    assert len(_shards(kept)) == 10


def test_foreign_files_beside_it_are_left_alone(made: FeatureCache, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "thesis.tex").write_bytes(bytes(50_000))
    _long_ago(tmp_path / "scratch" / "thesis.tex")
    small = LocalTier(folder=tmp_path / "scratch", bytes=_three_shards(made))
    _equal(_through(made, small), [0])
    assert len(_shards(small)) == 1
    assert (tmp_path / "scratch" / "thesis.tex").stat().st_size == 50_000


def test_what_a_killed_process_left_is_removed(made: FeatureCache, kept: LocalTier) -> None:
    _equal(_through(made, kept), [0])
    left, young = (_shard(kept, 0).with_name(f".c.9.0.0.0.{name}.partial") for name in ("old", "new"))
    for path in (left, young):
        path.write_bytes(bytes(1000))
    before = time.time() - tier._ABANDONED_AFTER - 60
    os.utime(left, (before, before))
    _equal(_through(made, kept), [3])
    assert not left.exists()
    assert young.exists()


_CHILD = """
import json, sys
import numpy as np
from pathlib import Path
from deapcache.cache import open_cache
from deapcache.locations import LocalTier, locate
url, folder, limit, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
cache = open_cache(locate(url).with_options(tier=LocalTier(folder=folder, bytes=limit)))
rng, most, total = np.random.default_rng(seed), 0, 0.0
for _ in range(40):
    rows = rng.integers(0, len(cache), 12)
    values = cache.read_features(rows).astype(np.float64)
    total += float((values.sum(axis=(1, 2, 3)) * (rows + 1)).sum())
    sizes = []
    for path in folder.rglob("c.*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            pass
    most = max(most, sum(sizes))
print(json.dumps([total, most]))
"""


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_processes_share_it(made: FeatureCache, tmp_path: Path, share: float) -> None:
    """Three processes read the same cache through one tier, with room for all of it or for less than half."""
    total = sum(path.stat().st_size + 1200 for path in (_folder(made) / "features").iterdir())
    kept = LocalTier(folder=tmp_path / "shared", bytes=int(share * total) + 2000)
    with served(_folder(made)) as (url, requests):
        command = [sys.executable, "-W", "ignore", "-c", _CHILD, url, str(kept.folder), str(kept.bytes)]
        children = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in range(3)]
        told = [json.loads(child.communicate(timeout=300)[0]) for child in children]
        fetched = [path for path, ranges in requests if "features/c." in path and ranges is None]
    for seed, (found, most) in enumerate(told):
        assert found == _expected(seed)
        assert most <= kept.bytes
    if share == 1.0:
        assert len(fetched) <= 3 * made.shard_count
        assert len(_shards(kept)) == len(set(fetched))


def _expected(seed: int) -> float:
    rng, total = np.random.default_rng(seed), 0.0
    everything = volumes(range(130)).astype(np.float16).astype(np.float64)
    for _ in range(40):
        rows = rng.integers(0, 130, 12)
        total += float((everything[rows].sum(axis=(1, 2, 3)) * (rows + 1)).sum())
    return total
