"""What is known of a dataset without its files is what its files would say."""

from __future__ import annotations

import pytest

from deapcache.datasets import dataset_entry, open_dataset
from deapcache.datasets.ade20k import Ade20k
from deapcache.datasets.cityscapes import Cityscapes
from deapcache.datasets.coco import CocoInstances, CocoStuffMaps
from deapcache.datasets.diode import Diode
from deapcache.datasets.kitti import KittiEigen
from deapcache.datasets.nyuv2 import NyuInpainted, NyuLabelled
from deapcache.datasets.nyuv2_pairs import NyuPairs
from deapcache.datasets.voc import Voc
from deapcache.errors import MissingDataError
from deapcache.extraction import ExtractionSettings, extract, summarize_dataset, summarize_without_files

READERS = [
    ("ade20k", Ade20k),
    ("cityscapes", Cityscapes),
    ("coco", CocoInstances),
    ("coco-stuff", CocoStuffMaps),
    ("diode", Diode),
    ("kitti", KittiEigen),
    ("nyuv2", NyuLabelled),
    ("nyuv2", NyuPairs),
    ("nyuv2-inpainted", NyuInpainted),
    ("voc", Voc),
]


@pytest.mark.parametrize(("name", "reader"), READERS, ids=lambda value: str(value))
def test_entries_know_the_base_size_of_their_readers(name, reader):
    assert dataset_entry(name).base_size == reader.base_size


def test_scenes_are_outlined_alike_with_and_without_their_files(home, tmp_path):
    dataset = open_dataset("scenes", tmp_path)
    listed, official = summarize_dataset(dataset, dataset.splits), summarize_without_files("scenes", home)
    for name in ("name", "images_name", "base_size", "annotations", "classes", "splits"):
        assert getattr(listed, name) == getattr(official, name), name
    assert {split: of.images for split, of in listed.of.items()} == {s: of.images for s, of in official.of.items()}
    assert listed.of["train"].ids == dataset.image_ids("train")
    assert listed.box_rows("val") == dataset.box_rows("val")


def test_two_image_sets_in_the_home_say_nothing(home, make_coco):
    def outlined():
        return summarize_without_files("coco", home).of["train"]

    def extracted(**made):
        dataset = open_dataset("coco", make_coco(**made))
        list(extract(["efficientnet-lite0-s16"], dataset, home, splits=["train"], settings=ExtractionSettings()))

    assert (outlined().images, outlined().counted) == (118_287, "official")
    extracted(train=3, val=1)
    assert (outlined().images, outlined().counted) == (3, "in the home")
    extracted(train=4, val=1, name="other")
    assert (outlined().images, outlined().counted) == (118_287, "official")


def test_a_number_that_nothing_tells_is_an_error(home):
    with pytest.raises(MissingDataError, match=r"kitti: the number of images of train is known neither"):
        summarize_without_files("kitti", home)
