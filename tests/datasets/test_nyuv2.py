"""NYUv2 from MATLAB's file, against h5py, scipy and plain numpy."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import pickle
import runpy
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from deapcache_matlab import random_sample, write_labelled, write_splits
from scipy.io import loadmat

from deapcache.annotations import resize_map
from deapcache.datasets import DATASETS, DigestIndex, open_dataset
from deapcache.datasets.nyuv2 import MOST_OBJECTS, NyuInpainted, NyuLabelled
from deapcache.errors import DataError, MissingDataError, UsageError
from deapcache.locations import LocalLocation

SIZE = (24, 32)
TRAIN, TEST = (5, 2, 6), (1, 4, 3)
MEMORY = Path(__file__).parents[1] / "benchmarks" / "nyuv2_memory.py"


@pytest.fixture
def samples() -> list[dict[str, np.ndarray]]:
    return [random_sample(seed, SIZE) for seed in range(6)]


@pytest.fixture
def root(tmp_path: Path, samples: list[dict[str, np.ndarray]]) -> Path:
    folder = tmp_path / "data"
    write_labelled(folder, samples)
    write_splits(folder, TRAIN, TEST)
    return folder


def _change(root: Path, array: str, place: tuple[int, ...], value: float) -> None:
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
        file[array][place] = value


def _place(number: int) -> str:
    return hashlib.sha256(f"0:{number:04d}".encode()).hexdigest()


def test_training_images_come_in_the_seeded_order(root: Path) -> None:
    write_splits(root, (4, 1, 3, 5), (6, 2))
    expected = sorted((1, 3, 4, 5), key=_place)
    assert expected != sorted(expected)
    dataset = NyuLabelled(root)
    assert dataset.image_ids("train") == tuple(f"{number:04d}" for number in expected)
    assert set(dataset.row_files("train", 0)) == set(root.iterdir())
    assert dataset.image_ids("val") == ("0002", "0006")


def test_images_and_depth_are_those_of_the_file_turned_upright(root: Path, samples: list) -> None:
    dataset, inpainted = NyuLabelled(root), NyuInpainted(root)
    splits = loadmat(root / "splits.mat")
    with h5py.File(root / "nyu_depth_v2_labeled.mat") as file:
        assert file.userblock_size == 512
        for split, name in (("train", "trainNdxs"), ("val", "testNdxs")):
            numbers = sorted((int(n) for n in splits[name][:, 0]), key=_place if split == "train" else int)
            assert dataset.image_ids(split) == inpainted.image_ids(split) == tuple(f"{n:04d}" for n in numbers)
            for row, number in enumerate(numbers):
                expected = np.stack([file["images"][number - 1, colour].T for colour in range(3)], axis=-1)
                image = dataset.read_image(split, row)
                np.testing.assert_array_equal(image, expected)
                np.testing.assert_array_equal(image, samples[number - 1]["images"])
                assert image.flags.c_contiguous
                for source, array in ((dataset, "rawDepths"), (inpainted, "depths")):
                    depth = source.read_annotation(split, row, "depth")
                    np.testing.assert_array_equal(depth, file[array][number - 1].T)
                    assert (depth.dtype, depth.shape) == (np.float32, SIZE)


def test_instances_are_the_pairs_by_label_then_instance(root: Path, samples: list) -> None:
    dataset = NyuLabelled(root)
    labels, numbers = samples[1]["labels"], samples[1]["instances"]
    pairs = sorted({(a, b) for a, b in zip(labels.ravel(), numbers.ravel(), strict=True) if a != 0})
    assert len(pairs) == 9  # three labels with three numbers each, 0 among the numbers
    expected = np.zeros(SIZE, np.int32)
    boxes = [[0, 0, 32, 24, 32 * 24, 3, 0]]
    for k, (label, number) in enumerate(pairs, start=1):
        mask = (labels == label) & (numbers == number)
        expected[mask] = k
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        boxes.append([columns[0], rows[0], width, height, mask.sum(), 1, label])
    instances = dataset.read_annotation("train", 0, "instances")
    np.testing.assert_array_equal(instances, expected)
    assert instances.dtype == np.int32
    np.testing.assert_array_equal(dataset.read_annotation("train", 0, "boxes"), np.array(boxes, np.float64))
    assert dataset.box_rows("train") == 1 + MOST_OBJECTS


def test_instances_of_images_that_are_labelled_everywhere_or_nowhere(tmp_path: Path, samples: list) -> None:
    samples[0]["labels"][:] = 7
    samples[1]["labels"][:] = 0
    write_labelled(tmp_path, samples)
    write_splits(tmp_path, (3,), (1, 2))
    dataset = NyuLabelled(tmp_path)
    np.testing.assert_array_equal(dataset.read_annotation("val", 0, "instances"), samples[0]["instances"] + 1)
    assert not dataset.read_annotation("val", 1, "instances").any()
    assert len(dataset.read_annotation("val", 1, "boxes")) == 1


def test_too_many_objects_are_refused(tmp_path: Path, samples: list) -> None:
    samples[0]["labels"][:] = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) + 1
    write_labelled(tmp_path, samples)
    write_splits(tmp_path, (1,), (2,))
    with pytest.raises(DataError, match=r"labeled\.mat: image 0001 has 768 objects, .* room for 400"):
        NyuLabelled(tmp_path).read_annotation("train", 0, "boxes")


def test_the_sensors_far_end_is_unknown(root: Path) -> None:
    for array in ("rawDepths", "depths"):
        _change(root, array, (1, 5, 3), 10.0)
    assert NyuLabelled(root).read_annotation("train", 0, "depth")[3, 5] == 0
    assert NyuInpainted(root).read_annotation("train", 0, "depth")[3, 5] == 10
    assert NyuLabelled(root).target_options("depth") != NyuInpainted(root).target_options("depth")


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_depth_that_is_no_depth_is_refused(root: Path, value: float) -> None:
    _change(root, "rawDepths", (1, 5, 3), value)
    with pytest.raises(DataError, match=rf"rawDepths of image 0002 has 1 pixel.* {value} at row 3, column 5"):
        NyuLabelled(root).read_annotation("train", 0, "depth")


@pytest.mark.usefixtures("settled_files")
def test_digests_are_of_each_image_and_quick_the_second_time(root: Path, home: LocalLocation) -> None:
    index = DigestIndex(home)
    images = NyuLabelled(root).image_digests("train", index=index)
    with h5py.File(root / "nyu_depth_v2_labeled.mat") as file:
        assert images == tuple(hashlib.sha256(file["images"][k].tobytes()).hexdigest() for k in (1, 4, 5))
    before = {kind: NyuLabelled(root).annotation_digest("train", kind, index=index) for kind in ("depth", "instances")}
    assert index.hashed_files == 3 + 3 + 6
    assert NyuInpainted(root).image_digests("train", index=index) == images
    again = DigestIndex(home)
    assert NyuLabelled(root).image_digests("train", index=again) == images
    for kind, digest in before.items():
        assert NyuLabelled(root).annotation_digest("train", kind, index=again) == digest
        assert NyuLabelled(root).annotation_digest("train", kind) == digest
    assert NyuLabelled(root).annotation_digest("train", "boxes", index=again) == before["instances"]
    assert again.hashed_files == 0
    assert NyuLabelled(root).annotation_digest("val", "depth") != before["depth"]
    assert NyuInpainted(root).annotation_digest("train", "depth") != before["depth"]


@pytest.mark.parametrize("array", ["images", "rawDepths", "labels", "instances"])
def test_one_changed_pixel_changes_only_what_it_belongs_to(root: Path, home: LocalLocation, array: str) -> None:
    def digests() -> dict[str, object]:
        dataset, index = NyuLabelled(root), DigestIndex(home)
        kinds = {kind: dataset.annotation_digest("train", kind, index=index) for kind in ("depth", "instances")}
        return {**kinds, "images": dataset.image_digests("train", index=index)}

    before = digests()
    place = (4, 1, 5, 3) if array == "images" else (4, 5, 3)
    with h5py.File(root / "nyu_depth_v2_labeled.mat") as file:
        old = file[array][place]
    _change(root, array, place, old + 1 if old < 255 else 0)
    after = digests()
    changed = {"images": "images", "rawDepths": "depth"}.get(array, "instances")
    assert {name for name in before if before[name] != after[name]} == {changed}
    if array == "images":
        assert [a == b for a, b in zip(before["images"], after["images"], strict=True)] == [True, False, True]


def test_a_file_that_changes_while_it_is_open_is_read_anew(root: Path, samples: list, tmp_path: Path) -> None:
    dataset = NyuLabelled(root)
    dataset.read_image("train", 0)
    samples[1]["images"] = 255 - samples[1]["images"]
    write_labelled(tmp_path / "new", samples).replace(root / "nyu_depth_v2_labeled.mat")
    np.testing.assert_array_equal(dataset.read_image("train", 0), samples[1]["images"])


def _open_files() -> list[str]:
    return [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]  # noqa: PTH208


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_the_file_is_opened_late_and_closed(root: Path) -> None:
    path = os.path.realpath(root / "nyu_depth_v2_labeled.mat")
    dataset = NyuLabelled(root)
    assert path not in _open_files()
    expected = dataset.read_image("train", 0)
    dataset.read_annotation("val", 1, "depth")
    assert _open_files().count(path) == 1
    np.testing.assert_array_equal(dataset.read_image("train", 0), expected)
    del dataset
    gc.collect()
    assert path not in _open_files()


def test_an_open_dataset_can_be_sent_to_other_processes(root: Path) -> None:
    dataset = NyuLabelled(root)
    here = [dataset.read_image("train", row) for row in range(3)]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).read_image("train", 1), here[1])
    for method in ("spawn", "fork"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            there = list(pool.map(dataset.read_image, ["train"] * 3, range(3)))
        np.testing.assert_array_equal(there, here)
    np.testing.assert_array_equal(dataset.read_image("train", 2), here[2])


def test_both_names_share_their_images(root: Path) -> None:
    both = [open_dataset(name, root) for name in ("nyuv2", "nyuv2-inpainted")]
    assert {dataset.images_name for dataset in both} == {"nyuv2"}
    assert len({dataset.image_digests("val") for dataset in both}) == 1
    assert both[1].annotations == ("depth",)
    with pytest.raises(UsageError, match="no annotation 'boxes'"):
        both[1].box_rows("train")


def test_targets_are_cached(root: Path, home: LocalLocation) -> None:
    from deapcache.cache import open_cache  # here, so that other processes need not import it
    from deapcache.extraction import ExtractionSettings, prepare_split

    dataset = NyuLabelled(root)
    assert dataset.base_size == (216, 288)
    kinds = dataset.annotations
    prepare_split(dataset, "train", home, ExtractionSettings(base_size=(12, 16)), annotations=kinds)
    for kind in kinds:
        (path,) = home.path.glob(f"targets/nyuv2/train/{kind}-*.zarr")
        stored = open_cache(LocalLocation(path)).read(range(3))
        for row in range(3):
            expected = dataset.read_annotation("train", row, kind)
            if kind == "boxes":
                np.testing.assert_array_equal(stored[row, : len(expected)], expected)
            else:
                np.testing.assert_array_equal(stored[row], resize_map(expected, (12, 16)))


def _without(root: Path, name: str) -> None:
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file[name]


def _replaced(root: Path, name: str, values: np.ndarray) -> None:
    _without(root, name)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
        file[name] = values


def _cut(root: Path, share: float) -> None:
    path = root / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no splits": (lambda r: (r / "splits.mat").unlink(), r"splits\.mat is missing.*indoor_seg_sup"),
    "splits that are text": (lambda r: (r / "splits.mat").write_text("<html>"), r"splits\.mat is no MATLAB file of"),
    "empty splits": (lambda r: (r / "splits.mat").write_bytes(b""), r"splits\.mat is no MATLAB file of version 5"),
    "splits of another file": (lambda r: write_splits(r, (1, 7), (2,)), r"trainNdxs must be .* from 1 to 6"),
    "splits from 0": (lambda r: write_splits(r, (0, 1), (2,)), r"trainNdxs must be different whole numbers"),
    "twice in a split": (lambda r: write_splits(r, (1, 1), (2,)), r"trainNdxs must be different whole numbers"),
    "in both splits": (lambda r: write_splits(r, (1, 2), (3, 2)), r"image 2 is both in trainNdxs and in testNdxs"),
    "no HDF5": (lambda r: (r / "nyu_depth_v2_labeled.mat").write_text("<html>"), r"cannot be opened as HDF5"),
    "cut short": (lambda r: _cut(r, 0.5), r"labeled\.mat cannot be opened as HDF5"),
    "no depth": (lambda r: _without(r, "rawDepths"), r"has no array 'rawDepths'; found depths, images"),
    "no images": (lambda r: _without(r, "images"), r"has no array 'images'"),
    "upright depth": (
        lambda r: _replaced(r, "rawDepths", np.zeros((6, *SIZE), np.float32)),
        r"rawDepths has shape \(6, 24, 32\) and dtype float32; expected .*images has shape \(6, 3, 32, 24\)",
    ),
    "depth in whole numbers": (
        lambda r: _replaced(r, "rawDepths", np.zeros((6, 32, 24), np.uint16)),
        r"rawDepths has shape \(6, 32, 24\) and dtype uint16",
    ),
    "one image only": (lambda r: _replaced(r, "images", np.zeros((3, 32, 24), np.uint8)), r"images has shape \(3, 32"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_used_are_refused(root: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(root)
    dataset = NyuLabelled(root)
    with pytest.raises((DataError, MissingDataError), match=message):
        dataset.read_annotation("train", 0, "depth")


def test_a_damaged_image_is_named(root: Path) -> None:
    path = root / "nyu_depth_v2_labeled.mat"
    with h5py.File(path) as file:
        chunk = file["images"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    dataset = NyuLabelled(root)
    with pytest.raises(DataError, match=r"labeled\.mat: item 1 of images cannot be read"):
        dataset.read_image("train", 0)
    assert dataset.read_image("train", 1).shape == (*SIZE, 3)


def test_a_file_that_is_taken_away_is_missed(root: Path) -> None:
    dataset = NyuLabelled(root)
    dataset.read_image("train", 0)
    (root / "nyu_depth_v2_labeled.mat").unlink()
    with pytest.raises(MissingDataError, match=r"labeled\.mat is missing"):
        dataset.read_image("train", 0)
    with pytest.raises(UsageError, match="no split 'test'"):
        dataset.image_ids("test")


@pytest.mark.parametrize("place", ["", "nyuv2", "nyu_depth_v2"])
def test_is_found_under_the_data_root(tmp_path: Path, samples: list, place: str) -> None:
    entry = DATASETS.get("nyuv2")
    with pytest.raises(MissingDataError, match=r"expected nyu_depth_v2_labeled\.mat with splits\.mat.*an empty folder"):
        entry.open(tmp_path)
    assert not entry.status(tmp_path)["train"].is_usable
    write_labelled(tmp_path / place, samples)
    assert entry.status(tmp_path)["train"].missing == (str(tmp_path / place / "splits.mat"),)
    write_splits(tmp_path / place, TRAIN, TEST)
    for name in ("nyuv2", "nyuv2-inpainted"):
        assert open_dataset(name, tmp_path).image_ids("val") == ("0001", "0003", "0004")
        status = DATASETS.get(name).status(tmp_path)
        assert {split: (s.images, s.missing) for split, s in status.items()} == {"train": (795, ()), "val": (654, ())}


def test_reading_all_images_holds_one_at_a_time() -> None:
    """40 images of the real size; the benchmark by hand reads all 1,449."""
    memory = runpy.run_path(str(MEMORY))["run"](40, noise=False)
    assert memory.arrays > 120
    assert memory.growth < memory.arrays / 2
