"""Image files of any kind to uint8 RGB, or an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deapcache.datasets.folders import access_error
from deapcache.datasets.picture_files import orientation, without_metadata
from deapcache.errors import DataError, DeapcacheError, MissingDataError

COLOUR = "rgb8; alpha over white; grey16/257; cmyk by pillow; icc ignored; exif applied"
"""Recipe field: how :func:`decode_image` makes RGB from files."""

COLOUR_AS_STORED = COLOUR.replace("exif applied", "exif ignored")
"""Recipe field: the same for ``decode_image(path, apply_exif=False)``."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes the stored picture upright; from 5 on, height and width change places."""


def decode_image(path: Path, *, apply_exif: bool = True) -> NDArray[np.uint8]:
    """The picture in a file as (h, w, 3) uint8 RGB, the first one where the file holds several.

    Greyscale is repeated, palettes are looked up, transparency is composited over white, CMYK is converted without
    colour profile, 16-bit greyscale is divided by 257 (65535 becomes 255). The EXIF orientation is applied unless
    ``apply_exif`` is False, for data whose annotations lie on the stored pixels. Raises :class:`MissingDataError`
    where there is no such file and :class:`DataError` where it cannot be decoded whole or has too many pixels.
    """
    with opened(path, "image") as (image, exif):
        _refuse_huge(image, path)
        image.load()
        rgb = _to_rgb(image)
        turn = _TURNS.get(orientation(exif)) if apply_exif else None
        return np.array(rgb if turn is None else rgb.transpose(turn), dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as it is stored, from the file's header; raises as :func:`decode_image`."""
    with opened(path, "image", header_only=True) as (image, _):
        return image.height, image.width


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of what ``decode_image(path)`` gives, without its pixels; raises as it does."""
    with opened(path, "image", header_only=True) as (image, exif):
        size, is_png = (image.height, image.width), image.format == "PNG"
    if is_png and not exif:
        with opened(path, "image") as (_, exif):  # it may come after the pixels
            pass
    return size[::-1] if orientation(exif) >= 5 else size


@contextmanager
def opened(path: Path, what: str, *, header_only: bool = False) -> Iterator[tuple[Image.Image, bytes]]:
    """The picture in a file, and its EXIF block; errors as :func:`explained`, also of what is done with the picture.

    Texts, profiles and all EXIF tags but the orientation play no part, sound or not.
    """
    with explained(path, what), path.open("rb") as file:
        stream, exif = without_metadata(file, header_only=header_only)
        with Image.open(stream) as image:
            yield image, exif or image.info.get("exif", b"")


@contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Errors of reading and decoding a file turned into :class:`DeapcacheError` that name it.

    :class:`MissingDataError` where it is not there, :class:`DataError` where it may not be read, or whatever a decoder
    raises; :class:`LocationError` where it could not be looked at, which says nothing about the file.
    """
    try:
        yield
    except (DeapcacheError, MemoryError):
        raise
    except FileNotFoundError:
        raise MissingDataError(f"{what} {path} is missing; put the file back, or take it out of the listing") from None
    except UnidentifiedImageError:
        raise DataError(f"cannot decode {path}: {_what_it_is(path)}; replace the file") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"cannot decode {path}: {error}") from None
    except Exception as error:  # decoders document none, and raise all kinds on files that are not what they say
        if isinstance(error, OSError) and error.errno:
            raise access_error(error, path) from None
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot decode {path}: {reason}; replace the file") from error


def _what_it_is(path: Path) -> str:
    size = path.stat().st_size
    return f"none of the known image formats ({size} bytes)" if size else "the file is empty (0 bytes)"


def _refuse_huge(image: Image.Image, path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(
            f"cannot decode {path}: {image.width} x {image.height} pixels are more than the limit of {limit}; "
            "scale the file down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_grey16(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _from_grey16(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # "I" holds 16-bit files of some formats in 32 bits
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"greyscale values {values.min()}..{values.max()} are beyond 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
