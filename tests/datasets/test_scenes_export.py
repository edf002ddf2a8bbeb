"""Exported scenes, read by pycocotools, Pillow, scipy, h5py and numpy alone."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from deapcache_export import export_scenes
from deapcache_export.segmentations import compressed_run_lengths, rectangles, run_lengths
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.io.matlab import matfile_version

from deapcache.datasets.scenes import CLASSES, Scenes

Exported = Callable[[str], Path]

ROWS = [(split, row) for split in ("train", "val") for row in range(3)]
NUMBERS = {"train": 1, "val": 100_001}
"""Number of the first image of each split."""


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes()


def _annotations(scenes: Scenes) -> Iterator[tuple[str, int, dict[str, np.ndarray]]]:
    for split, row in ROWS:
        yield split, row, {kind: scenes.read_annotation(split, row, kind) for kind in scenes.annotations}


def _read(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == mode
        return np.array(image)


def _assert_nearly(path: Path, image: np.ndarray) -> None:
    with Image.open(path) as opened:
        assert opened.format == "JPEG"
        stored = np.array(opened)
    assert stored.shape == image.shape
    assert np.abs(stored.astype(int) - image).mean() < 2.0


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _coco(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "annotations" / f"instances_{split}2017.json"))


def test_coco_by_pycocotools(exported: Exported, scenes: Scenes) -> None:
    root = exported("coco")
    listings = {split: _coco(root, split) for split in ("train", "val")}
    names = {id_: category["name"] for id_, category in listings["val"].cats.items()}
    kinds = set()
    for split, row, maps in _annotations(scenes):
        listing, number = listings[split], NUMBERS[split] + row
        found = sorted(listing.imgToAnns[number], key=lambda annotation: annotation["id"])
        assert len(found) == maps["instances"].max() >= 3
        for instance, (annotation, box) in enumerate(zip(found, maps["boxes"][1:], strict=True), start=1):
            np.testing.assert_array_equal(listing.annToMask(annotation), maps["instances"] == instance)
            assert [*annotation["bbox"], annotation["area"]] == box[:5].tolist()
            assert names[annotation["category_id"]] == CLASSES[int(box[6])]
            assert annotation["iscrowd"] == 0
            kinds.add(_encoding(annotation["segmentation"]))
        record = listing.imgs[number]
        assert (record["height"], record["width"]) == maps["instances"].shape
        _assert_nearly(root / f"{split}2017" / record["file_name"], scenes.read_image(split, row))
    assert kinds == {"polygons", "run lengths", "compressed run lengths"}
    ids = [id_ for listing in listings.values() for id_ in listing.anns]
    assert len(ids) == len(set(ids))
    assert [sorted(listing.imgs) for listing in listings.values()] == [[1, 2, 3], [100_001, 100_002, 100_003]]
    assert sorted(names) == [28, 33, 37, 38, 44, 58, 60]


def _encoding(segmentation: list[list[float]] | dict[str, object]) -> str:
    if isinstance(segmentation, list):
        return "polygons"
    return "run lengths" if isinstance(segmentation["counts"], list) else "compressed run lengths"


@pytest.mark.parametrize("seed", range(30))
def test_every_way_to_write_a_segmentation_is_exact(seed: int) -> None:
    """Noise of any density: runs that begin and end at all borders, holes, single pixels, nothing, everything."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 40, 2)
    mask = random.random((height, width)) < [0.0, 0.1, 0.5, 0.9, 1.0][seed % 5]
    by_polygons = coco_mask.merge(coco_mask.frPyObjects(rectangles(mask), height, width)) if mask.any() else None
    plain = coco_mask.frPyObjects(run_lengths(mask), height, width)
    for encoded in filter(None, (by_polygons, plain, compressed_run_lengths(mask))):
        np.testing.assert_array_equal(coco_mask.decode(encoded), mask)
    assert json.loads(json.dumps(run_lengths(mask)))["size"] == [height, width]


def test_coco_stuff_by_pillow(exported: Exported, scenes: Scenes) -> None:
    root = exported("coco-stuff")
    # wall-other, floor-wood, ceiling-other; suitcase, sports ball, bottle, umbrella, kite, hot dog, donut
    values = np.array([172, 117, 101, 32, 36, 43, 27, 37, 57, 59])
    for split, row, maps in _annotations(scenes):
        path = root / "stuffthingmaps_trainval2017" / f"{split}2017" / f"{NUMBERS[split] + row:012d}.png"
        np.testing.assert_array_equal(_read(path, "L"), values[maps["classes"]])
    coco = _files(exported("coco"))
    assert coco.items() <= _files(root).items()
    assert len(_files(root)) == len(coco) + len(ROWS)


