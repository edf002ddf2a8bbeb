"""Metadata decides nothing about pixels but for the EXIF orientation, whatever else lies in the file."""

from __future__ import annotations

import functools
import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deapcache.datasets import decode_image
from deapcache.datasets.image_metadata import orientation
from deapcache.datasets.io import image_size
from deapcache.errors import DataError, LocationError

RGB = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
POINTERS = (0x8769, 0x8825, 0xA005, 0x011A, 0x011B, 0x0201, 0x0202, 0x927C, 0x9286, 34675)
"""Tags that lead elsewhere, or whose values libraries look into."""


def exif_block(turn: int, generator: random.Random) -> bytes:
    """An EXIF block with an orientation among entries that mean nothing."""
    order = generator.choice("<>")
    entries = [
        (
            generator.choice([*POINTERS, generator.randrange(275, 65536)]),
            generator.randrange(16),
            generator.choice([0, 1, 2, 5, 1000, 2**32 - 1]),
            generator.randbytes(4),
        )
        for _ in range(generator.randrange(6))
    ]
    entries.insert(generator.randint(0, len(entries)), (0x0112, 3, 1, struct.pack(f"{order}HH", turn, 0)))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + body + struct.pack(f"{order}I", generator.choice([0, 4, 2**31])) + generator.randbytes(20)


def saved(path: Path, kind: str, exif: bytes) -> np.ndarray:
    """Write :data:`RGB` with an EXIF block, and give the pixels as they are stored."""
    image, plain = Image.fromarray(RGB), io.BytesIO()
    match kind:
        case "JPEG":
            image.save(plain, kind)
            image.save(path, kind, exif=b"Exif\0\0" + exif)
            return np.asarray(Image.open(plain))
        case "WEBP":
            image.save(path, kind, lossless=True, exact=True, exif=exif)
        case "PNG":
            image.save(path, kind, exif=exif)
        case "PNG at the end":
            image.save(plain, "PNG")
            end = plain.getvalue().rindex(b"IEND") - 4
            path.write_bytes(plain.getvalue()[:end] + chunk(b"eXIf", exif) + plain.getvalue()[end:])
        case _:
            block, info = b"Exif\0\0" + exif, PngInfo()
            info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip="z" in kind)
            image.save(path, "PNG", pnginfo=info)
    return RGB


KINDS = ("JPEG", "WEBP", "PNG", "PNG at the end", "tEXt", "zTXt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turn", UPRIGHT)
def test_odd_tags_neither_stop_nor_change_the_turn(tmp_path: Path, kind: str, turn: int) -> None:
    for seed in range(12):
        stored = saved(tmp_path / "image", kind, exif_block(turn, random.Random(seed)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Pillow says of corrupt EXIF
            found = decode_image(tmp_path / "image")
        np.testing.assert_array_equal(found, UPRIGHT[turn](stored), err_msg=f"{seed}")
        np.testing.assert_array_equal(decode_image(tmp_path / "image", apply_exif=False), stored)
        assert image_size(tmp_path / "image") == found.shape[:2]
        assert image_size(tmp_path / "image", apply_exif=False) == (8, 12)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("turn", UPRIGHT)
def test_tiff_is_turned_once_or_not_at_all(tmp_path: Path, turn: int, big: bool, compression: str | None) -> None:
    path = tmp_path / "image.tiff"
    Image.fromarray(RGB).save(path, tiffinfo={0x0112: turn}, compression=compression, big_tiff=big)
    np.testing.assert_array_equal(decode_image(path), UPRIGHT[turn](RGB))
    np.testing.assert_array_equal(decode_image(path, apply_exif=False), RGB)
    assert (image_size(path), image_size(path, apply_exif=False)) == (UPRIGHT[turn](RGB).shape[:2], (8, 12))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp_is_no_exif(tmp_path: Path, kind: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        Image.fromarray(RGB).save(tmp_path / "image", kind, pnginfo=info)
    else:
        Image.fromarray(RGB).save(tmp_path / "image", kind, xmp=xmp)
    assert decode_image(tmp_path / "image").shape == (*image_size(tmp_path / "image"), 3) == RGB.shape


@pytest.mark.parametrize(
    "data", [b"", b"Exif\0\0", b"II*\0", b"II*\0" + b"\xff" * 30, b"MM\0*\0\0\0\x08\xff\xff", b"no"]
)
def test_a_block_without_an_orientation_is_upright(data: bytes) -> None:
    assert orientation(data) == 1


@pytest.mark.parametrize(
    ("kind", "count", "value", "expected"),
    [(3, 1, 6, 6), (4, 1, 6, 6), (3, 2, 6, 1), (2, 1, 6, 1), (3, 1, 0, 1), (3, 1, 9, 1), (15, 1, 6, 1), (3, 0, 6, 1)],
)
def test_an_orientation_is_one_whole_number(kind: int, count: int, value: int, expected: int) -> None:
    entry = struct.pack("<HHIHH", 0x0112, kind, count, value, 0)
    assert orientation(b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)) == expected


def test_cut_blocks_of_every_length(tmp_path: Path) -> None:
    block = exif_block(6, random.Random(1))
    for length in range(len(block)):
        saved(tmp_path / "image", "PNG", block[:length])
        assert decode_image(tmp_path / "image").shape in (RGB.shape, (12, 8, 3))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


LARGE = zlib.compress(bytes(3_000_000))
CHUNKS = {
    "large profile": chunk(b"iCCP", b"p\0\0" + LARGE),
    "profile of an unknown method": chunk(b"iCCP", b"p\0\x07" + LARGE),
    "profile without a name's end": chunk(b"iCCP", b"p"),
    "large compressed text": chunk(b"zTXt", b"parameters\0\0" + LARGE),
    "large international text": chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE),
    "text of an unknown method": chunk(b"zTXt", b"k\0\x09" + LARGE),
    "many texts": 80 * chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 1_000_000)),
    "text with a wrong checksum": chunk(b"tEXt", b"k\0v")[:-4] + b"\0\0\0\0",
    "exif that is none": chunk(b"eXIf", b"garbage"),
    "empty exif": chunk(b"eXIf", b""),
    "raw profile that is no number": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 8\nxyz")),
    "raw profile that is not compressed": chunk(b"zTXt", b"Raw profile type exif\0\0xyz"),
    "cut gamma": chunk(b"gAMA", b"\0"),
    "cut chromaticities": chunk(b"cHRM", b"\0" * 5),
    "empty rendering intent": chunk(b"sRGB", b""),
    "cut resolution": chunk(b"pHYs", b"\0"),
    "animation of no frame": chunk(b"acTL", b"\0"),
    "frames out of order": chunk(b"fcTL", struct.pack(">5I2H2B", 7, 99, 99, 0, 0, 1, 1, 0, 0)),
    "private chunk": chunk(b"prVt", b"x" * 100),
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("name", CHUNKS)
def test_pngs_are_read_whatever_lies_beside_their_pixels(tmp_path: Path, name: str, where: str) -> None:
    plain = io.BytesIO()
    Image.fromarray(RGB).save(plain, "PNG")
    data = plain.getvalue()
    place = 33 if where == "before" else data.rindex(b"IEND") - 4
    (tmp_path / "image.png").write_bytes(data[:place] + CHUNKS[name] + data[place:])
    np.testing.assert_array_equal(decode_image(tmp_path / "image.png"), RGB)
    assert image_size(tmp_path / "image.png", apply_exif=False) == image_size(tmp_path / "image.png") == (8, 12)


