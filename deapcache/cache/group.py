"""The root ``zarr.json`` of a cache: what it is, by recipe. A cache exists if and only if that key does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deapcache.cache.bounds import require_names, require_printable, whole_numbers
from deapcache.cache.layout import METADATA_KEY
from deapcache.errors import CacheMissError, CorruptCacheError, FormatVersionError
from deapcache.locations import Location
from deapcache.recipe import FeatureRecipe, ImageRecipe, Recipe, TargetRecipe

FORMAT = 1
"""Version of the layout; beside the recipe, so that a new layout makes no new identity."""

_RECIPES: dict[str, type[Recipe]] = {recipe.kind: recipe for recipe in (FeatureRecipe, ImageRecipe, TargetRecipe)}
_RESERVED = ("format", "kind", "digest", "arrays", "images", "recipe")


@dataclass(frozen=True, kw_only=True)
class Group:
    """The attributes of a cache, written once."""

    kind: str
    recipe: dict[str, Any]
    digest: str
    arrays: tuple[str, ...]
    """Names in the order in which a shard's arrays are published: the last one commits it."""
    images: int
    attributes: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The content of the root ``zarr.json``."""
        ours = {
            **self.attributes,
            "format": FORMAT,
            "kind": self.kind,
            "digest": self.digest,
            "arrays": list(self.arrays),
            "images": self.images,
            "recipe": self.recipe,
        }
        metadata = {"zarr_format": 3, "node_type": "group", "attributes": {"deapcache": ours}}
        return json.dumps(metadata, indent=2, allow_nan=False).encode()


def added_fields(kind: str) -> dict[str, Any]:
    """The recipe fields of a kind that earlier versions lacked, with what a recipe without them stands for."""
    return _RECIPES[kind].added_fields()


def new_group(recipe: Recipe, arrays: Sequence[str], images: int, attributes: Mapping[str, Any]) -> Group:
    """The group of a cache to be created."""
    return Group(
        kind=recipe.kind,
        recipe=recipe.to_json(),
        digest=recipe.digest,
        arrays=tuple(arrays),
        images=images,
        attributes=dict(attributes),
    )


def read_group(location: Location) -> Group:
    """The attributes of the cache at ``location``, checked against its digest.

    Raises :class:`CacheMissError` where there is none, :class:`FormatVersionError` for another version of the layout
    and :class:`CorruptCacheError` for anything that deapcache did not write so.
    """
    try:
        raw = location.read(METADATA_KEY)
    except (FileNotFoundError, NotADirectoryError):
        raise CacheMissError(
            f"there is no cache at {location}: {METADATA_KEY} is missing (`deapcache cache ls` shows what there is)"
        ) from None
    try:
        found = json.loads(raw)["attributes"]["deapcache"]
        require_printable(found)
        version = found["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(location, f"{type(error).__name__}: {error}") from None
    if type(version) is not int or version != FORMAT:  # True and 1.0 are no versions
        raise FormatVersionError(
            f"{location} has format version {version!r}, this deapcache reads version {FORMAT}: "
            "upgrade deapcache, or extract again into another home"
        )
    return _checked(location, found)


def _checked(location: Location, found: dict[str, Any]) -> Group:
    try:
        group = Group(
            kind=found["kind"],
            recipe=dict(found["recipe"]),
            digest=found["digest"],
            arrays=require_names(found["arrays"]),
            images=whole_numbers([found["images"]], "the number of images")[0],
            attributes={name: value for name, value in found.items() if name not in _RESERVED},
        )
        recipe = _RECIPES[group.kind]
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(location, f"{type(error).__name__}: {error}") from None
    try:
        digest = recipe.from_json(group.recipe).digest
    except CorruptCacheError as error:
        raise CorruptCacheError(f"{location}/{METADATA_KEY}: {error}") from None
    except (ValueError, TypeError, RecursionError) as error:  # NaN, or text that is no Unicode
        raise _foreign(location, f"{type(error).__name__}: {error}") from None
    if digest != group.digest:
        raise CorruptCacheError(
            f"{location}/{METADATA_KEY}: the recipe has the digest {digest}, but {group.digest} is written beside it: "
            "one of them was changed. Restore that file from a copy, or move the folder away and extract again"
        )
    return group


def _foreign(location: Location, reason: str) -> CorruptCacheError:
    return CorruptCacheError(
        f"{location}/{METADATA_KEY} is not what deapcache writes ({reason}). "
        "Restore it from a copy, or move the folder away and extract again"
    )
