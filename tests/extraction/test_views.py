"""The mirrored view: features of mirrored images, in caches of their own, of images and targets that are kept once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from deapcache.backbones import build, forward_count
from deapcache.cache import FeatureCache, list_caches
from deapcache.datasets import open_dataset
from deapcache.errors import UsageError
from deapcache.extraction import ExtractionSettings, extract, plan_extraction

BACKBONE = "efficientnet-lite0-s16"
BOTH = ("original", "hflip")


def run(root, home, *names, splits=None, **settings):
    chosen = ExtractionSettings(batch_size=4, **settings)
    return list(extract(names or (BACKBONE,), open_dataset("coco", root), home, splits=splits, settings=chosen))


def features(home, view="original", split="train"):
    (entry,) = [e for e in list_caches(home, "features") if (e.split, e.fields["view"]) == (split, view)]
    cache = entry.open()
    assert isinstance(cache, FeatureCache)
    return cache


def mirrored_forward(path):
    """What the backbone says of the mirror image, which Pillow makes."""
    image = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return build(BACKBONE)(torch.from_numpy(np.array(ImageOps.mirror(image)))[None])[0].numpy()


@pytest.fixture
def both(make_coco, home):
    root = make_coco(train=3, val=1)
    return root, run(root, home, views=BOTH)


def test_features_are_those_of_the_mirrored_base_image(both, home) -> None:
    root, _ = both
    original, mirrored = features(home), features(home, "hflip")
    assert mirrored.image_ids == original.image_ids
    expected = np.stack([mirrored_forward(root / "train2017" / f"{i}.jpg") for i in mirrored.image_ids])
    found = mirrored.read_features(range(3)).astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-3)
    flipped_features = original.read_features(range(3))[:, :, ::-1].astype(np.float32)
    assert np.abs(found - flipped_features).mean() > 0.05 * np.abs(expected).mean()


def test_of_the_training_split_alone_and_nothing_but_features(both, home) -> None:
    root, reports = both
    assert [(r.split, r.view, r.extracted) for r in reports] == [
        ("train", "original", 3), ("train", "hflip", 3), ("val", "original", 1),
    ]  # fmt: skip
    counts = {(e.kind, e.split, e.name) for e in list_caches(home)}
    assert len(list_caches(home)) == len(counts) + 1, "one more cache of features, and no other of anything"
    assert features(home).recipe == {k: v for k, v in features(home, "hflip").recipe.items() if k != "view"}
    before = forward_count()
    assert [r.extracted for r in run(root, home, views=("hflip", "original"))] == [0, 0, 0]
    assert forward_count() == before


def test_of_the_splits_that_are_named(make_coco, home) -> None:
    root = make_coco(train=2, val=1)
    (report,) = run(root, home, splits=["val"], views=("hflip",))
    assert (report.split, report.view, report.images) == ("val", "hflip", 1)
    assert {e.split for e in list_caches(home)} == {"val"}
    (report,) = run(root, home, views=("hflip",))
    assert (report.split, report.view, report.images) == ("train", "hflip", 2)


def test_what_is_there_stays_what_it_was(make_coco, home, tmp_path) -> None:
    """Caches from before there were views are those of original images: same digest, same metadata."""
    root = make_coco(train=2, val=1)
    (train, val) = run(root, home)
    recipe = json.loads(home.read(train.path.removeprefix(f"{home}/") + "/zarr.json"))["attributes"]["deapcache"]
    assert "view" not in recipe["recipe"]
    again = run(root, home, views=BOTH)
    assert [(r.digest, r.extracted) for r in again if r.view == "original"] == [(train.digest, 0), (val.digest, 0)]


def test_images_of_native_size_are_mirrored_too(make_coco, home) -> None:
    root = make_coco(train=1, val=1)
    run(root, home, base_size="native", views=BOTH)
    path = root / "train2017" / f"{features(home).image_ids[0]}.jpg"
    found = features(home, "hflip").read_features([0])[0]
    np.testing.assert_allclose(found, mirrored_forward(path), rtol=2**-10, atol=1e-3)


def test_an_untrained_control_is_the_same_network_in_both_views(make_coco, home) -> None:
    run(make_coco(train=3, val=1), home, f"{BACKBONE}@untrained", views=BOTH)
    original, mirrored = features(home).recipe, features(home, "hflip").recipe
    assert original["calibration"] == mirrored["calibration"] != ""
    assert original["weights"] == mirrored["weights"]


def test_a_plan_counts_both_views(make_coco, home) -> None:
    root = make_coco(train=6, val=2)
    dataset, settings = open_dataset("coco", root), ExtractionSettings(batch_size=4, views=BOTH)
    plan = plan_extraction([BACKBONE], dataset, home, settings=settings, measure=False)
    assert plan.forwards == 6 + 6 + 2
    assert [c.what for c in plan.caches if c.kind == "features"] == [
        f"features {BACKBONE}", f"features {BACKBONE} · hflip", f"features {BACKBONE}",
    ]  # fmt: skip
    run(root, home)
    assert plan_extraction([BACKBONE], dataset, home, settings=settings, measure=False).forwards == 6
    run(root, home, views=("hflip",))
    assert plan_extraction([BACKBONE], dataset, home, settings=settings, measure=False).forwards == 0
    assert plan_extraction([BACKBONE], dataset, home, settings=ExtractionSettings(), measure=False).forwards == 0


def test_a_view_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="unknown view 'vflip': choose among original, hflip"):
        ExtractionSettings(views=("vflip",))