def test_what_colours_are_made_of_stays(tmp_path: Path) -> None:
    """The transparent colour of a PNG, and the segments that tell how a JPEG stores colours."""
    Image.fromarray(RGB).save(tmp_path / "one.png", transparency=tuple(map(int, RGB[0, 0])))
    assert decode_image(tmp_path / "one.png")[0, 0].tolist() == [255] * 3
    for mode, colour in (("CMYK", (0, 255, 255, 0)), ("RGB", (255, 0, 0))):
        for options in ({}, {"keep_rgb": True}):
            Image.new(mode, (16, 16), colour).save(tmp_path / "one.jpg", quality=100, **options)
            assert np.abs(decode_image(tmp_path / "one.jpg").astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("segment", [b"\xff\xfe\x00\x03x", b"\xff\xe2\x00\x06MPF\0", b"\xff\xe1\x00\x02", b"\xff\xff"])
def test_segments_of_a_jpeg_that_say_nothing_about_pixels(tmp_path: Path, segment: bytes) -> None:
    plain = io.BytesIO()
    Image.fromarray(RGB).save(plain, "JPEG")
    data = plain.getvalue()
    (tmp_path / "image.jpg").write_bytes(data[:2] + 3 * segment + data[2:])
    np.testing.assert_array_equal(decode_image(tmp_path / "image.jpg"), np.asarray(Image.open(plain)))


def test_too_many_pixels_stay_an_error(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"huge\.png: .*exceeds limit"):
        decode_image(tmp_path / "huge.png")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x"), AssertionError(), NotImplementedError(), RecursionError("deep"), SystemError("x")]
)
def test_any_error_of_a_decoder_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(self: Image.Image) -> None:
        raise error

    Image.fromarray(RGB).save(tmp_path / "image.bmp")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(DataError, match=r"cannot decode .*image\.bmp: \w+; replace the file"):
        decode_image(tmp_path / "image.bmp")


def test_mutated_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    generator = random.Random(3)
    sources = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        saved_as = io.BytesIO()
        exif = {} if kind in ("GIF", "BMP") else {"exif": b"Exif\0\0" + exif_block(6, generator)}
        Image.fromarray(RGB).save(saved_as, kind, **exif)
        sources.append(saved_as.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(400):
            data = bytearray(generator.choice(sources))
            for _ in range(generator.randrange(6)):
                data[generator.randrange(len(data))] = generator.choice([0, 255, generator.randrange(256)])
            (tmp_path / "image").write_bytes(data)
            for read in (decode_image, image_size, functools.partial(image_size, apply_exif=False)):
                try:
                    read(tmp_path / "image")
                except DataError as error:
                    assert str(tmp_path / "image") in str(error)  # noqa: PT017


def test_a_file_that_cannot_be_looked_at_is_no_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "image.png")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files", str(tmp_path / "image.png"))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LocationError, match=r"cannot read .*image\.png: Too many open files; this process may have"):
        decode_image(tmp_path / "image.png")
