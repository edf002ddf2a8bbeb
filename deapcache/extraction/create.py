"""Create a cache, or find it in a further home, report in what a new one differs from those beside it; and provenance.

Provenance is which run filled which shards of a cache, and on what. It is no part of a recipe.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import torch

from deapcache.cache import ORIGINAL, ArraySpec, Cache, CacheEntry, create_cache, list_caches, name_view, open_cache
from deapcache.cache.catalog import entry_at
from deapcache.cache.format import LABEL, METADATA_KEY
from deapcache.cache.names import SUFFIX, dataset_and_split
from deapcache.cache.progress import NewCache, Progress, ProgressEvent
from deapcache.errors import CorruptCacheError, LocationError
from deapcache.locations import Location
from deapcache.machine import device_name, now, user_name, versions
from deapcache.recipe import SHORT, Recipe, differences

_NAMING = ("backbone", "annotation", "view")
"""Recipe fields that the name of a cache shows."""


def make_cache(
    home: Location,
    path: str,
    *,
    recipe: Recipe,
    arrays: Sequence[ArraySpec],
    image_ids: Sequence[str],
    rows: range,
    progress: Progress,
    attributes: Mapping[str, Any] = {},
) -> Cache:
    """The cache at ``path``, created where there is none; ``progress`` gets a new one that has others beside it.

    Where the own home lacks some of ``rows`` and a further home has them all, the result is that home's cache. Raises
    what :func:`deapcache.cache.create_cache` raises.
    """
    if there := _complete_elsewhere(home, path, recipe, arrays, image_ids, rows):
        return there
    others = _caches_beside(home, path, recipe, str(attributes.get(LABEL, "")))
    cache = create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=image_ids, attributes=attributes)
    cache.location.sweep()  # also of a complete one: a kill may have hit a second writer
    if others:
        new = _compare(path, recipe, others)
        progress(ProgressEvent(stage=new.what, done=0, total=len(image_ids), new_cache=new))
    return cache


def same_features(home: Location, path: str, digest: str) -> CacheEntry | None:
    """The cache of features that belongs at ``path``, there or under another label: what they are called is no part of
    what they are."""

    def places(layer: Location) -> Iterator[str]:
        if layer.exists(f"{path}/{METADATA_KEY}"):
            yield path
        # listed only where it is not there
        keys = layer.find(f"{PurePosixPath(path).parent}/*-{digest[:SHORT]}{SUFFIX}/{METADATA_KEY}")
        yield from (place for key in keys if (place := str(PurePosixPath(key).parent)) != path)

    for layer in (layer for layer in home.layers if layer.can_list):
        for place in places(layer):
            found = entry_at(layer, place)
            if found and found.digest == digest:
                return found
    return None


def _complete_elsewhere(
    home: Location, path: str, recipe: Recipe, arrays: Sequence[ArraySpec], image_ids: Sequence[str], rows: range
) -> Cache | None:
    """The cache at ``path`` of the first further home that has all of ``rows``, if the own one has not."""

    def complete(place: Location) -> Cache | None:
        if not place.exists(f"{path}/{METADATA_KEY}"):
            return None
        cache = open_cache(place / path)
        same = cache.digest == recipe.digest and cache.image_ids == tuple(image_ids)
        return cache if same and list(cache.arrays.values()) == list(arrays) and cache.is_complete(rows) else None

    own, *others = home.layers
    if not others or complete(own):
        return None
    for place in others:
        try:
            if found := complete(place):
                return found
        except CorruptCacheError as error:  # the own home gets a whole one
            warnings.warn(f"not used: {error}", stacklevel=3)
    return None


def _caches_beside(home: Location, path: str, recipe: Recipe, label: str) -> list[CacheEntry]:
    """The caches that one could confuse with the one at ``path``; none where that one exists."""
    if home.exists(f"{path}/{METADATA_KEY}"):
        return []
    folder, named = PurePosixPath(path).parent, [field for field in _NAMING if hasattr(recipe, field)]
    dataset, split = dataset_and_split(path)
    name = label or next((getattr(recipe, field) for field in _NAMING[:2] if field in named), None)
    return [
        entry
        for entry in list_caches(home, recipe.kind, dataset=dataset, split=split, name=name)
        if PurePosixPath(entry.path).parent == folder
        and entry.digest != recipe.digest
        and all(entry.fields[field] == getattr(recipe, field) for field in named)
    ]


def _compare(path: str, recipe: Recipe, others: Sequence[CacheEntry]) -> NewCache:
    fields = {**recipe.omitted_defaults(), **recipe.to_json()}
    found = [(tuple(differences(fields, entry.fields)), entry) for entry in others]
    differing, nearest = min(found, key=lambda pair: len(pair[0]))
    what = f"{recipe.kind} {nearest.dataset}/{nearest.split} {nearest.name}".rstrip()
    return NewCache(
        what=name_view(what, fields.get("view", ORIGINAL)),
        path=path,
        digest=recipe.digest,
        other=nearest.digest,
        differences=differing,
    )


def item_bytes(cache: Cache) -> int:
    """Uncompressed bytes of one image's entry in all arrays of a cache."""
    return sum(spec.item_bytes for spec in cache.arrays.values())


def require_space(place: Location, needed: int) -> None:
    """Raise :class:`StorageFullError` where ``needed`` bytes of an extraction will not fit."""
    place.require_space(
        needed,
        "{place} has {free} GB free, this extraction needs up to {needed} GB: free some space, choose another --home, "
        "a smaller --dtype or fewer images with --limit (--dry-run shows the plan)",
    )


_PACKAGES = ("deapcache", "torch", "timm", "open_clip_torch", "transformers", "numcodecs")

_SAVE_SECONDS = 30.0
"""Seconds between two saves of a record; the record of a killed run lacks what came after the last one."""


class ProvenanceRecord:
    """The record of one writer in a cache: ``facts``, the shards that it published, and when it ended.

    Use it as a context; a writer that an error or Ctrl-C ended has no ``finished``. Safe between threads.
    """

    def __init__(self, cache: Cache, writer: str, facts: Mapping[str, Any]) -> None:
        self._cache = cache
        self._writer = writer
        self._facts = {**facts, "shards": []}
        self._lock = threading.Lock()
        self._saved = time.monotonic()
        self._save()

    def __enter__(self) -> ProvenanceRecord:
        return self

    def __exit__(self, problem: object, *_: object) -> None:
        if problem is None:
            self._close({"finished": now()})
        else:
            with suppress(LocationError):  # the error under way is the one to report
                self._close({})

    def add(self, shard: int) -> None:
        """Record that the writer published ``shard``."""
        with self._lock:
            self._facts["shards"].append(shard)
            if time.monotonic() - self._saved > _SAVE_SECONDS:
                self._save()

    def _close(self, facts: Mapping[str, str]) -> None:
        with self._lock:
            self._facts = {**self._facts, **facts, "shards": sorted(self._facts["shards"])}
            self._save()

    def _save(self) -> None:
        self._cache.record_provenance(self._facts, writer=self._writer)
        self._saved = time.monotonic()


def provenance_facts(device: torch.device, batch_size: int) -> dict[str, Any]:
    """Device, batch size, host, user and versions of one run, as JSON."""
    return {
        "device": str(device),
        "device_name": device_name(device),
        "batch_size": batch_size,
        "host": platform.node(),
        "user": user_name(),
        "python": platform.python_version(),
        "versions": versions(*_PACKAGES),
        "started": now(),
    }


def new_writer_name() -> str:
    """A name for this run's provenance file that no other run has."""
    return f"{platform.node()}-{os.getpid()}-{time.time_ns()}"
