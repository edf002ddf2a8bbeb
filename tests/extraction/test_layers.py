"""Several layers and the class token, extracted with one forward an image."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import deapcache
from deapcache.backbones import LayerSelection, build, forward_count
from deapcache.cache import FeatureCache, list_caches, select_folder, verify_cache
from deapcache.datasets import open_dataset
from deapcache.errors import AmbiguousCacheError, CorruptCacheError, UsageError
from deapcache.extraction import (
    ExtractionReport,
    ExtractionSettings,
    RepairSettings,
    extract,
    extract_command,
    plan_extraction,
    recompute_check,
    repair_cache,
)
from deapcache.locations import LocalLocation

VIT = "timm:test_vit@untrained"
LAYERS = LayerSelection(layers=("2", "4", "6"), tokens="cls")


def run(
    root: Path, home: LocalLocation, selection: LayerSelection = LAYERS, **settings: object
) -> list[ExtractionReport]:
    chosen = ExtractionSettings(batch_size=4, device="cpu", selection=selection, **settings)  # type: ignore[arg-type]
    return list(extract([VIT], open_dataset("coco", root), home, settings=chosen))


@dataclass(frozen=True)
class Layered:
    """A home with the three layers of four training and two validation images."""

    root: Path
    """Of the dataset."""
    home: LocalLocation


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, write_coco) -> Layered:
    """For reading only."""
    folder = tmp_path_factory.mktemp("layered")
    (folder / "home").mkdir()
    made = Layered(write_coco(folder / "data", 4, 2), LocalLocation(folder / "home"))
    run(made.root, made.home)
    return made


@pytest.fixture
def layered(extracted: Layered, home: LocalLocation) -> Layered:
    """A copy to write to."""
    shutil.copytree(extracted.home.path, home.path, dirs_exist_ok=True)
    return Layered(extracted.root, home)


def caches(home: LocalLocation, split: str = "train") -> dict[str, FeatureCache]:
    """By layer and tokens: ``2 cls``."""
    found = {}
    for entry in list_caches(home, "features"):
        cache = entry.open()
        assert isinstance(cache, FeatureCache)
        if entry.split == split:
            found[f"{entry.fields['layer']} {entry.fields['tokens']}"] = cache
    return found


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_one_forward_an_image_fills_a_cache_for_each_layer(make_coco, home, storage: str) -> None:
    before = forward_count()
    reports = run(make_coco(4, 2), home, storage=storage)
    assert forward_count() - before == 4 + 2
    assert [(r.split, r.layer, r.images, r.extracted) for r in reports] == [
        (split, layer, count, count) for split, count in (("train", 4), ("val", 2)) for layer in ("2", "4", "last")
    ]
    (images,) = [e.open() for e in list_caches(home, "images") if e.split == "train"]
    backbone = build(VIT, selection=LAYERS)
    pixels = torch.from_numpy(images.read(range(4)))
    found = caches(home)
    assert set(found) == {"2 cls", "4 cls", "last cls"}
    for identity, output in zip(backbone.identities, backbone.outputs(pixels), strict=True):
        cache = found[f"{identity.layer} cls"]
        assert cache.read_cls([3, 1]).shape == (2, 64)
        dtype = np.float16 if storage == "float16" else np.float32
        np.testing.assert_array_equal(cache.read_cls(range(4)), output.cls.numpy().astype(dtype))
        if storage == "float16":
            np.testing.assert_array_equal(cache.read_features(range(4)), output.features.numpy().astype(np.float16))
        else:
            assert np.abs(cache.read_features(range(4)) - output.features.numpy()).max() < 0.05
        assert [len(one["shards"]) for one in cache.provenance()] == [4]


def test_a_plain_cache_keeps_its_digest_and_is_found_by_layers(make_coco, home) -> None:
    root = make_coco(4, 2)
    plain = run(root, home, LayerSelection())
    assert "tokens" not in caches(home)["last none"].recipe
    before = forward_count()
    layered = run(root, home, LayerSelection(layers=("last", "3")))
    assert forward_count() - before == 6
    assert [r.digest for r in layered if r.layer == "last"] == [r.digest for r in plain]
    before = forward_count()
    run(root, home, LayerSelection(layers=("3", "6")))
    assert forward_count() == before


def test_what_one_layer_lacks_is_done_again(layered: Layered) -> None:
    root, home = layered.root, layered.home
    found = caches(home)
    lost = next(iter((found["4 cls"].location.path / "features").glob("c.3.*")))  # type: ignore[attr-defined]
    kept = lost.read_bytes()
    lost.unlink()
    before = forward_count()
    run(root, home)
    assert forward_count() - before == 1
    assert lost.read_bytes() == kept


def test_a_layer_that_another_home_lends_is_not_made_again(make_coco, home, tmp_path) -> None:
    root = make_coco(4, 2)
    (tmp_path / "lab").mkdir()
    lab = LocalLocation(tmp_path / "lab")
    run(root, lab, LayerSelection(layers=("2",)))
    before = {key: lab.read(key) for key in lab.keys("") if not key.startswith("uses/")}
    layered = deapcache.home(str(home), read_homes=[str(lab)])
    reports = run(root, layered, LayerSelection(layers=("2", "4")))
    assert [(r.layer, r.extracted, r.images) for r in reports if r.split == "train"] == [("2", 0, 4), ("4", 4, 4)]
    assert set(caches(home)) == {"4 none"}
    assert {key: lab.read(key) for key in lab.keys("") if not key.startswith("uses/")} == before


def test_verifying_and_repairing_know_class_tokens(layered: Layered) -> None:
    home = layered.home
    cache = caches(home)["4 cls"]
    assert verify_cache(cache.location).bad == ()
    shard = next(iter((cache.location.path / "cls").glob("c.2.*")))  # type: ignore[attr-defined]
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert [bad.shard for bad in verify_cache(cache.location).bad] == [2]
    assert cache.read_features([2]).shape == (1, 10, 10, 64)
    with pytest.raises(CorruptCacheError, match=cache.image_ids[2]):
        cache.read_cls([2])
    folder = select_folder(home, caches(home)["4 cls"].digest)
    report = repair_cache(folder, RepairSettings(device="cpu"))
    assert (report.remade, report.problem) == ((2,), "")
    assert shard.read_bytes() == whole
    assert extract_command(folder).endswith("--layers 4 --tokens cls")


def test_a_plan_counts_forwards_once(make_coco, home) -> None:
    root = make_coco(4, 2)
    settings = ExtractionSettings(device="cpu", selection=LAYERS)
    dataset = open_dataset("coco", root)

    def plan(selection: LayerSelection = LAYERS):
        chosen = ExtractionSettings(device="cpu", selection=selection)
        return plan_extraction([VIT], dataset, home, settings=chosen, measure=False)

    first = plan()
    assert first.forwards == 6
    named = [cache.what for cache in first.caches if cache.kind == "features" and cache.split == "val"]
    assert named == [f"features {VIT} · layer 2", f"features {VIT} · layer 4", f"features {VIT}"]
    list(extract([VIT], dataset, home, settings=settings))
    assert plan().forwards == 0
    assert plan(LayerSelection()).forwards == 6  # the class token makes another cache
    assert plan(LayerSelection(layers=("2", "5"), tokens="cls")).forwards == 6


def test_a_layer_is_verified_against_its_block(extracted: Layered) -> None:
    for cache in caches(extracted.home, "val").values():
        report = recompute_check(cache, extracted.home, images=2, device="cpu")
        assert not report.bad


def test_a_probe_picks_one_layer(layered: Layered) -> None:
    home = layered.home
    options = {"dataset": "coco", "backbone": VIT, "iterations": 2, "batch_size": 4, "device": "cpu", "home": home}
    with pytest.raises(AmbiguousCacheError, match=r"layer is 2(.|\n)*--where layer="):
        deapcache.probe("foreground", **options)
    (done,) = deapcache.probe("foreground", **options, where={"layer": "2"})
    assert done.caches["train"]["recipe"]["layer"] == "2"
    assert deapcache.load_results(home).to_frame().layer.tolist() == ["2"]


def test_the_command(make_coco, home, capsys) -> None:
    from deapcache.cli import main

    given = ["extract", "--backbone", VIT, "--dataset", "coco", "--data-root", make_coco(3, 1), "--home", home.path]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, given), "--layers", "3,6", "--tokens", "cls", "--no-final-norm", "--device", "cpu"])
    assert ended.value.code == 0
    assert f"{VIT} · layer 3" in capsys.readouterr().out
    assert {(c.recipe["layer"], c.recipe["final_norm"]) for c in caches(home).values()} == {
        ("3", False),
        ("last", False),
    }
    with pytest.raises(SystemExit) as ended:
        main([*map(str, given), "--layers", "7"])
    assert ended.value.code == 2
    assert "has 6 blocks, no layer 7" in capsys.readouterr().err


def test_class_tokens_that_were_not_kept(make_coco, home) -> None:
    run(make_coco(3, 1), home, LayerSelection(layers=("2",)))
    with pytest.raises(UsageError, match="holds no class tokens: extract with --tokens cls"):
        caches(home)["2 none"].read_cls([0])
