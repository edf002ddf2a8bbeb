"""Sources of images travel to workers by where the images lie, and open nothing on the way."""

from __future__ import annotations

import pickle

import numpy as np

from deapcache.cache import list_caches
from deapcache.datasets import open_dataset
from deapcache.extraction import CachedImages, ExtractionSettings, prepare_split
from deapcache.extraction.pipeline import NativeImages, in_view

ROWS = [2, 0]


def test_a_source_reads_the_same_images_in_another_process(make_coco, home) -> None:
    dataset = open_dataset("coco", make_coco(3, 1))
    prepare_split(dataset, "train", home, ExtractionSettings(base_size=(32, 40)), annotations=())
    (entry,) = list_caches(home, "images")
    cached, native = CachedImages(entry.open()), NativeImages(dataset, "train", (32, 40), "squash")
    expected = entry.open().read(ROWS)
    for source in (cached, native):
        for view, images in (("original", expected), ("hflip", expected[:, :, ::-1])):
            travelled = pickle.loads(pickle.dumps(in_view(source, view)))
            np.testing.assert_array_equal(travelled.request(ROWS).result(), images)


def test_unpickling_opens_no_cache(make_coco, home) -> None:
    """Dask's scheduler unpickles tasks too, and may not reach the home."""
    dataset = open_dataset("coco", make_coco(3, 1))
    prepare_split(dataset, "train", home, ExtractionSettings(base_size=(32, 40)), annotations=())
    (entry,) = list_caches(home, "images")
    sent = pickle.dumps(CachedImages(entry.open()))
    home.path.rename(home.path.with_name("elsewhere"))
    assert isinstance(pickle.loads(sent), CachedImages)
