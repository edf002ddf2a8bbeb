"""Stage 1: run each frozen backbone once over a dataset and keep its feature volumes."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Protocol, cast

import torch

from deapcache.backbones import CLS, Backbone, BackboneIdentity, build, describe, split_name
from deapcache.cache import (
    ORIGINAL,
    CacheEntry,
    FeatureCache,
    feature_arrays,
    features_path,
    list_caches,
    name_view,
    refresh_manifest,
)
from deapcache.cache.format import COVERED, LABEL
from deapcache.cache.names import escape_name
from deapcache.cache.progress import NewCache, Progress, ProgressEvent, message, no_progress
from deapcache.datasets import INTERPOLATION, Dataset
from deapcache.errors import DeapcacheError, IncompleteCacheError, UsageError
from deapcache.extraction.claims import Batches, WorkQueue
from deapcache.extraction.create import (
    ProvenanceRecord,
    item_bytes,
    make_cache,
    new_writer_name,
    provenance_facts,
    require_space,
    same_features,
)
from deapcache.extraction.images_targets import (
    PreparedSplit,
    complete_images,
    limited_rows,
    omitted_from,
    prepare_split,
    readable_dataset,
    require_one_region,
    split_views,
)
from deapcache.extraction.known_backbones import KnownBackbone, known_backbone, remember_backbone
from deapcache.extraction.pipeline import (
    CALIBRATION_IMAGES,
    FeatureJob,
    OnForward,
    OnPublish,
    calibrate,
    extract_shards,
    image_source,
)
from deapcache.extraction.settings import (
    BaseSize,
    ExtractionSettings,
    base_size_name,
    choose_device,
)
from deapcache.locations import Location
from deapcache.processes import refuse_unguarded
from deapcache.recipe import FeatureRecipe

OnFailure = Callable[[str, Exception], None]
"""Called with the name of the backbone that failed and its error."""


@dataclass(frozen=True, kw_only=True)
class ExtractionReport:
    """What one backbone over one split came to."""

    backbone: str
    dataset: str
    split: str
    view: str
    layer: str
    path: str
    digest: str
    images: int
    """Images that the cache holds now, of ``total``."""
    total: int
    left: int
    """Images within the limit that are not there: those of other runs, where this one had a partition of the shards."""
    extracted: int
    """Images that this run forwarded and published; 0 where all were there."""
    stored_bytes: int
    seconds: float
    omitted: Mapping[str, str]
    """Id → reason of the images that the split omits since they cannot be read."""
    new_caches: tuple[NewCache, ...] = ()
    """Features, base images and targets that this run created beside others of the same name."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**dataclasses.asdict(self), "new_caches": [new.to_json() for new in self.new_caches]}


class Executor(Protocol):
    """Computes and publishes shards of features: this process, or the workers of a cluster."""

    def compute(self, job: FeatureJob, batches: Batches, on_forward: OnForward, on_publish: OnPublish) -> None:
        """Do all shards of each batch before asking for the next batch, and record who did them.

        Raises what forwarding and publishing raise.
        """
        ...


class LocalExecutor:
    """This process, on the backbone's device."""

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        self._facts = facts or {}
        """For the provenance of the caches."""

    def compute(self, job: FeatureJob, batches: Batches, on_forward: OnForward, on_publish: OnPublish) -> None:
        """Forward and publish here, all at the same time."""
        writer, facts = new_writer_name(), {**provenance_facts(job.backbone.device, job.batch_size), **self._facts}
        with ExitStack() as open_records:
            records = [open_records.enter_context(ProvenanceRecord(cache, writer, facts)) for cache in job.caches]

            def record(shard: int, size: int) -> None:
                for each in records:
                    each.add(shard)
                on_publish(shard, size)

            for shards in batches:
                extract_shards(job, shards, on_forward=on_forward, on_publish=record)


def extract(
    backbones: Sequence[str],
    dataset: Dataset,
    home: Location,
    *,
    splits: Sequence[str] | None = None,
    settings: ExtractionSettings | None = None,
    progress: Progress = no_progress,
    on_failure: OnFailure | None = None,
    executor: Executor | None = None,
) -> Iterator[ExtractionReport]:
    """Extract every backbone over every split, and yield a report for each as it ends.

    It decodes base images once for all backbones, and makes the targets of all annotations of the dataset with them, so
    that a home can be probed without the dataset's files. It does not make again what is there: call it again after an
    interruption, and it does the rest. The first error ends it, unless ``on_failure`` takes it: called with the
    backbone's name and the error, it may raise it again, or return, and the next backbone follows.

    Several processes and hosts may do this at once: they share the shards, and each waits at the end for the shards
    that others still compute. ``executor`` computes the features; by default this process does.

    Raises :class:`deapcache.errors.FeatureError` (features that must not be stored), ``DataError`` and
    ``MissingDataError`` (dataset files), ``WeightsError``, ``StorageFullError``, ``ReadOnlyError``, ``UsageError``.
    """
    settings = settings or ExtractionSettings()
    require_one_model(backbones, settings)
    run = _Extraction(dataset, home, settings, splits, progress, executor)
    for name in backbones:
        try:
            yield from run.extract_backbone(name)
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            if on_failure is None:
                raise
            on_failure(name, error)


