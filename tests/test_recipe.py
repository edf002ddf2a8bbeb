"""Identity: digests that must never change, what is part of them, and JSON both ways."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from deapcache_caches import feature_recipe

from deapcache.errors import CorruptCacheError
from deapcache.recipe import (
    FeatureRecipe,
    ImageRecipe,
    Protocol,
    Recipe,
    TargetRecipe,
    canonical_json,
    differences,
    image_set_digest,
    omit_if_default,
)

IMAGES = ImageRecipe(
    size=(224, 224), fit="squash", interpolation="pillow bicubic", colour="rgb, exif transposed", images="ab" * 32
)
TARGETS = TargetRecipe(
    annotation="classes",
    size=(216, 288),
    fit="squash",
    options={"void": 255, "order": ["larger", "first"]},
    classes=("wall", "Boden – ä"),
    images="ab" * 32,
    annotations="cd" * 32,
)
PROTOCOL = Protocol(
    task="depth",
    task_options={"loss": "berhu", "threshold": 0.2},
    dataset="nyuv2",
    output_size=(216, 288),
    readout="deap",
    readout_options={"heads": 16},
    optimiser={"lr": 1e-3, "weight_decay": 0.01},
    iterations=20_000,
    batch_size=32,
    order_seed=0,
    train_limit=None,
    val_limit=100,
)

# Caches that exist are found by these. A change here loses every cache of every user: add a field with omit_if_default.
GOLDEN = {
    "features": (feature_recipe(), "45d878be3a9ac44491a3bbab6d26f4dec3fe4c290cdeb43f8b08adbea21c32a7"),
    "images": (IMAGES, "4ee3d0781afab1360b5cc868d97e09942efa65b142186de324e477600ab86102"),
    "targets": (TARGETS, "fdea4ec58f05805b7c9e1b8a56b6de4f78ca29c4340dc26216467856b326395e"),
    "protocol": (PROTOCOL, "97080234ceb6e45c994dfef6f6bfda8256951d21f15d0d44f2f7950a144ca89f"),
}

CHANGED: dict[str, Any] = {
    "backbone": "other",
    "architecture": "timm:other",
    "arguments": {},
    "weights": "sha256:" + "00" * 32,
    "calibration": "64 images",
    "layer": "-2",
    "final_norm": False,
    "base_size": "native",
    "base_fit": "crop",
    "base_interpolation": "bilinear",
    "colour": "bgr",
    "image_size": (384, 384),
    "interpolation": "bilinear",
    "antialias": False,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "precision": "bf16",
    "tf32": True,
    "storage": "int8",
    "images": "ef" * 32,
    "view": "hflip",
    "tokens": "cls",
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_digests(kind: str) -> None:
    recipe, digest = GOLDEN[kind]
    assert recipe.kind == kind
    assert recipe.digest == digest


IDENTITY = [f.name for f in dataclasses.fields(FeatureRecipe) if not f.metadata.get("not_in_digest")]


@pytest.mark.parametrize("field", IDENTITY)
def test_each_field_of_a_feature_recipe_is_part_of_its_identity(field: str) -> None:
    changed = feature_recipe(**{field: CHANGED[field]})
    assert changed.digest != feature_recipe().digest
    assert [d.field for d in differences(feature_recipe().to_json(), changed.to_json())] == [field]


@pytest.mark.parametrize("recipe", [recipe for recipe, _ in GOLDEN.values()], ids=list(GOLDEN))
def test_json_and_back(recipe: Recipe) -> None:
    back = type(recipe).from_json(recipe.to_json())
    assert back.digest == recipe.digest
    assert back.to_json() == recipe.to_json()


@dataclass(frozen=True, kw_only=True)
class _Old(Recipe):
    kind: ClassVar[str] = "test"
    size: int


@dataclass(frozen=True, kw_only=True)
class _New(Recipe):
    kind: ClassVar[str] = "test"
    size: int
    registers: int = omit_if_default(0)


def test_a_field_omit_if_default_keeps_old_caches_findable() -> None:
    assert _New(size=1).digest == _Old(size=1).digest
    assert _New(size=1, registers=4).digest != _Old(size=1).digest
    assert _New.from_json(_Old(size=1).to_json()) == _New(size=1)
    assert _New.from_json(_New(size=1, registers=4).to_json()).registers == 4


def test_original_images_go_without_saying() -> None:
    assert "view" not in feature_recipe(view="original").to_json()
    assert feature_recipe(view="original").digest == GOLDEN["features"][1]
    assert feature_recipe(tokens="none").digest == GOLDEN["features"][1]
    assert FeatureRecipe.omitted_defaults() == {"view": "original", "tokens": "none", "omitted": None}
    with_views = dataclasses.replace(PROTOCOL, views=("original",))
    assert "views" not in with_views.to_json()
    assert with_views.digest == GOLDEN["protocol"][1]
    mirrored = dataclasses.replace(PROTOCOL, views=("original", "hflip"))
    assert mirrored.digest != PROTOCOL.digest
    assert Protocol.from_json(mirrored.to_json()) == mirrored
    assert Protocol.omitted_defaults() == {
        "views": ["original"],
        "name": "",
        "name_digest": "",
        "standardise": "cell",
        "selection": None,
        "score_size": "output",
        "train_subset": None,
    }


@pytest.mark.parametrize("name", ["features", "images", "targets"])
def test_what_was_left_out_is_written_down_and_no_part_of_the_identity(name: str) -> None:
    recipe, digest = GOLDEN[name]
    omitted = {"images": 2, "ids": ["a", "b"]}
    told = dataclasses.replace(recipe, omitted=omitted)
    assert "omitted" not in recipe.to_json()
    assert told.to_json()["omitted"] == omitted
    assert told.digest == digest
    assert type(recipe).from_json(told.to_json()) == told


def test_fields_that_are_unknown_or_missing_are_errors() -> None:
    with pytest.raises(CorruptCacheError, match=r"unknown field\(s\) registers: .*upgrade"):
        _Old.from_json({"size": 1, "registers": 4})
    with pytest.raises(CorruptCacheError, match="size"):
        _Old.from_json({})


def test_kinds_with_equal_fields_differ() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other(Recipe):
        kind: ClassVar[str] = "other"
        size: int

    assert Other(size=1).digest != _Old(size=1).digest


def test_the_order_of_mappings_is_no_part_of_identity() -> None:
    one = feature_recipe(arguments={"a": 1, "b": 2})
    assert one.digest == feature_recipe(arguments={"b": 2, "a": 1}).digest


def test_canonical_json() -> None:
    assert canonical_json({"b": (1, 2.5), "a": "ä"}) == '{"a":"ä","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_an_image_set_is_its_ids_and_files_in_order() -> None:
    pairs = [("1", "aa"), ("2", "bb")]
    assert image_set_digest(pairs) == image_set_digest(iter(pairs))
    others = ([*pairs, ("3", "cc")], pairs[::-1], [("1", "aa"), ("2", "bc")], [("1", "aa"), ("x", "bb")])
    assert len({image_set_digest(p) for p in (pairs, *others)}) == 5
