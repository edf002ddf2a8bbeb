"""Datasets that are files in folders: what they list, read and identify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from deapcache.datasets import DigestIndex
from deapcache.datasets.base import sample_key
from deapcache.datasets.files import FileDataset, Sample, SampleTable
from deapcache.datasets.io import image_size, read_index_map, require_values
from deapcache.errors import DataError, MissingDataError, UsageError
from deapcache.locations import LocalLocation


class Toy(FileDataset):
    name = "toy"
    images_name = "toy"
    annotations: ClassVar = ("classes",)

    def list_samples(self, split: str) -> Sequence[Sample]:
        names = sorted(path.stem for path in (self.root / split).glob("*.jpg"))
        return [Sample(id=n, image=f"{split}/{n}.jpg", labels={"classes": (f"{split}/{n}.png",)}) for n in names]

    def read_labels(self, sample: Sample, kind: str) -> np.ndarray:
        return read_index_map(self.root / sample.labels[kind][0])

    def target_options(self, kind: str) -> dict[str, Any]:
        return {}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    root = tmp_path / "toy"
    (root / "train").mkdir(parents=True)
    for k, name in enumerate(("b", "a")):
        Image.fromarray(np.full((4, 6, 3), 40 * k, np.uint8)).save(root / "train" / f"{name}.jpg")
        Image.fromarray(np.full((4, 6), k, np.uint8)).save(root / "train" / f"{name}.png")
    return root


def test_lists_once_reads_and_pads(toy: Path) -> None:
    dataset = Toy(toy)
    assert dataset.image_ids("train") == ("a", "b")
    (toy / "train" / "c.jpg").touch()
    assert dataset.image_ids("train") == ("a", "b")
    assert dataset.read_image("train", 0).shape == (4, 6, 3)
    np.testing.assert_array_equal(dataset.read_annotation("train", 0, "classes"), np.full((4, 6), 1))
    with pytest.raises(UsageError, match="no annotation 'depth'"):
        dataset.read_annotation("train", 0, "depth")
    with pytest.raises(UsageError, match="no annotation 'boxes'"):
        dataset.box_rows("train")


@pytest.mark.usefixtures("settled_files")
def test_digests_follow_the_files_and_are_quick_the_second_time(toy: Path, home: LocalLocation) -> None:
    index = DigestIndex(home)
    images = Toy(toy).image_digests("train", index=index)
    labels = Toy(toy).annotation_digest("train", "classes", index=index)
    assert index.hashed_files == 4
    again = DigestIndex(home)
    assert (
        Toy(toy).annotation_digest("train", "classes", index=again)
        == labels
        == Toy(toy).annotation_digest("train", "classes")
    )
    assert again.hashed_files == 0
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(toy / "train" / "a.png")
    assert Toy(toy).annotation_digest("train", "classes", index=DigestIndex(home)) != labels
    assert Toy(toy).image_digests("train", index=DigestIndex(home)) == images


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_index_maps_are_read_as_stored(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 1, 200], [255, 7, 1]])
    path = tmp_path / "map.png"
    if mode == "P":
        image = Image.fromarray(values.astype(np.uint8), "P")
        image.putpalette([(3 * k) % 256 for k in range(768)])
    else:
        image = Image.fromarray(values.astype(np.uint8 if mode == "L" else np.uint16))
    image.save(path)
    np.testing.assert_array_equal(read_index_map(path), values)


def test_maps_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    with pytest.raises(MissingDataError, match=r"label map .*map\.png is missing"):
        read_index_map(path)
    path.touch()
    with pytest.raises(DataError, match=r"map.png: the file is empty"):
        read_index_map(path)
    Image.new("RGB", (3, 2)).save(path)
    with pytest.raises(DataError, match=r"map.png holds colours \(mode RGB\)"):
        read_index_map(path)
    allowed = np.arange(256) < 21
    with pytest.raises(DataError, match=r"has the value\(s\) 21, 300; expected 0 to 20"):
        require_values(np.array([[0, 20, 21, 300]]), allowed, path, "0 to 20")


def test_a_map_has_the_size_of_its_image_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned, stored as it is
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg", apply_exif=False) == (4, 6)
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(tmp_path / "a.png")
    fits, turned = (Sample(id="a", image=image, labels={"classes": ("a.png",)}) for image in ("a.jpg", "b.jpg"))
    dataset, allowed = Toy(tmp_path), np.arange(256) == 9
    np.testing.assert_array_equal(dataset.read_index_map(fits, "classes", allowed, "9"), np.full((4, 6), 9))
    Image.new("RGB", (4, 6)).save(tmp_path / "b.jpg")
    with pytest.raises(DataError, match=r"a.png has 4 x 6 pixels .*b.jpg has 6 x 4"):
        dataset.read_index_map(turned, "classes", allowed, "9")
    with pytest.raises(MissingDataError, match=r"image .*c.jpg is missing"):
        image_size(tmp_path / "c.jpg")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"c.jpg: none of the known image formats"):
        image_size(tmp_path / "c.jpg")


class Untidy(Toy):
    def list_samples(self, split: str) -> Sequence[Sample]:
        return [
            replace(sample, problem="b.jpg is odd") if sample.id == "b" else sample
            for sample in super().list_samples(split)
        ]


def test_a_sample_with_a_problem_is_told_when_listed_or_when_read(toy: Path) -> None:
    with pytest.raises(DataError, match=r"^b\.jpg is odd; or leave out what cannot be read with --on-error skip$"):
        Untidy(toy).image_ids("train")
    dataset = Untidy(toy).tolerant()
    rows = {name: row for row, name in enumerate(dataset.image_ids("train"))}
    assert set(rows) == {"a", "b"}
    assert dataset.read_image("train", rows["a"]).shape == (4, 6, 3)
    odd = rows["b"]
    for read in (lambda: dataset.read_image("train", odd), lambda: dataset.read_annotation("train", odd, "classes")):
        with pytest.raises(DataError, match=r"^b\.jpg is odd$"):
            read()


def test_what_is_left_out_is_as_if_it_were_not_there(toy: Path) -> None:
    whole = Toy(toy)
    assert set(whole.image_ids("train")) == {"a", "b"}
    (toy / "train" / "c.jpg").touch()  # no image, and without a label
    rest = Toy(toy).without({"train": {"c": "empty"}})
    assert rest.image_ids("train") == whole.image_ids("train")
    assert rest.image_digests("train") == whole.image_digests("train")
    assert rest.annotation_digest("train", "classes") == whole.annotation_digest("train", "classes")
    more = rest.without({"train": {"a": "dull"}, "val": {"x": "y"}})
    assert more.omitted == {"train": {"c": "empty", "a": "dull"}, "val": {"x": "y"}}
    assert more.image_ids("train") == ("b",)
    np.testing.assert_array_equal(more.read_annotation("train", 0, "classes"), np.zeros((4, 6)))
    assert rest.omitted == {"train": {"c": "empty"}}
    assert Untidy(toy).without({"train": {"b": "odd", "c": "empty"}}).image_ids("train") == ("a",)


def test_row_files_are_all_that_a_row_is_read_from(toy: Path) -> None:
    row = Toy(toy).image_ids("train").index("b")
    assert Toy(toy).row_files("train", row) == (toy / "train" / "b.jpg", toy / "train" / "b.png")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_packed_table_gives_every_sample_as_it_was(split: str) -> None:
    odd = ["a", 'b"c', "images", "", "ü/été", "\\", ", "]
    samples = [Sample(id=n, image=f"images/{n}.a.jpg", labels={"classes": (f"{n}/{n}.png", "")}) for n in odd]
    samples += [Sample(id="x", image="\udc80/x.jpg", labels={}, problem="not UTF-8")]
    samples += [Sample(id=f"{k}", image=f"shot {k * 7:04d}.jpg", labels={}) for k in range(600)]
    samples += [Sample(id=f"x{k}", image=f"x{k}.png", labels={"depth": (f"x{k}.npy",)}) for k in range(600)]
    table = SampleTable(samples, split)
    if split == "train":
        samples.sort(key=lambda sample: sample_key(sample.id))
    assert list(table) == samples
    assert list(table.images) == [sample.image for sample in samples]
    assert (table[4], table[-1]) == (samples[4], samples[-1])
