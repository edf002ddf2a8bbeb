"""Maps of numbers are read as the numbers that the file holds: of 1, 2 and 4 bits, too."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.datasets import open_dataset
from deapcache.datasets.io import bits_of, read_depth_npy, read_depth_png, read_index_map
from deapcache.errors import DataError

GREY, PALETTE = 0, 3


def write_png(path: Path, values: np.ndarray, bits: int, colour: int) -> None:
    """A PNG by hand, of so many bits a pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    planes = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(*values.shape, 2), axis=2)[..., 16 - bits :]
    rows = np.packbits(planes.reshape(len(values), -1), axis=1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits)) if bits < 8 else bytes(768)) if colour == PALETTE else b""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b""))


FORMS = [(1, GREY), (2, GREY), (4, GREY), (8, GREY), (16, GREY), (1, PALETTE), (2, PALETTE), (4, PALETTE), (8, PALETTE)]


@pytest.mark.parametrize(("bits", "colour"), FORMS)
def test_numbers_are_those_in_the_file(tmp_path: Path, bits: int, colour: int) -> None:
    # widths that do not fill the last byte of a row, too
    for width in (7, 8, 13):
        values = np.random.default_rng(width).integers(0, 2**bits, (5, width))
        write_png(tmp_path / "map.png", values, bits, colour)
        found = read_index_map(tmp_path / "map.png")
        np.testing.assert_array_equal(found, values)
        assert found.dtype == np.int32
        assert bits_of(tmp_path / "map.png") == max(bits, 8)


def _photo(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(path)


@pytest.mark.parametrize(("bits", "colour"), FORMS)
def test_a_folders_classes_objects_and_boxes(tmp_path: Path, bits: int, colour: int) -> None:
    most = min(2**bits, 4)
    values = np.resize(np.arange(most), (6, 7))
    base = tmp_path / "few" / "val"
    _photo(base / "images" / "a.png", values.shape)
    write_png(base / "labels" / "a.png", values, bits, colour)
    write_png(base / "instances" / "a.png", values, bits, colour)
    (tmp_path / "few" / "classes.json").write_text(json.dumps(["a", "b", "c", "d"]))
    dataset = open_dataset("folder:few", tmp_path)
    np.testing.assert_array_equal(dataset.read_annotation("val", 0, "classes"), values)
    np.testing.assert_array_equal(dataset.read_annotation("val", 0, "instances"), values)
    assert len(dataset.read_annotation("val", 0, "boxes")) == most


def _voc(root: Path, write: Callable[[Path], None]) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    _photo(base / "JPEGImages" / "a.jpg", (6, 7))
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    write(base / "SegmentationClass" / "a.png")
    write(base / "SegmentationObject" / "a.png")


def _ade20k(root: Path, write: Callable[[Path], None]) -> None:
    _photo(root / "images" / "validation" / "a.jpg", (6, 7))
    write(root / "annotations" / "validation" / "a.png")


def _cityscapes(root: Path, write: Callable[[Path], None]) -> None:
    _photo(root / "leftImg8bit" / "val" / "ulm" / "ulm_0_leftImg8bit.png", (6, 7))
    write(root / "gtFine" / "val" / "ulm" / "ulm_0_gtFine_labelIds.png")
    write(root / "gtFine" / "val" / "ulm" / "ulm_0_gtFine_instanceIds.png")


def _coco_stuff(root: Path, write: Callable[[Path], None]) -> None:
    _photo(root / "val2017" / "000000000001.jpg", (6, 7))
    write(root / "stuffthingmaps" / "val2017" / "000000000001.png")


LAYOUTS = {"voc": _voc, "ade20k": _ade20k, "cityscapes": _cityscapes, "coco-stuff": _coco_stuff}


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("name", LAYOUTS)
def test_other_data_sets_read_the_same_of_any_depth(tmp_path: Path, name: str, bits: int) -> None:
    values = np.resize(np.arange(min(2**bits, 10)), (6, 7))
    for folder, depth in (("small", bits), ("usual", 8)):
        LAYOUTS[name](tmp_path / folder, lambda path, depth=depth: write_png(path, values, depth, GREY))
    small, usual = (open_dataset(name, tmp_path / folder) for folder in ("small", "usual"))
    for kind in small.annotations:
        found = small.read_annotation("val", 0, kind)
        np.testing.assert_array_equal(found, usual.read_annotation("val", 0, kind), err_msg=kind)


@pytest.mark.parametrize("kind", ["JPEG", "PPM", "TIFF", "BMP"])
def test_other_kinds_of_picture_are_refused_whatever_their_name(tmp_path: Path, kind: str) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "map.png", kind)
    with pytest.raises(DataError, match=rf"label map .*map\.png is a {kind} picture whatever its name; expected a PNG"):
        read_index_map(tmp_path / "map.png")
    with pytest.raises(DataError, match=rf"depth map .*map\.png is a {kind} picture"):
        read_depth_png(tmp_path / "map.png", steps_per_metre=1000)


@pytest.mark.parametrize("steps", [256, 1000, 5000])
def test_the_highest_value_of_a_depth_png_is_no_depth(tmp_path: Path, steps: int) -> None:
    values = np.full((4, 5), 65534, np.uint16)
    Image.fromarray(values).save(tmp_path / "depth.png")
    assert read_depth_png(tmp_path / "depth.png", steps_per_metre=steps).max() == np.float32(65534) / np.float32(steps)
    values[1:3] = 65535
    Image.fromarray(values).save(tmp_path / "depth.png")
    with pytest.raises(DataError, match=r"depth\.png has 10 pixel\(s\) of 65535, .* no depth; write 0 there"):
        read_depth_png(tmp_path / "depth.png", steps_per_metre=steps)


@pytest.mark.parametrize("far", [65_504.0, 65_535.0, 1e6, 1e10, 3.4e38, np.inf, -1.0, 1e300])
def test_other_far_ends_of_arrays_are_none_either(tmp_path: Path, far: float) -> None:
    np.save(tmp_path / "depth.npy", np.array([[1.0, far], [np.nan, 0.0]]))
    with pytest.raises(DataError, match=r"depth\.npy has 1 pixel\(s\) that are NaN, infinite, negative or 65,504 m"):
        read_depth_npy(tmp_path / "depth.npy")
    np.save(tmp_path / "depth.npy", np.array([[1.0, 65_000.0], [np.nan, 0.0]], np.float16))
    assert read_depth_npy(tmp_path / "depth.npy").tolist() == [[1.0, np.float32(np.float16(65_000))], [0.0, 0.0]]
