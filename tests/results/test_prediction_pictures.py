"""Pictures of predictions show the image and each size, in colours that mean the same at all of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from deapcache.regions import Region
from deapcache.results.draw import draw_prediction
from deapcache.results.painters import DISTINCT
from deapcache.results.record import make_result

TASKS = {
    "probability": "boundaries",
    "classes": "segmentation",
    "depth": "depth",
    "boxes": "detection",
    "segments": "discrimination",
}
"""Kind of picture → a task that is drawn so."""

CLASSES = ("background", "chair", "table")
SIZES = ((20, 30), (64, 64), (400, 500))
IMAGE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def predictions(kind: str) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    if kind == "boxes":
        return [np.concatenate([generator.random((20, 5)) * 0.4, np.zeros((80, 5))]) for _ in SIZES]
    if kind == "classes":
        return [generator.integers(0, 3, size) for size in SIZES]
    shapes = [(32, *size) for size in SIZES] if kind == "segments" else SIZES
    return [generator.random(shape, np.float32) for shape in shapes]


def drawn(
    facts, kind: str, found: list[np.ndarray], sizes=SIZES, image: np.ndarray = IMAGE, seen: Region | None = None
) -> np.ndarray:
    result = make_result(facts(task=TASKS[kind], classes=CLASSES if kind == "classes" else ()))
    data = draw_prediction(result, "photo.jpg", image, found, sizes, seen=seen)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(pixels - np.round(np.multiply(to_rgb(colour), 255))).max(-1) <= 1


@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_is_drawn_at_every_size(facts, kind: str) -> None:
    pixels = drawn(facts, kind, predictions(kind))
    height, width, _ = pixels.shape
    # as many pixels as the largest prediction has along its longer side, in the shape of the image
    assert 375 < height < 375 + 150
    assert 4 * 500 < width < 4 * 500 + 280
    assert (pixels[:5] == 255).all()
    assert (pixels[:, -5:] == 255).all(), "something is cut at the right border"
    assert len(np.unique(pixels @ np.array([1, 256, 65536]))) > 1000


def test_panels_grow_with_the_largest_size_within_bounds(facts) -> None:
    def height(*sizes: tuple[int, int]) -> int:
        found = [np.zeros(size, np.float32) for size in sizes]
        return len(drawn(facts, "probability", found, sizes))

    assert height((8, 8)) == height((320, 320)) < height((320, 320), (640, 640)) < height((2000, 8))
    assert height((2000, 8)) == height((960, 960))


def test_a_very_long_image_leaves_room_for_titles(facts) -> None:
    pixels = drawn(facts, "probability", [np.zeros((8, 8))], ((8, 8),), np.zeros((20, 2000, 3), np.uint8))
    assert len(pixels) > 320 / 3


def test_a_class_has_one_colour_whatever_the_size(facts) -> None:
    found = [np.full(size, 1) for size in SIZES]
    found[0][:] = 2
    pixels = drawn(facts, "classes", found)
    table, chair = (near(pixels, colour).sum() for colour in (DISTINCT[1], DISTINCT[0]))
    assert table == pytest.approx(375 * 500, rel=0.02)
    assert chair == pytest.approx(2 * 375 * 500, rel=0.02)


def test_few_pixels_stay_sharp(facts) -> None:
    found = np.indices((4, 4)).sum(0) % 2
    pixels = drawn(facts, "classes", [found], ((4, 4),))
    black, chair = near(pixels, "#1F1F1F").sum(), near(pixels, DISTINCT[0]).sum()
    assert black + chair == pytest.approx(320 * 240, rel=0.03)


def test_a_crop_is_drawn_where_it_is_in_the_image(facts) -> None:
    seen = Region(top=0, left=100, height=300, width=200)  # the middle half
    found, image = np.ones((64, 64), int), np.full((300, 400, 3), 255, np.uint8)
    whole, cropped = (drawn(facts, "classes", [found], ((64, 64),), image, place) for place in (None, seen))
    chair, beside = near(cropped, DISTINCT[0]), near(cropped, "#BFBFBF")
    assert chair.sum() == pytest.approx(near(whole, DISTINCT[0]).sum() / 2, rel=0.05)
    left, right = np.flatnonzero(chair.sum(0) > 200)[[0, -1]]
    assert right - left == pytest.approx(160, abs=8)  # less the frame
    for start in (left - 60, right + 10):  # pale, without colour
        assert beside[len(beside) // 2, start : start + 50].all()
    assert near(whole, "#BFBFBF").sum() < 100  # of letters


def test_depth_and_boxes_survive_what_is_the_same_everywhere_and_what_is_empty(facts) -> None:
    drawn(facts, "depth", [np.full((8, 8), 2.0)], ((8, 8),))
    drawn(facts, "boxes", [np.zeros((100, 5), np.float32)], ((8, 8),))
    drawn(facts, "segments", [np.ones((32, 1, 1), np.float32)], ((1, 1),))
    drawn(facts, "boxes", [np.zeros((100, 5), np.float32)], ((8, 8),), seen=Region(top=9, left=0, height=2, width=400))
