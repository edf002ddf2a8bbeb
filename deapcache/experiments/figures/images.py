"""The base images that cached features are of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deapcache.cache import Cache, list_caches
from deapcache.errors import CacheMissError, UsageError
from deapcache.extraction import parse_base_size
from deapcache.locations import Location


def first_rows(cache: Cache, count: int) -> list[int]:
    """The first ``count`` rows of a cache; raises :class:`UsageError` for a count that is none."""
    if count < 1:
        raise UsageError(f"--images {count}: expected 1 or more")
    return list(range(min(count, len(cache))))


def base_images(home: Location, features: Cache, rows: Sequence[int]) -> np.ndarray:
    """(n, h, w, 3) uint8 RGB: what the rows of a cache of features show.

    Raises :class:`CacheMissError` where the home does not hold them.
    """
    recipe = features.recipe
    if recipe["base_size"] != "native":
        size = list(parse_base_size(recipe["base_size"]))
        wanted = (recipe["images"], recipe["base_fit"], size)
        for entry in list_caches(home, "images"):
            if (entry.recipe["images"], entry.recipe["fit"], list(entry.recipe["size"])) == wanted:
                return entry.open().read(rows)
    raise CacheMissError(
        f"{home} does not hold the base images of {features.location} (base size {recipe['base_size']}, fit "
        f"{recipe['base_fit']}), beside which its features are shown: deapcache extract --dataset NAME --backbone "
        f"{recipe['backbone']} keeps them, but for --base-size native"
    )
