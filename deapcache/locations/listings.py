"""What an object store listed a moment ago."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

KEPT_SECONDS = 10.0
"""How long the keys that a store listed are taken for all there are; what this process writes ends it at once."""

_Key = tuple[str, str]

_lock = threading.Lock()
_kept: dict[_Key, tuple[float, list[str]]] = {}


def remembered_listing(key: _Key, listing: Callable[[], list[str]]) -> list[str]:
    """What ``listing`` gave within the last seconds, else what it gives now."""
    with _lock:
        known = _kept.get(key)
    if known and time.monotonic() - known[0] < KEPT_SECONDS:
        return list(known[1])
    found = listing()
    with _lock:
        _kept[key] = time.monotonic(), found
    return list(found)


def forget_listings() -> None:
    """Ask the stores again: something was written."""
    with _lock:
        _kept.clear()
