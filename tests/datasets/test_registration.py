"""A dataset's class attributes are its registration: a plugin's dataset of files, whole, in some thirty lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deapcache_plugins import forgotten_plugins, write_plugin
from PIL import Image

from deapcache import plugins
from deapcache.datasets import DATASETS, Dataset, dataset_status, images_owner, open_dataset
from deapcache.errors import MissingDataError, UsageError

LEAVES = """\
import numpy as np
from deapcache.datasets import DATASETS
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import stems


class Leaves(FileDataset):
    name = images_name = "leaves"
    annotations = ("classes",)
    classes = ("ground", "leaf")
    summary = "leaves on the ground"
    layout = "{train,val}/images/*.jpg with {train,val}/masks/*.png"
    licence = "CC0"
    official = {"train": 2, "val": 1}
    options = {"classes": {"leaf": "1"}}
    places = ("", "leaves")
    expected = "train/ or val/, there or in its folder leaves/"

    @classmethod
    def split_parts(cls, root, split):
        return root / split / "images", root / split / "masks"

    def list_samples(self, split):
        images, masks = self.require_parts(split)
        return [Sample(id=name, image=f"{split}/images/{name}.jpg", labels={"classes": (f"{split}/masks/{name}.png",)})
                for name in sorted(stems(images, ".jpg"))]

    def read_labels(self, sample, kind):
        return self.read_index_map(sample, kind, np.ones(2, bool), "0 or 1").astype("uint8")


DATASETS["leaves"] = Leaves
"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path) -> Iterator[None]:
    with forgotten_plugins():
        plugins.use([write_plugin(tmp_path, LEAVES)])
        yield


@pytest.fixture(params=["", "leaves"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for folder, ending in (("images", ".jpg"), ("masks", ".png")):
        place = tmp_path / "data" / request.param / "train" / folder
        place.mkdir(parents=True)
        for name, value in (("a", 0), ("b", 1)):
            Image.fromarray(np.full((4, 6), value, np.uint8)).save(place / f"{name}{ending}")
    return tmp_path / "data"


def test_it_is_opened_read_and_listed(root: Path) -> None:
    assert len(LEAVES.splitlines()) <= 90
    dataset = open_dataset("leaves", root)
    assert sorted(dataset.image_ids("train")) == ["a", "b"]
    for row, id_ in enumerate(dataset.image_ids("train")):
        assert dataset.read_image("train", row).shape == (4, 6, 3)
        assert (dataset.read_annotation("train", row, "classes") == "ab".index(id_)).all()
    assert dataset.target_options("classes") == {"leaf": "1"}
    with pytest.raises(UsageError, match="'leaves' has no annotation 'depth': it has classes"):
        dataset.target_options("depth")
    entry = DATASETS.get("leaves")
    assert (entry.summary, entry.classes, entry.official["train"]) == ("leaves on the ground", ("ground", "leaf"), 2)
    assert (entry.base_size, images_owner("leaves")) == (Dataset.base_size, "leaves")


def test_its_status_is_what_its_splits_consist_of(root: Path) -> None:
    status = dataset_status(DATASETS.get("leaves"), root)
    assert (status["train"].images, status["train"].missing) == (2, ())
    (missing_images, missing_masks) = status["val"].missing
    assert missing_images.endswith("val/images")
    assert missing_masks.endswith("val/masks")
    with pytest.raises(MissingDataError, match="leaves has no val split under"):
        open_dataset("leaves", root).image_ids("val")


def test_where_it_is_not_is_one_line(tmp_path: Path) -> None:
    expected = f"leaves is not under {tmp_path}: expected train/ or val/, there or in its folder leaves/; found "
    with pytest.raises(MissingDataError) as raised:
        open_dataset("leaves", tmp_path)
    assert str(raised.value).startswith(expected)
