"""How often homes and caches are looked at: counted, for what is looked at again and again grows with its square."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from deapcache_caches import IMAGES, feature_cache, fill, volumes

from deapcache.cache import cache_contents, encode_features, find_caches, find_one, list_cache, list_caches, one_listing
from deapcache.extraction.claims import WorkQueue
from deapcache.extraction.dataset_summary import summarize_without_files
from deapcache.locations import LocalLocation


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How many folders are listed and files opened in the block."""
    calls: Counter[str] = Counter()

    def counting(name, call):
        def wrapper(*arguments, **options):
            calls[name] += 1
            return call(*arguments, **options)

        return wrapper

    with monkeypatch.context() as patched:
        for name in ("scandir", "open"):
            patched.setattr(os, name, counting(name, getattr(os, name)))
        yield calls


@pytest.mark.parametrize("shards", [40, 160])
def test_a_unit_of_work_does_not_list_all_shards(home: LocalLocation, monkeypatch, shards: int) -> None:
    cache = feature_cache(home, count=2 * 64)
    seen: list[int] = []

    def present(some):
        seen.append(len(some))
        return cache.present_shards(some)

    count = min(shards, cache.shard_count)
    queue = WorkQueue(cache.location, range(count), present=present, images=lambda _: 1)
    begun = time.monotonic()
    with queue:
        for batch in queue.batches():
            for shard in batch:
                rows = cache.shard_rows(shard)
                cache.write_shard(shard, encode_features(volumes(rows), cache.storage, cache.image_ids))
                queue.finish(shard)
    assert cache.present_shards() == set(range(count))
    assert sum(size > 1 for size in seen) <= 3 + (time.monotonic() - begun) / 2, "all are looked at every few seconds"


def test_a_complete_cache_is_known_by_its_manifest(home: LocalLocation, monkeypatch) -> None:
    cache = feature_cache(home)
    fill(cache)
    whole = list_cache(cache.location)
    with counted(monkeypatch) as calls:
        assert cache_contents(cache.location, cache.digest) == whole
    assert calls == {"open": 0} or calls["scandir"] == 0
    (cache.location.path / "features" / "c.3.0.0.0").unlink()
    assert cache_contents(cache.location, cache.digest).images == whole.images - 3, (
        "a manifest that is no longer true is not believed"
    )


def test_of_caches_of_one_image_set_one_is_opened(home: LocalLocation, monkeypatch) -> None:
    opened = []
    for number in range(8):
        feature_cache(home, backbone=f"vit-{number}")
        if number in (1, 7):
            with counted(monkeypatch) as calls:
                assert summarize_without_files("coco", home).of["train"].images == IMAGES
            opened.append(calls["open"])
    assert opened[1] - opened[0] <= 2 * 6, "a file of each in two listings"


@pytest.mark.parametrize("caches", [3, 12])
def test_a_home_is_listed_once_within_a_block(home: LocalLocation, monkeypatch, caches: int) -> None:
    for number in range(caches):
        feature_cache(home, count=2, images=f"{number:064x}")
    with counted(monkeypatch) as calls, one_listing():
        for number in range(10):
            asked = {"dataset": "coco", "split": "train", "fields": {"images": f"{number % caches:064x}"}}
            assert len(find_caches(home, "features", **asked)) == 1
            assert find_one(home, "features", **asked).recipe["images"] == f"{number % caches:064x}"
            assert len(list_caches(home)) == caches
    within = calls["open"]
    with counted(monkeypatch) as calls:
        list_caches(home)
    assert within <= calls["open"] + 1
    feature_cache(home, count=2, images="f" * 64)
    assert len(list_caches(home)) == caches + 1, "nothing is remembered after the block"
