"""The part of an image that is seen, against exact fractions; images and maps of it, against slices."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from deapcache.annotations import resize_map
from deapcache.datasets import resize_image
from deapcache.regions import CROP, SQUASH, have_one_shape, seen_region

IMAGES = [(480, 640), (640, 480), (427, 640), (101, 99), (7, 300), (300, 7), (1, 1), (1, 9), (33, 34), (54, 72)]
SIZES = [(224, 224), (216, 288), (100, 130), (130, 100), (1, 64), (9, 5)]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("size", SIZES)
def test_a_crop_is_the_largest_centred_part_of_the_shape(image: tuple[int, int], size: tuple[int, int]) -> None:
    seen = seen_region(image, size, CROP)
    scale = min(Fraction(image[0], size[0]), Fraction(image[1], size[1]))
    for axis, (start, side) in enumerate([(seen.top, seen.height), (seen.left, seen.width)]):
        assert start >= 0
        assert side >= 1
        assert abs(max(size[axis] * scale, 1) - side) <= Fraction(1, 2)
        assert image[axis] - (start + side) - start in (0, 1), "the odd pixel is left out at the far end"
    assert seen.height == image[0] or seen.width == image[1]


def test_crops_by_hand() -> None:
    def of(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, ...]:
        seen = seen_region(image, size, CROP)
        return seen.top, seen.left, seen.height, seen.width

    assert of((480, 640), (224, 224)) == (0, 80, 480, 480)
    assert of((480, 640), (216, 288)) == (0, 0, 480, 640)
    assert of((5, 8), (1, 1)) == (0, 1, 5, 5)  # one column goes at the left, two at the right
    assert of((8, 5), (3, 2)) == (0, 0, 8, 5)  # 7.5 rows are 8
    assert of((9, 5), (3, 2)) == (0, 0, 8, 5)
    assert of((10, 4), (100, 130)) == (3, 0, 3, 4)  # 3.08 rows, seven are left out


@pytest.mark.parametrize("image", IMAGES)
def test_sizes_of_one_shape_see_the_same(image: tuple[int, int]) -> None:
    for small, large in [((5, 7), (100, 140)), ((3, 2), (999, 666)), ((1, 1), (518, 518))]:
        assert have_one_shape(small, large)
        assert seen_region(image, small, CROP) == seen_region(image, large, CROP)
    assert not have_one_shape((100, 130), (216, 288))


@pytest.mark.parametrize("image", IMAGES)
def test_squash_sees_all(image: tuple[int, int]) -> None:
    seen = seen_region(image, (100, 130), SQUASH)
    assert (seen.top, seen.left) == (0, 0)
    assert seen.covers(image)


@pytest.mark.parametrize("before", [(61, 90), (90, 61), (47, 48)])
@pytest.mark.parametrize("size", [(32, 32), (100, 130), (27, 36)])
def test_cropped_images_and_maps_are_resized_slices(before: tuple[int, int], size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*before, 3), dtype=np.uint8)
    values = generator.integers(-1, 2**30, before).astype(np.int32)
    height = min(before[0], int(np.floor(before[1] * size[0] / size[1] + 0.5)))
    width = min(before[1], int(np.floor(before[0] * size[1] / size[0] + 0.5)))
    top, left = (before[0] - height) // 2, (before[1] - width) // 2
    window = np.s_[top : top + height, left : left + width]

    pillow = Image.fromarray(np.ascontiguousarray(image[window])).resize(size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize_image(image, size, CROP), np.asarray(pillow))
    cut = values[window]
    rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
    np.testing.assert_array_equal(resize_map(values, size, CROP), cut[np.ix_(rows, columns)])
    stacked = resize_map(np.stack([values, values + 1], -1), size, CROP)
    np.testing.assert_array_equal(stacked[..., 1], cut[np.ix_(rows, columns)] + 1)


def test_what_is_cut_away_has_no_influence() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    other = image.copy()
    other[:, :10], other[:, 50:] = 255, 0
    np.testing.assert_array_equal(resize_image(image, (16, 16), CROP), resize_image(other, (16, 16), CROP))


def test_a_crop_of_the_images_own_shape_is_the_whole() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_image(image, (27, 36), CROP), resize_image(image, (27, 36)))
    np.testing.assert_array_equal(resize_map(image[..., 0], (27, 36), CROP), resize_map(image[..., 0], (27, 36)))
