"""BSDS500: images, every annotator's boundaries, and files that are not as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deapcache_bsds import IDS, SIZE, drawn_by, write_bsds, write_ground_truth
from scipy.io import savemat

from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.bsds500 import Bsds500
from deapcache.errors import DataError, DeapcacheError, MissingDataError


@pytest.fixture(params=["BSR/BSDS500/data", "bsds500"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    data = tmp_path / request.param
    write_bsds(data)
    return data


def test_images_and_every_annotators_map_are_those_of_the_files(root: Path) -> None:
    data_root = root.parents[2] if root.name == "data" else root.parent
    dataset = open_dataset("bsds500", data_root)
    assert sorted(dataset.image_ids("train")) == ["100075", "3096", "8049"]  # the official train and val
    assert dataset.image_ids("val") == IDS["test"]
    for split in ("train", "val"):
        for row, id_ in enumerate(dataset.image_ids(split)):
            size = SIZE[::-1] if id_ == "8049" else SIZE
            assert dataset.read_image(split, row).shape == (*size, 3)
            found = dataset.read_annotation(split, row, "edges")
            assert found.dtype == np.int16
            maps = drawn_by(int(id_), 4 + int(id_) % 6, size)
            for bit in range(15):
                expected = maps[bit] if bit < len(maps) else np.zeros(size)
                np.testing.assert_array_equal((found >> bit) & 1, expected)
    status = DATASETS.get("bsds500").status(data_root)
    assert {split: (each.images, each.missing) for split, each in status.items()} == {"train": (3, ()), "val": (2, ())}
    assert Bsds500.official == {"train": 300, "val": 200}


def test_digests_follow_the_files(root: Path) -> None:
    before = [Bsds500(root).annotation_digest(split, "edges") for split in ("train", "val")]
    write_ground_truth(root / "groundTruth/test/5096.mat", drawn_by(1, 5))
    after = [Bsds500(root).annotation_digest(split, "edges") for split in ("train", "val")]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def _mat(content: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: content(root / "groundTruth/test/5096.mat")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no ground truth": (_mat(Path.unlink), r"groundTruth/test lacks 1 of 2 files, the first is 5096\.mat"),
    "no folder": (lambda r: (r / "groundTruth/test").rename(r / "gone"), r"no val split .*groundTruth/test is missing"),
    "text": (_mat(lambda p: p.write_text("<html>")), r"cannot decode .*5096\.mat"),
    "empty": (_mat(lambda p: p.write_bytes(b"")), r"cannot decode .*5096\.mat"),
    "another variable": (
        _mat(lambda p: write_ground_truth(p, drawn_by(0, 4), name="gt")),
        r"5096\.mat is not as BSDS500 has it",
    ),
    "another field": (
        _mat(lambda p: write_ground_truth(p, drawn_by(0, 4), field="Lines")),
        r"5096\.mat is not as BSDS500 has it",
    ),
    "no annotator": (_mat(lambda p: write_ground_truth(p, [])), r"5096\.mat is not as BSDS500 has it"),
    "no cells": (_mat(lambda p: savemat(p, {"groundTruth": np.eye(4)})), r"5096\.mat is not as BSDS500 has it"),
    "colours": (
        _mat(lambda p: write_ground_truth(p, [255 * one for one in drawn_by(0, 4)])),
        r"maps of 0 and 1 of one size",
    ),
    "two sizes": (
        _mat(lambda p: write_ground_truth(p, [*drawn_by(0, 2), *drawn_by(0, 1, (4, 4))])),
        r"maps of 0 and 1 of one size",
    ),
    "another size": (
        _mat(lambda p: write_ground_truth(p, drawn_by(0, 4, (4, 4)))),
        r"5096\.mat has 4 x 4 pixels .* has 12 x 18",
    ),
    "too many": (
        _mat(lambda p: write_ground_truth(p, drawn_by(0, 16))),
        r"5096\.mat has 16 annotators; there is room for 15",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(root)
    with pytest.raises((DataError, MissingDataError), match=message) as raised:
        Bsds500(root).read_annotation("val", 0, "edges")
    assert "\n" not in str(raised.value)


def test_an_image_of_two_parts_is_refused(root: Path) -> None:
    for folder, end in (("images", "jpg"), ("groundTruth", "mat")):
        (root / f"{folder}/val/8049.{end}").write_bytes((root / f"{folder}/train/8049.{end}").read_bytes())
    with pytest.raises(DataError, match="image 8049 is in images/val and images/train"):
        Bsds500(root).image_ids("train")


def test_where_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(DeapcacheError, match=r"bsds500 is not under .*: expected images/ and groundTruth/ in BSR"):
        open_dataset("bsds500", tmp_path)
