"""The features of one backbone over one split: which cache they are, and filling it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from deapcache.backbones import Backbone
from deapcache.cache import FeatureCache, feature_arrays, features_path, name_view
from deapcache.extraction.circumstances import circumstances, new_writer_name, now
from deapcache.extraction.creating import make_cache
from deapcache.extraction.pipeline import extract_shards
from deapcache.extraction.plan import item_bytes, require_space
from deapcache.extraction.prepare import PreparedSplit, limited_rows
from deapcache.extraction.progress import Progress
from deapcache.extraction.recipes import feature_recipe, omitted_from
from deapcache.extraction.report import ExtractionReport
from deapcache.extraction.settings import ExtractionSettings, default_batch_size
from deapcache.extraction.sources import CachedImages, ImageSource, NativeImages
from deapcache.extraction.views import viewed
from deapcache.locations import Location


def image_source(prepared: PreparedSplit, backbone: Backbone) -> ImageSource:
    """The images that ``backbone`` sees of a split, in its view."""
    if prepared.images is None:
        return viewed(NativeImages(prepared.dataset, prepared.split, backbone.image_size, prepared.fit), prepared.view)
    return viewed(CachedImages(prepared.images), prepared.view)


def extract_split(
    backbone: Backbone,
    calibration: str,
    prepared: PreparedSplit,
    home: Location,
    settings: ExtractionSettings,
    progress: Progress,
) -> ExtractionReport:
    """Make the features of a split that are missing; ``calibration`` is what the recipe says of batch norm."""
    start = time.perf_counter()
    cache = _feature_cache(backbone, calibration, prepared, home, settings, progress)
    total = len(prepared.image_ids)
    shards = cache.missing_shards(limited_rows(total, settings.limit))
    done = 0
    if shards:
        done = _extract_missing(cache, shards, backbone, prepared, settings, progress)
    return ExtractionReport(
        backbone=backbone.name,
        dataset=prepared.dataset.images_name,
        split=prepared.split,
        view=prepared.view,
        path=str(cache.location),
        digest=cache.digest,
        images=sum(len(cache.shard_rows(k)) for k in cache.present_shards()),
        total=total,
        extracted=done,
        stored_bytes=cache.stored_bytes(),
        seconds=time.perf_counter() - start,
        omitted=dict(prepared.dataset.omitted.get(prepared.split, {})),
    )


def _feature_cache(
    backbone: Backbone,
    calibration: str,
    prepared: PreparedSplit,
    home: Location,
    settings: ExtractionSettings,
    progress: Progress,
) -> FeatureCache:
    recipe = feature_recipe(
        backbone.identity,
        calibration=calibration,
        base_size=settings.base_size_for(prepared.dataset),
        base_fit=prepared.fit,
        colour=prepared.dataset.colour,
        precision=settings.precision,
        storage=settings.storage,
        images=prepared.images_digest,
        view=prepared.view,
        omitted=omitted_from(prepared.dataset, prepared.split),
    )
    path = features_path(prepared.dataset.images_name, prepared.split, backbone.name, recipe.digest)
    arrays = feature_arrays(settings.storage, backbone.grid, backbone.dim)
    ids = prepared.image_ids
    return cast(FeatureCache, make_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids, progress=progress))


def _extract_missing(
    cache: FeatureCache,
    shards: Sequence[int],
    backbone: Backbone,
    prepared: PreparedSplit,
    settings: ExtractionSettings,
    progress: Progress,
) -> int:
    images = sum(len(cache.shard_rows(k)) for k in shards)
    require_space(cache.location, images * item_bytes(cache))
    cache.location.sweep()
    batch_size = settings.batch_size or default_batch_size(backbone.device)
    facts = circumstances(backbone.device, batch_size, shards)
    writer = new_writer_name()
    cache.record_provenance(facts, writer=writer)
    stage = name_view(f"{backbone.name} · {prepared.dataset.images_name}/{prepared.split}", prepared.view)
    done = extract_shards(
        cache,
        shards,
        backbone,
        image_source(prepared, backbone),
        batch_size=batch_size,
        progress=progress,
        stage=stage,
    )
    cache.record_provenance({**facts, "finished": now()}, writer=writer)
    return done
