"""A fixed, shuffled order, so that the first N images of a split are a random sample of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SUBSET_SEED = 0


def sample_order(ids: Iterable[str]) -> list[str]:
    """The ids by ascending sha256 of ``"SEED:id"``, which no other id has a part in.

    The first 8,000 and the first 100,000 of them are seeded random choices, the smaller one within the larger, that
    everybody gets alike and that stay as they are when images are added elsewhere; in a cache they are its first rows,
    so that a subset costs a subset's shards.
    """
    return sorted(ids, key=sample_key)


def sample_key(name: str) -> tuple[bytes, str]:
    """Where an id stands in :func:`sample_order`."""
    return hashlib.sha256(f"{SUBSET_SEED}:{name}".encode()).digest(), name
