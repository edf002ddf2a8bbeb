"""Rendered scenes: the same always, exact, and varied enough to learn from."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.scenes import CLASSES, SIZE, Scene, Scenes
from deapcache.errors import UsageError

KINDS = ("instances", "classes", "depth")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes()


def _maps(scenes: Scenes, split: str, row: int) -> tuple[np.ndarray, ...]:
    return tuple(scenes.read_annotation(split, row, kind) for kind in KINDS)


def _points(scene: Scene, depth: np.ndarray) -> np.ndarray:
    """(h, w, 3) places in the room that pixels with this depth along the camera's axis show."""
    rows, columns = np.indices(depth.shape)
    focal = scene.camera.focal * depth.shape[1]
    x = (columns + 0.5 - depth.shape[1] / 2) / focal * depth
    y = (rows + 0.5 - depth.shape[0] / 2) / focal * depth
    return scene.camera.position + np.stack([x, y, depth], axis=-1) @ scene.camera.rotation.T


def test_rows_do_not_depend_on_what_was_rendered_before(scenes: Scenes) -> None:
    first = scenes.read_image("val", 3)
    scenes.read_image("val", 4)
    np.testing.assert_array_equal(Scenes().read_image("val", 3), first)
    assert (scenes.read_image("train", 3) != first).mean() > 0.5


def test_another_process_renders_the_same_bytes(scenes: Scenes) -> None:
    code = (
        "import hashlib; from deapcache.datasets.scenes import Scenes; s = Scenes(); "
        "print(hashlib.sha256(s.read_image('train', 5).tobytes() + s.read_annotation('train', 5, 'depth').tobytes())"
        ".hexdigest())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = scenes.read_image("train", 5).tobytes() + scenes.read_annotation("train", 5, "depth").tobytes()
    assert found == hashlib.sha256(here).hexdigest()


def test_shapes_and_types(scenes: Scenes) -> None:
    image = scenes.read_image("train", 0)
    assert (image.dtype, image.shape) == (np.uint8, (*SIZE, 3))
    dtypes = [array.dtype for array in _maps(scenes, "train", 0)]
    assert dtypes == [np.int32, np.uint8, np.float32]


@pytest.mark.parametrize("row", [0, 7, 21, 40])
def test_annotations_agree_with_each_other_and_the_geometry(scenes: Scenes, row: int) -> None:
    instances, classes, depth = _maps(scenes, "val", row)
    scene = scenes.scene("val", row)
    assert sorted(np.unique(instances)) == list(range(instances.max() + 1))
    for number in range(1, instances.max() + 1):
        assert len(np.unique(classes[instances == number])) == 1
    np.testing.assert_array_equal(instances > 0, classes >= CLASSES.index("box"))
    points = _points(scene, depth)
    floor = classes == CLASSES.index("floor")
    assert floor.any()
    np.testing.assert_allclose(points[floor][:, 2], 0.0, atol=1e-5)
    np.testing.assert_allclose(points[classes == CLASSES.index("ceiling")][:, 2], scene.room[2], atol=1e-5)
    walls = points[classes == CLASSES.index("wall")][:, :2]
    to_walls = np.abs(np.stack([walls, np.array(scene.room[:2]) - walls]))
    assert not len(walls) or to_walls.min(axis=(0, 2)).max() < 1e-5
    assert depth.min() > 0.1
    assert points[..., 2].min() > -1e-5


def test_every_object_pixel_lies_on_an_object_of_its_class(scenes: Scenes) -> None:
    """Against each body's bounding box, in its own frame, which the tracer does not use."""
    for row in range(12):
        instances, classes, depth = _maps(scenes, "val", row)
        scene = scenes.scene("val", row)
        points = _points(scene, depth)
        for number in range(1, instances.max() + 1):
            here = instances == number
            bodies = [b for b in scene.bodies if b.shape == CLASSES[classes[here][0]]]
            inside = [
                (np.abs((points[here] - b.centre) @ b.rotation) <= np.array(b.solid.extent) + 1e-5) for b in bodies
            ]
            assert any(box.all() for box in inside)


def test_scenes_are_worth_learning_from(scenes: Scenes) -> None:
    counts, coverage, seen = [], [], np.zeros(len(CLASSES))
    for row in range(60):
        instances, classes, _ = _maps(scenes, "val", row)
        shares = np.bincount(instances.ravel(), minlength=2)[1:] / instances.size
        counts.append((shares > 0.003).sum())
        coverage.append(shares.sum())
        seen[np.unique(classes)] += 1
    assert min(counts) >= 3
    assert max(counts) <= 10
    assert 4 <= np.mean(counts) <= 8
    assert 0.2 <= np.mean(coverage) <= 0.45
    assert (seen[3:] >= 20).all()
    assert (seen[:2] >= 50).all()
    assert seen[2] >= 1


def test_bodies_do_not_share_space_and_stand_on_something(scenes: Scenes) -> None:
    for row in range(20):
        bodies = scenes.scene("train", row).bodies
        for index, body in enumerate(bodies):
            bottom = body.centre[2] - body.half_height
            tops = [other.centre[2] + other.half_height for other in bodies[:index]]
            assert min(abs(bottom - height) for height in [0.0, *tops]) < 1e-9
            for other in bodies[:index]:
                apart = np.hypot(*(body.centre - other.centre)[:2]) >= 0.999 * (body.footprint + other.footprint)
                assert apart or bottom >= other.centre[2] + other.half_height - 1e-9


def test_pictures_are_well_exposed_and_show_their_objects(scenes: Scenes) -> None:
    brightness, contrast = [], []
    for row in range(8):
        image = scenes.read_image("train", row).astype(float).mean(axis=2)
        instances = scenes.read_annotation("train", row, "instances")
        border = np.abs(np.diff(instances, axis=1)) > 0
        steps = np.abs(np.diff(image, axis=1))
        brightness.append(image.mean())
        contrast.append(steps[border].mean() / steps[~border].mean())
    assert 60 < np.mean(brightness) < 190
    assert np.mean(contrast) > 3


def test_digests_name_every_row_once(scenes: Scenes) -> None:
    train, val = scenes.image_digests("train"), scenes.image_digests("val")
    assert (len(train), len(val)) == (240, 60)
    assert len({*train, *val}) == 300
    assert scenes.annotation_digest("val", "depth") != scenes.annotation_digest("val", "classes")
    assert scenes.annotation_digest("val", "depth") != scenes.annotation_digest("train", "depth")


def test_registered(tmp_path: Path) -> None:
    dataset = open_dataset("scenes", tmp_path / "nowhere")
    assert dataset.image_ids("val")[:2] == ("val-00000", "val-00001")
    assert DATASETS.get("scenes").status(tmp_path)["train"].is_usable
    with pytest.raises(IndexError):
        dataset.read_image("val", 60)
    with pytest.raises(UsageError, match="no split"):
        dataset.image_ids("test")
