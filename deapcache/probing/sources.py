"""Which caches a probe reads: features of both splits that belong together, and the targets of their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from deapcache.cache import HFLIP, Cache, CacheEntry, FeatureCache, find_caches, find_one
from deapcache.errors import CacheMissError, CorruptCacheError, IncompleteCacheError, UsageError
from deapcache.locations import Location
from deapcache.probing.alike import fit_option, require_same_region, seen_alike
from deapcache.probing.arrays import SplitArrays
from deapcache.probing.mirrored import find_mirrored, mirror_command, require_original
from deapcache.probing.options import ProbeOptions
from deapcache.recipe import Difference, FeatureRecipe, TargetRecipe, differences

_OF_THE_SPLIT = {"images", "annotations", "digest"}
"""Fields that each split has for itself: ``images=ONE`` chooses a cache of one, ``images=ONE,OTHER`` one of each."""

TARGET_FIELDS = {f.name for f in fields(TargetRecipe)} - {f.name for f in fields(FeatureRecipe)}
"""Fields that only target recipes have: they choose targets, and say nothing about features."""


def feature_fields(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the wanted recipe fields that features can have; a target's ``fit`` is their ``base_fit``.

    Raises :class:`UsageError` where the two are asked for and differ: scores would be of other pixels than features.
    """
    found = {name: value for name, value in wanted.items() if name not in TARGET_FIELDS}
    if "fit" not in wanted:
        return found
    if found.setdefault("base_fit", wanted["fit"]) != wanted["fit"]:
        raise UsageError(
            f"fit={wanted['fit']} and base_fit={found['base_fit']} are asked for: targets must show the same part of "
            "the image as the features; name one of the two"
        )
    return found


