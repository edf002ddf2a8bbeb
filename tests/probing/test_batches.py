"""Batches hold the cached bytes, in an order that nothing but the protocol decides."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from deapcache_toys import COUNTS, target_maps, volumes

from deapcache.probing.batches import READ_AHEAD, BatchStream, image_order, sequential
from deapcache.probing.caches import SplitCaches

ROWS = np.arange(10, 20)


def _order(seed: int = 0, iterations: int = 7, batch_size: int = 4) -> list[list[int]]:
    return [rows.tolist() for rows in image_order(seed, ROWS, iterations=iterations, batch_size=batch_size)]


def test_each_epoch_has_every_image_once_and_batches_are_whole() -> None:
    order = _order(iterations=5)
    assert all(len(rows) == 4 for rows in order)
    drawn = list(itertools.chain(*order))
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == ROWS.tolist()
    assert drawn[:10] != drawn[10:]


def test_order_is_a_function_of_its_seed_and_longer_runs_go_on() -> None:
    assert _order() == _order()
    assert _order(seed=1) != _order()
    assert _order(iterations=20)[:7] == _order()


def test_order_ignores_global_random_state() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    first = _order()
    np.random.seed(1)
    torch.manual_seed(1)
    assert _order() == first


def test_fewer_images_than_a_batch() -> None:
    assert [sorted(rows) for rows in _order(iterations=2, batch_size=20)] == [sorted([*ROWS, *ROWS])] * 2


@pytest.mark.parametrize("residency", ["memory", "stream"])
def test_batches_hold_the_cached_bytes(caches, residency) -> None:
    stream = BatchStream(caches, residency, torch.device("cpu"))
    order = list(image_order(0, caches.rows, iterations=9, batch_size=7))
    found = list(stream.batches(order))
    assert len(found) == 9
    for rows, batch in zip(order, found, strict=True):
        np.testing.assert_array_equal(batch.rows, rows)
        np.testing.assert_array_equal(batch.features.numpy(), volumes("train")[rows].astype(np.float16))
        for annotation in ("instances", "depth"):
            np.testing.assert_array_equal(batch.maps[annotation].numpy(), target_maps("train", annotation)[rows])


def test_maps_alone(caches) -> None:
    for residency in ("memory", "stream"):
        stream = BatchStream(caches, residency, torch.device("cpu"))
        pieces = [maps["depth"].numpy() for _, maps in stream.maps(["depth"], sequential(caches.rows, 6))]
        found = np.concatenate(pieces)
        np.testing.assert_array_equal(found, target_maps("train", "depth")[:20])


class _Counting:
    """Stands before a cache and notes which rows are read."""

    def __init__(self, cache) -> None:
        self._cache = cache
        self.rows: list[int] = []

    def __len__(self):
        return len(self._cache)

    def __getattr__(self, name):
        return getattr(self._cache, name)

    def read_features_async(self, rows):
        self.rows.extend(rows.tolist())
        return self._cache.read_features_async(rows)


@pytest.mark.parametrize(("residency", "reads"), [("stream", 3), ("memory", 1)])
def test_each_volume_is_read_once_an_epoch_or_once_at_all(caches, residency, reads) -> None:
    counting = _Counting(caches.features)
    stream = BatchStream(SplitCaches(counting, caches.others, caches.rows), residency, torch.device("cpu"))
    for _ in stream.batches(image_order(0, caches.rows, iterations=12, batch_size=5)):
        pass
    assert sorted(counting.rows) == sorted(list(range(20)) * reads)


def test_reading_ahead_is_bounded(caches) -> None:
    counting = _Counting(caches.features)
    stream = BatchStream(SplitCaches(counting, caches.others, caches.rows), "stream", torch.device("cpu"))
    next(iter(stream.batches(image_order(0, caches.rows, iterations=1000, batch_size=2))))
    assert len(counting.rows) == 2 * (READ_AHEAD + 1)


def test_bytes_that_memory_would_hold(caches) -> None:
    assert caches.decoded_bytes() == 20 * (7 * 7 * 16 * 2 + 2 * 56 * 56 * 4)
    assert COUNTS["train"] > 20
