"""Features as dask array and as picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from deapcache_caches import feature_cache, fill, volumes
from deapcache_toys import add_features
from matplotlib.figure import Figure
from PIL import Image

import deapcache
from deapcache.cache import ArraySpec, create_cache, images_path
from deapcache.errors import IncompleteCacheError, UsageError
from deapcache.locations import LocalLocation
from deapcache.recipe import ImageRecipe


def _opened(home: LocalLocation) -> deapcache.Features:
    (entry,) = deapcache.list_caches(home, "features")
    return deapcache.open_cache(entry.location)


def test_dask_reads_nothing_until_asked_and_has_a_chunk_a_shard(home: LocalLocation) -> None:
    fill(feature_cache(home))
    cache = _opened(home)
    array = cache.dask()
    assert array.shape == (130, 3, 4, 8)
    assert array.dtype == np.float32
    assert array.chunks == ((3,) * 43 + (1,), (3,), (4,), (8,))
    stored = volumes(range(130)).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(array.compute(scheduler="synchronous"), stored)
    some = array[10:20].mean(axis=(0, 1, 2)).compute(scheduler="threads")
    np.testing.assert_allclose(some, stored[10:20].mean(axis=(0, 1, 2)), rtol=1e-5)


def test_missing_images_are_an_error_unless_those_there_are_meant(home: LocalLocation) -> None:
    fill(feature_cache(home), [0, 2, 43])
    cache = _opened(home)
    with pytest.raises(IncompleteCacheError, match=r"lacks 123 of 130 images: .*present_only=True"):
        cache.dask()
    with pytest.raises(IncompleteCacheError, match="lacks 123"):
        cache.torch_dataset()
    assert cache.present_rows() == [0, 1, 2, 6, 7, 8, 129]
    found = cache.dask(present_only=True).compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, volumes(cache.present_rows()).astype(np.float16))
    dataset = cache.torch_dataset(present_only=True)
    np.testing.assert_array_equal(dataset[6], volumes([129])[0].astype(np.float16))


def _base_images(home: LocalLocation, count: int) -> np.ndarray:
    """Base images that go with the toy's features: the left half black, the right half coloured by row."""
    recipe = ImageRecipe(size=(56, 56), fit="squash", interpolation="bicubic", colour="rgb", images="images of val")
    images = np.zeros((count, 56, 56, 3), np.uint8)
    images[:, :, 28:] = 20 * np.arange(count, dtype=np.uint8)[:, None, None, None]
    cache = create_cache(
        home,
        images_path("toys", "val", recipe.digest),
        recipe=recipe,
        arrays=[
            ArraySpec(name="images", dtype="uint8", item_shape=(56, 56, 3), dimensions=("row", "column", "channel"))
        ],
        image_ids=[f"val-{i}" for i in range(count)],
    )
    for k in range(cache.shard_count):
        rows = cache.shard_rows(k)
        cache.write_shard(k, {"images": images[rows.start : rows.stop]})
    return images


@pytest.mark.parametrize("view", ["original", "hflip"])
def test_a_figure_shows_image_and_colours_of_those_asked_for(home: LocalLocation, view: str) -> None:
    add_features(home, "val", view=view)
    images = _base_images(home, 12)
    figure = _opened(home).show("val-7", "val-2")
    assert isinstance(figure, Figure)
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    wanted = images[[7, 2], :, ::-1] if view == "hflip" else images[[7, 2]]
    np.testing.assert_array_equal(shown[0::2], wanted)
    assert [colours.shape for colours in shown[1::2]] == [(7, 7, 3)] * 2
    assert [axis.get_title(loc="left") for axis in figure.axes[0::2]] == ["val-7", "val-2"]
    with Image.open(io.BytesIO(figure._repr_png_())) as picture:  # what a notebook shows without pyplot
        assert picture.format == "PNG"


def test_without_base_images_the_colours_are_shown_alone(home: LocalLocation) -> None:
    add_features(home, "val")
    assert len(_opened(home).show("val-0").axes) == 1


def test_an_unknown_image_is_told_with_those_that_are_near(home: LocalLocation) -> None:
    add_features(home, "val")
    with pytest.raises(UsageError, match=r"has no image 'val-77': ids are such as val-7"):
        _opened(home).show("val-77")
