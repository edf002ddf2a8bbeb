"""Pictures of runs and of predictions are whole PNG files that show what they should."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from deapcache.regions import Region
from deapcache.results import picture_key
from deapcache.results.draw import draw_prediction, save_picture
from deapcache.results.painters import DISTINCT, OTHER, class_colours
from deapcache.results.record import make_result

CLASSES = ("background", "chair", "table")


def _examples(annotation: str, count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (count, 32, 48)
    images = generator.integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)
    if annotation == "depth":
        targets = generator.uniform(1, 8, shape).astype(np.float32) * (generator.random(shape) > 0.1)
        return {"images": images, "targets": targets, "predictions": generator.uniform(1, 8, shape)}
    if annotation == "classes":
        maps = generator.integers(0, 3, (2, *shape))
        maps[0, :, :4] = 255
        return {"images": images, "targets": maps[0], "predictions": maps[1]}
    if annotation == "boxes":
        boxes = generator.random((2, count, 20, 5))
        boxes[..., 2:4] *= 0.4
        boxes[0, ..., 4] = generator.choice([0, 1, 1, 2], (count, 20))
        return {"images": images, "targets": boxes[0], "predictions": boxes[1]}
    if annotation == "segments":
        targets = generator.integers(-1, 4, shape)
        return {"images": images, "targets": targets, "predictions": generator.integers(1, 4, shape) * (targets > 0)}
    targets = generator.choice([0, 1, 255], shape).astype(np.uint8)
    return {"images": images, "targets": targets, "predictions": generator.random(shape)}


def _drawn(home, result, **examples) -> np.ndarray:
    key = save_picture(home, result, **examples)
    assert key == picture_key(result.run) == f"results/{result.run}.png"
    return np.asarray(Image.open(io.BytesIO(home.read(key))).convert("RGB"))


@pytest.mark.parametrize(
    ("task", "annotation"),
    [
        ("boundaries", "instances"),
        ("segmentation", "classes"),
        ("depth", "depth"),
        ("detection", "boxes"),
        ("discrimination", "segments"),
    ],
)
def test_picture_of_each_kind_of_task(home, facts, task, annotation) -> None:
    result = make_result(facts(task=task, classes=CLASSES if annotation == "classes" else ()))
    pixels = _drawn(home, result, **_examples(annotation, 2))
    height, width, _ = pixels.shape
    assert 300 < height < 1200
    assert 800 < width < 1600
    assert len(np.unique(pixels @ np.array([1, 256, 65536]))) > 1000
    assert (pixels[:5] == 255).all()
    assert (pixels[:, -5:] == 255).all(), "something is cut at the right border"


def test_picture_grows_with_images_and_heads(home, facts) -> None:
    with_heads, without = (make_result(facts(sigma=sigma)) for sigma in ((0.1, 0.2), None))
    tall = _drawn(home, with_heads, **_examples("instances", 6))
    assert len(tall) > len(_drawn(home, without, **_examples("instances", 6)))
    assert len(tall) > len(_drawn(home, with_heads, **_examples("instances", 3)))


def test_images_may_be_missing_and_ids_shown(home, facts) -> None:
    examples = _examples("instances", 2)
    wide = _drawn(home, make_result(facts()), **examples, image_ids=("1", "a" * 200))
    assert _drawn(home, make_result(facts()), **{**examples, "images": None}).shape[1] < wide.shape[1] - 200


def test_target_and_prediction_are_painted_in_the_class_colours(home, facts) -> None:
    examples = _examples("classes", 1)
    examples["targets"] = np.full((1, 32, 48), 1)
    examples["predictions"] = np.full((1, 32, 48), 2)
    pixels = _drawn(home, make_result(facts(task="segmentation", classes=CLASSES)), **examples)
    colours = class_colours([examples["targets"], examples["predictions"]], CLASSES)
    for colour in colours.values():
        wanted = np.round(np.multiply(to_rgb(colour), 255))
        assert (np.abs(pixels - wanted).max(-1) <= 1).sum() > 20_000


def test_frequent_classes_get_colours_of_their_own() -> None:
    count = len(DISTINCT) + 3
    values = np.repeat(np.arange(count), np.arange(count, 0, -1))
    colours = class_colours([np.append(values, 255)], [str(i) for i in range(count)])
    assert [colours[i] for i in range(len(DISTINCT))] == list(DISTINCT)
    assert [colours[i] for i in range(len(DISTINCT), count)] == [OTHER] * 3
    assert 255 not in colours


TASKS = {
    "probability": "boundaries",
    "classes": "segmentation",
    "depth": "depth",
    "boxes": "detection",
    "segments": "discrimination",
}
"""Kind of picture → a task that is drawn so."""

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
