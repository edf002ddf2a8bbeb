"""Mirroring reverses the width of whatever belongs to an image, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from deapcache.annotations import box_table, boxes_of_map, pad_table
from deapcache.cache import VIEWS, check_views, mirror, name_view
from deapcache.errors import UsageError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("images", RNG.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)),
        ("instances", RNG.integers(-1, 9, (3, 4, 5), dtype=np.int32)),
        ("classes", RNG.integers(0, 256, (3, 4, 6), dtype=np.int16)),
        ("depth", RNG.random((3, 4, 5), dtype=np.float32)),
    ],
)
def test_images_and_maps_are_reversed_along_their_width(kind, values) -> None:
    before, found = values.copy(), mirror(kind, values)
    expected = values[:, :, ::-1, :] if kind == "images" else values[..., ::-1]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == values.dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(mirror(kind, found), values)
    np.testing.assert_array_equal(values, before)


def test_boxes_are_those_of_the_mirrored_image() -> None:
    """The reference: mirror the instance map itself, and take the boxes of that."""
    instances = np.zeros((20, 31), dtype=np.int32)
    instances[2:9, 3:10], instances[5:18, 8:30], instances[0, 0] = 1, 2, 3
    classes = instances % 7
    tables = np.stack([pad_table(boxes_of_map(instances, classes), 6), pad_table(box_table((40, 50), []), 6)])
    found = mirror("boxes", tables)
    expected = pad_table(boxes_of_map(instances[:, ::-1], classes[:, ::-1]), 6)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], tables[1])  # no box: the image alone, and rows of zeros
    np.testing.assert_array_equal(mirror("boxes", found), tables)


def test_boxes_with_fractions_and_beyond_the_border_come_back() -> None:
    tables = pad_table(box_table((480, 640), [(0.37, 1.5, 639.63, 10, 9.5, 1, 3), (-2.25, 0, 700.1, 5, 1, 2, 1)]), 4)[
        None
    ]
    found = mirror("boxes", tables)
    np.testing.assert_allclose(found[0, 1:3, 0], [640 - 0.37 - 639.63, 640 + 2.25 - 700.1], atol=1e-9)
    np.testing.assert_array_equal(found[..., 1:], tables[..., 1:])
    np.testing.assert_allclose(mirror("boxes", found), tables, rtol=0, atol=1e-9)


def test_boxes_of_a_part_of_the_image_are_mirrored_about_its_middle() -> None:
    """As fractions of that part, which is the first row: x becomes 1 - x - width."""
    tables = np.zeros((1, 3, 7))
    tables[0, 0], tables[0, 1] = (80, 10, 480, 480, 480 * 480, 3, 0), (90, 20, 100, 50, 400, 1, 2)
    found = mirror("boxes", tables)[0]
    np.testing.assert_array_equal(found[0], tables[0, 0])
    np.testing.assert_allclose((found[1, 0] - 80) / 480, 1 - (90 - 80) / 480 - 100 / 480)
    np.testing.assert_array_equal(found[:, 1:], tables[0, :, 1:])


def test_views_are_named_once_in_one_order() -> None:
    assert check_views(["hflip", "original", "hflip"]) == VIEWS == ("original", "hflip")
    assert (name_view("train", "original"), name_view("train", "hflip")) == ("train", "train · hflip")
    with pytest.raises(UsageError, match="unknown view 'vflip': choose among original, hflip"):
        check_views(["original", "vflip"])
    with pytest.raises(UsageError, match="no view is given"):
        check_views([])
