"""Writes the caches that tests/data keeps of each format version; run once per version, by hand, into its folder.

``PYTHONPATH=.:tests/support python -m deapcache_formats tests/data/format-1``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from deapcache_caches import feature_recipe

from deapcache.cache import (
    ArraySpec,
    create_cache,
    encode_features,
    feature_arrays,
    features_path,
    images_path,
    targets_path,
)
from deapcache.locations import LocalLocation, Location
from deapcache.recipe import ImageRecipe, Recipe, TargetRecipe

IDS = ["first", "zweites-bild-ä", "3"]
STORAGES = ("float16", "bfloat16", "float32", "int8")


def features() -> np.ndarray:
    """(3, 2, 2, 4) float32 that every storage format keeps exactly: each token has the absolute maximum 127."""
    values = np.arange(3 * 2 * 2 * 4, dtype=np.float32).reshape(3, 2, 2, 4) % 64
    values[..., 0] = -127
    return values


def pixels() -> np.ndarray:
    """(3, 4, 5, 3) uint8; the second image is black."""
    values = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    values[1] = 0
    return values


def ids() -> np.ndarray:
    """(3, 4, 5) int16: the fill value alone in the third map."""
    values = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5) * 300
    values[2] = 0
    return values


IMAGES = ImageRecipe(size=(4, 5), fit="squash", interpolation="pillow bicubic", colour="rgb", images="cd" * 32)
TARGETS = TargetRecipe(
    annotation="instances", size=(4, 5), fit="squash", options={"crowd": False}, classes=(), images="cd" * 32,
    annotations="ef" * 32,
)  # fmt: skip


def _write(home: Location, path: str, recipe: Recipe, array: ArraySpec, values: np.ndarray) -> None:
    cache = create_cache(home, path, recipe=recipe, arrays=[array], image_ids=IDS, attributes={"dataset": "kept"})
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        cache.write_shard(k, {array.name: values[rows.start : rows.stop]})
    cache.record_provenance({"host": "fixture"}, writer="fixture")


def write(home: Location) -> None:
    """A cache of every kind and storage format."""
    for storage in STORAGES:
        recipe = feature_recipe(storage=storage)
        path = features_path("kept", "train", recipe.backbone, recipe.digest)
        arrays = feature_arrays(storage, (2, 2), 4)
        cache = create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=IDS)
        for k in range(cache.shard_count):
            rows = cache.shard_rows(k)
            cache.write_shard(k, encode_features(features()[rows.start : rows.stop], storage, IDS))
    names = ("row", "column", "channel")
    images = ArraySpec(name="images", dtype="uint8", item_shape=(4, 5, 3), dimensions=names)
    _write(home, images_path("kept", "train", IMAGES.digest), IMAGES, images, pixels())
    maps = ArraySpec(name="targets", dtype="int16", item_shape=(4, 5), dimensions=names[:2])
    _write(home, targets_path("kept", "train", "instances", TARGETS.digest), TARGETS, maps, ids())


if __name__ == "__main__":
    write(LocalLocation(Path(sys.argv[1])))
