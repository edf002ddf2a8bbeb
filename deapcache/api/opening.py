"""Opening a cache of features by names, by path or by URL."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, cast

from deapcache import cache, locations
from deapcache.api.features import Features
from deapcache.api.places import Home, home_of
from deapcache.cache import find_one
from deapcache.cache.format import read_group
from deapcache.datasets import images_owner
from deapcache.errors import UsageError
from deapcache.locations import Location


def open_cache(
    place: str | os.PathLike[str] | Location | None = None,
    *,
    backbone: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    home: Home = None,
    **fields: Any,
) -> Features:
    """The features at ``place``, or those of a backbone over a split of a dataset.

    >>> open_cache("cache/features/scenes/val/siglip-384-0123456789ab.zarr")  # doctest: +SKIP
    >>> open_cache(backbone="siglip-384", dataset="scenes", split="val", storage="float16")  # doctest: +SKIP

    Parameters
    ----------
    place
        Path, URL or location of one cache; nothing else is given then.
    backbone, dataset, split
        Names, as ``deapcache cache ls`` shows them; a dataset that annotates another's images has these features.
    home
        Where to look: a path, a URL or what ``deapcache.home(…)`` gave, read-homes included.
    fields
        Recipe fields that tell caches of one name apart, such as ``storage="float16"`` or ``view="hflip"``.

    Raises
    ------
    CacheMissError
        Where there is none; says which fields of the nearest caches differ.
    AmbiguousCacheError
        Where several fit; lists them.
    UsageError
        Where it is not said which cache is meant, or where it holds no features.
    """
    names = {"backbone": backbone, "dataset": dataset, "split": split}
    if place is not None:
        _require_alone(place, {**names, "home": home, **fields})
        return open_features(place if isinstance(place, Location) else locations.locate(place))
    if missing := [name for name, value in names.items() if value is None]:
        raise UsageError(
            f"which cache? {', '.join(missing)} not given: open_cache(PATH), or open_cache(backbone=…, dataset=…, "
            "split=…); deapcache.list_caches(deapcache.home()) lists what there is"
        )
    searched = home_of(home)
    owner = images_owner(str(dataset))
    entry = find_one(searched, "features", dataset=owner, split=str(split), name=backbone, fields=fields)
    return open_features(entry.location, searched)


def open_features(location: Location, home: Location | None = None) -> Features:
    """The features at ``location``; ``home`` is where base images and targets are looked for, by default its own."""
    if (kind := read_group(location).kind) != "features":
        raise UsageError(
            f"{location} holds {kind}, no features: deapcache.cache.open_cache opens it, and a cache of features "
            "finds its own (torch_dataset, show)"
        )
    return cast(Features, cache.open_cache(location, features=functools.partial(Features, home=home)))


def _require_alone(place: object, others: Mapping[str, object]) -> None:
    if given := [name for name, value in others.items() if value is not None]:
        raise UsageError(f"{place} is one cache: {', '.join(given)} would choose another; give either")
