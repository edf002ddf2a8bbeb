"""Stage 1: run each frozen backbone once over a dataset and keep its feature volumes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from deapcache.backbones import Backbone, build, describe
from deapcache.cache import (
    ORIGINAL,
    STORAGE_FORMATS,
    FeatureCache,
    check_views,
    feature_arrays,
    features_path,
    name_view,
)
from deapcache.datasets import Dataset
from deapcache.errors import DeapcacheError, UsageError
from deapcache.extraction.checking import ON_ERROR, without_unreadable
from deapcache.extraction.circumstances import circumstances, new_writer_name, now
from deapcache.extraction.creating import Listener, make_cache
from deapcache.extraction.outline import Outline
from deapcache.extraction.pipeline import extract_shards
from deapcache.extraction.plan import item_bytes, require_space
from deapcache.extraction.prepare import PreparedSplit, limited_rows, prepare_split, require_one_region
from deapcache.extraction.progress import Progress, silent
from deapcache.extraction.recipes import BaseSize, feature_recipe, omitted_from
from deapcache.extraction.report import ExtractionReport
from deapcache.extraction.sources import CachedImages, ImageSource, NativeImages
from deapcache.extraction.views import split_views, viewed
from deapcache.locations import Location
from deapcache.regions import FITS, SQUASH

CALIBRATION_IMAGES = 64
"""Training images on which the batch-norm statistics of an untrained backbone are estimated."""

OnFailure = Callable[[str, Exception], None]
"""Called with the name of the backbone that failed and its error."""


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How to extract. The first group is part of the recipe, the second is circumstance."""

    base_size: BaseSize | None = None
    """None: the dataset's own."""
    fit: str = SQUASH
    """How images of any shape are brought to the base size: one of ``FITS``."""
    storage: str = "float16"
    precision: str = "fp32"
    weights: Path | None = None
    views: tuple[str, ...] = (ORIGINAL,)
    """Each is a cache of its own; where no splits are named, mirrored images are those of the training split alone."""

    batch_size: int | None = None
    """None: 32 on a GPU, 8 on a CPU."""
    device: str = "auto"
    limit: int | None = None
    """Only the first so many images of each split, rounded up to whole shards."""
    on_error: str = "stop"
    """What becomes of images that cannot be read: ``stop``, or ``skip``, which leaves them out of the image set."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", check_views(self.views))
        chosen = (
            ("fit", self.fit, FITS),
            ("storage format", self.storage, STORAGE_FORMATS),
            ("on-error", self.on_error, ON_ERROR),
        )
        for name, choice, allowed in chosen:
            if choice not in allowed:
                raise UsageError(f"unknown {name} {choice!r}: choose one of {', '.join(allowed)}")
        for name, value in (("batch size", self.batch_size), ("limit", self.limit)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, found {value}")

    def base_size_for(self, dataset: Dataset | Outline) -> BaseSize:
        """The base size asked for, else the dataset's own."""
        return self.base_size or dataset.base_size

    def images_of(self, dataset: Dataset, splits: Sequence[str], home: Location, progress: Progress) -> Dataset:
        """``dataset``, less the images of ``splits`` that cannot be read where these are to be skipped."""
        return without_unreadable(dataset, splits, home, progress=progress) if self.on_error == "skip" else dataset


def choose_device(name: str) -> torch.device:
    """``auto`` takes the first GPU where there is one; raises :class:`UsageError` for a device torch cannot use."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}; try --device cpu") from None
    return device


def default_batch_size(device: torch.device) -> int:
    """Images in one forward pass where the user does not say."""
    return 32 if device.type == "cuda" else 8


def extract(
    backbones: Sequence[str],
    dataset: Dataset,
    home: Location,
    *,
    splits: Sequence[str] | None = None,
    settings: ExtractionSettings | None = None,
    progress: Progress = silent,
    on_failure: OnFailure | None = None,
) -> Iterator[ExtractionReport]:
    """Extract every backbone over every split, and yield a report for each as it ends.

    Base images are decoded once for all backbones; the targets of all annotations that the dataset has are made with
    them, so that a home can be probed without the dataset's files. What is there already is not made again: calling
    this after an interruption does the rest. The first error ends it, unless ``on_failure`` takes it: called with the
    backbone's name and the error, it may raise it again, or return, and the next backbone follows.

    Raises :class:`deapcache.errors.FeatureError` (features that must not be stored), ``DataError`` and
    ``MissingDataError`` (dataset files), ``WeightsError``, ``StorageFullError``, ``ReadOnlyError``, ``UsageError``.
    """
    settings = settings or ExtractionSettings()
    chosen = split_views(dataset, splits, settings.views)
    device = choose_device(settings.device)
    home.require_writable()
    listener = Listener(progress)

    readable = functools.cache(lambda split: settings.images_of(dataset, [split], home, progress))

    @functools.cache  # files are looked at and annotations digested once, whatever the number of backbones
    def prepared(split: str, limit: int | None, annotations: tuple[str, ...]) -> PreparedSplit:
        base_size = settings.base_size_for(dataset)
        return prepare_split(
            readable(split),
            split,
            home,
            base_size=base_size,
            limit=limit,
            annotations=annotations,
            progress=listener,
            fit=settings.fit,
        )

    def extracted(name: str) -> Iterator[ExtractionReport]:
        seen = describe(name).image_size
        require_one_region(dataset, settings.base_size_for(dataset), settings.fit, name, seen)
        backbone = build(name, weights=settings.weights, precision=settings.precision).to(device)
        calibration = ""
        if backbone.needs_calibration:
            first = prepared(dataset.splits[0], CALIBRATION_IMAGES, ())
            calibration = calibrate(backbone, _source(first, backbone), len(first.image_ids), first.images_digest)
        for split, view in ((split, view) for split, views in chosen.items() for view in views):
            ready = replace(prepared(split, settings.limit, dataset.annotations), view=view)
            report = _extract_split(backbone, calibration, ready, home, settings, listener)
            yield replace(report, new_caches=listener.take())

    for name in backbones:
        try:
            yield from extracted(name)
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            if on_failure is None:
                raise
            on_failure(name, error)


def calibrate(backbone: Backbone, source: ImageSource, images: int, images_digest: str) -> str:
    """Estimate the batch-norm statistics of an untrained backbone on the first of so many images of an image set.

    Returns what the recipe of its features says of it.
    """
    rows = limited_rows(images, CALIBRATION_IMAGES)
    backbone.calibrate(_batches(source, rows))
    return f"batch norm from the first {len(rows)} images of {images_digest}"


def _batches(source: ImageSource, rows: range) -> Iterable[torch.Tensor]:
    for start in range(0, len(rows), 16):
        yield torch.from_numpy(source.request(rows[start : start + 16]).result())


def _source(prepared: PreparedSplit, backbone: Backbone) -> ImageSource:
    if prepared.images is None:
        return viewed(NativeImages(prepared.dataset, prepared.split, backbone.image_size, prepared.fit), prepared.view)
    return viewed(CachedImages(prepared.images), prepared.view)


def _extract_split(
    backbone: Backbone,
    calibration: str,
    prepared: PreparedSplit,
    home: Location,
    settings: ExtractionSettings,
    progress: Progress,
) -> ExtractionReport:
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
    rows = limited_rows(len(ids), settings.limit)
    made = make_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids, rows=rows, progress=progress)
    return cast(FeatureCache, made)


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
        _source(prepared, backbone),
        batch_size=batch_size,
        progress=progress,
        stage=stage,
    )
    cache.record_provenance({**facts, "finished": now()}, writer=writer)
    return done
