"""Repair makes anew exactly what is damaged or missing, from what the home holds, and says what to do otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from deapcache.backbones import forward_count
from deapcache.cache import CacheFolder, FeatureCache, list_caches, select_folder, verify_cache
from deapcache.datasets import open_dataset
from deapcache.errors import CacheMissError
from deapcache.extraction import (
    ExtractionSettings,
    ProgressEvent,
    RepairSettings,
    extract,
    recompute_check,
    repair_cache,
)
from deapcache.extraction.claims import Claims
from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"


def extracted(root: Path, home: LocalLocation, **settings: object) -> CacheFolder:
    """The folder of the training features of twelve images, in as many shards."""
    chosen = ExtractionSettings(batch_size=4, **settings)  # type: ignore[arg-type]
    list(extract([BACKBONE], open_dataset("coco", root), home, splits=["train"], settings=chosen))
    return select_folder(home, "features/coco/train")


def content(home: LocalLocation, kind: str) -> dict[str, bytes]:
    return {
        key: home.read(key)
        for key in home.keys(kind)
        if not key.endswith("manifest.json") and "/provenance/" not in key
    }


def spoil(home: LocalLocation, key: str, place: int = 9) -> None:
    path = home.path / key
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def test_bad_and_missing_features_are_made_anew_from_base_images_alone(make_coco, home, tmp_path):
    root = make_coco(train=12, val=1)
    folder = extracted(root, home, storage="int8", views=("hflip",))
    whole = content(home, "features")
    root.rename(tmp_path / "gone")
    spoil(home, f"{folder.path}/features/c.3.0.0.0")
    spoil(home, f"{folder.path}/scales/c.5.0.0")
    for name in ("features/c.7.0.0.0", "scales/c.7.0.0"):
        (home.path / folder.path / name).unlink()
    before = forward_count()
    report = repair_cache(folder, RepairSettings(device="cpu", only_bad=True))
    assert (report.removed, report.remade, report.is_whole) == ((3, 5), (3, 5), True)
    report = repair_cache(folder)
    assert (report.removed, report.remade, report.is_whole) == ((), (7,), True)
    assert forward_count() - before == 3
    assert content(home, "features") == whole
    assert repair_cache(folder).remade == ()
    assert any("repair" in facts for facts in folder.entry.open().provenance())


def test_without_base_images_the_bad_is_deleted_and_the_command_is_said(make_coco, home):
    root = make_coco(train=3, val=1)
    folder = extracted(root, home)
    whole = content(home, "features")
    spoil(home, f"{folder.path}/features/c.1.0.0.0")
    (images,) = list_caches(home, "images")
    home.delete(f"{images.path}/zarr.json")
    report = repair_cache(folder)
    assert (report.removed, report.remade, report.is_whole) == ((1,), (), False)
    assert "does not hold the base images" in report.problem
    assert report.command == (
        f"deapcache extract --backbone {BACKBONE} --dataset coco --split train --base-size 224x224 --fit squash "
        f"--dtype float16 --precision fp32 --home {home}"
    )
    assert not folder.location.exists("features/c.1.0.0.0")
    extracted(root, home)
    assert content(home, "features") == whole


@pytest.mark.parametrize("key", ["features/zarr.json", "image_id/c.0", "image_id_offsets/zarr.json"])
def test_damaged_metadata_is_made_anew_around_the_shards(make_coco, home, key):
    folder = extracted(make_coco(train=3, val=1), home)
    whole = content(home, "features")
    spoil(home, f"{folder.path}/{key}", 21)
    spoil(home, f"{folder.path}/features/c.1.0.0.0")
    assert key in verify_cache(folder.location).problems
    before = forward_count()
    report = repair_cache(select_folder(home, folder.path))
    assert {"zarr.json", key} <= set(report.set_aside)
    assert (report.removed, report.remade, report.is_whole) == ((1,), (1,), True)
    assert forward_count() - before == 1
    assert {k: v for k, v in content(home, "features").items() if not k.endswith(".damaged")} == whole


def test_a_damaged_root_is_set_aside_and_extraction_finds_the_shards(make_coco, home):
    root = make_coco(train=3, val=1)
    folder = extracted(root, home)
    whole = content(home, "features")
    spoil(home, f"{folder.path}/zarr.json", 300)
    report = repair_cache(select_folder(home, folder.path))
    assert report.set_aside == ("zarr.json",)
    assert not report.is_whole
    assert "the deapcache extract that made it" in report.command
    before = forward_count()
    extracted(root, home)
    assert forward_count() == before
    assert {k: v for k, v in content(home, "features").items() if not k.endswith(".damaged")} == whole


def test_images_and_targets_are_made_anew_from_the_datasets_files(make_coco, home):
    root = make_coco(train=3, val=1)
    extracted(root, home)
    for kind, key in (("images", "images/c.1.0.0.0"), ("targets", "targets/c.1.0.0")):
        whole = content(home, kind)
        entry = next(e for e in list_caches(home, kind) if e.name in ("", "instances"))
        spoil(home, f"{entry.path}/{key}")
        folder = select_folder(home, entry.path)
        report = repair_cache(folder)
        assert (report.removed, report.remade) == ((1,), ())
        assert "--data-root" in report.problem
        assert report.command.endswith("--data-root DIR")
        report = repair_cache(folder, RepairSettings(data_root=root))
        assert (report.remade, report.is_whole) == ((1,), True)
        assert content(home, kind) == whole


def test_files_that_have_changed_since_are_not_taken(make_coco, home):
    root = make_coco(train=3, val=1)
    extracted(root, home)
    (entry,) = list_caches(home, "images")
    home.delete(f"{entry.path}/images/c.1.0.0.0")
    changed = make_coco(train=4, val=1, name="changed")
    report = repair_cache(select_folder(home, entry.path), RepairSettings(data_root=changed))
    assert not report.is_whole
    assert "are not those that" in report.problem
    assert not home.exists(f"{entry.path}/images/c.1.0.0.0")


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32", "int8"])
def test_live_features_agree_with_stored_ones(make_coco, home, storage):
    folder = extracted(make_coco(train=5, val=1), home, storage=storage)
    cache = folder.entry.open()
    report = recompute_check(cache, home, images=3, seed=1, device="cpu")
    assert len(report.images) == 3
    assert not report.bad
    assert report.least == (0.99 if storage == "int8" else 0.9999)
    assert report.minimum <= report.median <= 1 + 1e-12
    again = recompute_check(cache, home, images=3, seed=1, device="cpu")
    assert again.images == report.images
    assert {one.row for one in recompute_check(cache, home, images=99, without=[2], device="cpu").images} == {
        0,
        1,
        3,
        4,
    }


def test_live_finds_features_of_another_image_with_right_checksums(make_coco, home):
    folder = extracted(make_coco(train=4, val=1), home)
    shards = [home.path / folder.path / f"features/c.{k}.0.0.0" for k in (1, 2)]
    first, second = (path.read_bytes() for path in shards)
    shards[0].write_bytes(second)
    shards[1].write_bytes(first)
    cache = folder.entry.open()
    assert verify_cache(cache.location).is_sound
    assert isinstance(cache, FeatureCache)
    report = recompute_check(cache, home, images=4, device="cpu")
    assert [one.row for one in report.bad] == [1, 2]
    assert report.to_json()["bad"] == list(cache.image_ids[1:3])


def test_live_without_base_images_says_so(make_coco, home):
    folder = extracted(make_coco(train=2, val=1), home)
    (images,) = list_caches(home, "images")
    home.delete(f"{images.path}/zarr.json")
    with pytest.raises(CacheMissError, match="does not hold the base images"):
        recompute_check(folder.entry.open(), home, images=1)


def test_live_and_repair_of_an_untrained_control_estimate_its_statistics_again(make_coco, home):
    settings = ExtractionSettings(batch_size=4)
    dataset = open_dataset("coco", make_coco(train=4, val=3))
    list(extract([f"{BACKBONE}@untrained"], dataset, home, settings=settings))
    folder = select_folder(home, "features/coco/val")
    whole = content(home, "features")
    spoil(home, f"{folder.path}/features/c.1.0.0.0")
    assert repair_cache(folder).remade == (1,)
    assert content(home, "features") == whole
    assert not recompute_check(folder.entry.open(), home, images=3, device="cpu").bad


def test_repair_divides_the_shards_with_a_run_that_is_at_work(make_coco, home):
    """What another run has claimed is waited for, not forwarded twice; the run is named."""
    folder = extracted(make_coco(train=4, val=1), home)
    whole = content(home, "features")
    spoil(home, f"{folder.path}/features/c.1.0.0.0")
    lost = home.path / folder.path / "features/c.2.0.0.0"
    kept = lost.read_bytes()
    lost.unlink()
    messages: list[str] = []
    before = forward_count()
    with Claims(folder.location, "another run") as other:
        assert other.take(2)

        def publish(event: ProgressEvent) -> None:
            if event.message:
                messages.append(event.message)
                lost.write_bytes(kept)
                other.release(2)

        report = repair_cache(folder, RepairSettings(batch_size=4), progress=publish)
    assert (report.removed, report.remade) == ((1,), (1, 2))
    assert forward_count() - before == 1
    assert "waits for 1 of its shards, which are under way elsewhere" in messages[0]
    assert content(home, "features") == whole
    assert home.find(f"{folder.path}/claims/*") == []
