"""Whole-cache arithmetic against numpy on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from deapcache_caches import DIM, GRID, feature_cache, fill, volumes

from deapcache.cache import encode_features
from deapcache.cache.statistics import feature_statistics, lazy_features


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_statistics_are_those_of_the_stored_numbers(home, storage):
    cache = feature_cache(home, storage)
    fill(cache)
    stored = cache.read_features(range(len(cache))).astype(np.float64)
    found = feature_statistics(cache)
    assert found is not None
    assert found.images == len(cache)
    np.testing.assert_allclose(
        [found.mean, found.std, found.minimum, found.maximum],
        [stored.mean(), stored.std(), stored.min(), stored.max()],
        rtol=1e-6,
    )
    assert found.constant_channels == ()
    rms = np.sqrt(np.square(stored.astype(np.float64)).mean((0, 1, 2)))
    assert found.outlier_ratio == pytest.approx(rms.max() / np.sqrt(np.square(rms).mean()), rel=1e-6)
    assert found.peak_ratio == pytest.approx((np.abs(stored).max((0, 1, 2)) / rms).max(), rel=1e-6)


def test_a_channel_that_says_nothing_is_named(home):
    cache = feature_cache(home, count=4)
    for shard in range(cache.shard_count):
        rows = cache.shard_rows(shard)
        values = volumes(rows)
        values[..., 5] = 0.25
        cache.write_shard(shard, encode_features(values, "float16", [cache.image_ids[row] for row in rows]))
    found = feature_statistics(cache)
    assert found is not None
    assert found.constant_channels == (5,)


def test_a_chunk_is_a_shard_and_missing_shards_are_left_out(home):
    cache = feature_cache(home)
    assert feature_statistics(cache) is None
    fill(cache, [0, 2])
    lazy = lazy_features(cache)
    assert lazy.shape == (2 * cache.shard_images, *GRID, DIM)
    assert lazy.chunks[0] == (cache.shard_images,) * 2
    rows = [*cache.shard_rows(0), *cache.shard_rows(2)]
    np.testing.assert_array_equal(lazy.compute(), cache.read_features(rows).astype(np.float32))
