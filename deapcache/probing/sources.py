"""The caches that a probe reads, opened: they list the same images, and hold the rows that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deapcache.cache import HFLIP, Cache, CacheEntry, FeatureCache
from deapcache.errors import CorruptCacheError, IncompleteCacheError
from deapcache.locations import Location
from deapcache.probing.arrays import SplitArrays
from deapcache.probing.finding import check_pair, find_base_images, find_targets, paired_features
from deapcache.probing.mirrored import find_mirrored, mirror_command, require_original
from deapcache.probing.options import ProbeOptions


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
    features = paired_features(request)
    targets = [
        {name: find_targets(request, split, name, entry, options) for name in request.annotations}
        for split, entry in zip(request.splits, features, strict=True)
    ]
    for name in request.annotations:
        check_pair(targets[0][name], targets[1][name], request)
    limits = (options.train_limit, options.val_limit)
    # nothing is scored on mirror images, so those of val need not be there
    mirrored = (find_mirrored(request, features[0]) if HFLIP in options.views else None, None)
    train, val = (
        _split_source(request, split, entry, found, limit, mirror)
        for split, entry, found, limit, mirror in zip(request.splits, features, targets, limits, mirrored, strict=True)
    )
    return Sources(train, val)


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
    images = find_base_images(request, split, features) if request.with_images else None
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
