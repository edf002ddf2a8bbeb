"""Any dataset less some of its images, also one that knows nothing of leaving out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from deapcache.datasets import Dataset
from deapcache.datasets.scenes import Scenes
from deapcache.errors import UsageError

GONE = {"val-00000": "dull", "val-00002": "dark"}


@pytest.fixture
def rest() -> Dataset:
    return Scenes().without({"val": GONE})


def test_the_others_move_up(rest: Dataset) -> None:
    whole = Scenes()
    kept = [row for row in range(60) if row not in (0, 2)]
    assert rest.image_ids("val") == tuple(whole.image_ids("val")[row] for row in kept)
    assert rest.image_digests("val") == tuple(whole.image_digests("val")[row] for row in kept)
    for image in (rest.read_image("val", 1), np.asarray(rest.picture("val", 1))):
        np.testing.assert_array_equal(image, whole.read_image("val", 3))
    np.testing.assert_array_equal(rest.read_annotation("val", 0, "depth"), whole.read_annotation("val", 1, "depth"))
    assert rest.image_ids("train") == whole.image_ids("train")


def test_everything_else_is_that_of_the_whole(rest: Dataset) -> None:
    whole = Scenes()
    for name in ("name", "images_name", "splits", "base_size", "annotations", "classes", "colour", "computes_images"):
        assert getattr(rest, name) == getattr(whole, name)
    assert rest.target_options("depth") == whole.target_options("depth")
    assert rest.box_rows("val") == whole.box_rows("val")
    assert rest.row_files("val", 0) == ()
    assert rest.tolerant().image_ids("val") == rest.image_ids("val")
    with pytest.raises(UsageError, match="no split 'test'"):
        rest.image_ids("test")


def test_annotations_of_another_choice_are_others(rest: Dataset) -> None:
    whole = Scenes()
    assert rest.annotation_digest("train", "classes") == whole.annotation_digest("train", "classes")
    assert rest.annotation_digest("val", "classes") != whole.annotation_digest("val", "classes")


def test_leaving_out_more_and_sending_it(rest: Dataset) -> None:
    more = pickle.loads(pickle.dumps(rest.without({"val": {"val-00001": "late"}, "train": {"train-00000": "x"}})))
    assert more.omitted == {"val": {**GONE, "val-00001": "late"}, "train": {"train-00000": "x"}}
    assert more.image_ids("val")[0] == "val-00003"
    np.testing.assert_array_equal(more.read_image("val", 0), Scenes().read_image("val", 3))
