"""What an extraction would do and cost, without doing or downloading anything."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from deapcache.annotations import BOXES
from deapcache.backbones import CLS, Backbone, build, describe, layers_of, weights_status
from deapcache.cache import (
    ORIGINAL,
    ArraySpec,
    feature_arrays,
    find_caches,
    name_view,
    one_listing,
    shard_images_for,
)
from deapcache.cache.progress import Progress, message, no_progress
from deapcache.datasets import Dataset
from deapcache.extraction.dataset_summary import DatasetSummary, summarize_dataset
from deapcache.extraction.extract import require_free_label, require_one_model
from deapcache.extraction.images_targets import (
    image_array,
    limited_rows,
    readable_dataset,
    require_one_region,
    split_views,
    target_array,
    target_size,
)
from deapcache.extraction.settings import (
    BaseSize,
    ExtractionSettings,
    base_size_name,
    choose_device,
    default_batch_size,
)
from deapcache.locations import Location
from deapcache.machine import keep_freed_memory, seconds_of


@dataclass(frozen=True, kw_only=True)
class PlannedCache:
    """One cache that an extraction would fill."""

    kind: str
    """``images``, ``targets`` or ``features``."""
    owner: str
    """Dataset under whose name it is cached."""
    split: str
    name: str
    """The backbone of features, the annotation of targets, empty for base images."""
    images: int
    """Images of the whole cache."""
    counted: str
    """Where their number comes from: ``listed``, ``in the home`` or ``official``."""
    wanted: int
    """Images that this run needs: whole shards."""
    to_do: int
    """Those that it would make, the others being there."""
    shard_images: int
    """Images of each shard but the last, which may have fewer."""
    files: int
    """That it would write, one a part and array."""
    files_wanted: int
    """That it needs."""
    item_bytes: int | None
    """Uncompressed bytes of one image's entry; None: a table of boxes, whose length only the dataset's files tell."""
    fields: Mapping[str, Any]
    """Recipe fields that its cache must have."""
    view: str = ORIGINAL
    """Of the images that features are from."""

    @property
    def bytes(self) -> int:
        """Uncompressed bytes that this run would write at most, without tables whose length is not known."""
        return self.to_do * (self.item_bytes or 0)

    @property
    def what(self) -> str:
        """For people: ``targets depth``, ``features dinov2 · hflip``, ``features dinov2 · layer 6``."""
        layer = str(self.fields.get("layer", ""))
        named = f"{self.kind} {self.name}".strip() + (f" · layer {layer}" if layer.isdecimal() else "")
        return name_view(named, self.view)


@dataclass(frozen=True, kw_only=True)
class ExtractionPlan:
    """All caches of one command."""

    caches: tuple[PlannedCache, ...]
    images_per_second: dict[str, float]
    """Forward rate of each backbone that would run, measured on ``device``, images/s."""
    device: str
    home: str
    free_bytes: int | None
    omitted: Mapping[str, Mapping[str, str]]
    """Split → id → reason of the images that the run would omit since they cannot be read."""
    weights: str = ""
    """What of a given checkpoint loads into the backbone, and what is not used; empty where none is given."""
    terms: Mapping[str, str] = field(default_factory=dict)
    """Backbone → licence of its published weights, whether they are gated, and where they are."""

    @property
    def bytes(self) -> int:
        """Bytes that the whole command would write at most."""
        return sum(cache.bytes for cache in self.caches)

    @property
    def forwards(self) -> int:
        """Images that backbones would forward."""
        return sum(self._to_forward().values())

    def _to_forward(self) -> dict[tuple[str, ...], int]:
        """Images by backbone, owner, split and view: all layers come from one forward."""
        found: dict[tuple[str, ...], int] = {}
        for cache in self.caches:
            if cache.kind == "features":
                key = (cache.name, cache.owner, cache.split, cache.view)
                found[key] = max(cache.to_do, found.get(key, 0))
        return found

    def seconds(self) -> float:
        """Forward time at the measured rates."""
        found = self._to_forward().items()
        return sum(images / self.images_per_second[name] for (name, *_), images in found if images)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        caches = [{**asdict(cache), "bytes": cache.bytes} for cache in self.caches]
        totals = {"bytes": self.bytes, "forwards": self.forwards, "seconds": self.seconds()}
        facts = {name: value for name, value in asdict(self).items() if name not in ("weights", "terms") or value}
        return {**facts, "caches": caches, **totals}


def plan_extraction(
    backbones: Sequence[str],
    dataset: Dataset | DatasetSummary,
    home: Location,
    *,
    splits: Sequence[str] | None = None,
    settings: ExtractionSettings,
    measure: bool = True,
    progress: Progress = no_progress,
) -> ExtractionPlan:
    """What :func:`deapcache.extraction.extract` would do with the same arguments.

    Caches that are there are found by name and options, without reading the dataset's files or any weights; the
    forward rate is measured on the device with an untrained copy of each architecture that would be run, and a given
    checkpoint is tried, unless ``measure`` is false. Where images that cannot be read are to be skipped, files are read
    to know them. Of a dataset whose files are not there a summary is enough.
    """
    require_one_model(backbones, settings)
    chosen = split_views(dataset, splits, settings.views)
    weights, digest = "", ""
    if measure and settings.weights is not None:
        built = build(backbones[0], weights=settings.weights, weights_key=settings.weights_key)
        digest = built.identity.weights
        for name in backbones:
            require_free_label(home, settings.label(describe(name).name), built.identity)
        weights = summarize_checkpoint(built, settings)
    omitted: Mapping[str, Mapping[str, str]] = {}
    if isinstance(dataset, Dataset):
        readable = readable_dataset(dataset, list(chosen), home, settings, progress)
        dataset, omitted = summarize_dataset(readable, list(chosen)), readable.omitted
    device = choose_device(settings.device)
    with one_listing():
        caches = [
            _plan_cache(home, dataset, split, settings.limit, wanted)
            for split, views in chosen.items()
            for wanted in _wanted(backbones, dataset, split, views, settings, digest)
        ]
    to_run = {cache.name for cache in caches if cache.kind == "features" and cache.to_do}
    labels = {settings.label(describe(name).name): name for name in backbones if measure}
    measured = [label for label in labels if label in to_run]
    batch_size, base_size = settings.batch_size or default_batch_size(device), settings.base_size or dataset.base_size
    rates: dict[str, float] = {}
    for name in measured:
        rates[name] = untrained_rate(labels[name], base_size, settings.precision, batch_size, device)
        progress(message(name, f"{rates[name]:.1f} images/s ({len(rates)} of {len(measured)} backbones measured)"))
    return ExtractionPlan(
        caches=tuple(caches),
        images_per_second=rates,
        device=str(device),
        home=str(home),
        free_bytes=home.free_bytes(),
        omitted={split: dict(reasons) for split, reasons in omitted.items()},
        weights=weights,
        terms={} if settings.weights is not None else _terms_of(backbones),
    )


def _terms_of(backbones: Sequence[str]) -> dict[str, str]:
    """What is to be known of published weights before they are fetched; nothing of random ones."""
    entries = [describe(name) for name in backbones]
    return {
        entry.name: f"licence {entry.terms}; weights: {weights_status(entry.name)}"
        for entry in entries
        if not entry.untrained
    }


def summarize_checkpoint(backbone: Backbone, settings: ExtractionSettings) -> str:
    """What of the checkpoint of ``settings`` was loaded into a built backbone, and what is not used."""
    return (
        f"{settings.weights} loads into {backbone.name}: {len(backbone.module.state_dict())} tensors, "
        f"{backbone.identity.weights[:19]}…; not used: {backbone.unused or 'nothing'}; the features are "
        f"called {settings.label(backbone.name)}"
    )


_Wanted = tuple[str, str, Sequence[ArraySpec], Mapping[str, Any]]
"""Kind, name, arrays and recipe fields of a cache."""


def _wanted(
    backbones: Sequence[str],
    dataset: DatasetSummary,
    split: str,
    views: Sequence[str],
    settings: ExtractionSettings,
    weights: str,
) -> Iterator[_Wanted]:
    # ``weights``: the digest of a checkpoint that was loaded; empty of any other
    base_size = settings.base_size or dataset.base_size
    size = target_size(dataset, base_size)
    resized = {"size": list(size), "fit": settings.fit}
    if base_size != "native":
        yield "images", "", (image_array(size),), resized
    for kind in dataset.annotations:
        yield "targets", kind, (target_array(dataset, split, kind, size),), resized
    fields = {
        "base_size": base_size_name(base_size),
        "base_fit": settings.fit,
        "storage": settings.storage,
        "precision": settings.precision,
    }
    for name in backbones:
        entry = describe(name)
        require_one_region(dataset, settings, name, entry.image_size)
        layers, norm = layers_of(name, settings.selection)
        label = settings.label(entry.name)
        tokens = settings.selection.tokens
        arrays = feature_arrays(settings.storage, entry.grid, entry.dim, cls=tokens == CLS)
        for view in views:
            for layer in layers:
                own = {"final_norm": norm, "tokens": tokens, "view": view, "layer": layer}
                own |= {"weights": weights, "image_size": list(entry.image_size)} if weights else {}
                yield "features", label, arrays, {**fields, **own}


def _plan_cache(
    home: Location, dataset: DatasetSummary, split: str, limit: int | None, wanted_cache: _Wanted
) -> PlannedCache:
    kind, name, arrays, fields = wanted_cache
    owner = dataset.name if kind == "targets" else dataset.images_name
    found = dataset.of[split]
    rows = limited_rows(found.images, limit)
    length = shard_images_for(arrays, found.images)
    wanted = {row // length for row in rows}
    missing = set(wanted)
    label = None if "weights" in fields else name or None  # a checkpoint's are the same under any label
    for entry in find_caches(home, kind, dataset=owner, split=split, name=label, fields=fields):
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
        shard_images=length,
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
    copied = entry.untrained or (entry.own_weights and entry.is_plugin)
    backbone = build(name if copied else entry.as_untrained().name, precision=precision).to(device)
    size = backbone.image_size if base_size == "native" else base_size
    with keep_freed_memory():  # as in extraction
        rate = measure_rate(backbone, size, batch_size)
    del backbone
    gc.collect()
    return rate


def measure_rate(backbone: Backbone, base_size: tuple[int, int], batch_size: int) -> float:
    """Forward rate in images/s, preprocessing included, on the backbone's device.

    The best of two timed batches, and of up to ten where they take less than a second: others may use the machine.
    """
    images = torch.zeros((batch_size, *base_size, 3), dtype=torch.uint8, device=backbone.device)
    backbone(images[:1])
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < 10 and sum(seconds) < 1):
        seconds.append(seconds_of(lambda: backbone(images), backbone.device))
    return batch_size / min(seconds)
