"""SPair-71k in the official layout: images by the lists, keypoints by the pairs' own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_spair import PAIRS, SIZES, pair_name, write_spair

from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.checking import SplitCheck, check_split
from deapcache.datasets.spair import Spair71k, pairs_digest
from deapcache.errors import DataError, MissingDataError, UsageError

POINTS = [[[[5, 6], [70, 50]], [[8, 9], [60, 40]]], [[[1, 2]], [[3.5, 4]]], [[[7, 7]], [[9, 9]]]]
BOXES = [[10, 10, 50, 30], [0, 0, 20, 40], [4, 4, 14, 12]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_spair(tmp_path, POINTS, BOXES)


def test_images_and_pairs_are_those_of_the_files(root: Path) -> None:
    dataset = open_dataset("spair-71k", root.parent)
    assert dataset.image_ids("val") == tuple(sorted(SIZES))
    for row, id_ in enumerate(dataset.image_ids("val")):
        assert dataset.read_image("val", row).shape == (*SIZES[id_], 3)
    pairs = dataset.pairs("val")
    assert [pair.images for pair in pairs] == list(PAIRS)
    assert [pair.sizes for pair in pairs] == [tuple(SIZES[id_] for id_ in images) for images in PAIRS]
    assert [pair.extent for pair in pairs] == [40, 40, 10]
    for pair, points in zip(pairs, POINTS, strict=True):
        np.testing.assert_array_equal(pair.points, points)
    assert [pair.name for pair in dataset.pairs("train", limit=2)] == [pair_name(0), pair_name(1)]
    status = DATASETS.get("spair-71k").status(root.parent)
    assert {split: (each.images, each.missing) for split, each in status.items()} == {"train": (5, ()), "val": (5, ())}
    with pytest.raises(UsageError, match="has no annotation 'depth'"):
        dataset.read_annotation("val", 0, "depth")


def test_its_files_are_checked(root: Path) -> None:
    check = SplitCheck(split="val")
    check_split(open_dataset("spair-71k", root), check, full=True, progress=lambda *_: None)
    assert (check.images, check.opened, check.problems) == (5, 5, [])


def test_names_without_colons_and_digests(root: Path) -> None:
    before = pairs_digest(Spair71k(root).pairs("val"))
    for path in (root / "PairAnnotation" / "test").iterdir():
        path.rename(path.with_name(path.name.replace(":", "_")))
    assert pairs_digest(Spair71k(root).pairs("val")) == before
    path = root / "PairAnnotation" / "test" / f"{pair_name(1).replace(':', '_')}.json"
    path.write_text(path.read_text().replace("3.5", "3.25"))
    assert pairs_digest(Spair71k(root).pairs("val")) != before


def _changed(**changes: Any) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root / "PairAnnotation" / "test" / f"{pair_name(0)}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _pair(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: damage(root / "PairAnnotation" / "test" / f"{pair_name(0)}.json")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (lambda r: (r / "Layout/large/test.txt").unlink(), r"no val split .*test\.txt is missing"),
    "another list": (lambda r: (r / "Layout/large/test.txt").write_text("a,b\n"), r"test\.txt, line 1 reads 'a,b'"),
    "upwards": (
        lambda r: (r / "Layout/large/test.txt").write_text("000001-..-x/../..:cat\n"),
        r"test\.txt, line 1 reads '000001",
    ),
    "empty list": (lambda r: (r / "Layout/large/test.txt").write_text(""), r"test\.txt lists no pair"),
    "no pair": (_pair(Path.unlink), r"pair .*000000-2008_000001-2008_000002:cat\.json is missing"),
    "no JSON": (_pair(lambda p: p.write_text("<html>")), r"cat\.json is not valid JSON"),
    "another JSON": (_pair(lambda p: p.write_text("[]")), r"cat\.json is no pair of SPair-71k \(TypeError"),
    "no box": (_changed(trg_bndbox=[1, 2]), r"cat\.json is no pair of SPair-71k \(ValueError"),
    "empty box": (_changed(trg_bndbox=[5, 5, 5, 5]), r"a box with an extent; found .*\[5, 5, 5, 5\]"),
    "other numbers": (_changed(src_kps=[[1, 2]]), r"cat\.json is no pair of SPair-71k"),
    "no numbers": (_changed(src_kps=[[1, None], [2, 3]]), r"cat\.json is no pair of SPair-71k"),
    "no size": (_changed(trg_imsize=[0, 10, 3]), r"sizes above 0"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(root)
    with pytest.raises((DataError, MissingDataError), match=message) as raised:
        Spair71k(root).pairs("val")
    assert "\n" not in str(raised.value)
