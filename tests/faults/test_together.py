"""Several extractors of one cache at once, and a reader all the while: the same bytes as one, and only whole shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deapcache_faults import LONG, Extractors, Tally, cache_bytes, leftovers

from deapcache.cache import Cache, list_caches
from deapcache.locations import LocalLocation


def _features(home: LocalLocation) -> Cache | None:
    found = list_caches(home, "features")
    return found[0].open() if found else None


def _read_whole_shards(cache: Cache, expected: np.ndarray, rng: np.random.Generator) -> int:
    """Rows that a look into a cache under way found, each compared."""
    rows = [row for shard in cache.present_shards() for row in cache.shard_rows(shard)]
    chosen = rng.permutation(rows)[:20].astype(int)
    np.testing.assert_array_equal(cache.read(chosen), expected[chosen])
    return len(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4] if LONG else [3])
def test_extractors_at_once_make_the_bytes_of_one(
    undisturbed, extractors: Extractors, tally: Tally, tmp_path: Path, count: int
):
    home, rng = LocalLocation(tmp_path / "home"), np.random.default_rng(0)
    complete = _features(undisturbed.home)
    assert complete
    expected = complete.read(range(len(complete)))
    with tally.fault(f"{count} extractors of one cache at once", "the bytes of one extractor"):
        started = [extractors.start(undisturbed.root, home, tmp_path / f"log{i}") for i in range(count)]
        read = 0
        while any(extractors.running(process) for process in started):
            cache = _features(home)
            read += _read_whole_shards(cache, expected, rng) if cache else 0
        assert [extractors.wait(process) for process in started] == [0] * count
        assert read > 0, "the reader saw nothing: this test shows nothing"
        assert cache_bytes(home) == undisturbed.kept
        assert leftovers(home.path) == []
    with tally.fault("reads of a cache that is being written", "whole shards only", count=read):
        pass