def test_voc_by_pillow(exported: Exported, scenes: Scenes) -> None:
    root = exported("voc") / "VOCdevkit" / "VOC2012"
    values = np.array([0, 0, 0, 20, 16, 5, 4, 1, 15, 2])
    names = {"train": [], "val": []}
    for split, row, maps in _annotations(scenes):
        name = f"2012_{NUMBERS[split] + row:06d}"
        names[split].append(name)
        np.testing.assert_array_equal(_read(root / "SegmentationClass" / f"{name}.png", "P"), values[maps["classes"]])
        np.testing.assert_array_equal(_read(root / "SegmentationObject" / f"{name}.png", "P"), maps["instances"])
        _assert_nearly(root / "JPEGImages" / f"{name}.jpg", scenes.read_image(split, row))
    for split, listed in {**names, "trainval": names["train"] + names["val"]}.items():
        assert (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text() == "\n".join(listed) + "\n"


@pytest.mark.parametrize("kind", ["SegmentationClass", "SegmentationObject"])
def test_voc_has_the_palette_of_the_original(exported: Exported, kind: str) -> None:
    with Image.open(exported("voc") / "VOCdevkit" / "VOC2012" / kind / "2012_000001.png") as image:
        palette = np.reshape(image.getpalette(), (-1, 3)).tolist()
    assert palette[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert [palette[8], palette[15], palette[20]] == [[64, 0, 0], [192, 128, 128], [0, 64, 128]]
    assert palette[255] == [224, 224, 192]


def test_nyuv2_by_h5py_and_scipy(exported: Exported, scenes: Scenes) -> None:
    root = exported("nyuv2")
    splits = scipy.io.loadmat(root / "splits.mat")
    places = {"train": splits["trainNdxs"], "val": splits["testNdxs"]}
    assert [column.shape for column in places.values()] == [(3, 1), (3, 1)]
    assert sorted(np.concatenate(list(places.values())).ravel()) == [1, 2, 3, 4, 5, 6]
    assert places["train"].max() > places["val"].min()
    height, width = scenes.read_annotation("val", 0, "depth").shape
    with h5py.File(root / "nyu_depth_v2_labeled.mat") as file:
        assert file["images"].shape == (6, 3, width, height)
        assert file["images"].chunks == (1, 3, width, height)
        names = _cell(file, "names")
        assert names == list(CLASSES[3:])
        for split, row, maps in _annotations(scenes):
            place = int(places[split][row, 0]) - 1
            assert _cell(file, "scenes")[place] == f"{split}-{row:05d}"
            image = file["images"][place].transpose(2, 1, 0)
            np.testing.assert_array_equal(image, scenes.read_image(split, row))
            for name in ("depths", "rawDepths"):
                np.testing.assert_array_equal(file[name][place].T, maps["depth"])
            np.testing.assert_array_equal(file["labels"][place].T, np.maximum(maps["classes"].astype(int) - 2, 0))
            _assert_pairs(file["labels"][place].T, file["instances"][place].T, maps["instances"])
        types = {name: file[name].dtype for name in ("images", "depths", "rawDepths", "labels", "instances")}
        classes = [file[name].attrs["MATLAB_class"] for name in types]
    assert list(types.values()) == [np.uint8, np.float32, np.float32, np.uint16, np.uint8]
    assert classes == [b"uint8", b"single", b"single", b"uint16", b"uint8"]


def _cell(file: h5py.File, name: str) -> list[str]:
    return ["".join(map(chr, file[reference][:, 0])) for reference in file[name][0]]


def _assert_pairs(labels: np.ndarray, numbers: np.ndarray, instances: np.ndarray) -> None:
    """Each (label, number) with a number above 0 is one object, and numbers begin at 1 for each label."""
    np.testing.assert_array_equal(numbers > 0, instances > 0)
    objects = instances > 0
    pairs = set(zip(labels[objects].tolist(), numbers[objects].tolist(), strict=True))
    with_ids = set(zip(labels[objects].tolist(), numbers[objects].tolist(), instances[objects].tolist(), strict=True))
    assert len(pairs) == len(with_ids) == instances.max()
    for label in {label for label, _ in pairs}:
        mine = sorted(number for one, number in pairs if one == label)
        assert mine == list(range(1, len(mine) + 1))


def test_nyuv2_is_a_matlab_file(exported: Exported) -> None:
    root = exported("nyuv2")
    assert matfile_version(root / "nyu_depth_v2_labeled.mat") == (2, 0)
    assert matfile_version(root / "splits.mat") == (1, 0)
    with (root / "nyu_depth_v2_labeled.mat").open("rb") as file:
        assert file.read(20) == b"MATLAB 7.3 MAT-file,"
        file.seek(512)
        assert file.read(8) == b"\x89HDF\r\n\x1a\n"
    with pytest.raises(NotImplementedError, match=r"HDF reader for matlab v7\.3"):
        scipy.io.loadmat(root / "nyu_depth_v2_labeled.mat")


def test_folder_by_pillow_and_numpy(exported: Exported, scenes: Scenes) -> None:
    root = exported("folder")
    assert json.loads((root / "classes.json").read_text()) == list(CLASSES)
    for split, row, maps in _annotations(scenes):
        name = f"{split}-{row:05d}"
        np.testing.assert_array_equal(
            _read(root / split / "images" / f"{name}.png", "RGB"), scenes.read_image(split, row)
        )
        np.testing.assert_array_equal(_read(root / split / "labels" / f"{name}.png", "L"), maps["classes"])
        np.testing.assert_array_equal(_read(root / split / "instances" / f"{name}.png", "L"), maps["instances"])
        depth = np.load(root / split / "depth" / f"{name}.npy")
        assert depth.dtype == np.float32
        np.testing.assert_array_equal(depth, maps["depth"])
    assert len(_files(root)) == 1 + 4 * len(ROWS)


def test_splits_and_limit(tmp_path: Path) -> None:
    export_scenes("voc", tmp_path / "out", splits=("val",), limit=2)
    lists = tmp_path / "out" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    assert sorted(path.name for path in lists.iterdir()) == ["trainval.txt", "val.txt"]
    assert (lists / "val.txt").read_text().split() == ["2012_100001", "2012_100002"]
