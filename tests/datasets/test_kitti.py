"""KITTI's Eigen split in the official naming and encoding, against Pillow and plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.datasets import DATASETS, DigestIndex, open_dataset
from deapcache.datasets.kitti import KittiEigen, read_list
from deapcache.errors import DataError, MissingDataError
from deapcache.locations import LocalLocation

DATE = "2011_09_26"
DRIVES = {"train": f"{DATE}_drive_0057_sync", "val": f"{DATE}_drive_0002_sync"}
LISTS = {"train": "kitti_eigen_train_files_with_gt.txt", "val": "kitti_eigen_test_files_with_gt.txt"}
SIZE = (10, 33)


def _line(drive: str, frame: int, camera: str = "image_02", *, depth: bool = True) -> str:
    truth = f"{drive}/proj_depth/groundtruth/{camera}/{frame:010d}.png" if depth else "None"
    return f"{drive[:10]}/{drive}/{camera}/data/{frame:010d}.png {truth} 721.5377"


def _write_pair(root: Path, raw: str, truth: str, drive: str, frame: int, camera: str = "image_02") -> None:
    rng = np.random.default_rng(frame)
    image = root / raw / drive[:10] / drive / camera / "data" / f"{frame:010d}.png"
    depth = root / truth / drive / "proj_depth" / "groundtruth" / camera / f"{frame:010d}.png"
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(image)
    values = rng.integers(512, 80 * 256, SIZE) * (rng.random(SIZE) < 0.2)
    Image.fromarray(values.astype(np.uint16)).save(depth)


def write_kitti(root: Path, raw: str = "", truth: tuple[str, str] = ("train", "val")) -> None:
    for (split, drive), part in zip(DRIVES.items(), truth, strict=True):
        for frame in (69, 8, 54):
            _write_pair(root, raw, f"data_depth_annotated/{part}", drive, frame)
        lines = [_line(drive, 69), _line(drive, 0, depth=False), _line(drive, 8), _line(drive, 54)]
        (root / LISTS[split]).write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_kitti(tmp_path / "kitti")
    return tmp_path / "kitti"


def test_images_and_depth_are_those_of_the_files(root: Path) -> None:
    dataset = open_dataset("kitti", root.parent)
    assert (dataset.annotations, dataset.images_name, dataset.base_size) == (("depth",), "kitti", (176, 608))
    for split, part in (("train", "train"), ("val", "val")):
        drive = DRIVES[split]
        assert dataset.image_ids(split) == tuple(f"{drive}/image_02/{n:010d}" for n in (8, 54, 69))
        for row, frame in enumerate((8, 54, 69)):
            with Image.open(root / DATE / drive / "image_02" / "data" / f"{frame:010d}.png") as image:
                np.testing.assert_array_equal(dataset.read_image(split, row), np.array(image))
            folder = root / "data_depth_annotated" / part / drive / "proj_depth" / "groundtruth" / "image_02"
            with Image.open(folder / f"{frame:010d}.png") as image:
                stored = np.array(image)
            depth = dataset.read_annotation(split, row, "depth")
            np.testing.assert_array_equal(depth, stored / 256)  # exact: whole numbers of 1/256
            assert depth.dtype == np.float32
            np.testing.assert_array_equal(depth == 0, stored == 0)


def test_images_without_ground_truth_are_left_out_and_told(root: Path) -> None:
    dataset = open_dataset("kitti", root)
    assert len(dataset.image_ids("val")) == 3
    assert f"{DRIVES['val']}/image_02/0000000000" not in dataset.image_ids("val")
    assert dataset.target_options("depth")["without ground truth"] == "left out"


@pytest.mark.parametrize("raw", ["", "raw"])
@pytest.mark.parametrize("truth", [("train", "val"), ("val", "train"), ("", "")])
def test_the_archives_may_lie_as_unpacked_or_merged(tmp_path: Path, raw: str, truth: tuple[str, str]) -> None:
    write_kitti(tmp_path, raw, truth)
    dataset = open_dataset("kitti", tmp_path)
    for split in dataset.splits:
        assert dataset.read_image(split, 0).shape == (*SIZE, 3)
        assert dataset.read_annotation(split, 0, "depth").max() > 2


def test_both_cameras(root: Path) -> None:
    drive = DRIVES["train"]
    _write_pair(root, "", "data_depth_annotated/train", drive, 8, "image_03")
    (root / LISTS["train"]).write_text(f"{_line(drive, 8, 'image_03')}\n/{_line(drive, 8).replace(' 2', ' /2')}\r\n\n")
    dataset = KittiEigen(root)
    assert dataset.image_ids("train") == (f"{drive}/image_02/0000000008", f"{drive}/image_03/0000000008")
    assert dataset.image_path("train", 1) == root / DATE / drive / "image_03" / "data" / "0000000008.png"


def test_digests_are_of_the_files(root: Path, home: LocalLocation) -> None:
    before = (KittiEigen(root).image_digests("val"), KittiEigen(root).annotation_digest("val", "depth"))
    path = root / KittiEigen(root).samples("val")[1].labels["depth"][0]
    Image.fromarray(np.full(SIZE, 300, np.uint16)).save(path)
    index = DigestIndex(home)
    assert KittiEigen(root).image_digests("val", index=index) == before[0]
    assert KittiEigen(root).annotation_digest("val", "depth", index=index) != before[1]
    assert KittiEigen(root).read_annotation("val", 1, "depth").max() == 300 / 256


GOOD = _line(DRIVES["val"], 8)
LINES = {
    "no depth": GOOD.split()[0],
    "a date of another drive": GOOD.replace(f"{DATE}/{DATE}", f"2011_09_28/{DATE}"),
    "depth of another frame": GOOD.replace("image_02/0000000008", "image_02/0000000009"),
    "depth of another drive": GOOD.replace("drive_0002_sync/proj", "drive_0009_sync/proj"),
    "a path out of the folder": f"../{GOOD}",
    "a page": "<!DOCTYPE html>",
    "an editor's slip": GOOD.replace(" 2011_", " 2011_/home/someone/"),
}


@pytest.mark.parametrize("case", LINES)
def test_lines_of_another_form_are_refused(root: Path, case: str) -> None:
    (root / LISTS["val"]).write_text(f"{_line(DRIVES['val'], 54)}\n{LINES[case]}\n")
    with pytest.raises(DataError, match=r"test_files_with_gt\.txt, line 2 reads .*; expected DATE/DRIVE"):
        KittiEigen(root).image_ids("val")
    status = DATASETS.get("kitti").status(root)["val"]
    assert not status.is_usable
    assert "line 2" in status.missing[0]


def _damage_depth(values: np.ndarray) -> Callable[[Path], object]:
    name = f"data_depth_annotated/val/{DRIVES['val']}/proj_depth/groundtruth/image_02/0000000008.png"
    return lambda root: Image.fromarray(values).save(root / name)


def _depth_file(root: Path) -> Path:
    return root / KittiEigen(root).samples("val")[0].labels["depth"][0]


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "8 bits": (_damage_depth(np.ones(SIZE, np.uint8)), r"0000000008\.png has pixels of mode L; expected .*16 bits"),
    "another size": (_damage_depth(np.ones((5, 33), np.uint16)), r"0008\.png has 5 x 33 pixels .* 10 x 33"),
    "empty": (lambda r: _depth_file(r).write_bytes(b""), r"0000000008\.png: the file is empty"),
    "no depth map": (lambda r: _depth_file(r).unlink(), r"lacks 1 of the 6 images and depth maps .*0000000008\.png"),
    "no drive": (
        lambda r: (r / DATE / DRIVES["val"]).rename(r / "elsewhere"),
        rf"lacks 3 of the 6 .* the first is {DATE}/{DRIVES['val']}/image_02/data/0000000008\.png",
    ),
    "no list": (lambda r: (r / LISTS["val"]).unlink(), r"list .*test_files_with_gt\.txt is missing"),
    "twice": (lambda r: (r / LISTS["val"]).write_text(f"{GOOD}\n{GOOD}"), r"names the image .* more than once"),
    "an empty list": (lambda r: (r / LISTS["val"]).write_text(""), r"lists no image with depth"),
    "a binary list": (lambda r: (r / LISTS["val"]).write_bytes(b"\xff\xfe\x00"), r"test_files_with_gt\.txt is no text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(root)
    with pytest.raises((DataError, MissingDataError), match=message):
        KittiEigen(root).read_annotation("val", 0, "depth")


def test_is_found_and_told_what_is_missing(root: Path, tmp_path: Path) -> None:
    entry = DATASETS.get("kitti")
    status = entry.status(root.parent)
    assert {split: (s.images, s.missing) for split, s in status.items()} == {"train": (3, ()), "val": (3, ())}
    (root / LISTS["train"]).unlink()
    path = _depth_file(root)
    path.unlink()
    status = entry.status(root)
    assert status["train"].missing == (str(root / LISTS["train"]),)
    assert status["val"].missing == (str(path),)
    (tmp_path / "other").mkdir()
    with pytest.raises(
        MissingDataError, match=r"expected kitti_eigen_train_files_with_gt\.txt .* found an empty folder"
    ):
        entry.open(tmp_path / "other")
    assert not any(s.is_usable for s in entry.status(tmp_path / "other").values())


def test_lists_may_have_the_names_that_bts_gave_them(root: Path) -> None:
    for name in LISTS.values():
        (root / name).rename(root / name.removeprefix("kitti_"))
    assert len(open_dataset("kitti", root).image_ids("val")) == 3
    assert DATASETS.get("kitti").status(root)["train"].is_usable


def test_lists_are_sorted_whatever_their_order(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(_line(DRIVES["val"], frame) for frame in (5, 100, 7)))
    assert [id_[-3:] for id_ in read_list(path)] == ["005", "007", "100"]
