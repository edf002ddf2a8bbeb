"""DIODE in the official naming and encoding, against Pillow and plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.datasets import DATASETS, DigestIndex, open_dataset
from deapcache.datasets.diode import Diode
from deapcache.errors import DataError, MissingDataError
from deapcache.locations import LocalLocation

SIZE = (12, 16)
NAMES = {
    "train": ("00007_00082_outdoor_010_000", "00002_00011_indoors_300_010"),
    "val": ("00019_00183_indoors_000_010", "00022_00193_outdoor_000_020", "00022_00195_outdoor_110_000"),
}


def _stem(root: Path, split: str, name: str) -> Path:
    scene, scan, surroundings, *_ = name.split("_")
    return root / split / surroundings / f"scene_{scene}" / f"scan_{scan}" / name


def _with(stem: Path, end: str) -> Path:
    return stem.with_name(stem.name + end)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, names in NAMES.items():
        for seed, name in enumerate(names):
            rng = np.random.default_rng(seed)
            stem = _stem(tmp_path / "diode", split, name)
            stem.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(_with(stem, ".png"))
            np.save(_with(stem, "_depth.npy"), rng.uniform(0.6, 300, (*SIZE, 1)).astype(np.float32))
            np.save(_with(stem, "_depth_mask.npy"), (rng.random(SIZE) < 0.7).astype(np.float64))
    return tmp_path / "diode"


def test_images_and_depth_are_those_of_the_files(root: Path) -> None:
    dataset = open_dataset("diode", root.parent)
    assert (dataset.annotations, dataset.images_name, dataset.base_size) == (("depth",), "diode", (216, 288))
    for split, names in NAMES.items():
        assert dataset.image_ids(split) == names  # "train" in the seeded order
        for row, name in enumerate(names):
            stem = _stem(root, split, name)
            with Image.open(_with(stem, ".png")) as image:
                np.testing.assert_array_equal(dataset.read_image(split, row), np.array(image))
            expected = np.load(_with(stem, "_depth.npy")).squeeze()
            expected[np.load(_with(stem, "_depth_mask.npy")) == 0] = 0
            depth = dataset.read_annotation(split, row, "depth")
            np.testing.assert_array_equal(depth, expected)
            assert depth.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_what_the_mask_takes_out_may_be_anything(root: Path, value: float) -> None:
    stem = _stem(root, "val", "00019_00183_indoors_000_010")
    depth, mask = np.load(_with(stem, "_depth.npy")), np.load(_with(stem, "_depth_mask.npy"))
    row, column = np.argwhere(mask == 0)[0]
    depth[row, column] = value
    np.save(_with(stem, "_depth.npy"), depth)
    assert Diode(root).read_annotation("val", 0, "depth")[row, column] == 0
    row, column = np.argwhere(mask == 1)[0]
    depth[row, column] = value
    np.save(_with(stem, "_depth.npy"), depth)
    match = rf"000_010_depth\.npy, where its mask is 1, has 1 pixel.* {value} at row {row}, column {column}"
    with pytest.raises(DataError, match=match):
        Diode(root).read_annotation("val", 0, "depth")


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_masks_of_any_number_type_and_shape(root: Path, dtype: type) -> None:
    expected = Diode(root).read_annotation("val", 0, "depth")
    path = _with(_stem(root, "val", NAMES["val"][0]), "_depth_mask.npy")
    np.save(path, np.load(path).astype(dtype)[:, :, None])
    np.testing.assert_array_equal(Diode(root).read_annotation("val", 0, "depth"), expected)


def test_digests_are_of_depth_and_mask(root: Path, home: LocalLocation) -> None:
    images, depth = Diode(root).image_digests("val"), Diode(root).annotation_digest("val", "depth")
    path = _with(_stem(root, "val", NAMES["val"][0]), "_depth_mask.npy")
    np.save(path, 1 - np.load(path))
    index = DigestIndex(home)
    assert Diode(root).image_digests("val", index=index) == images
    assert Diode(root).annotation_digest("val", "depth", index=index) != depth
    assert index.hashed_files == 3 + 6


class Unpickled:
    """Says so if it is ever loaded."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def _save(end: str, values: np.ndarray) -> Callable[[Path], object]:
    return lambda stem: np.save(_with(stem, end), values, allow_pickle=True)


