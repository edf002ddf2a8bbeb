"""Making a cache, and saying what makes it another one than those that are there already."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from deapcache.cache import ORIGINAL, ArraySpec, Cache, CacheEntry, create_cache, list_caches, name_view, open_cache
from deapcache.cache.format import METADATA_KEY
from deapcache.cache.names import original
from deapcache.errors import CorruptCacheError
from deapcache.extraction.progress import Progress, ProgressEvent
from deapcache.locations import Location
from deapcache.recipe import SHORT, Difference, Recipe, differences

_NAMING = ("backbone", "annotation", "view")
"""Recipe fields by which caches of a split are told apart at first sight."""

_SHORT_VALUE = 24
"""Characters of a recipe value that a line still shows; digests are longer."""


@dataclass(frozen=True, kw_only=True)
class NewCache:
    """A cache that was made where the home had others of the same kind, dataset, split, name and view."""

    what: str
    """``features coco/val dinov2``."""
    path: str
    """Relative to the home."""
    digest: str
    other: str
    """Digest of the nearest of those that were there: the one with the fewest differences."""
    differences: tuple[Difference, ...]
    """Recipe fields, here and there."""

    def __str__(self) -> str:
        """One line; values are shown where they are short."""
        fields = ", ".join(_told(each) for each in self.differences)
        return f"{self.what}: new cache {self.digest[:SHORT]}; differs from {self.other[:SHORT]} in {fields}"

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        differing = {each.field: {"here": each.left, "there": each.right} for each in self.differences}
        facts = {"what": self.what, "path": self.path, "digest": self.digest, "differs_from": self.other}
        return {**facts, "differences": differing}


class Listener:
    """Progress that is passed on, with an ear for new caches."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._heard: list[NewCache] = []

    def __call__(self, event: ProgressEvent) -> None:
        """Pass ``event`` on."""
        if event.new_cache:
            self._heard.append(event.new_cache)
        self._progress(event)

    def take(self) -> tuple[NewCache, ...]:
        """What was heard of since this was last called."""
        taken, self._heard = tuple(self._heard), []
        return taken


def make_cache(
    home: Location,
    path: str,
    *,
    recipe: Recipe,
    arrays: Sequence[ArraySpec],
    image_ids: Sequence[str],
    rows: range,
    progress: Progress,
) -> Cache:
    """What :func:`deapcache.cache.create_cache` gives; ``progress`` is told of a new one beside others.

    Where the own home lacks some of ``rows`` and another home that is read has them all, it is the cache there, in
    which nothing is missing.
    """
    if there := _elsewhere(home, path, recipe, arrays, image_ids, rows):
        return there
    others = _others(home, path, recipe)
    cache = create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=image_ids)
    cache.location.sweep()  # of a complete one too: a writer that was second may have been killed
    if others:
        new = _compared(path, recipe, others)
        progress(ProgressEvent(stage=new.what, done=0, total=len(image_ids), new_cache=new))
    return cache


def _elsewhere(
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


def _others(home: Location, path: str, recipe: Recipe) -> list[CacheEntry]:
    """The caches that could be taken for the one at ``path``, where that one is not there yet."""
    if home.exists(f"{path}/{METADATA_KEY}"):
        return []
    folder, named = PurePosixPath(path).parent, [field for field in _NAMING if hasattr(recipe, field)]
    dataset, split = map(original, folder.parts[-2:])
    name = next((getattr(recipe, field) for field in _NAMING[:2] if field in named), None)
    return [
        entry
        for entry in list_caches(home, recipe.kind, dataset=dataset, split=split, name=name)
        if PurePosixPath(entry.path).parent == folder
        and entry.digest != recipe.digest
        and all(entry.fields[field] == getattr(recipe, field) for field in named)
    ]


def _compared(path: str, recipe: Recipe, others: Sequence[CacheEntry]) -> NewCache:
    fields = {**recipe.added_fields(), **recipe.to_json()}
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


def _told(difference: Difference) -> str:
    values = [json.dumps(value) if not isinstance(value, str) else value for value in difference[1:]]
    if any(len(value) > _SHORT_VALUE for value in values):
        return difference.field
    return f"{difference.field} ({values[0]!s} here, {values[1]!s} there)"
