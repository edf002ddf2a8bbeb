"""Folders that may not be entered, that move away, and names of any script: one line that says so."""

from __future__ import annotations

import os
import resource
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deapcache_matlab import random_sample, write_labelled
from deapcache_odd_cases import write_sound
from deapcache_testing import closed
from PIL import Image

from deapcache.datasets import DATASETS, dataset_status, open_dataset
from deapcache.datasets.checking import SplitCheck, check_split
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.folder import FolderDataset
from deapcache.datasets.io import dataset_error, list_matching
from deapcache.errors import DataError, LocationError, MissingDataError
from deapcache.extraction import without_unreadable
from deapcache.locations import LocalLocation


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 6)).save(path)


def label(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 6), 1).save(path)


def _folder(root: Path) -> Path:
    write_sound(root / "few" / "val", "sub/a")
    (root / "few" / "classes.json").write_text('["wall", "floor", "chair"]')
    return root / "few" / "val" / "images" / "sub"


def _diode(root: Path) -> Path:
    for scan in ("scan_1", "scan_2"):
        stem = root / "val" / "indoors" / "scene_1" / scan / f"{scan}_a"
        photo(stem.with_suffix(".png"))
        np.save(stem.with_name(f"{stem.name}_depth.npy"), np.ones((6, 9, 1), np.float32))
        np.save(stem.with_name(f"{stem.name}_depth_mask.npy"), np.ones((6, 9), np.float32))
    return root / "val" / "indoors" / "scene_1" / "scan_2"


def _scenes_of_nyu(root: Path) -> Path:
    for scene in ("kitchen", "office"):
        photo(root / "official_splits" / "test" / scene / "rgb_00001.jpg")
        label(root / "official_splits" / "test" / scene / "sync_depth_00001.png")
    return root / "official_splits" / "test" / "office"


def _cityscapes(root: Path) -> Path:
    photo(root / "leftImg8bit" / "val" / "ulm" / "ulm_0_leftImg8bit.png")
    for kind in ("labelIds", "instanceIds"):
        label(root / "gtFine" / "val" / "ulm" / f"ulm_0_gtFine_{kind}.png")
    return root / "gtFine" / "val" / "ulm"


def _ade20k(root: Path) -> Path:
    photo(root / "images" / "validation" / "a.jpg")
    label(root / "annotations" / "validation" / "a.png")
    return root / "annotations" / "validation"


def _coco_stuff(root: Path) -> Path:
    photo(root / "val2017" / "000000000001.jpg")
    label(root / "stuffthingmaps" / "val2017" / "000000000001.png")
    return root / "val2017"


def _voc(root: Path) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    photo(base / "JPEGImages" / "a.jpg")
    label(base / "SegmentationClass" / "a.png")
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    return base / "ImageSets"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "folder:few": _folder,
    "diode": _diode,
    "nyuv2": _scenes_of_nyu,
    "cityscapes": _cityscapes,
    "ade20k": _ade20k,
    "coco-stuff": _coco_stuff,
    "voc": _voc,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_that_may_not_be_entered_has_an_owner(tmp_path: Path, name: str) -> None:
    """Nothing of it is passed over, and it is not called absent."""
    folder = LAYOUTS[name](tmp_path)
    assert open_dataset(name, tmp_path).image_ids("val")
    with closed(folder), pytest.raises(DataError, match=rf"cannot read {folder}.*; ask its owner to let your group"):
        open_dataset(name, tmp_path).image_ids("val")


