"""Image files of all kinds become the RGB they mean, or an error that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deapcache.datasets.io import COLOUR, COLOUR_AS_STORED, decode_image, image_size
from deapcache.errors import DataError, MissingDataError

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = GENERATOR.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_greyscale_is_repeated(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "grey.png"), np.repeat(GREY[..., None], 3, axis=2))


def test_rgb_is_kept(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    decoded = decode_image(tmp_path / "rgb.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, RGB)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 4, mode="P")
    palette = np.array([[10, 20, 30], [200, 0, 0], [0, 210, 0], [9, 8, 220]], np.uint8)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "palette.png"), palette[GREY % 4])


def test_size_is_that_of_the_stored_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg", apply_exif=False) == (6, 9)
    with pytest.raises(MissingDataError, match=r"image .*none\.png is missing"):
        image_size(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png: the file is empty"):
        image_size(tmp_path / "empty.png")


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    alpha = np.full((6, 9, 1), 255, np.uint8)
    alpha[:3] = 0
    alpha[3] = 128
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "alpha.png")
    decoded = decode_image(tmp_path / "alpha.png")
    assert (decoded[:3] == 255).all()
    np.testing.assert_array_equal(decoded[4:], RGB[4:])
    expected = (RGB[3] * 128.0 + 255 * 127.0) / 255
    assert np.abs(decoded[3] - expected).max() <= 1


def test_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 2, mode="P")
    image.putpalette([0, 0, 0, 90, 80, 70])
    image.save(tmp_path / "palette.png", transparency=0)
    decoded = decode_image(tmp_path / "palette.png")
    assert (decoded[GREY % 2 == 0] == 255).all()
    assert (decoded[GREY % 2 == 1] == [90, 80, 70]).all()


def test_sixteen_bit_greyscale_is_scaled_by_257(tmp_path: Path) -> None:
    values = np.array([[0, 256, 257, 32896, 65278, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "deep.png")[0, :, 1], np.rint(values[0] / 257))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    # Red is no cyan, full magenta and yellow, no black.
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    decoded = decode_image(tmp_path / "cmyk.jpg").astype(int)
    assert np.abs(decoded - [255, 0, 0]).max() <= 3


def test_exif_orientation_is_applied_unless_told_otherwise(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90° clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(decode_image(tmp_path / "turned.png"), np.rot90(RGB, -1))
    np.testing.assert_array_equal(decode_image(tmp_path / "turned.png", apply_exif=False), RGB)
    assert COLOUR != COLOUR_AS_STORED


def test_odd_name_and_wrong_extension(tmp_path: Path) -> None:
    path = tmp_path / "été 1.jpg"
    Image.fromarray(RGB).save(path, format="PNG")
    np.testing.assert_array_equal(decode_image(path), RGB)


def test_truncated_jpeg(tmp_path: Path) -> None:
    noise = GENERATOR.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg.*truncated"):
        decode_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("keep", [20, 60, 200])
def test_png_cut_anywhere(tmp_path: Path, keep: int) -> None:
    noise = GENERATOR.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut\.png"):
        decode_image(tmp_path / "cut.png")


def test_empty_file_and_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(DataError, match=r"empty\.jpg.*0 bytes"):
        decode_image(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match=r"text\.jpg.*none of the known"):
        decode_image(tmp_path / "text.jpg")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"gone\.jpg"):
        decode_image(tmp_path / "gone.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [100, 20])
def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.fromarray(np.zeros((10, 15), np.uint8)).save(tmp_path / "wide.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"wide\.png"):
        decode_image(tmp_path / "wide.png")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match=r"float\.tiff.*floating-point"):
        decode_image(tmp_path / "float.tiff")
