"""What the tests of hostile caches share: changing what a cache says of itself, and being refused everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deapcache_caches import served

from deapcache.cache import FeatureCache, open_cache
from deapcache.errors import CorruptCacheError
from deapcache.locations import Location, locate

SEEN = "CorruptCacheError: which file, what it claims, what is possible"
Change = Callable[[dict[str, Any]], object]


def edit(cache: FeatureCache, name: str, change: Change) -> None:
    """Change a JSON file of a local cache."""
    path = cache.location.path / name
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def require_refused(cache: FeatureCache, tmp_path: Path, match: str) -> None:
    """On disk and over HTTP alike: opening, reading or asking for ids is one error."""
    # The folder above makes the address one of its own: another test's server may have had the same port, and what a
    # pool remembers of an address is looked at again only as far as servers say when a file was changed.
    with served(tmp_path.parent) as (url, _):
        for place in (cache.location, locate(f"{url}/{cache.location.path.relative_to(tmp_path.parent)}")):
            with pytest.raises(CorruptCacheError, match=match):
                _use(place)


def _use(place: Location) -> None:
    cache = open_cache(place)
    cache.read([0, 4])
    pytest.fail(f"{place} gives {len(cache.image_ids)} ids and volumes")
