"""Metadata that lies about its cache: attributes, recipes and listings are refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_caches import served
from deapcache_faults import Tally
from deapcache_hostile import SEEN, Change, edit, require_refused

from deapcache.cache import FeatureCache, open_cache
from deapcache.locations import locate
from deapcache.recipe import digest_of


def _attributes(**changes: object) -> Change:
    return lambda metadata: metadata["attributes"]["deapcache"].update(changes)


ATTRIBUTES: list[dict[str, Any]] = [
    {"images": 2**40},
    {"images": -1},
    {"images": 1.5},
    {"images": True},
    {"images": "130"},
    {"arrays": ["../../secret"]},
    {"arrays": ["/etc"]},
    {"arrays": ["features/../features"]},
    {"arrays": ["features", "features"]},
    {"arrays": []},
    {"arrays": "features"},
    {"arrays": [["features"]]},
    {"kind": "../features"},
    {"kind": ["features"]},
    {"digest": "00" * 32},
    {"recipe": {}},
    {"recipe": None},
    {"recipe": {"backbone": float("nan")}},
    {"dataset": "\x1b]0;owned\x07"},
    {"dataset": "\ud800"},
]


@pytest.mark.parametrize("changes", ATTRIBUTES, ids=lambda changes: repr(changes)[:40])
def test_hostile_attributes(cache: FeatureCache, tmp_path: Path, tally: Tally, changes: dict[str, Any]) -> None:
    edit(cache, "zarr.json", _attributes(**changes))
    with tally.fault("hostile metadata: attributes", SEEN):
        require_refused(cache, tmp_path, r"zarr\.json")


def test_a_recipe_that_lies_about_its_digest(cache: FeatureCache, tmp_path: Path, tally: Tally) -> None:
    for lie in ({"tf32": True}, {"weights": "sha256:" + "00" * 32}, {"backbone": "vit-l-14"}):
        edit(cache, "zarr.json", _attributes(recipe={**cache.recipe, **lie}))
        with tally.fault("a recipe that lies about its digest", "CorruptCacheError: both digests"):
            require_refused(cache, tmp_path, f"the recipe has the digest .*, but {cache.digest} is written beside it")


@pytest.mark.parametrize(
    "lie",
    [
        {"image_size": [224]},
        {"image_size": "224x224"},
        {"image_size": [224, 2.5]},
        {"mean": [0.5, "0.5", 0.5]},
        {"tf32": 1},
        {"storage": ["float16"]},
        {"backbone": None},
        {"arguments": [1]},
        {"omitted": "all"},
        {"view": 3},
    ],
    ids=repr,
)
def test_a_recipe_of_other_types(cache: FeatureCache, tmp_path: Path, tally: Tally, lie: dict[str, Any]) -> None:
    recipe = {**cache.recipe, **lie}
    digest = digest_of({"kind": "features", **{name: value for name, value in recipe.items() if name != "omitted"}})
    edit(cache, "zarr.json", _attributes(recipe=recipe, digest=digest))
    with tally.fault("a recipe of other types", SEEN):
        require_refused(cache, tmp_path, rf"zarr\.json: features recipe has a {next(iter(lie))} of another type")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"format": 1, "keys": {"../../x": 1}}', b'{"format": 1, "keys": 3}']
)
def test_a_hostile_manifest_is_not_believed(cache: FeatureCache, tmp_path: Path, tally: Tally, content: bytes) -> None:
    (cache.location.path / "manifest.json").write_bytes(content)
    with served(tmp_path.parent) as (url, _), tally.fault("a hostile manifest", "the cache, without its list"):
        place = locate(f"{url}/{cache.location.path.relative_to(tmp_path.parent)}")
        assert not place.can_list
        np.testing.assert_array_equal(open_cache(place).read([0]), cache.read([0]))
