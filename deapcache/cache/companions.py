"""Caches that belong together: features, the base images that they are from, and the targets of the same images."""

from __future__ import annotations

from typing import Any

from deapcache.cache.listing import CacheEntry, list_caches

_NATIVE = "native"


def companions(entry: CacheEntry) -> list[CacheEntry]:
    """The base images and targets in the same home that go with the features ``entry``, sorted by path.

    They have the same image set, in the same order, and are brought to the same size in the same way; of features of
    native images, targets of every size belong to it. [] for anything but features.
    """
    if entry.kind != "features":
        return []
    others = [*list_caches(entry.home, "images"), *list_caches(entry.home, "targets")]
    return [other for other in others if _belongs(entry.fields, other.fields)]


def _belongs(features: dict[str, Any], other: dict[str, Any]) -> bool:
    if other["images"] != features["images"] or other["fit"] != features["base_fit"]:
        return False
    return bool(features["base_size"] in (_NATIVE, "x".join(map(str, other["size"]))))
