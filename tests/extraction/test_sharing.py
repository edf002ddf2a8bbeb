"""How work is divided: all of it, once, in nearly equal parts, whoever comes and goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from deapcache.cache import ArraySpec, create_cache
from deapcache.errors import UsageError
from deapcache.extraction import ShardPartition, parse_partition
from deapcache.extraction.claims import WorkQueue
from deapcache.extraction.images_targets import RowBlocks, ShardAssembler
from deapcache.locations import LocalLocation
from deapcache.recipe import ImageRecipe

UNITS = 64


class Store:
    """Units that are there, and who made them."""

    def __init__(self, home: LocalLocation) -> None:
        self.home = home
        self.made: list[tuple[int, int]] = []
        self.there: set[int] = set()

    def queue(self, units: range = range(UNITS), **more: Any) -> WorkQueue:
        return WorkQueue(self.home, units, present=lambda some: set(self.there) & set(some), images=lambda _: 2, **more)

    def make(self, who: int, unit: int) -> None:
        self.made.append((who, unit))
        self.there.add(unit)


@pytest.fixture
def store(home: LocalLocation) -> Store:
    return Store(home)


@pytest.mark.parametrize("runs", [2, 4])
def test_runs_that_begin_together_do_equal_parts_and_nothing_twice(store, runs):
    barrier = threading.Barrier(runs)

    def run(who: int) -> None:
        with store.queue() as mine:
            barrier.wait()
            for units in mine.batches():
                for unit in units:
                    time.sleep(0.03)
                    store.make(who, unit)
                    mine.finish(unit)

    with ThreadPoolExecutor(runs) as pool:
        list(pool.map(run, range(runs)))
    assert sorted(unit for _, unit in store.made) == list(range(UNITS))
    for who in range(runs):
        assert sum(one == who for one, _ in store.made) == pytest.approx(UNITS / runs, rel=0.25)


def test_a_lone_run_keeps_the_order(store):
    with store.queue() as mine:
        for units in mine.batches():
            for unit in units:
                assert mine.total == 2 * UNITS
                store.make(0, unit)
                mine.finish(unit)
    assert [unit for _, unit in store.made] == list(range(UNITS))
    assert store.home.keys("claims") == []


def test_who_is_done_first_waits_says_for_whom_and_takes_over_what_is_abandoned(store):
    said: list[str] = []
    with store.queue(range(1), claim_seconds=30, say=said.append) as sleeper:
        (first,) = [next(units) for units in [next(sleeper.batches())]]
        assert first == 0
        with store.queue(range(3), claim_seconds=0.5, say=said.append) as mine:
            for units in mine.batches():
                for unit in units:
                    store.make(1, unit)
                    mine.finish(unit)
    *free, abandoned = [unit for _, unit in store.made]
    assert (sorted(free), abandoned) == ([1, 2], 0)
    assert len(said) == 1
    assert "waits for 1 of its shards" in said[0]
    assert "process" in said[0]


def test_what_others_publish_meanwhile_is_not_done_again(store):
    with store.queue(range(4)) as mine:
        for units in mine.batches():
            for unit in units:
                store.there |= {2, 3}
                store.make(0, unit)
                mine.finish(unit)
        assert mine.total == 4
    assert [unit for _, unit in store.made] == [0, 1]


def test_portions_are_all_of_it_once():
    parts = [ShardPartition(number=number, count=5).select(range(UNITS)) for number in range(1, 6)]
    assert sorted(unit for part in parts for unit in part) == list(range(UNITS))
    assert parts[1][:3] == [1, 6, 11]
    assert parse_partition("2/5") == ShardPartition(number=2, count=5)


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "a/b", "1/2/3", "-1/4", "1 / 4"])
def test_a_portion_that_is_none_is_a_usage_error(text):
    with pytest.raises(UsageError, match="expected"):
        parse_partition(text)


def test_row_blocks_hold_every_shard_once_where_lengths_differ(home):
    """Items of 1 MB and 100 kB: shards of 100 images and of as many as a 64th."""
    recipe = ImageRecipe(size=(1, 1), fit="squash", interpolation="none", colour="none", images="")
    images = 9000
    ids = [str(row) for row in range(images)]
    caches = []
    for name, side in (("large", 1_000_000), ("small", 10)):
        spec = ArraySpec(name="images", dtype="uint8", item_shape=(side,), dimensions=("column",))
        caches.append(create_cache(home / name, "c.zarr", recipe=recipe, arrays=[spec], image_ids=ids))
    blocks = RowBlocks([ShardAssembler(str(place), cache) for place, cache in enumerate(caches)])
    assert [cache.shard_images for cache in caches] == [100, 141]
    everything = blocks.of_rows(range(images))
    assert len(everything) > 4
    for part in blocks.assemblers:
        shards = [shard for block in sorted(everything) for shard in blocks.shards(part, block)]
        assert shards == list(range(part.cache.shard_count))
    assert set(blocks.missing(everything)) == everything
    shard = caches[1].shard_of(4000)
    caches[1].write_shard(shard, {"images": np.zeros((141, 10), np.uint8)})
    large, small = (
        {row for lacking in blocks.missing(everything).values() for row in _rows(*lacking[place])} for place in (0, 1)
    )
    assert large == set(range(images))
    assert small == large - set(caches[1].shard_rows(shard))
    assert len({row for each in blocks.missing([0])[0] for row in _rows(*each)}) < 1300


def _rows(assembler: ShardAssembler, shards: Sequence[int]) -> list[int]:
    return [row for shard in shards for row in assembler.cache.shard_rows(shard)]
