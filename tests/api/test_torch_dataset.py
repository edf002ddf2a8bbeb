"""Features as a torch dataset: items, batches, worker processes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from deapcache_caches import served
from deapcache_toys import add_features, add_targets, target_maps, volumes
from torch.utils.data import DataLoader

import deapcache
from deapcache.cache import Cache
from deapcache.errors import AmbiguousCacheError, CacheMissError, CorruptCacheError, IncompleteCacheError, UsageError
from deapcache.locations import LocalLocation

STORED = volumes("val").astype(np.float16)


def _features(home: LocalLocation, *annotations: str, **changes: str) -> deapcache.Features:
    for annotation in annotations:
        add_targets(home, "val", annotation)
    return deapcache.open_cache(add_features(home, "val", **changes).location)


def test_an_item_is_features_and_what_is_asked_for(home: LocalLocation) -> None:
    cache = _features(home, "classes", "instances", "depth")
    alone, pairs, named = (cache.torch_dataset(t) for t in (None, "depth", ["classes", "instances"]))
    np.testing.assert_array_equal(alone[3], STORED[3])
    assert alone[3].dtype == torch.float16
    volume, depth = pairs[-1]
    np.testing.assert_array_equal(volume, STORED[11])
    np.testing.assert_array_equal(depth, target_maps("val", "depth")[11])
    _, targets = named[4]
    assert list(targets) == ["classes", "instances"]
    assert [target.dtype for target in targets.values()] == [torch.int16, torch.int32]
    np.testing.assert_array_equal(targets["instances"], target_maps("val", "instances")[4])
    assert len(alone) == 12
    with pytest.raises(IndexError):
        alone[12]


@pytest.mark.parametrize(("storage", "dtype", "expected"), [
    ("float16", None, torch.float16), ("float16", "float32", torch.float32), ("int8", None, torch.float32),
    ("int8", "float16", torch.float16),
])  # fmt: skip
def test_the_dtype_of_features(home: LocalLocation, storage: str, dtype, expected: torch.dtype) -> None:
    item = _features(home, storage=storage).torch_dataset(dtype=dtype)[0]
    assert item.dtype == expected
    assert np.abs(item.float().numpy() - volumes("val")[0]).max() < 0.05


def test_targets_of_mirrored_features_are_mirrored(home: LocalLocation) -> None:
    volume, classes = _features(home, "classes", view="hflip").torch_dataset("classes")[5]
    np.testing.assert_array_equal(volume, STORED[5, :, ::-1])
    np.testing.assert_array_equal(classes, target_maps("val", "classes")[5, :, ::-1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_shuffles_with_and_without_workers(home: LocalLocation, workers: int) -> None:
    dataset = _features(home, "classes").torch_dataset("classes")
    dataset[0]  # this process has threads that read: they do not survive the fork
    loader = DataLoader(dataset, batch_size=5, shuffle=True, num_workers=workers)
    batches = list(loader)
    assert [len(volume) for volume, _ in batches] == [5, 5, 2]
    found = np.concatenate([volume.numpy() for volume, _ in batches])
    classes = np.concatenate([target.numpy() for _, target in batches])
    order = [int(np.flatnonzero((volume == STORED).all(axis=(1, 2, 3)))[0]) for volume in found]
    assert sorted(order) == list(range(12))
    np.testing.assert_array_equal(classes, target_maps("val", "classes")[order])


def test_a_batch_is_one_read_of_each_cache(home: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _features(home, "classes").torch_dataset("classes")
    reads: list[int] = []
    read = Cache.read_async
    monkeypatch.setattr(Cache, "read_async", lambda self, rows, *a: reads.append(len(rows)) or read(self, rows, *a))
    list(DataLoader(dataset, batch_size=6))
    assert reads == [6, 6, 6, 6]


def test_it_can_be_pickled(home: LocalLocation) -> None:
    dataset = _features(home, "depth").torch_dataset("depth", dtype="float32")
    again = pickle.loads(pickle.dumps(dataset))
    for ours, theirs in zip(again[7], dataset[7], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_served_cache_refuses_forked_workers(home: LocalLocation) -> None:
    path = add_features(home, "val").location.path  # type: ignore[attr-defined]
    with served(home.path) as (address, _):
        dataset = deapcache.open_cache(f"{address}/{path.relative_to(home.path)}").torch_dataset()
        np.testing.assert_array_equal(dataset[2], STORED[2])
        with pytest.raises(UsageError, match="multiprocessing_context='spawn'"):
            list(DataLoader(dataset, num_workers=1, multiprocessing_context="fork"))
        loader = DataLoader(dataset, batch_size=12, num_workers=1, multiprocessing_context="spawn")
        (batch,) = list(loader)
    np.testing.assert_array_equal(batch, STORED)


def test_targets_that_are_not_there(home: LocalLocation) -> None:
    cache = _features(home, "classes")
    with pytest.raises(CacheMissError, match=r"no depth of these images .* there is classes of toys"):
        cache.torch_dataset("depth")
    with pytest.raises(CacheMissError, match="no classes of coco at 28x28"):
        cache.torch_dataset("classes", dataset="coco", size=(28, 28))
    with pytest.raises(UsageError, match="unknown dtype 'int8' of features"):
        cache.torch_dataset(dtype="int8")  # type: ignore[arg-type]
    add_targets(home, "val", "classes", classes=("one", "two"))
    with pytest.raises(AmbiguousCacheError, match="several times"):
        cache.torch_dataset("classes")


def test_targets_lacking_an_image_are_told_by_its_name(home: LocalLocation) -> None:
    add_targets(home, "val", "classes", shards=range(11))
    dataset = _features(home).torch_dataset("classes")
    assert len(dataset[10]) == 2
    with pytest.raises(IncompleteCacheError, match="val-11"):
        dataset[11]


def test_a_flipped_bit_is_an_error(home: LocalLocation) -> None:
    cache = _features(home)
    shard = sorted(cache.location.path.glob("features/c.4.*"))[0]  # type: ignore[attr-defined]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptCacheError, match="val-4"):
        cache.torch_dataset()[4]
