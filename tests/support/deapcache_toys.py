"""A toy backbone's caches, in which the answers are linearly present in the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import deapcache_caches
import numpy as np

from deapcache.cache import (
    ArraySpec,
    Cache,
    create_cache,
    encode_features,
    feature_arrays,
    features_path,
    targets_path,
)
from deapcache.locations import Location
from deapcache.probing import ProbeConfig, ProbeResult, probe_backbone
from deapcache.recipe import FeatureRecipe, TargetRecipe

GRID = 7
DIM = 16
SIZE = (56, 56)
CLASSES = ("background", "chair", "table")
COUNTS = {"train": 24, "val": 12}
TARGET_DTYPES = {"instances": "int32", "classes": "int16", "depth": "float32"}


def feature_recipe(split: str, **changes: Any) -> FeatureRecipe:
    """The recipe of the toy backbone's features."""
    fields: dict[str, Any] = {
        "backbone": "toy",
        "architecture": "toy",
        "arguments": {},
        "weights": "sha256:00",
        "base_size": "56x56",
        "base_interpolation": "bicubic",
        "image_size": SIZE,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "images": f"images of {split}",
    }
    return deapcache_caches.feature_recipe(**{**fields, **changes})


def target_recipe(split: str, annotation: str, **changes: Any) -> TargetRecipe:
    """The recipe of one kind of toy targets."""
    fields: dict[str, Any] = {
        "annotation": annotation,
        "size": SIZE,
        "fit": "squash",
        "options": {},
        "classes": CLASSES if annotation == "classes" else (),
        "images": f"images of {split}",
        "annotations": f"annotations of {split}",
    }
    return TargetRecipe(**{**fields, **changes})


def volumes(split: str) -> np.ndarray:
    """(n, 7, 7, 16) float32: noise, in which the first channels decide the answers."""
    seed = 0 if split == "train" else 1
    return np.random.default_rng(seed).normal(size=(COUNTS[split], GRID, GRID, DIM)).astype(np.float32)


def target_maps(split: str, annotation: str) -> np.ndarray:
    """(n, 56, 56) targets: each cell's own 8 × 8 pixels."""
    features = volumes(split)
    cells = {
        "instances": features[..., 0] > 0.5,
        "classes": features[..., :3].argmax(-1),
        "depth": 3 + np.clip(features[..., 0], -2, 2),
    }[annotation]
    return cells.repeat(8, 1).repeat(8, 2).astype(TARGET_DTYPES[annotation])


def _fill(cache: Cache, arrays: dict[str, np.ndarray], shards: Sequence[int] | None) -> None:
    for k in range(cache.shard_count) if shards is None else shards:
        rows = cache.shard_rows(k)
        cache.write_shard(k, {name: values[rows.start : rows.stop] for name, values in arrays.items()})


def add_features(home: Location, split: str, *, shards: Sequence[int] | None = None, **changes: Any) -> Cache:
    """The toy backbone's features of a split, all shards or some; all shards hold one image.

    Of mirrored images it makes mirrored features: it knows no left and right.
    """
    recipe = feature_recipe(split, **changes)
    made = volumes(split)[:, :, ::-1] if recipe.view == "hflip" else volumes(split)
    ids = [f"{split}-{i}" for i in range(COUNTS[split])]
    cache = create_cache(
        home,
        features_path("toys", split, recipe.backbone, recipe.digest),
        recipe=recipe,
        arrays=feature_arrays(recipe.storage, (GRID, GRID), DIM),
        image_ids=ids,
    )
    _fill(cache, encode_features(made, recipe.storage, ids), shards)
    return cache


def add_targets(
    home: Location,
    split: str,
    annotation: str,
    *,
    shards: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    **changes: Any,
) -> Cache:
    """The targets of a split, all shards or some."""
    recipe = target_recipe(split, annotation, **changes)
    height, width = recipe.size
    spec = ArraySpec(
        name="targets", dtype=TARGET_DTYPES[annotation], item_shape=(height, width), dimensions=("row", "column")
    )
    cache = create_cache(
        home,
        targets_path("toys", split, annotation, recipe.digest),
        recipe=recipe,
        arrays=(spec,),
        image_ids=ids or [f"{split}-{i}" for i in range(COUNTS[split])],
    )
    _fill(cache, {"targets": target_maps(split, annotation)[:, :height, :width]}, shards)
    return cache


def probe(home: Location, tasks: Sequence[str] = ("foreground",), **changes: Any) -> list[ProbeResult]:
    """Probe the toy backbone; fields of the config and other arguments may be mixed."""
    given = {"dataset": "toys", "backbones": ["toy"], "iterations": 20, "batch_size": 8, **changes}
    others = {name: given.pop(name) for name in ("skip", "progress", "open_native") if name in given}
    return list(probe_backbone(home, ProbeConfig(tasks=tasks, **given), **others))
