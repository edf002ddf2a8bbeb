"""Pictures are whole PNG files that show what they should."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from deapcache.results import picture_key
from deapcache.results.draw import save_picture
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


def test_results_load_without_torch_or_matplotlib() -> None:
    code = "import sys, deapcache.results; print({'torch', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
