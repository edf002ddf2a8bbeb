"""Scaling of images and maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from deapcache.annotations import resize_map
from deapcache.datasets.io import resize_image

SIZES = [((7, 5), (3, 4)), ((5, 8), (16, 24)), ((480, 640), (224, 224)), ((1, 1), (3, 2)), ((6, 6), (6, 6))]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.int64])
def test_resize_map_takes_the_pixel_under_each_centre(
    before: tuple[int, int], after: tuple[int, int], dtype: type
) -> None:
    values = (np.arange(math.prod(before)).reshape(before) % 251 * 1).astype(dtype)
    resized = resize_map(values, after)
    assert resized.dtype == dtype
    expected = np.empty(after, dtype)
    for i in range(after[0]):
        for j in range(after[1]):
            expected[i, j] = values[
                (2 * i + 1) * before[0] // (2 * after[0]), (2 * j + 1) * before[1] // (2 * after[1])
            ]
    np.testing.assert_array_equal(resized, expected)


def test_resize_map_keeps_large_ids_and_signs() -> None:
    values = np.array([[2**30 + 1, -1], [2**30 + 3, 7]], np.int32)
    np.testing.assert_array_equal(resize_map(values, (4, 4))[::2, ::2], values)


def test_resize_image_is_pillows_bicubic() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((14, 21), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_image(image, (21, 14)), expected)


def test_resize_image_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = resize_image(stripes, (16, 16))
    assert np.abs(shrunk[:, 2:-2].astype(int) - 127).max() <= 3  # without antialiasing: all 0 or all 255
