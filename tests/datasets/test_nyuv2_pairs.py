"""NYUv2 from PNG pairs in the layouts of its conversion scripts, against Pillow and plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deapcache_matlab import random_sample, write_labelled
from PIL import Image

from deapcache.datasets import DATASETS, open_dataset
from deapcache.datasets.nyuv2 import NyuLabelled
from deapcache.errors import DataError, MissingDataError

SIZE = (24, 32)
TRAIN, TEST = (5, 2, 6), (1, 4, 3)


@pytest.fixture
def samples() -> list[dict[str, np.ndarray]]:
    return [random_sample(seed, SIZE) for seed in range(6)]


def _plain_layout(root: Path, samples: list[dict[str, np.ndarray]], test: str = "test") -> None:
    for split, numbers in (("train", TRAIN), (test, TEST)):
        for folder, array in (("rgb", "images"), ("depth_raw", "rawDepths"), ("depth", "depths")):
            (root / split / folder).mkdir(parents=True)
            for number in numbers:
                values = samples[number - 1][array]
                stored = values if array == "images" else (values * 1e3).astype(np.uint16)
                Image.fromarray(stored).save(root / split / folder / f"{number:04d}.png")


def _scene_layout(root: Path, samples: list[dict[str, np.ndarray]]) -> None:
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        for number in numbers:
            folder = root / "official_splits" / split / ("kitchen" if number % 2 else "bathroom")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(samples[number - 1]["images"]).save(folder / f"rgb_{number - 1:05d}.jpg")
            depth = (samples[number - 1]["rawDepths"] * 1e3).astype(np.uint16)
            Image.fromarray(depth).save(folder / f"sync_depth_{number - 1:05d}.png")


@pytest.mark.parametrize("test", ["test", "val"])
def test_png_pairs(tmp_path: Path, samples: list, test: str) -> None:
    _plain_layout(tmp_path / "nyuv2", samples, test)
    dataset = open_dataset("nyuv2", tmp_path)
    assert (dataset.name, dataset.annotations, dataset.base_size) == ("nyuv2", ("depth",), (216, 288))
    assert dataset.image_ids("train") == ("0002", "0005", "0006")
    assert dataset.image_ids("val") == ("0001", "0003", "0004")
    np.testing.assert_array_equal(dataset.read_image("val", 2), samples[3]["images"])
    depth = dataset.read_annotation("val", 2, "depth")
    with Image.open(tmp_path / "nyuv2" / test / "depth_raw" / "0004.png") as image:
        np.testing.assert_array_equal(depth, np.array(image).astype(np.float32) / 1000)
    np.testing.assert_allclose(depth, samples[3]["rawDepths"], atol=1.1e-3)
    assert depth.dtype == np.float32
    assert DATASETS.get("nyuv2").status(tmp_path)["val"].images == 3
    with pytest.raises(MissingDataError, match=r"nyuv2-inpainted is not under .* found nyuv2/"):
        open_dataset("nyuv2-inpainted", tmp_path)


def test_png_pairs_in_scenes(tmp_path: Path, samples: list) -> None:
    _scene_layout(tmp_path, samples)
    dataset = open_dataset("nyuv2", tmp_path)
    assert dataset.image_ids("train") == ("kitchen/00004", "bathroom/00005", "bathroom/00001")
    with Image.open(tmp_path / "official_splits" / "test" / "kitchen" / "sync_depth_00002.png") as image:
        expected = np.array(image).astype(np.float32) / 1000
    np.testing.assert_array_equal(dataset.read_annotation("val", 2, "depth"), expected)
    assert DATASETS.get("nyuv2").status(tmp_path)["train"].is_usable
    # the plain layout comes before the scenes, and the .mat before both
    _plain_layout(tmp_path, samples)
    assert open_dataset("nyuv2", tmp_path).image_ids("val") == ("0001", "0003", "0004")
    write_labelled(tmp_path, samples)
    assert isinstance(open_dataset("nyuv2", tmp_path), NyuLabelled)


def _save(values: np.ndarray) -> Callable[[Path], object]:
    return lambda root: Image.fromarray(values).save(root / "train" / "depth_raw" / "0002.png")


BROKEN_PAIRS: dict[str, tuple[Callable[[Path], object], str]] = {
    "8 bits": (_save(np.ones(SIZE, np.uint8)), r"depth map .*0002\.png has pixels of mode L; expected .* 16 bits"),
    "colours": (_save(np.ones((*SIZE, 3), np.uint8)), r"0002\.png has pixels of mode RGB"),
    "another size": (_save(np.ones((12, 16), np.uint16)), r"0002\.png has 12 x 16 pixels .* 24 x 32"),
    "another unit": (_save(np.full(SIZE, 20000, np.uint16)), r"0002\.png goes to 20 m; .* not the millimetre"),
    "missing": (
        lambda r: (r / "train/depth_raw/0002.png").unlink(),
        r"lacks 1 pictures or depth maps of its 3 .*0002\.png",
    ),
    "empty": (lambda r: (r / "train/depth_raw/0002.png").write_bytes(b""), r"0002\.png: the file is empty"),
    "twice": (lambda r: (r / "train/rgb/0002.jpg").touch(), r"train has two pictures of the id 0002"),
    "no split": (lambda r: (r / "train").rename(r / "other"), r"nyuv2 has no train split"),
    "no picture": (lambda r: [p.unlink() for p in (r / "train/rgb").iterdir()], r"train has no picture"),
}


@pytest.mark.parametrize("case", BROKEN_PAIRS)
def test_png_pairs_that_cannot_be_used_are_refused(tmp_path: Path, samples: list, case: str) -> None:
    _plain_layout(tmp_path, samples)
    damage, message = BROKEN_PAIRS[case]
    damage(tmp_path)
    with pytest.raises((DataError, MissingDataError), match=message):
        open_dataset("nyuv2", tmp_path).read_annotation("train", 0, "depth")


def test_the_far_end_of_png_pairs_is_unknown(tmp_path: Path, samples: list) -> None:
    _plain_layout(tmp_path, samples)
    depth = np.full(SIZE, 9999, np.uint16)
    depth[3, 5] = 10000
    _save(depth)(tmp_path)
    read = open_dataset("nyuv2", tmp_path).read_annotation("train", 0, "depth")
    assert (read[3, 5], read[0, 0]) == (0, np.float32(9.999))
