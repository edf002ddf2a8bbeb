"""The order of training images, whose first N are a seeded sample."""

from __future__ import annotations

import hashlib

import numpy as np

from deapcache.datasets.base import sample_order


def test_is_fixed_and_does_not_depend_on_other_ids() -> None:
    ids = [f"{k:012d}" for k in range(200)]
    ordered = sample_order(ids)
    assert ordered == sorted(ids, key=lambda name: hashlib.sha256(b"0:" + name.encode()).hexdigest())
    assert sample_order(reversed(ids)) == ordered
    assert sample_order(ids[:50]) == [name for name in ordered if name in ids[:50]]


def test_the_first_images_are_spread_over_all() -> None:
    places = [int(name) for name in sample_order(f"{k:012d}" for k in range(10_000))[:1000]]
    counts = np.histogram(places, bins=10, range=(0, 10_000))[0]
    assert counts.min() > 60
    assert counts.max() < 140
