"""COCO segmentations against pycocotools, and what it would let pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from deapcache.datasets.coco import decode_segmentation, uncompress_counts


def _random_mask(seed: int, size: tuple[int, int]) -> np.ndarray:
    generator = np.random.default_rng(seed)
    blobs = generator.random((size[0] // 5 + 1, size[1] // 7 + 1)) < 0.4
    return np.kron(blobs, np.ones((5, 7), bool))[: size[0], : size[1]]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(23, 40), (120, 77)])
def test_run_lengths_plain_and_compressed(seed: int, size: tuple[int, int]) -> None:
    mask = _random_mask(seed, size)
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(decode_segmentation({"size": list(size), "counts": compressed}, size), mask)
    plain = uncompress_counts(compressed)
    assert sum(plain) == mask.size
    np.testing.assert_array_equal(decode_segmentation({"size": list(size), "counts": plain}, size), mask)


@pytest.mark.parametrize("value", [0, 1])
def test_uniform_masks(value: int) -> None:
    mask = np.full((30, 50), value, np.uint8, order="F")
    compressed = coco_mask.encode(mask)["counts"].decode()
    np.testing.assert_array_equal(decode_segmentation({"size": [30, 50], "counts": compressed}, (30, 50)), mask)


def test_polygons_beyond_the_border_are_clipped() -> None:
    mask = decode_segmentation([[-10.0, -10.0, 5.0, -10.0, 5.0, 5.0, -10.0, 5.0]], (20, 20))
    assert mask[:5, :5].all()
    assert not mask[6:].any()
    assert not mask[:, 6:].any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "no polygon"),
        ([[1, 1, 5, 5]], "three or more points"),
        ([[1, 1, 5, 5, 3]], "three or more points"),
        ([[1, 1, 5, 5, 3, float("nan")]], "not finite"),
        ([[1, 1, 5, 5, 3, 1e12]], "far outside"),
        ([["a", 1, 5, 5, 3, 1]], "not a list of numbers"),
        ([[[1, 1], [5, 5], [3, 1]]], "three or more points"),
        (None, "neither"),
        ({"counts": [100]}, "neither"),
        ({"size": [10, 10], "counts": [60, 30]}, "do not add up"),
        ({"size": [10, 10], "counts": [60, 50]}, "do not add up"),
        ({"size": [10, 10], "counts": [120, -20]}, "do not add up"),
        ({"size": [10, 10], "counts": ""}, "do not add up"),
        ({"size": [10, 10], "counts": "0z0é"}, "do not add up"),
        ({"size": [20, 5], "counts": [100]}, "size"),
    ],
)
def test_unusable_segmentations(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_segmentation(segmentation, (10, 10))
