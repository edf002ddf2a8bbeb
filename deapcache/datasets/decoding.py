"""Image files of any kind to uint8 RGB, or an error that names the file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deapcache.errors import DataError, MissingDataError
from deapcache.locations import require_reached

COLOUR = "rgb8; alpha over white; grey16/257; cmyk by pillow; icc ignored; exif applied"
"""Recipe field: how :func:`decode_image` makes RGB from files."""

COLOUR_AS_STORED = COLOUR.replace("exif applied", "exif ignored")
"""Recipe field: the same for ``decode_image(path, apply_exif=False)``."""

_ORIENTATION = 0x0112
"""The EXIF tag."""

_TURNED = (5, 6, 7, 8)
"""Its values by which height and width change places."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, struct.error)
"""What Pillow raises on files that are not what they say."""


def decode_image(path: Path, *, apply_exif: bool = True) -> NDArray[np.uint8]:
    """The picture in a file as (h, w, 3) uint8 RGB, the first one where the file holds several.

    Greyscale is repeated, palettes are looked up, transparency is composited over white, CMYK is converted without
    colour profile, 16-bit greyscale is divided by 257 (65535 becomes 255). The EXIF orientation is applied unless
    ``apply_exif`` is False, for data whose annotations lie on the stored pixels. Raises :class:`MissingDataError`
    where there is no such file and :class:`DataError` where it cannot be decoded whole or has too many pixels.
    """
    with explained(path, "image"), Image.open(path) as image:
        _refuse_huge(image, path)
        image.load()
        if apply_exif:
            ImageOps.exif_transpose(image, in_place=True)
        return np.array(_to_rgb(image), dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as it is stored, from the file's header; raises as :func:`decode_image`."""
    with explained(path, "image"), Image.open(path) as image:
        return image.height, image.width


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) of what ``decode_image(path)`` gives, from the file's header; raises as it does."""
    with explained(path, "image"), Image.open(path) as image:
        # Pillow turns a TIFF itself, and its size is that of the turned picture
        turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Errors of decoding a file turned into :class:`MissingDataError` and :class:`DataError` that name it.

    What the disk or a limit keeps from being read is no fault of the file: :class:`LocationError`.
    """
    try:
        yield
    except FileNotFoundError:
        raise MissingDataError(f"{what} {path} is missing; put the file back, or take it out of the listing") from None
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"cannot decode {path}: {_what_it_is(path)}; replace the file") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"cannot decode {path}: {error}") from None
    except _BROKEN as error:
        require_reached(error, path)
        raise DataError(f"cannot decode {path}: {error}; replace the file") from error


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
