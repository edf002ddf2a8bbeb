"""Extraction and a streamed probe take as much memory for 4 times the images: measured in processes of their own."""

from __future__ import annotations

import sys

import pytest
from deapcache_testing import require

from tests.benchmarks.bench_memory import Sizes, growth, measure

SIZES = Sizes(train=192, val=48, base=96, iterations=8, shard_bytes=40_000, times=(1, 4))
"""240 images fill all buffers that are read ahead into; 960 have 70 MiB of base images and targets."""


@pytest.fixture(scope="module")
def rows():
    """What the benchmark measures of few and small images."""
    require(sys.platform == "linux", "Linux, which tells a process's peak memory")
    return measure(SIZES, "extract", "probe")


@pytest.mark.parametrize("verb", ["extract", "probe"])
def test_peak_memory_does_not_grow_with_the_number_of_images(rows, verb) -> None:
    few, many = (row for row in rows if row.verb == verb)
    assert many.images == 4 * few.images
    assert many.data > 0.1 * many.peak, "too little data to show whether it is kept"
    assert growth(rows, verb) < 0.05
