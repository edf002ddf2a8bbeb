"""Stage 1: run each frozen backbone once over a dataset and keep its feature volumes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from deapcache.backbones import build, describe
from deapcache.datasets import Dataset
from deapcache.errors import DeapcacheError
from deapcache.extraction.calibrating import CALIBRATION_IMAGES, calibrate
from deapcache.extraction.creating import Listener
from deapcache.extraction.features import extract_split, image_source
from deapcache.extraction.prepare import PreparedSplit, prepare_split, require_one_region
from deapcache.extraction.progress import Progress, silent
from deapcache.extraction.report import ExtractionReport
from deapcache.extraction.settings import ExtractionSettings, choose_device
from deapcache.extraction.views import split_views
from deapcache.locations import Location

OnFailure = Callable[[str, Exception], None]
"""Called with the name of the backbone that failed and its error."""


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
            calibration = calibrate(backbone, image_source(first, backbone), len(first.image_ids), first.images_digest)
        for split, view in ((split, view) for split, views in chosen.items() for view in views):
            ready = replace(prepared(split, settings.limit, dataset.annotations), view=view)
            report = extract_split(backbone, calibration, ready, home, settings, listener)
            yield replace(report, new_caches=listener.take())

    for name in backbones:
        try:
            yield from extracted(name)
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            if on_failure is None:
                raise
            on_failure(name, error)
