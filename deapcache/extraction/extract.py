"""Stage 1: run each frozen backbone once over a dataset and keep its feature volumes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from deapcache.backbones import Backbone, build, describe
from deapcache.datasets import Dataset
from deapcache.errors import DeapcacheError
from deapcache.extraction.calibrating import CALIBRATION_IMAGES, calibrate
from deapcache.extraction.creating import Listener
from deapcache.extraction.features import extract_split
from deapcache.extraction.hands import Hands, OwnHands
from deapcache.extraction.prepare import (
    PreparedSplit,
    complete_images,
    limited_rows,
    prepare_split,
    require_one_region,
)
from deapcache.extraction.progress import Progress, silent
from deapcache.extraction.report import ExtractionReport
from deapcache.extraction.settings import ExtractionSettings, choose_device
from deapcache.extraction.views import image_source, split_views
from deapcache.locations import Location
from deapcache.processes import refuse_unguarded

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
    hands: Hands | None = None,
) -> Iterator[ExtractionReport]:
    """Extract every backbone over every split, and yield a report for each as it ends.

    Base images are decoded once for all backbones; the targets of all annotations that the dataset has are made with
    them, so that a home can be probed without the dataset's files. What is there already is not made again: calling
    this after an interruption does the rest. The first error ends it, unless ``on_failure`` takes it: called with the
    backbone's name and the error, it may raise it again, or return, and the next backbone follows.

    Several processes and hosts may do this at once: they share the shards, and each waits at the end for what the
    others still have in hand. ``hands`` compute the features; by default this process does.

    Raises :class:`deapcache.errors.FeatureError` (features that must not be stored), ``DataError`` and
    ``MissingDataError`` (dataset files), ``WeightsError``, ``StorageFullError``, ``ReadOnlyError``, ``UsageError``.
    """
    work = _Extraction(dataset, home, settings or ExtractionSettings(), splits, progress, hands)
    for name in backbones:
        try:
            yield from work.of(name)
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            if on_failure is None:
                raise
            on_failure(name, error)


class _Extraction:
    """What all backbones of one extraction share."""

    def __init__(
        self,
        dataset: Dataset,
        home: Location,
        settings: ExtractionSettings,
        splits: Sequence[str] | None,
        progress: Progress,
        hands: Hands | None,
    ) -> None:
        refuse_unguarded()
        self._chosen = split_views(dataset, splits, settings.views)
        self._device = choose_device(settings.device)
        home.require_writable()
        self._dataset = dataset
        self._home = home
        self._settings = settings
        self._listener = Listener(progress)
        self._hands = hands
        # files are looked at and annotations digested once, whatever the number of backbones
        self._readable = functools.cache(lambda split: settings.images_of(dataset, [split], home, progress))
        self._prepared = functools.cache(self._prepare)

    def of(self, name: str) -> Iterator[ExtractionReport]:
        """Extract one backbone over every split and view."""
        settings, dataset = self._settings, self._dataset
        seen = describe(name).image_size
        require_one_region(dataset, settings.base_size_for(dataset), settings.fit, name, seen)
        backbone = build(name, weights=settings.weights, precision=settings.precision, selection=settings.selection)
        if self._hands is None or backbone.needs_calibration:
            backbone.to(self._device)
        calibration = self._calibrate(backbone) if backbone.needs_calibration else ""
        if self._hands is not None:
            backbone.to("cpu")  # the device belongs to the workers
        hands = self._hands or OwnHands()
        for split, view in ((split, view) for split, views in self._chosen.items() for view in views):
            ready = replace(self._prepared(split, settings.limit, dataset.annotations), view=view)
            first, *others = extract_split(backbone, calibration, ready, self._home, settings, self._listener, hands)
            yield replace(first, new_caches=self._listener.take())
            yield from others

    def _calibrate(self, backbone: Backbone) -> str:
        first = self._prepared(self._dataset.splits[0], CALIBRATION_IMAGES, ())
        rows = limited_rows(len(first.image_ids), CALIBRATION_IMAGES)
        complete_images(first, rows, self._settings.sharing, self._listener)
        source = image_source(first, backbone.image_size)
        return calibrate(backbone, source, len(first.image_ids), first.images_digest)

    def _prepare(self, split: str, limit: int | None, annotations: tuple[str, ...]) -> PreparedSplit:
        settings = self._settings
        return prepare_split(
            self._readable(split),
            split,
            self._home,
            base_size=settings.base_size_for(self._dataset),
            limit=limit,
            annotations=annotations,
            progress=self._listener,
            fit=settings.fit,
            sharing=settings.sharing,
            rehash=settings.rehash,
        )
