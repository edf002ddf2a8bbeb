"""Finding caches by name and recipe fields, and what is said when that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deapcache_caches import feature_cache, feature_recipe, image_ids, served
from hypothesis import given
from hypothesis import strategies as st

from deapcache.cache import (
    ArraySpec,
    create_cache,
    feature_arrays,
    features_path,
    find_caches,
    find_one,
    images_path,
    list_caches,
    targets_path,
)
from deapcache.cache.names import escape_name, unescape_name
from deapcache.errors import AmbiguousCacheError, CacheMissError, LocationError, UsageError
from deapcache.locations import LocalLocation, locate
from deapcache.recipe import ImageRecipe, TargetRecipe

COCO = {"dataset": "coco", "split": "train"}


@pytest.fixture
def full(home: LocalLocation) -> LocalLocation:
    """Two caches of one backbone, one of another, one of another data set, images and targets."""
    for changes in ({}, {"precision": "bf16", "weights": "sha256:" + "12" * 32}, {"backbone": "timm:resnet50/a b"}):
        feature_cache(home, count=2, **changes)
    recipe = feature_recipe(backbone="dinov3-s", images="ef" * 32)
    create_cache(
        home,
        features_path("nyuv2", "val", recipe.backbone, recipe.digest),
        recipe=recipe,
        arrays=feature_arrays("float16", (2, 2), 3),
        image_ids=image_ids(1),
    )
    _others(home)
    return home


def _others(home: LocalLocation) -> None:
    images = ImageRecipe(size=(4, 4), fit="squash", interpolation="bicubic", colour="rgb", images="x")
    spec = ArraySpec(name="image", dtype="uint8", item_shape=(4, 4, 3), dimensions=("row", "column", "channel"))
    path = images_path("coco", "train", images.digest)
    create_cache(home, path, recipe=images, arrays=[spec], image_ids=["1"])
    targets = TargetRecipe(
        annotation="instances", size=(4, 4), fit="squash", options={}, classes=(), images="x", annotations="y"
    )
    spec = ArraySpec(name="instances", dtype="int32", item_shape=(4, 4), dimensions=("row", "column"))
    path = targets_path("coco", "train", "instances", targets.digest)
    create_cache(home, path, recipe=targets, arrays=[spec], image_ids=["1"])


def test_paths() -> None:
    digest = "0123456789abcdef"
    assert features_path("coco", "train", "siglip-384", digest) == "features/coco/train/siglip-384-0123456789ab.zarr"
    assert images_path("coco", "val", digest) == "images/coco/val/0123456789ab.zarr"
    assert targets_path("nyuv2", "val", "depth", digest) == "targets/nyuv2/val/depth-0123456789ab.zarr"
    assert features_path("../x", "a/b", "timm:r50", digest).count("/") == 3
    with pytest.raises(UsageError, match="empty"):
        images_path("", "val", digest)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_name_is_one_part_of_a_path_and_comes_back(name: str) -> None:
    part = escape_name(name)
    assert unescape_name(part) == name
    assert part not in (".", "..")
    assert part.isascii()
    assert not set(part) & set("/\\:% \0")


def test_everything_is_listed(full: LocalLocation) -> None:
    listed = list_caches(full)
    assert sorted((e.kind, e.dataset, e.split, e.name) for e in listed) == [
        ("features", "coco", "train", "timm:resnet50/a b"),
        ("features", "coco", "train", "vit-b-16"),
        ("features", "coco", "train", "vit-b-16"),
        ("features", "nyuv2", "val", "dinov3-s"),
        ("images", "coco", "train", ""),
        ("targets", "coco", "train", "instances"),
    ]
    assert all(e.open().digest == e.digest and e.open().recipe == e.recipe for e in listed)
    assert [e.kind for e in list_caches(full, "targets")] == ["targets"]


def test_a_home_that_does_not_exist_has_no_caches(tmp_path: Path) -> None:
    assert list_caches(LocalLocation(tmp_path / "nowhere")) == []
    with pytest.raises(CacheMissError, match="no caches of this kind"):
        find_one(LocalLocation(tmp_path / "nowhere"), "features", name="x", **COCO)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "bf16"},
        {"precision": "bf16", "image_size": (224, 224), "tf32": False},
        {"precision": "bf16", "image_size": "[224,224]", "tf32": "false"},
        {"weights": "sha256:121212121212"},
        {"arguments": {"img_size": [224, 224]}, "precision": "bf16"},
    ],
)
def test_one_is_found_by_the_fields_one_knows(full: LocalLocation, fields: dict[str, object]) -> None:
    entry = find_one(full, "features", name="vit-b-16", fields=fields, **COCO)
    assert entry.recipe["precision"] == "bf16"
    assert find_caches(full, "features", name="vit-b-16", fields=fields, **COCO) == [entry]
    by_digest = find_one(full, "features", name="vit-b-16", fields={"digest": entry.digest[:12]}, **COCO)
    assert by_digest == entry


def test_all_names_are_found_where_none_is_given(full: LocalLocation) -> None:
    assert {e.name for e in find_caches(full, "features", **COCO)} == {"vit-b-16", "timm:resnet50/a b"}
    assert find_one(full, "images", name="", **COCO).kind == "images"
    assert find_one(full, "images", name=None, **COCO).kind == "images"


def test_features_are_of_original_images_unless_another_view_is_named(full: LocalLocation) -> None:
    choice = {"name": "vit-b-16", "fields": {"precision": "fp32"}, **COCO}
    before = find_one(full, "features", **choice)
    mirrored = feature_cache(full, count=2, view="hflip")
    assert find_one(full, "features", **choice) == before
    assert mirrored.digest not in {e.digest for e in find_caches(full, "features", **COCO)}
    assert mirrored.digest in {e.digest for e in list_caches(full, "features")}
    found = find_one(full, "features", name="vit-b-16", fields={"view": "hflip"}, **COCO)
    assert (found.digest, found.fields["view"]) == (mirrored.digest, "hflip")
    assert find_one(full, "features", **{**choice, "fields": {**choice["fields"], "view": "original"}}) == before
    assert (before.fields["view"], "view" in before.recipe) == ("original", False)
    with pytest.raises(CacheMissError, match="where view is hflip"):
        find_one(full, "features", name="vit-b-16", fields={"digest": mirrored.digest}, **COCO)


def test_two_that_fit_are_listed_with_what_differs_and_how_to_choose(full: LocalLocation) -> None:
    with pytest.raises(AmbiguousCacheError) as raised:
        find_one(full, "features", name="vit-b-16", **COCO)
    message = str(raised.value)
    for entry in find_caches(full, "features", name="vit-b-16", **COCO):
        assert entry.path in message
    assert "precision is fp32, weights is sha256:abababababab" in message
    assert "precision is bf16, weights is sha256:121212121212" in message
    assert "tf32" not in message
    option = message.rpartition("--where ")[2]
    field, _, value = option.partition("=")
    assert find_one(full, "features", name="vit-b-16", fields={field: value}, **COCO)


def test_a_near_miss_says_which_fields_differ(full: LocalLocation) -> None:
    fields = {"precision": "bf16", "image_size": (384, 384)}
    with pytest.raises(CacheMissError) as raised:
        find_one(full, "features", name="vit-b-16", fields=fields, next_step="Run `deapcache extract`.", **COCO)
    lines = str(raised.value).splitlines()
    assert "no features of vit-b-16 coco train with precision=bf16, image_size=[384,384]" in lines[0]
    assert lines[1].endswith("where image_size is [224,224]")  # the nearest first
    assert lines[2].endswith("where precision is fp32, image_size is [224,224]")
    assert lines[3] == "Run `deapcache extract`."
    assert isinstance(raised.value, FileNotFoundError)


def test_a_far_miss_lists_what_there_is(full: LocalLocation) -> None:
    with pytest.raises(CacheMissError) as raised:
        find_one(full, "features", dataset="coco", split="val", name="vit-b-16")
    assert "there is: coco train: timm:resnet50/a b, vit-b-16" in str(raised.value)
    assert "there is: nyuv2 val: dinov3-s" in str(raised.value)


def test_a_field_that_no_recipe_has_is_a_usage_error(full: LocalLocation) -> None:
    with pytest.raises(UsageError, match=r"'precison'.*takes one of .*precision"):
        find_one(full, "features", name="vit-b-16", fields={"precison": "bf16"}, **COCO)


def test_what_cannot_be_read_is_left_out_with_a_warning(full: LocalLocation) -> None:
    newer = full.path / find_one(full, "features", name="vit-b-16", fields={"precision": "bf16"}, **COCO).path
    metadata = json.loads((newer / "zarr.json").read_text())
    metadata["attributes"]["deapcache"]["format"] = 99
    (newer / "zarr.json").write_text(json.dumps(metadata))
    with pytest.warns(UserWarning, match="left out: .*version 99"):
        assert find_one(full, "features", name="vit-b-16", **COCO).recipe["precision"] == "fp32"


def test_a_cache_in_the_wrong_place_is_left_out(full: LocalLocation) -> None:
    (full.path / "images").rename(full.path / "away")
    (full.path / "features" / "coco").rename(full.path / "images")
    (full.path / "images" / "train").rename(full.path / "images" / "x")
    (full.path / "images" / "coco").mkdir()
    (full.path / "images" / "x").rename(full.path / "images" / "coco" / "train")
    with pytest.warns(UserWarning, match="belong elsewhere"):
        assert list_caches(full, "images") == []


def test_a_web_server_cannot_be_listed(full: LocalLocation) -> None:
    with served(full.path) as (url, _), pytest.raises(LocationError, match="give the address of one cache"):
        list_caches(locate(url))
