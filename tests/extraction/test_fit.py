"""Squash and crop from files to caches: images, maps, boxes and features are of the same part of every image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deapcache_predictions import BACKBONE, COUNTS, Photographs
from PIL import Image

from deapcache.backbones import build
from deapcache.cache import Cache, FeatureCache, list_caches
from deapcache.datasets import open_dataset
from deapcache.errors import UsageError
from deapcache.extraction import (
    ExtractionSettings,
    extract,
    image_recipe,
    plan_extraction,
    prepare_split,
    target_recipe,
)
from deapcache.locations import LocalLocation

SQUARE = (48, 48)
WINDOW = np.s_[:, 10:70]
"""What a square sees of 60 × 80 pixels."""


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    return Photographs(tmp_path / "photographs")


def prepared(dataset: Photographs, home: LocalLocation, **settings: Any) -> dict[str, Cache]:
    given = ExtractionSettings(**{"base_size": SQUARE, **settings})
    prepare_split(dataset, "val", home, given, annotations=dataset.annotations)
    wanted = settings.get("fit", "squash")
    return {e.name or e.kind: e.open() for e in list_caches(home) if e.recipe["fit"] == wanted}


def run(dataset: Photographs, home: LocalLocation, **settings: Any) -> FeatureCache:
    chosen = ExtractionSettings(device="cpu", **settings)
    list(extract([BACKBONE], dataset, home, splits=["val"], settings=chosen))
    (entry,) = [e for e in list_caches(home, "features") if e.recipe["base_fit"] == chosen.fit]
    cache = entry.open()
    assert isinstance(cache, FeatureCache)
    return cache


def test_recipes_of_squash_are_those_of_earlier_versions() -> None:
    scenes = open_dataset("scenes", Path("/nowhere"))
    images = "ab" * 32
    assert image_recipe(scenes, (56, 64), images, fit="squash").digest[:12] == "8165d1908eac"
    digests = {
        kind: target_recipe(scenes, "val", kind, (56, 64), images, fit="squash").digest[:12]
        for kind in scenes.annotations
    }
    assert digests == {
        "instances": "770c8e6a40da", "boxes": "f2fa6f3c8799", "classes": "6fa85beb0937", "depth": "2e9b4501243c",
    }  # fmt: skip
    cropped = target_recipe(scenes, "val", "boxes", (56, 64), images, fit="crop")
    assert "cut at the region's border" in cropped.options["outside"]


def test_everything_is_cropped_alike(photographs, home) -> None:
    caches = prepared(photographs, home, fit="crop")
    assert {cache.recipe["fit"] for cache in caches.values()} == {"crop"}
    for row in range(COUNTS["val"]):
        image = np.ascontiguousarray(photographs.read_image("val", row)[WINDOW])
        expected = Image.fromarray(image).resize(SQUARE, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(caches["images"].read([row])[0], np.asarray(expected))
        places = (2 * np.arange(48) + 1) * 60 // 96
        for kind in ("instances", "classes", "depth"):
            cut = photographs.read_annotation("val", row, kind)[WINDOW]
            np.testing.assert_array_equal(caches[kind].read([row])[0], cut[np.ix_(places, places)])
    # squares of 18 × 22 pixels at 5 and 25; of the first five columns are left out
    assert caches["boxes"].read([0])[0].tolist() == [
        [10, 0, 60, 60, 3600, 3, 0], [10, 5, 17, 18, 17 * 18, 1, 0], [25, 25, 22, 18, 22 * 18, 1, 1],
    ]  # fmt: skip


def test_both_fits_stand_side_by_side(photographs, home) -> None:
    squashed, cropped = prepared(photographs, home), prepared(photographs, home, fit="crop")
    assert len(list_caches(home)) == 10
    image = Image.fromarray(photographs.read_image("val", 1)).resize(SQUARE, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(squashed["images"].read([1])[0], np.asarray(image))
    assert (squashed["images"].read([1]) != cropped["images"].read([1])).any()


@pytest.mark.parametrize("base_size", [SQUARE, "native"])
def test_features_are_of_the_crop(photographs, home, base_size) -> None:
    photographs.base_size = (64, 64)  # of the targets of native images: square, as the backbone is
    cache = run(photographs, home, base_size=base_size, fit="crop")
    assert (cache.recipe["base_fit"], cache.recipe["base_size"]) == (
        "crop",
        "native" if base_size == "native" else "48x48",
    )
    backbone = build(BACKBONE)
    sides = backbone.image_size if base_size == "native" else SQUARE
    image = Image.fromarray(np.ascontiguousarray(photographs.read_image("val", 2)[WINDOW]))
    scaled = np.asarray(image.resize(sides, Image.Resampling.BICUBIC)).copy()
    expected = backbone(torch.from_numpy(scaled)[None])[0].numpy()
    np.testing.assert_allclose(cache.read_features([2])[0], expected, rtol=2**-10, atol=1e-3)


@pytest.mark.parametrize("base_size", [(48, 50), "native"])
def test_the_mirrored_view_of_a_crop_is_the_mirrored_crop(photographs, home, base_size) -> None:
    photographs.base_size = (64, 64)
    cache = run(photographs, home, base_size=base_size, fit="crop", views=("hflip",))
    backbone = build(BACKBONE)
    sides = backbone.image_size if base_size == "native" else base_size
    columns = WINDOW[1] if base_size == "native" else slice(8, 71)  # 62.5 columns are 63, of 17 others 8 go first
    image = Image.fromarray(np.ascontiguousarray(photographs.read_image("val", 1)[:, columns]))
    scaled = np.asarray(image.resize(sides[::-1], Image.Resampling.BICUBIC))[:, ::-1].copy()
    expected = backbone(torch.from_numpy(scaled)[None])[0].numpy()
    np.testing.assert_allclose(cache.read_features([1])[0], expected, rtol=2**-10, atol=1e-3)


def test_native_crops_of_another_shape_than_the_targets_are_refused(photographs, home) -> None:
    settings = ExtractionSettings(base_size="native", fit="crop", device="cpu")
    for refused in (
        lambda: list(extract([BACKBONE], photographs, home, settings=settings)),
        lambda: plan_extraction([BACKBONE], photographs, home, settings=settings, measure=False),
    ):
        with pytest.raises(
            UsageError, match=r"shape of 224x224, and the targets .* that of 56x64: give --base-size 56x64"
        ):
            refused()
    assert home.keys("") == []
    squashed = replace(settings, fit="squash")
    assert plan_extraction([BACKBONE], photographs, home, settings=squashed, measure=False).forwards == 9


def test_a_plan_knows_the_fit(photographs, home) -> None:
    run(photographs, home, fit="crop")
    for fit, forwards in (("crop", 0), ("squash", COUNTS["val"])):
        settings = ExtractionSettings(fit=fit, device="cpu")
        plan = plan_extraction([BACKBONE], photographs, home, splits=["val"], settings=settings, measure=False)
        assert plan.forwards == forwards
        assert all((cache.to_do > 0) == (fit == "squash") for cache in plan.caches)


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown fit 'letterbox': choose one of squash, crop"):
        ExtractionSettings(fit="letterbox")