class _Extraction:
    """What all backbones of one extraction share: prepared splits above all."""

    def __init__(
        self,
        dataset: Dataset,
        home: Location,
        settings: ExtractionSettings,
        splits: Sequence[str] | None,
        progress: Progress,
        executor: Executor | None,
    ) -> None:
        refuse_unguarded()
        self._views = split_views(dataset, splits, settings.views)
        self._device = choose_device(settings.device)
        home.require_writable()
        self._dataset = dataset
        self._home = home
        self._settings = settings
        self._executor = executor
        self._new_caches: list[NewCache] = []

        def collect(event: ProgressEvent) -> None:
            if event.new_cache:
                self._new_caches.append(event.new_cache)
            progress(event)

        self._progress = collect
        # files are checked and annotations digested once, whatever the number of backbones
        self._readable = functools.cache(lambda split: readable_dataset(dataset, [split], home, settings, collect))
        self._prepared = functools.cache(self._prepare)

    def extract_backbone(self, name: str) -> Iterator[ExtractionReport]:
        """Extract one backbone over every split and view."""
        settings = self._settings
        if known := known_backbone(self._home, name, settings):
            require_one_region(self._dataset, settings, name, known.identities[0].image_size)
            if (reports := self._reports_of_complete(known)) is not None:
                yield from reports
                return
        require_one_region(self._dataset, settings, name, describe(name).image_size)
        backbone = build(
            name,
            weights=settings.weights,
            weights_key=settings.weights_key,
            precision=settings.precision,
            selection=settings.selection,
        )
        if settings.weights is not None or backbone.entry.is_plugin:
            label, any_weights = settings.label(backbone.name), settings.weights is None
            require_free_label(self._home, label, backbone.identity, any_weights=any_weights)
        if backbone.unused:
            self._progress(message(settings.label(backbone.name), f"not used of its checkpoint: {backbone.unused}"))
        remember_backbone(self._home, name, settings, backbone)
        if self._executor is None or backbone.needs_calibration:
            backbone.to(self._device)
        calibration = self._calibrate(backbone) if backbone.needs_calibration else ""
        if self._executor is not None:
            backbone.to("cpu")  # the device belongs to the workers
        for split, view in ((split, view) for split, views in self._views.items() for view in views):
            prepared = replace(self._prepared(split, settings.limit, self._dataset.annotations), view=view)
            first, *others = self._extract_split(backbone, calibration, prepared)
            yield self._with_new_caches(first)
            yield from others

    def _with_new_caches(self, report: ExtractionReport) -> ExtractionReport:
        """The report with the new caches that no report told of yet, but for those of the other splits."""
        others = {escape_name(split) for split in self._views if split != report.split}
        left = [new for new in self._new_caches if PurePosixPath(new.path).parts[2] in others]
        told = tuple(new for new in self._new_caches if new not in left)
        self._new_caches[:] = left
        return replace(report, new_caches=told)

    def _reports_of_complete(self, known: KnownBackbone) -> list[ExtractionReport] | None:
        """The reports of a backbone of which all is there, which is not built then; None where something is missing."""
        reports: list[ExtractionReport] = []
        for split, view in ((split, view) for split, views in self._views.items() for view in views):
            start = time.perf_counter()
            prepared = replace(self._prepared(split, self._settings.limit, self._dataset.annotations), view=view)
            ids = prepared.image_ids
            for identity in known.identities:
                recipe = self._recipe(identity, "", prepared)
                label = self._settings.label(known.name)
                path = features_path(self._dataset.images_name, split, label, recipe.digest)
                there = self._features_at(path, label, recipe.digest)
                cache = there.open() if there else None
                if not isinstance(cache, FeatureCache) or cache.image_ids != ids:
                    return None
                length = cache.shard_images
                wanted = {row // length for row in limited_rows(len(ids), self._settings.limit)[::length]}
                if wanted - (present := cache.present_shards()):
                    return None
                seconds = time.perf_counter() - start
                reports.append(_report(cache, prepared, wanted, present, extracted=0, seconds=seconds))
        return [self._with_new_caches(report) for report in reports]

    def _calibrate(self, backbone: Backbone) -> str:
        first = self._prepared(self._dataset.splits[0], CALIBRATION_IMAGES, ())
        rows = limited_rows(len(first.image_ids), CALIBRATION_IMAGES)
        complete_images(first, rows, self._settings, self._progress)
        source = image_source(first, backbone.image_size)
        return calibrate(backbone, source, len(first.image_ids), first.images_digest)

    def _prepare(self, split: str, limit: int | None, annotations: tuple[str, ...]) -> PreparedSplit:
        settings = replace(self._settings, limit=limit)
        dataset = self._readable(split)
        return prepare_split(dataset, split, self._home, settings, annotations=annotations, progress=self._progress)

    def _extract_split(self, backbone: Backbone, calibration: str, prepared: PreparedSplit) -> list[ExtractionReport]:
        """Make the features of a split that are missing, and report on each layer that is kept.

        ``calibration`` is what the recipe says of batch norm.
        """
        start = time.perf_counter()
        settings = self._settings
        caches = [self._feature_cache(backbone, calibration, prepared, identity) for identity in backbone.identities]
        length = caches[0].shard_images
        wanted = {row // length for row in limited_rows(len(prepared.image_ids), settings.limit)[::length]}
        present = {cache.digest: cache.present_shards() for cache in caches}
        # A complete layer, which may be in a further home that is not ours, is neither computed nor written again.
        lacking = [cache for cache in caches if wanted - present[cache.digest]]
        in_all = set.intersection(*(present[cache.digest] for cache in lacking)) if lacking else wanted
        missing = settings.partition.select(wanted - in_all)
        done = 0
        if missing:
            first = lacking[0]
            rows = [row for shard in missing for row in first.shard_rows(shard)]
            require_space(first.location, len(rows) * sum(map(item_bytes, lacking)))
            complete_images(prepared, rows, settings, self._progress)
            kept = backbone if lacking == caches else backbone.with_layers([c.recipe["layer"] for c in lacking])
            stage = f"{first.backbone} · {prepared.dataset.images_name}/{prepared.split}"
            source = image_source(prepared, backbone.image_size)
            job = FeatureJob(caches=lacking, backbone=kept, source=source, settings=settings)
            stage = name_view(stage, prepared.view)
            done = compute_features(job, missing, stage=stage, progress=self._progress, executor=self._executor)
            present |= {cache.digest: cache.present_shards() for cache in lacking}
        seconds = time.perf_counter() - start
        return [
            _report(
                cache,
                prepared,
                wanted,
                present[cache.digest],
                extracted=done if cache in lacking else 0,
                seconds=seconds,
            )
            for cache in caches
        ]

    def _feature_cache(
        self, backbone: Backbone, calibration: str, prepared: PreparedSplit, identity: BackboneIdentity
    ) -> FeatureCache:
        settings, dataset, ids = self._settings, prepared.dataset, prepared.image_ids
        recipe = self._recipe(identity, calibration, prepared)
        has_cls = identity.tokens == CLS
        label = settings.label(backbone.name)
        attributes: dict[str, Any] = {}
        path = features_path(dataset.images_name, prepared.split, label, recipe.digest)
        if label != recipe.backbone:
            attributes[LABEL] = label
            if there := self._features_at(path, label, recipe.digest):
                path = there.path
        if backbone.entry.covered != (1.0, 1.0):
            attributes[COVERED] = list(backbone.entry.covered)
        cache = make_cache(
            self._home,
            path,
            recipe=recipe,
            arrays=feature_arrays(
                settings.storage, backbone.grid, backbone.dim, compress=settings.compress, cls=has_cls
            ),
            image_ids=ids,
            rows=limited_rows(len(ids), settings.limit),
            progress=self._progress,
            attributes=attributes,
        )
        return cast(FeatureCache, cache)

    def _features_at(self, path: str, label: str, digest: str) -> CacheEntry | None:
        """The cache of ``label`` that belongs at ``path``; says so where it has another name."""
        there = same_features(self._home, path, digest)
        if there and there.path != path:
            text = f"these features are there under the name {there.name}: {there.path}"
            self._progress(message(label, text))
        return there

    def _recipe(self, identity: BackboneIdentity, calibration: str, prepared: PreparedSplit) -> FeatureRecipe:
        return feature_recipe(
            identity,
            self._settings,
            calibration=calibration,
            base_size=self._settings.base_size or prepared.dataset.base_size,
            colour=prepared.dataset.colour,
            images=prepared.images_digest,
            view=prepared.view,
            omitted=omitted_from(prepared.dataset, prepared.split),
        )


def require_one_model(backbones: Sequence[str], settings: ExtractionSettings) -> None:
    """Raise :class:`UsageError` where a checkpoint is given for several models; several sizes of one are fine."""
    models = dict.fromkeys(split_name(name)[0] for name in backbones)
    if settings.weights is not None and len(models) > 1:
        raise UsageError(f"--weights is the checkpoint of one backbone, and these are {', '.join(models)}: give one")


def require_free_label(home: Location, label: str, identity: BackboneIdentity, *, any_weights: bool = False) -> None:
    """Raise :class:`UsageError` where features of another model or of other weights have this label.

    With ``any_weights`` only of another model: a plugin's backbone keeps its name when its weights change.
    """
    ours = (identity.architecture, identity.weights)
    for entry in list_caches(home, "features", name=label) if home.can_list else ():
        if entry.recipe["architecture"] != ours[0] or (not any_weights and entry.recipe["weights"] != ours[1]):
            raise UsageError(
                f"the name {label} is taken: {entry.path} holds features of {entry.recipe['architecture']} with the "
                f"weights {str(entry.recipe['weights'])[:19]}…, and these are of {ours[0]} with {ours[1][:19]}…: give "
                "another --name"
            )


def feature_recipe(
    identity: BackboneIdentity,
    settings: ExtractionSettings,
    *,
    calibration: str,
    base_size: BaseSize,
    colour: str,
    images: str,
    view: str = ORIGINAL,
    omitted: Mapping[str, Any] | None = None,
) -> FeatureRecipe:
    """The recipe of feature volumes: the backbone's identity and everything around it."""
    return FeatureRecipe(
        **{f.name: getattr(identity, f.name) for f in dataclasses.fields(identity)},
        calibration=calibration,
        base_size=base_size_name(base_size),
        base_fit=settings.fit,
        base_interpolation=INTERPOLATION,
        colour=colour,
        precision=settings.precision,
        tf32=False,
        storage=settings.storage,
        images=images,
        view=view,
        omitted=omitted,
    )


def compute_features(
    job: FeatureJob, shards: Sequence[int], *, stage: str, progress: Progress, executor: Executor | None = None
) -> int:
    """Make ``shards`` of the job's caches, as far as no other run does; the images forwarded.

    Raises :class:`IncompleteCacheError` where shards are missing at the end, and what forwarding and publishing raise.
    """
    caches = job.caches
    first = caches[0]  # keeps the claims on shards, which are those of all caches
    done = stored_bytes = 0
    queue = WorkQueue(
        first.location,
        shards,
        present=lambda some: _in_all(caches, some),
        images=lambda shard: len(first.shard_rows(shard)),
        caches=caches,
        claim_seconds=job.settings.claim_seconds,
        say=lambda text: progress(message(stage, text)),
    )

    def show() -> None:
        progress(ProgressEvent(stage=stage, done=done, total=queue.total, bytes=stored_bytes))

    def on_forward(images: int) -> None:
        nonlocal done
        done += images
        show()

    def on_publish(shard: int, size: int) -> None:
        nonlocal stored_bytes
        stored_bytes += size
        queue.finish(shard)

    with refresh_manifest(*caches), queue:
        (executor or LocalExecutor()).compute(job, queue.batches(), on_forward, on_publish)
        show()
    if removed := set(shards) - _in_all(caches):
        raise IncompleteCacheError(
            f"{first.location} lacks {len(removed)} shards that were just made: somebody removed them meanwhile; "
            "run the same command again to make them anew"
        )
    return done


def _in_all(caches: Sequence[FeatureCache], wanted: Collection[int] | None = None) -> set[int]:
    """The shards that none of the caches lacks, of those that are wanted."""
    return set.intersection(*(cache.present_shards(wanted) for cache in caches))


def _report(
    cache: FeatureCache, prepared: PreparedSplit, wanted: set[int], present: set[int], *, extracted: int, seconds: float
) -> ExtractionReport:
    return ExtractionReport(
        backbone=cache.backbone,
        dataset=prepared.dataset.images_name,
        split=prepared.split,
        view=prepared.view,
        layer=str(cache.recipe["layer"]),
        path=str(cache.location),
        digest=cache.digest,
        images=sum(len(cache.shard_rows(shard)) for shard in present),
        total=len(cache),
        left=sum(len(cache.shard_rows(shard)) for shard in wanted - present),
        extracted=extracted,
        stored_bytes=cache.stored_bytes(),
        seconds=seconds,
        omitted=dict(prepared.dataset.omitted.get(prepared.split, {})),
    )
