"""Recipes of every backbone's features, but for the digest of its weights: a change here loses everybody's caches.

Recipes of images, targets and the options of extraction are with the caches (``test_caches.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from deapcache_golden import Golden, quiet_surroundings, run, unweighted_recipe

LAYERED = ("dinov2", "clip", "siglip-384", "hiera-b+")


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Iterator[None]:
    with quiet_surroundings():
        yield


def test_every_registered_backbone_and_its_untrained_control(golden: Golden) -> None:
    names = [row["name"] for row in json.loads(run("list", "backbones", "--json").out)]
    controls = [f"{name}@untrained" for name in ("dinov2", "efficientnet-lite0-s16")]
    others = ["timm:resnet50.a1_in1k", "open_clip:ViT-B-32/laion2b_s34b_b79k"]
    golden.json("recipes/backbones.json", {name: unweighted_recipe(name) for name in [*names, *controls, *others]})


def test_layers_norms_and_class_tokens(golden: Golden) -> None:
    found = {}
    for name in LAYERED:
        for title, selection in (
            ("layers 3,6,last", {"layers": ("3", "6", "last")}),
            ("layers 6, final norm", {"layers": ("6",), "final_norm": True}),
            ("layers 6, no final norm", {"layers": ("6",), "final_norm": False}),
            ("last, class token", {"tokens": "cls"}),
        ):
            try:
                recipes = [
                    {key: recipe[key] for key in ("digest", "layer", "final_norm", "tokens") if key in recipe}
                    for recipe in unweighted_recipe(name, **selection)
                ]
                found[f"{name}: {title}"] = recipes
            except Exception as error:
                found[f"{name}: {title}"] = str(error)
    golden.json("recipes/layers.json", found)
