"""Making a plan: what an extraction would do, without doing or downloading anything."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from deapcache.backbones import build, describe
from deapcache.cache import ORIGINAL, ArraySpec, feature_arrays, find_caches, shard_images_for
from deapcache.datasets import Dataset
from deapcache.extraction.plan import ExtractionPlan, PlannedCache, measure_rate
from deapcache.extraction.prepare import limited_rows, require_one_region, target_size
from deapcache.extraction.progress import Progress, silent
from deapcache.extraction.recipes import base_size_name, image_array, target_array
from deapcache.extraction.settings import ExtractionSettings, choose_device, default_batch_size
from deapcache.extraction.views import split_views
from deapcache.locations import Location


def plan_extraction(
    backbones: Sequence[str],
    dataset: Dataset,
    home: Location,
    *,
    splits: Sequence[str] | None = None,
    settings: ExtractionSettings,
    measure: bool = True,
    progress: Progress = silent,
) -> ExtractionPlan:
    """What :func:`deapcache.extraction.extract` would do with the same arguments.

    Caches that are there are found by name and options, without reading the dataset's files or any weights; the
    forward rate is measured on the device with an untrained copy of each architecture that would be run, unless
    ``measure`` is false. Where images that cannot be read are to be skipped, files are read to know them.
    """
    chosen = split_views(dataset, splits, settings.views)
    dataset = settings.images_of(dataset, list(chosen), home, progress)
    device = choose_device(settings.device)
    caches = [
        _planned(home, dataset, split, settings, kind=kind, name=name, arrays=arrays, fields=fields)
        for split, views in chosen.items()
        for kind, name, arrays, fields in _wanted(backbones, dataset, split, views, settings)
    ]
    to_run = {cache.name for cache in caches if cache.kind == "features" and cache.to_do}
    measured = [name for name in backbones if measure and name in to_run]
    return ExtractionPlan(
        caches=tuple(caches),
        images_per_second={name: _rate(name, dataset, settings, device) for name in measured},
        device=str(device),
        home=str(home),
        free_bytes=home.free_bytes(),
        omitted={split: dict(reasons) for split, reasons in dataset.omitted.items()},
    )


Wanted = tuple[str, str, tuple[ArraySpec, ...], Mapping[str, Any]]


def _wanted(
    backbones: Sequence[str], dataset: Dataset, split: str, views: Sequence[str], settings: ExtractionSettings
) -> list[Wanted]:
    base_size = settings.base_size_for(dataset)
    size = target_size(dataset, base_size)
    brought_to = {"size": list(size), "fit": settings.fit}
    wanted: list[Wanted] = []
    if base_size != "native":
        wanted.append(("images", "", (image_array(size),), brought_to))
    for kind in dataset.annotations:
        wanted.append(("targets", kind, (target_array(dataset, split, kind, size),), brought_to))
    fields = {
        "base_size": base_size_name(base_size),
        "base_fit": settings.fit,
        "storage": settings.storage,
        "precision": settings.precision,
    }
    for name in backbones:
        entry = describe(name)
        require_one_region(dataset, base_size, settings.fit, name, entry.image_size)
        arrays = feature_arrays(settings.storage, entry.grid, entry.dim)
        wanted += [("features", name, arrays, {**fields, "view": view}) for view in views]
    return wanted


def _planned(
    home: Location,
    dataset: Dataset,
    split: str,
    settings: ExtractionSettings,
    *,
    kind: str,
    name: str,
    arrays: Sequence[ArraySpec],
    fields: Mapping[str, Any],
) -> PlannedCache:
    owner = dataset.name if kind == "targets" else dataset.images_name
    ids = dataset.image_ids(split)
    rows = limited_rows(len(ids), settings.limit)
    length = shard_images_for(arrays, len(ids))
    shards = {row // length for row in rows}
    for entry in find_caches(home, kind, dataset=owner, split=split, name=name or None, fields=fields):
        cache = entry.open()
        if cache.image_ids == ids:
            shards &= set(cache.missing_shards(rows))
    to_do = sum(min(length, len(ids) - shard * length) for shard in shards)
    item_bytes = sum(spec.item_bytes for spec in arrays)
    return PlannedCache(
        kind=kind,
        split=split,
        name=name,
        images=len(ids),
        to_do=to_do,
        bytes=to_do * item_bytes,
        view=fields.get("view", ORIGINAL),
    )


def _rate(name: str, dataset: Dataset, settings: ExtractionSettings, device: torch.device) -> float:
    untrained = name if name.endswith("@untrained") else f"{name}@untrained"
    backbone = build(untrained, precision=settings.precision).to(device)
    base_size = settings.base_size_for(dataset)
    size = backbone.image_size if base_size == "native" else base_size
    rate = measure_rate(backbone, size, settings.batch_size or default_batch_size(device))
    del backbone
    gc.collect()
    return rate
