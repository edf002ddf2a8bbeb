"""Create a cache, or find it in a further home; report in what a new one differs from those beside it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from deapcache.cache import ORIGINAL, ArraySpec, Cache, CacheEntry, create_cache, list_caches, name_view, open_cache
from deapcache.cache.catalog import entry_at
from deapcache.cache.format import LABEL, METADATA_KEY
from deapcache.cache.names import SUFFIX, unescape_name
from deapcache.cache.progress import NewCache, Progress, ProgressEvent
from deapcache.errors import CorruptCacheError
from deapcache.locations import Location
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
    folder = PurePosixPath(path).parent
    for layer in (layer for layer in home.layers if layer.can_list):
        for key in layer.find(f"{folder}/*-{digest[:SHORT]}{SUFFIX}/{METADATA_KEY}"):
            found = entry_at(layer, str(PurePosixPath(key).parent))
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
    dataset, split = map(unescape_name, folder.parts[-2:])
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
