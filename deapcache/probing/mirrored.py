"""The features of mirror images that a probe draws from beside the original ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deapcache.cache import HFLIP, ORIGINAL, CacheEntry, find_caches
from deapcache.errors import CacheMissError, UsageError
from deapcache.recipe import FeatureRecipe, differences

if TYPE_CHECKING:
    from deapcache.probing.sources import Request

_OPTIONS = {"base_size": "--base-size", "storage": "--dtype", "precision": "--precision"}
"""Recipe field → the option of ``deapcache extract`` that sets it."""


def require_original(fields: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` where the recipe fields that features must have are those of another view."""
    asked = fields.get("view", ORIGINAL)
    if asked != ORIGINAL:
        raise UsageError(
            f"view={asked} cannot choose the features of a probe: scores are of original images. To train on mirrored "
            f"ones as well, ask for the views {ORIGINAL},{HFLIP} (--views)"
        )


def find_mirrored(request: Request, features: CacheEntry) -> CacheEntry:
    """The cache that differs from ``features``, those of original images, in its view and in nothing else.

    Raises :class:`CacheMissError` with the command that makes it.
    """
    digest = FeatureRecipe.from_json({**features.recipe, "view": HFLIP}).digest
    there = find_caches(
        request.home,
        features.kind,
        dataset=features.dataset,
        split=features.split,
        name=features.name,
        fields={"view": HFLIP},
    )
    for entry in there:
        if entry.digest == digest:
            return entry
    raise _missing(request, features, there)


def mirror_command(request: Request, features: CacheEntry) -> str:
    """What makes the mirror images' features as ``features`` were made, and goes on where it stopped."""
    settings = [f"{option} {features.recipe[field]}" for field, option in _OPTIONS.items()]
    return " ".join([request.extract_command, f"--split {features.split} --views {HFLIP}", *settings])


def _missing(request: Request, features: CacheEntry, there: list[CacheEntry]) -> CacheMissError:
    wanted = {**features.fields, "view": HFLIP}
    near = [(entry.path, ", ".join(d.field for d in differences(wanted, entry.fields))) for entry in there]
    lines = [
        f"{request.home} has no features of {features.name} of the mirrored images of {features.dataset} "
        f"{features.split} that were made as {features.path} was.",
        *(f"  near: {path}, which differs in {fields}" for path, fields in near),
        f"`{mirror_command(request, features)}` makes them",
    ]
    return CacheMissError("\n".join(lines))