@dataclass(frozen=True)
class SplitSource:
    """The caches of one split, and the rows that a probe uses."""

    split: str
    features: CacheEntry
    targets: Mapping[str, CacheEntry]
    """By annotation."""
    arrays: SplitArrays
    mirrored: CacheEntry | None = None
    """Features of the mirror images, where these are drawn as well."""

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the rows used, in order."""
        ids = self.arrays.features.image_ids
        return tuple(ids[row] for row in self.arrays.rows)


@dataclass(frozen=True)
class Sources:
    """Everything that a probe reads."""

    train: SplitSource
    val: SplitSource

    def target_recipe(self, annotation: str) -> Mapping[str, Any]:
        """The target recipe that both splits share, as a JSON object (``images`` and ``annotations`` are train's)."""
        return self.train.targets[annotation].recipe

    def output_size(self, annotation: str) -> tuple[int, int]:
        """(height, width) of the targets of ``annotation``."""
        height, width = self.target_recipe(annotation)["size"]
        return height, width


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to probe, by name."""

    home: Location
    dataset: str
    backbone: str
    annotations: tuple[str, ...]
    fields: Mapping[str, Any]
    """Recipe fields that the feature caches must have."""
    images_name: str
    """Dataset whose images the features were extracted from: ``dataset``, or the one it shares its images with."""
    splits: tuple[str, str]
    """Names of the splits to train and to score on."""
    with_images: bool = False
    """Whether a readout needs the base images."""

    @property
    def extract_command(self) -> str:
        """What makes the features and targets, and goes on where it stopped."""
        return f"deapcache extract --dataset {self.dataset} --backbone {self.backbone} --home {self.home}"


def resolve_sources(request: Request, options: ProbeOptions) -> Sources:
    """The caches of ``request`` and the rows that ``options`` select.

    Raises :class:`CacheMissError` or :class:`AmbiguousCacheError` where the caches are not there, or not one of each,
    or where those of the two splits do not belong together; :class:`IncompleteCacheError` where they lack rows that
    are asked for; :class:`CorruptCacheError` where features and targets list different images;
    :class:`UsageError` where features of another view than the original images' are asked for.
    """
    require_original(request.fields)
    features = _paired_features(request)
    targets = [
        {name: _targets(request, split, name, entry, options) for name in request.annotations}
        for split, entry in zip(request.splits, features, strict=True)
    ]
    for name in request.annotations:
        _check_pair(targets[0][name], targets[1][name], request)
    limits = (options.train_limit, options.val_limit)
    # nothing is scored on mirror images, so those of val need not be there
    mirrored = (find_mirrored(request, features[0]) if HFLIP in options.views else None, None)
    train, val = (
        _split_source(request, split, entry, found, limit, mirror)
        for split, entry, found, limit, mirror in zip(request.splits, features, targets, limits, mirrored, strict=True)
    )
    return Sources(train, val)


def _paired_features(request: Request) -> tuple[CacheEntry, CacheEntry]:
    dataset, name, wanted = request.images_name, request.backbone, feature_fields(request.fields)
    trains, vals = (
        find_caches(request.home, "features", dataset=dataset, split=split, name=name, fields=_shared(wanted))
        for split in request.splits
    )
    pairs = [(train, val) for train in trains for val in vals if not _pair_differences(train, val)]
    pairs = [pair for pair in pairs if _fits_either(request, pair)]
    if len(pairs) == 1:
        return pairs[0]
    # None, or several: where a split has not exactly one cache, say which there are; else say why the two do not pair.
    train, val = (
        find_one(
            request.home,
            "features",
            dataset=dataset,
            split=split,
            name=name,
            fields=of_split,
            next_step=f"`{request.extract_command}` makes it",
        )
        for split, of_split in zip(
            request.splits, (wanted, wanted if _is_of_both(wanted) else _shared(wanted)), strict=True
        )
    )
    _check_pair(train, val, request)
    return train, val


def _shared(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if name not in _OF_THE_SPLIT}


def _fits_either(request: Request, pair: tuple[CacheEntry, CacheEntry]) -> bool:
    """Whether the fields that each split has for itself, such as a digest, are those of one of the two, or of both."""
    wanted = feature_fields(request.fields)
    fitting = [
        entry in find_caches(request.home, "features", dataset=entry.dataset, split=entry.split, fields=wanted)
        for entry in pair
    ]
    return all(fitting) if _is_of_both(wanted) else any(fitting)


def _is_of_both(wanted: Mapping[str, Any]) -> bool:
    return any("," in str(wanted.get(name, "")) for name in _OF_THE_SPLIT)


def _pair_differences(train: CacheEntry, val: CacheEntry) -> list[Difference]:
    of_each = {*_OF_THE_SPLIT, "omitted"}
    return [found for found in differences(train.recipe, val.recipe) if found.field not in of_each]


def _check_pair(train: CacheEntry, val: CacheEntry, request: Request) -> None:
    if found := _pair_differences(train, val):
        listed = "; ".join(f"{d.field}: {d.left!r} in {train.split}, {d.right!r} in {val.split}" for d in found)
        raise CacheMissError(
            f"no {train.kind} of {train.name} that {request.dataset}'s {train.split} and {val.split} share: "
            f"{train.path} and {val.path} differ in {listed}. Extract both splits with the same settings: "
            f"`{request.extract_command}`"
        )


def _targets(request: Request, split: str, annotation: str, features: CacheEntry, options: ProbeOptions) -> CacheEntry:
    needed = seen_alike(features)
    if options.output_size:
        needed["size"] = list(options.output_size)
    chosen = _chosen_targets(request, split, annotation, needed)
    if len(chosen) == 1:
        found = chosen[0]
    else:
        command = f"`{request.extract_command}{fit_option(features)}`"
        found = find_one(
            request.home,
            "targets",
            dataset=request.dataset,
            split=split,
            name=annotation,
            fields=needed,
            next_step=f"{command} makes these targets, if {request.dataset} has the annotation {annotation}",
        )
    require_same_region(features, found)
    return found


def _chosen_targets(request: Request, split: str, annotation: str, needed: Mapping[str, Any]) -> list[CacheEntry]:
    """The targets that the request's fields of target recipes leave; each split has annotations of its own."""
    own = {name: value for name, value in request.fields.items() if name in TARGET_FIELDS}
    alternatives = [{**own, "annotations": digest} for digest in str(own.get("annotations", "")).split(",") if digest]
    return [
        entry
        for wanted in alternatives or [own]
        for entry in find_caches(
            request.home, "targets", dataset=request.dataset, split=split, name=annotation, fields={**needed, **wanted}
        )
    ]


def _split_source(
    request: Request,
    split: str,
    features: CacheEntry,
    targets: Mapping[str, CacheEntry],
    limit: int | None,
    mirrored: CacheEntry | None,
) -> SplitSource:
    volumes = features.open()
    assert isinstance(volumes, FeatureCache)  # what open_cache gives for this kind
    maps = {name: entry.open() for name, entry in targets.items()}
    for name, cache in maps.items():
        _check_same_images(features, volumes, targets[name], cache)
    rows = range(len(volumes) if limit is None else min(limit, len(volumes)))
    images = _base_images(request, split, features) if request.with_images else None
    caches = {features.path: volumes, **{targets[name].path: cache for name, cache in maps.items()}}
    if images is not None:
        caches[images.path] = images.open()
    for path, cache in caches.items():
        if not cache.is_complete(rows):
            raise _incomplete(request.extract_command + _limited(limit), path, rows, caches)
    mirror = None if mirrored is None else _mirror_volumes(request, features, volumes, mirrored, rows, limit)
    arrays = SplitArrays(volumes, maps, np.asarray(rows), None if images is None else caches[images.path], mirror)
    return SplitSource(split, features, targets, arrays, mirrored)


def _mirror_volumes(
    request: Request, features: CacheEntry, volumes: Cache, mirrored: CacheEntry, rows: range, limit: int | None
) -> FeatureCache:
    cache = mirrored.open()
    assert isinstance(cache, FeatureCache)
    _check_same_images(features, volumes, mirrored, cache)
    if not cache.is_complete(rows):
        command = mirror_command(request, features) + _limited(limit)
        raise _incomplete(command, mirrored.path, rows, {mirrored.path: cache})
    return cache


def _limited(limit: int | None) -> str:
    return "" if limit is None else f" --limit {limit}"


def _base_images(request: Request, split: str, features: CacheEntry) -> CacheEntry:
    """The base images that the features were made from, for readouts that are conditioned on them."""
    found = find_one(
        request.home,
        "images",
        dataset=request.images_name,
        split=split,
        name="",
        fields=seen_alike(features),
        next_step=f"a readout needs the base images: `{request.extract_command}{fit_option(features)}` makes them",
    )
    require_same_region(features, found)
    return found


def _check_same_images(features: CacheEntry, volumes: Cache, entry: CacheEntry, targets: Cache) -> None:
    if targets.image_ids != volumes.image_ids:
        pairs = zip(volumes.image_ids, targets.image_ids, strict=False)
        row = next((row for row, (left, right) in enumerate(pairs) if left != right), None)
        found = (
            f"{len(volumes)} and {len(targets)} images"
            if row is None
            else f"row {row} is image {volumes.image_ids[row]} there and {targets.image_ids[row]} here"
        )
        raise CorruptCacheError(
            f"{entry.path} does not list the images of {features.path}, though both name the same image set: {found}. "
            f"Delete {entry.path} and make it again"
        )


def _incomplete(resume: str, path: str, rows: range, caches: Mapping[str, Cache]) -> IncompleteCacheError:
    missing = len(_missing_rows(caches[path], rows))
    usable = min((row for cache in caches.values() for row in _missing_rows(cache, rows)), default=len(rows))
    instead = f", or probe only the first {usable} with --limit {usable}" if usable else ""
    return IncompleteCacheError(
        f"{path} holds {len(rows) - missing} of the {len(rows)} images asked for: `{resume}` does the rest{instead}"
    )


def _missing_rows(cache: Cache, rows: range) -> list[int]:
    return [row for shard in cache.missing_shards(rows) for row in cache.shard_rows(shard) if row in rows]
