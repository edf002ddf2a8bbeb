"""Making a plan: what an extraction would do, without doing or downloading anything."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from deapcache.allocator import keep_freed_memory
from deapcache.backbones import CLS, build, describe, layers_of
from deapcache.cache import ORIGINAL, ArraySpec, feature_arrays, find_caches, shard_images_for
from deapcache.datasets import BOXES, Dataset
from deapcache.extraction.outline import Outline, outline_of
from deapcache.extraction.plan import ExtractionPlan, PlannedCache, measure_rate
from deapcache.extraction.prepare import limited_rows, require_one_region, target_size
from deapcache.extraction.progress import Progress, said, silent
from deapcache.extraction.recipes import BaseSize, base_size_name, image_array, target_array
from deapcache.extraction.settings import ExtractionSettings, choose_device, default_batch_size
from deapcache.extraction.views import split_views
from deapcache.locations import Location


def plan_extraction(
    backbones: Sequence[str],
    dataset: Dataset | Outline,
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
    ``measure`` is false. Where images that cannot be read are to be skipped, files are read to know them. Of a dataset
    whose files are not there an outline is enough.
    """
    chosen = split_views(dataset, splits, settings.views)
    omitted: Mapping[str, Mapping[str, str]] = {}
    if isinstance(dataset, Dataset):
        readable = settings.images_of(dataset, list(chosen), home, progress)
        dataset, omitted = outline_of(readable, list(chosen)), readable.omitted
    device = choose_device(settings.device)
    caches = [
        _planned(home, dataset, split, settings, kind=kind, name=name, arrays=arrays, fields=fields)
        for split, views in chosen.items()
        for kind, name, arrays, fields in _wanted(backbones, dataset, split, views, settings)
    ]
    to_run = {cache.name for cache in caches if cache.kind == "features" and cache.to_do}
    measured = [name for name in dict.fromkeys(backbones) if measure and name in to_run]
    batch_size, base_size = settings.batch_size or default_batch_size(device), settings.base_size_for(dataset)
    rates: dict[str, float] = {}
    for name in measured:
        rates[name] = untrained_rate(name, base_size, settings.precision, batch_size, device)
        progress(said(name, f"{rates[name]:.1f} images/s ({len(rates)} of {len(measured)} backbones measured)"))
    return ExtractionPlan(
        caches=tuple(caches),
        images_per_second=rates,
        device=str(device),
        home=str(home),
        free_bytes=home.free_bytes(),
        omitted={split: dict(reasons) for split, reasons in omitted.items()},
    )


Wanted = tuple[str, str, tuple[ArraySpec, ...], Mapping[str, Any]]


def _wanted(
    backbones: Sequence[str], dataset: Outline, split: str, views: Sequence[str], settings: ExtractionSettings
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
        layers, norm = layers_of(name, settings.selection)
        tokens = settings.selection.tokens
        arrays = feature_arrays(settings.storage, entry.grid, entry.dim, cls=tokens == CLS)
        own = {**fields, "final_norm": norm, "tokens": tokens}
        wanted += [
            ("features", name, arrays, {**own, "view": view, "layer": layer}) for view in views for layer in layers
        ]
    return wanted


def _planned(
    home: Location,
    dataset: Outline,
    split: str,
    settings: ExtractionSettings,
    *,
    kind: str,
    name: str,
    arrays: Sequence[ArraySpec],
    fields: Mapping[str, Any],
) -> PlannedCache:
    owner = dataset.name if kind == "targets" else dataset.images_name
    found = dataset.of[split]
    rows = limited_rows(found.images, settings.limit)
    length = shard_images_for(arrays, found.images)
    wanted = {row // length for row in rows}
    missing = set(wanted)
    for entry in find_caches(home, kind, dataset=owner, split=split, name=name or None, fields=fields):
        cache = entry.open()
        if cache.image_ids == found.ids:
            missing &= set(cache.missing_shards(rows))
    is_sized = name != BOXES or found.box_rows is not None
    return PlannedCache(
        kind=kind,
        owner=owner,
        split=split,
        name=name,
        images=found.images,
        counted=found.counted,
        wanted=_images_in(wanted, length, found.images),
        to_do=_images_in(missing, length, found.images),
        files=len(missing) * len(arrays),
        files_wanted=len(wanted) * len(arrays),
        item_bytes=sum(spec.item_bytes for spec in arrays) if is_sized else None,
        fields=fields,
        view=fields.get("view", ORIGINAL),
    )


def _images_in(shards: Iterable[int], length: int, images: int) -> int:
    return sum(min(length, images - shard * length) for shard in shards)


def untrained_rate(name: str, base_size: BaseSize, precision: str, batch_size: int, device: torch.device) -> float:
    """Forward rate of an untrained copy of a backbone's architecture, images/s: see :func:`measure_rate`.

    Of the trained one where its loader brings the weights.
    """
    entry = describe(name)
    copied = entry.untrained or entry.own_weights
    backbone = build(name if copied else entry.as_untrained().name, precision=precision).to(device)
    size = backbone.image_size if base_size == "native" else base_size
    with keep_freed_memory():  # as in extraction
        rate = measure_rate(backbone, size, batch_size)
    del backbone
    gc.collect()
    return rate