@pytest.mark.parametrize("name", [*LAYOUTS, "coco", "kitti", "nyuv2-inpainted"])
def test_a_data_root_that_may_not_be_entered_has_an_owner(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    if name in LAYOUTS:
        LAYOUTS[name](root)
    with closed(root):
        with pytest.raises(DataError, match=r"cannot read .*; ask its owner to let your group"):
            open_dataset(name, root)
        if name in DATASETS:
            for status in dataset_status(DATASETS.get(name), root).values():
                assert not status.is_usable
                assert "ask its owner" in " ".join(status.missing)


def test_other_folders_are_listed_beside_a_closed_one(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        write_sound(tmp_path / name / "val", "a")
        (tmp_path / name / "classes.json").write_text('["wall", "floor", "chair"]')
    with closed(tmp_path / "theirs"):
        assert list(dataset_status(DATASETS.get("folder"), tmp_path)) == ["folder:mine train", "folder:mine val"]
        with pytest.raises(DataError, match=r"since the folder .*theirs may not be entered; ask its owner"):
            open_dataset("folder:theirs", tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, home: LocalLocation) -> None:
    _folder(tmp_path)
    dataset = open_dataset("folder:few", tmp_path)
    path = dataset.row_files("val", 0)[0]
    with closed(path):
        for look in (
            lambda: dataset.read_image("val", 0),
            lambda: dataset.image_digests("val"),
            lambda: dataset.image_digests("val", index=DigestIndex(home)),
        ):
            with pytest.raises(DataError, match=rf"cannot read {path}: Permission denied; ask its owner"):
                look()
    with closed(path.parent):
        check = SplitCheck(split="val")
        check_split(dataset, check, full=True, progress=lambda *_: None)
        with pytest.raises(DataError, match=rf"since the folder {path.parent} may not be entered; ask its owner"):
            dataset.image_digests("val", index=DigestIndex(home))
    assert check.problems
    assert all("ask its owner" in problem for problem in check.problems)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_that_goes_while_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    LAYOUTS[name](tmp_path / "data")
    dataset = open_dataset(name, tmp_path / "data")
    listdir, scandir = os.listdir, os.scandir

    def move() -> None:
        if (tmp_path / "data").exists():
            (tmp_path / "data").rename(tmp_path / "moved")

    monkeypatch.setattr(os, "listdir", lambda path=".": move() or listdir(path))
    monkeypatch.setattr(os, "scandir", lambda path=".": move() or scandir(path))
    with pytest.raises(MissingDataError, match=str(tmp_path)):
        dataset.image_ids("val")


def test_what_moved_away_during_a_check_is_not_left_out(
    tmp_path: Path, home: LocalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        write_sound(tmp_path / "few" / "val", name)
    (tmp_path / "few" / "classes.json").write_text('["wall", "floor", "chair"]')
    dataset = open_dataset("folder:few", tmp_path)
    read = FolderDataset.read_image

    def read_and_move(self: FolderDataset, split: str, row: int) -> np.ndarray:
        found = read(self, split, row)
        if (tmp_path / "few").exists() and row == 1:
            (tmp_path / "few").rename(tmp_path / "moved")
        return found

    monkeypatch.setattr(FolderDataset, "read_image", read_and_move)
    with pytest.raises(MissingDataError, match=rf"{tmp_path / 'few'} was moved away while its images were read"):
        without_unreadable(dataset, ["val"], home)


@pytest.mark.parametrize("number", [5, 24, 116])  # EIO, EMFILE, ESTALE
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_could_not_be_looked_at_is_neither_absent_nor_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    LAYOUTS[name](tmp_path)
    dataset = open_dataset(name, tmp_path)

    def refuse(path: object = ".") -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LocationError, match=rf"cannot read .*: {os.strerror(number)}; .* run"):
        dataset.image_ids("val")


@pytest.mark.parametrize("name", ["coco", "nyuv2"])
def test_a_process_that_may_open_no_more_files_accuses_none(tmp_path: Path, name: str) -> None:
    """Neither is COCO's listing taken for one of other classes, nor the MATLAB file for a damaged one."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text('{"images": [], "annotations": []}')
    write_labelled(tmp_path / "nyuv2", [random_sample(0, (24, 32))])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    dataset = open_dataset("nyuv2", tmp_path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(LocationError, match=r"cannot read .*: .*ile.*; this process may have 3 files open"):
            dataset.image_ids("val") if name == "nyuv2" else open_dataset(name, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("name", ["été", unicodedata.normalize("NFD", "été"), "鳥 🐦", "a\u202eb", "ß" * 60])
def test_names_of_any_script_are_read_everywhere(tmp_path: Path, home: LocalLocation, name: str) -> None:
    photo(tmp_path / "images" / "validation" / f"{name}.jpg")
    label(tmp_path / "annotations" / "validation" / f"{name}.png")
    dataset = open_dataset("ade20k", tmp_path)
    assert dataset.image_ids("val") == (name,)
    assert dataset.read_annotation("val", 0, "classes").shape == (6, 9)
    assert dataset.image_digests("val", index=DigestIndex(home)) == dataset.image_digests("val")


def test_a_name_that_is_not_utf8_is_refused_and_can_be_left_out(tmp_path: Path, home: LocalLocation) -> None:
    for name in ("a", os.fsdecode(b"caf\xe9")):
        photo(tmp_path / "images" / "validation" / f"{name}.jpg")
        label(tmp_path / "annotations" / "validation" / f"{name}.png")
    with pytest.raises(DataError, match=r"name of .*caf\\udce9\.jpg is not UTF-8: rename it; or leave out") as caught:
        open_dataset("ade20k", tmp_path).image_ids("val")
    str(caught.value).encode()  # can be printed
    rest = without_unreadable(open_dataset("ade20k", tmp_path), ["val"], home)
    assert rest.image_ids("val") == ("a",)
    assert list(rest.omitted["val"]) == [r"caf\udce9"]


def test_matching_is_glob_that_passes_nothing_over(tmp_path: Path) -> None:
    _diode(tmp_path)
    (tmp_path / "val" / "indoors" / "scene_1" / "scan_1" / "._scan_1_a.png").touch()
    (tmp_path / "val" / "indoors" / "scene_2").touch()  # a file in a folder's place
    pattern = "indoors/scene_*/scan_*/*.png"
    expected = [path for path in (tmp_path / "val").glob(pattern) if not path.name.startswith(".")]
    assert sorted(list_matching(tmp_path / "val", pattern)) == sorted(expected)
    assert list_matching(tmp_path / "absent", pattern) == []
    shutil.rmtree(tmp_path / "val")
    assert list_matching(tmp_path / "val", pattern) == []


def test_an_error_without_a_name_is_of_the_path_given(tmp_path: Path) -> None:
    assert str(tmp_path) in str(dataset_error(OSError(5, "Input/output error"), tmp_path))
