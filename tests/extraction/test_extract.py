"""Stage 1 end to end: right numbers, never twice, resumable, explained when it cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deapcache.backbones import Backbone, Output, build, forward_count
from deapcache.cache import FeatureCache, list_caches
from deapcache.datasets import open_dataset
from deapcache.datasets.coco import CocoInstances
from deapcache.errors import DataError, FeatureError, StorageFullError, UsageError
from deapcache.extraction import ExtractionReport, ExtractionSettings, extract, plan_extraction
from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"


def run(root: Path, home: LocalLocation, *names: str, **settings: object) -> list[ExtractionReport]:
    dataset = open_dataset("coco", root)
    chosen = ExtractionSettings(batch_size=4, **settings)  # type: ignore[arg-type]
    return list(extract(names or (BACKBONE,), dataset, home, settings=chosen))


def shard_bytes(home: LocalLocation) -> dict[str, bytes]:
    return {key: home.read(key) for key in home.keys("features") if "/features/c." in key}


def feature_cache(home: LocalLocation, split: str = "train") -> FeatureCache:
    (entry,) = [e for e in list_caches(home, "features") if e.split == split]
    cache = entry.open()
    assert isinstance(cache, FeatureCache)
    return cache


def direct_forward(path: Path, base: tuple[int, int] | None = (224, 224)) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    if base:
        image = image.resize((base[1], base[0]), Image.Resampling.BICUBIC)
    return build(BACKBONE)(torch.from_numpy(np.asarray(image).copy())[None])[0].numpy()


def test_another_process_reads_with_plain_zarr_what_the_backbone_gives(make_coco, home):
    root = make_coco(train=3, val=1)
    run(root, home)
    cache = feature_cache(home)
    script = (
        "import json, sys, zarr\n"
        "group = zarr.open_group(sys.argv[1], mode='r')\n"
        "assert not any(name.startswith('deapcache') for name in sys.modules)\n"
        "print(json.dumps(group['features'][1].astype('float64').tolist()))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, str(cache.location)], check=True, capture_output=True, text=True
    ).stdout
    stored = np.asarray(json.loads(printed))
    image = root / "train2017" / f"{cache.image_ids[1]}.jpg"
    expected = direct_forward(image)
    assert stored.shape == (14, 14, 112)
    np.testing.assert_allclose(stored, expected, rtol=2**-10, atol=1e-3)


def test_nothing_is_extracted_twice(make_coco, home):
    root = make_coco()
    first = run(root, home)
    before = forward_count()
    second = run(root, home)
    assert [r.extracted for r in first] == [12, 4]
    assert [r.extracted for r in second] == [0, 0]
    assert [r.path for r in second] == [r.path for r in first]
    assert forward_count() == before


def test_a_limited_extraction_is_part_of_the_whole_one(make_coco, home, tmp_path):
    root = make_coco(train=70)  # two images a shard
    part = run(root, home, limit=3)
    assert part[0].images == 4
    assert part[0].extracted == 4
    rest = run(root, home)
    assert rest[0].path == part[0].path
    assert rest[0].extracted == 66
    undisturbed = LocalLocation(tmp_path / "other")
    run(root, undisturbed)
    assert shard_bytes(home) == shard_bytes(undisturbed)


def test_targets_and_base_images_are_made_with_the_features(make_coco, home):
    root = make_coco()
    run(root, home)
    kinds = {(e.kind, e.split, e.name) for e in list_caches(home)}
    assert {("images", "train", ""), ("targets", "val", "instances"), ("targets", "val", "boxes")} <= kinds
    (entry,) = [e for e in list_caches(home, "targets") if (e.split, e.name) == ("train", "instances")]
    ids = np.unique(entry.open().read([0, 1]))
    assert ids.tolist() == [0, 1]


def test_boxes_are_cached_in_pixels_of_the_original_with_zeros_after_the_last(make_coco, home):
    root = make_coco(train=3, val=1)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    more = {**content["annotations"][0], "id": 77, "bbox": [1.5, 2.5, 3.25, 4.0], "area": 9.5, "iscrowd": 1}
    more["segmentation"] = {"size": [96, 128], "counts": [0, 96 * 128]}
    path.write_text(json.dumps({**content, "annotations": [more, *content["annotations"]]}))
    run(root, home)
    (entry,) = [e for e in list_caches(home, "targets") if (e.split, e.name) == ("train", "boxes")]
    assert entry.recipe["size"] == [224, 224]
    cache = entry.open()
    found = cache.read([cache.image_ids.index(f"{number:012d}") for number in (0, 1)])
    assert found.dtype == np.float64
    image, first = [0, 0, 128, 96, 96 * 128, 3, 0], [8, 8, 40, 40, 1600, 1, 1]
    assert found[0].tolist() == [image, first, [1.5, 2.5, 3.25, 4.0, 9.5, 2, 1]]
    assert found[1].tolist() == [image, [9, 9, 40, 40, 1600, 1, 2], [0] * 7]


def test_a_second_backbone_decodes_nothing(make_coco, home, monkeypatch):
    root = make_coco()
    run(root, home)
    monkeypatch.setattr(CocoInstances, "read_image", None)
    reports = run(root, home, "timm:resnet18@untrained")
    assert [r.images for r in reports] == [12, 4]


def test_changing_one_image_makes_another_cache(make_coco, home):
    root = make_coco()
    before = run(root, home)[0]
    image = sorted((root / "train2017").glob("*.jpg"))[0]
    Image.open(image).rotate(180).save(image)
    after = run(root, home)[0]
    assert after.digest != before.digest
    assert after.extracted == 12


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32", "int8"])
def test_every_storage_format_holds_the_features(make_coco, home, storage):
    root = make_coco(train=2, val=1)
    run(root, home, storage=storage)
    cache = feature_cache(home)
    found = cache.read_features([0, 1]).astype(np.float64)
    expected = np.stack([direct_forward(root / "train2017" / f"{i}.jpg") for i in cache.image_ids])
    bound = {"float16": 2**-10, "bfloat16": 2**-8, "float32": 1e-4, "int8": 0.0}[storage] * np.abs(expected) + 1e-3
    if storage == "int8":
        bound = np.abs(expected).max(axis=-1, keepdims=True) / 127 * 0.51 + 1e-3
    assert (np.abs(found - expected) <= bound).all()


def test_native_base_size_skips_the_base_image(make_coco, home):
    root = make_coco(train=2, val=1)
    run(root, home, base_size="native")
    cache = feature_cache(home)
    assert cache.recipe["base_size"] == "native"
    assert not list_caches(home, "images")
    expected = direct_forward(root / "train2017" / f"{cache.image_ids[0]}.jpg")
    np.testing.assert_allclose(cache.read_features([0])[0], expected, rtol=2**-10, atol=1e-3)


def test_an_untrained_control_is_the_same_in_every_split_and_run(make_coco, home, tmp_path):
    root = make_coco()
    name = f"{BACKBONE}@untrained"
    run(root, home, name)
    other = LocalLocation(tmp_path / "other")
    list(extract((name,), open_dataset("coco", root), other, splits=["val"], settings=ExtractionSettings(batch_size=4)))
    assert feature_cache(other, "val").digest == feature_cache(home, "val").digest
    val = {key: data for key, data in shard_bytes(home).items() if "/val/" in key}
    assert shard_bytes(other) == val


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_features_that_must_not_be_stored_name_image_and_channel(make_coco, home, monkeypatch, value):
    root = make_coco(train=6, val=1)
    forward = Backbone.outputs
    seen = 0

    def broken(self: Backbone, images: torch.Tensor) -> tuple[Output, ...]:
        nonlocal seen
        features = forward(self, images)[0].features.clone()
        if seen <= 4 < seen + len(images):
            features[4 - seen, 2, 3, 7] = value
        seen += len(images)
        return (Output(features, None),)

    monkeypatch.setattr(Backbone, "outputs", broken)
    with pytest.raises(FeatureError, match=r"000000000004.*channel 7"):
        run(root, home)
    cache = feature_cache(home)
    assert cache.missing_shards(range(6)) != []
    assert cache.shard_of(4) in cache.missing_shards()
    monkeypatch.undo()
    run(root, home)
    assert feature_cache(home).is_complete()


def test_a_truncated_image_is_named_and_the_rest_can_follow(make_coco, home):
    root = make_coco()
    victim = sorted((root / "train2017").glob("*.jpg"))[5]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=victim.name):
        run(root, home)
    victim.write_bytes(whole)
    assert run(root, home)[0].images == 12


def test_odd_colour_modes_extract(make_coco, home):
    root = make_coco(train=4, val=1)
    files = sorted((root / "train2017").glob("*.jpg"))
    Image.open(files[0]).convert("L").save(files[0])
    Image.open(files[1]).convert("CMYK").save(files[1])
    Image.open(files[2]).convert("RGBA").save(files[2], format="PNG")
    reports = run(root, home)
    assert reports[0].images == 4
    assert np.isfinite(feature_cache(home).read_features(range(4)).astype(np.float32)).all()


def test_what_does_not_fit_is_refused_before_it_starts(make_coco, home, monkeypatch):
    root = make_coco()
    monkeypatch.setattr(LocalLocation, "free_bytes", lambda self: 10_000)
    with pytest.raises(StorageFullError, match="GB free, this extraction needs"):
        run(root, home)


def test_a_plan_counts_and_writes_nothing(make_coco, home):
    root = make_coco(train=70)
    dataset = open_dataset("coco", root)
    settings = ExtractionSettings(batch_size=4, limit=3)
    before = home.keys()
    plan = plan_extraction([BACKBONE], dataset, home, settings=settings)
    assert home.keys() == before
    (boxes,) = [c for c in plan.caches if c.name == "boxes" and c.split == "train"]
    assert (boxes.to_do, boxes.bytes) == (4, 4 * 2 * 7 * 8)
    (train,) = [c for c in plan.caches if c.kind == "features" and c.split == "train"]
    assert (train.images, train.to_do, train.bytes) == (70, 4, 4 * 14 * 14 * 112 * 2)
    assert plan.forwards == 4 + 3
    assert plan.images_per_second[BACKBONE] > 0
    run(root, home, limit=3)
    assert plan_extraction([BACKBONE], dataset, home, settings=settings).forwards == 0
    assert plan_extraction([BACKBONE], dataset, home, settings=ExtractionSettings()).forwards == 67


def test_unknown_split_and_storage_are_usage_errors(make_coco, home):
    dataset = open_dataset("coco", make_coco(train=1, val=1))
    with pytest.raises(UsageError, match="no split 'test': it has train, val"):
        list(extract([BACKBONE], dataset, home, splits=["test"]))
    with pytest.raises(UsageError, match="float16, bfloat16, float32, int8"):
        ExtractionSettings(storage="float8")


def test_provenance_says_how_and_is_no_part_of_the_name(make_coco, home, tmp_path):
    root = make_coco(train=2, val=1)
    run(root, home)
    (facts,) = feature_cache(home).provenance()
    assert facts["batch_size"] == 4
    assert {"host", "user", "device", "versions", "started", "finished"} <= set(facts)
    other = LocalLocation(tmp_path / "other")
    list(extract([BACKBONE], open_dataset("coco", root), other, settings=ExtractionSettings(batch_size=2)))
    assert feature_cache(other).digest == feature_cache(home).digest
