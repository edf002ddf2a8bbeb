"""Targets and base images must show the same part of every image as the features that they stand beside."""

from __future__ import annotations

from typing import Any

from deapcache.cache import CacheEntry
from deapcache.errors import UsageError
from deapcache.regions import CROP, SQUASH, have_one_shape


def seen_alike(features: CacheEntry) -> dict[str, Any]:
    """Recipe fields of the targets and base images that show what ``features`` are of."""
    needed = {"images": features.recipe["images"], "fit": features.recipe["base_fit"]}
    size = _base_size(features)
    return {**needed, "size": list(size)} if size else needed


def require_same_region(features: CacheEntry, entry: CacheEntry) -> None:
    """Raise :class:`UsageError` where images were cropped to another shape for ``entry`` than for the features."""
    height, width = _base_size(features) or features.recipe["image_size"]
    size = entry.recipe["size"]
    if entry.recipe["fit"] == CROP and not have_one_shape((height, width), size):
        raise UsageError(
            f"{entry.path} shows images cropped to the shape of {size[0]}x{size[1]}, and {features.path} is of images "
            f"cropped to that of {height}x{width}: choose an output size of the features' shape, or extract with "
            f"--fit {SQUASH}"
        )


def fit_option(features: CacheEntry) -> str:
    """What a command that makes something beside ``features`` must say; empty for the default fit."""
    fit = features.recipe["base_fit"]
    return "" if fit == SQUASH else f" --fit {fit}"


def _base_size(features: CacheEntry) -> tuple[int, int] | None:
    """The size of the base images that the features were made from; ``None`` for images of native size."""
    height, by, width = str(features.recipe["base_size"]).partition("x")
    return (int(height), int(width)) if by else None
