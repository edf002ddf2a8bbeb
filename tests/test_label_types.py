"""A label type of a plugin: cached as a target, resized, mirrored, painted and checked as the shipped ones are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from deapcache_normals import NORMALS
from deapcache_plugins import forgotten_plugins, write_plugin

from deapcache import plugins
from deapcache.annotations import ANNOTATIONS, get_annotation, mirror, resize_map
from deapcache.cache import find_one, list_caches
from deapcache.datasets import open_dataset
from deapcache.datasets.checking import SplitCheck, check_split
from deapcache.datasets.scenes import Scenes
from deapcache.errors import PluginError, UnknownNameError
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16@untrained"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    with forgotten_plugins():
        file = write_plugin(tmp_path, NORMALS)
        plugins.use([file])
        yield file


def _expected(row: int, size: tuple[int, int]) -> np.ndarray:
    """The normals of a scene at ``size``: nearest by the rule of depth maps."""
    depth = Scenes().read_annotation("train", row, "depth")
    down, right = np.gradient(depth)
    normals = np.stack([-right, -down, np.full_like(depth, 0.01)])
    return resize_map(np.moveaxis(normals / np.linalg.norm(normals, axis=0), 0, -1), size)


def test_of_a_plugin_it_is_extracted_and_mirrored(plugin: Path, home: LocalLocation) -> None:
    dataset = open_dataset("scene-normals", Path())
    settings = ExtractionSettings(batch_size=4, base_size=(32, 48), views=("original", "hflip"))
    list(extract([BACKBONE], dataset, home, splits=["train"], settings=settings))
    cache = find_one(home, "targets", dataset="scene-normals", split="train", name="normals").open()
    assert cache.recipe["options"]["label_type"] == ANNOTATIONS.source("normals") != ""
    (array,) = cache.arrays.values()
    assert (array.dtype, array.item_shape, array.dimensions) == ("float32", (32, 48, 3), ("row", "column", "channel"))
    found = cache.read([0, 2])
    for values, row in zip(found, (0, 2), strict=True):
        np.testing.assert_allclose(values, _expected(row, (32, 48)), atol=1e-6)
    turned = mirror("normals", found)
    np.testing.assert_array_equal(turned, found[:, :, ::-1] * np.float32([-1, 1, 1]))
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(mirror("normals", torch.from_numpy(found)).numpy(), turned)
    assert get_annotation("normals").paint(found[0]).shape == (32, 48, 3)
    assert {entry.fields["view"] for entry in list_caches(home, "features")} == {"original", "hflip"}


def test_its_images_are_checked_against_it(plugin: Path) -> None:
    check = SplitCheck(split="val")
    check_split(open_dataset("scene-normals", Path()), check, full=True, progress=lambda *_: None)
    assert (check.images, check.opened, check.problems) == (3, 3, [])


def test_labels_of_another_shape_than_declared_are_refused(tmp_path: Path, home: LocalLocation) -> None:
    """NumPy would broadcast them into the shard."""
    with forgotten_plugins():
        plugins.use(
            [
                write_plugin(
                    tmp_path,
                    NORMALS.replace("return nearest /", "return (nearest /").replace(
                        "keepdims=True)\n\n\ndef mirror", "keepdims=True))[:1]\n\n\ndef mirror"
                    ),
                )
            ]
        )
        settings = ExtractionSettings(batch_size=4, base_size=(32, 48))
        expected = (
            r"label type 'normals': the labels of image train-\d+ have shape \(1, 48, 3\) .*expected \(32, 48, 3\)"
        )
        with pytest.raises(PluginError, match=expected):
            list(extract([BACKBONE], open_dataset("scene-normals", Path()), home, splits=["train"], settings=settings))


def test_without_its_plugin_nothing_is_mirrored_wrongly() -> None:
    with (
        forgotten_plugins(),
        pytest.raises(UnknownNameError, match="unknown label type 'normals': known"),
    ):
        mirror("normals", np.zeros((1, 2, 3, 3), np.float32))


@pytest.mark.parametrize("shape", [(6, 9, 3), (6, 9, 2, 2)])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_what_belongs_to_a_pixel_stays_together(shape: tuple[int, ...], fit: str) -> None:
    values = np.random.default_rng(0).random(shape)
    resized = resize_map(values, (4, 5), fit)
    for place in np.ndindex(shape[2:]):
        np.testing.assert_array_equal(resized[..., *place], resize_map(values[..., *place], (4, 5), fit))