DEPTH, MASK = "_depth.npy", "_depth_mask.npy"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (_save(DEPTH, np.array([Unpickled()], object)), r"cannot decode .*000_010_depth\.npy"),
    "float64": (_save(DEPTH, np.ones((*SIZE, 1))), r"_depth\.npy has shape \(12, 16, 1\) and dtype float64; .*float32"),
    "three channels": (_save(DEPTH, np.ones((*SIZE, 3), np.float32)), r"_depth\.npy has shape \(12, 16, 3\)"),
    "flat": (_save(DEPTH, np.ones(192, np.float32)), r"_depth\.npy has shape \(192,\)"),
    "turned": (_save(DEPTH, np.ones((16, 12, 1), np.float32)), r"_depth\.npy has 16 x 12 pixels .* 12 x 16"),
    "mask of another size": (_save(MASK, np.ones((6, 8))), r"_depth_mask\.npy has 6 x 8 pixels .* 12 x 16"),
    "mask of 255": (_save(MASK, np.full(SIZE, 255, np.uint8)), r"_depth_mask\.npy has values other than 0 and 1"),
    "mask of NaN": (_save(MASK, np.full(SIZE, np.nan)), r"_depth_mask\.npy has values other than 0 and 1"),
    "mask of text": (_save(MASK, np.full(SIZE, "1")), r"_depth_mask\.npy has shape .* dtype <U1"),
    "empty": (lambda stem: _with(stem, DEPTH).write_bytes(b""), r"cannot decode .*_depth\.npy"),
    "no array": (lambda stem: _with(stem, DEPTH).write_text("<html>"), r"cannot decode .*_depth\.npy"),
    "cut short": (
        lambda stem: _with(stem, DEPTH).write_bytes(_with(stem, DEPTH).read_bytes()[:300]),
        r"cannot decode .*_depth\.npy",
    ),
    "missing depth": (lambda stem: _with(stem, DEPTH).unlink(), r"lacks 1 depth maps and masks of its 3 .*_depth\.npy"),
    "missing mask": (lambda stem: _with(stem, MASK).unlink(), r"lacks 1 depth maps and masks of its 3 .*_mask\.npy"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(_stem(root, "val", NAMES["val"][0]))
    with pytest.raises((DataError, MissingDataError), match=message):
        Diode(root).read_annotation("val", 0, "depth")


def test_one_name_in_two_scans_is_refused(root: Path) -> None:
    stem = _stem(root, "val", NAMES["val"][0])
    other = stem.parent.with_name("scan_00184")
    other.mkdir()
    _with(stem, ".png").rename(other / f"{stem.name}.png")
    (other / "._a.png").touch()
    with pytest.raises(MissingDataError, match=r"lacks 2 depth maps .*scan_00184"):
        Diode(root).image_ids("val")
    _with(stem, ".png").touch()
    with pytest.raises(DataError, match=r"have one name, which is the image's id"):
        Diode(root).image_ids("val")


def test_is_found_and_told_what_is_missing(root: Path, tmp_path: Path) -> None:
    entry = DATASETS.get("diode")
    for folder in (root, tmp_path):
        status = entry.status(folder)
        assert {split: (s.images, s.missing) for split, s in status.items()} == {"train": (2, ()), "val": (3, ())}
    path = _with(_stem(root, "val", NAMES["val"][1]), MASK)
    path.unlink()
    (root / "train").rename(root / "elsewhere")
    status = entry.status(root)
    assert status["val"].missing == (str(path),)
    assert not status["train"].is_usable
    with pytest.raises(MissingDataError, match=r"diode has no train split under"):
        open_dataset("diode", root).image_ids("train")
    (tmp_path / "other").mkdir()
    with pytest.raises(MissingDataError, match=r"diode is not under .*expected train/ or val/.*an empty folder"):
        entry.open(tmp_path / "other")
