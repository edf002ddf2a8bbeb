"""A label type of a plugin: cached as a target, resized, mirrored, painted and checked as the shipped ones are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from deapcache_plugins import forgotten_plugins, write_plugin
from deapcache_slopes import SLOPES

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
        file = write_plugin(tmp_path, SLOPES)
        plugins.use([file])
        yield file


def _expected(row: int, size: tuple[int, int]) -> np.ndarray:
    """The slopes of a scene at ``size``: nearest by the rule of depth maps."""
    down, right = np.gradient(np.log(Scenes().read_annotation("train", row, "depth")))
    return resize_map(np.stack([right, down], -1), size)


def test_of_a_plugin_it_is_extracted_and_mirrored(plugin: Path, home: LocalLocation) -> None:
    dataset = open_dataset("scene-slopes", Path())
    settings = ExtractionSettings(batch_size=4, base_size=(32, 48), views=("original", "hflip"))
    list(extract([BACKBONE], dataset, home, splits=["train"], settings=settings))
    cache = find_one(home, "targets", dataset="scene-slopes", split="train", name="slopes").open()
    assert cache.recipe["options"]["label_type"] == ANNOTATIONS.source("slopes") != ""
    (array,) = cache.arrays.values()
    assert (array.dtype, array.item_shape, array.dimensions) == ("float32", (32, 48, 2), ("row", "column", "channel"))
    found = cache.read([0, 2])
    for values, row in zip(found, (0, 2), strict=True):
        np.testing.assert_allclose(values, _expected(row, (32, 48)), atol=1e-6)
    turned = mirror("slopes", found)
    np.testing.assert_array_equal(turned, found[:, :, ::-1] * np.float32([-1, 1]))
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(mirror("slopes", torch.from_numpy(found)).numpy(), turned)
    assert get_annotation("slopes").paint(found[0]).shape == (32, 48, 3)
    assert {entry.fields["view"] for entry in list_caches(home, "features")} == {"original", "hflip"}


def test_its_images_are_checked_against_it(plugin: Path) -> None:
    check = SplitCheck(split="val")
    check_split(open_dataset("scene-slopes", Path()), check, full=True, progress=lambda *_: None)
    assert (check.images, check.opened, check.problems) == (3, 3, [])


def test_labels_of_another_shape_than_declared_are_refused(tmp_path: Path, home: LocalLocation) -> None:
    """NumPy would broadcast them into the shard."""
    with forgotten_plugins():
        plugins.use([write_plugin(tmp_path, SLOPES.replace("channels=2", "channels=3"))])
        settings = ExtractionSettings(batch_size=4, base_size=(32, 48))
        expected = (
            r"label type 'slopes': the labels of image train-\d+ have shape \(32, 48, 2\) .*expected \(32, 48, 3\)"
        )
        with pytest.raises(PluginError, match=expected):
            list(extract([BACKBONE], open_dataset("scene-slopes", Path()), home, splits=["train"], settings=settings))


def test_without_its_plugin_nothing_is_mirrored_wrongly() -> None:
    with (
        forgotten_plugins(),
        pytest.raises(UnknownNameError, match="unknown label type 'slopes': known"),
    ):
        mirror("slopes", np.zeros((1, 2, 3, 2), np.float32))


@pytest.mark.parametrize("shape", [(6, 9, 3), (6, 9, 2, 2)])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_what_belongs_to_a_pixel_stays_together(shape: tuple[int, ...], fit: str) -> None:
    values = np.random.default_rng(0).random(shape)
    resized = resize_map(values, (4, 5), fit)
    for place in np.ndindex(shape[2:]):
        np.testing.assert_array_equal(resized[..., *place], resize_map(values[..., *place], (4, 5), fit))
