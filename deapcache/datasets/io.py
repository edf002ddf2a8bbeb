"""Files of datasets: folders and what is missing in them, images, label maps and depth maps, and their resizing."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from deapcache.datasets.image_metadata import orientation, without_metadata
from deapcache.errors import DataError, DeapcacheError, MissingDataError
from deapcache.locations.files import OF_THE_PATH, access_error
from deapcache.regions import SQUASH, seen_region


@contextmanager
def file_errors(root: Path) -> Iterator[None]:
    """Errors of looking into a dataset's folders turned into :class:`DeapcacheError`, as :func:`dataset_error` does."""
    try:
        yield
    except DeapcacheError:
        raise
    except OSError as error:
        raise dataset_error(error, root) from None


def dataset_error(error: OSError, path: Path) -> DeapcacheError:
    """What to raise where the operating system does not let a file or folder be read; ``path``, if it names none.

    :class:`MissingDataError` for what vanished, :class:`DataError` for what may not be read or is no such file. A
    failing disk or too many open files are no fault of the data, which nothing may be left out for:
    :class:`LocationError`.
    """
    if error.filename is not None:
        path = Path(os.fsdecode(error.filename))
    found = access_error(error, path)
    if isinstance(error, FileNotFoundError):
        return MissingDataError(str(found), path=path)
    is_of_data = isinstance(error, PermissionError) or error.errno in OF_THE_PATH
    return DataError(str(found), path=path) if is_of_data else found


def read_bytes(path: Path, what: str) -> bytes:
    """All of a file that says what a dataset holds; raises as :func:`dataset_error` does."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingDataError(f"{what} {path} is missing", path=path) from None
    except OSError as error:
        raise dataset_error(error, path) from None


def read_json(path: Path, what: str, advice: str) -> Any:
    """What a JSON file holds; raises :class:`DataError` that names it and ends with ``advice`` where it is none."""
    data = read_bytes(path, what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); {advice}", path=path) from None


def read_pair_list(path: Path, pattern: re.Pattern[str], expected: str) -> Iterator[re.Match[str]]:
    """The lines of a list of pictures with depth maps, in the form that BTS (Lee et al. 2019) gave such lists.

    Raises :class:`MissingDataError` where there is no such file, and :class:`DataError` that names file and line where
    a line that is not empty has another form than the ``pattern``; ``expected`` says which.
    """
    advice = "take it from the files of BTS or AdaBins"
    try:
        lines = read_bytes(path, "list").decode().splitlines()
    except MissingDataError:
        raise MissingDataError(f"list {path} is missing; {advice}", path=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"list {path} is no text ({error}); {advice}", path=path) from None
    for number, line in enumerate(map(str.strip, lines), start=1):
        match = pattern.fullmatch(line)
        if match is not None:
            yield match
        elif line:
            raise DataError(f"{path}, line {number} reads {line[:200]!r}; expected {expected}", path=path)


def describe_folder(folder: Path) -> str:
    """The first names in a folder, for error messages: ``a.txt, b/ and 3 more``."""
    try:
        if not folder.is_dir():
            return "no such folder"
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    except OSError as error:
        return f"a folder that cannot be listed ({error.strerror})"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) + more) or "an empty folder"


def stems(folder: Path, suffix: str) -> set[str]:
    """Names without ``suffix`` of the files that end in it; hidden files and a folder that is not there have none."""
    if not folder.is_dir():
        return set()
    names = os.listdir(folder)  # noqa: PTH208 - one call for all names
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")}


def list_matching(folder: Path, pattern: str) -> list[Path]:
    """What ``folder.glob(pattern)`` gives, in no order, but for hidden files, and that no folder is passed over.

    ``pattern`` has no ``**``. Raises ``OSError`` for a folder that may not be listed, where ``glob`` goes on.
    """
    found = [folder]
    for part in pattern.split("/"):
        listed = [(place, os.listdir(place)) for place in found if place.is_dir()]  # noqa: PTH208 - as in stems
        found = [
            place / name for place, names in listed for name in fnmatch.filter(names, part) if not name.startswith(".")
        ]
    return found


def missing_paths(paths: Collection[Path]) -> tuple[str, ...]:
    """Those of the files and folders that are not there."""
    return tuple(str(path) for path in paths if not path.exists())


def missing_files(paths: Collection[Path]) -> list[Path]:
    """Those of the files that are not there, in order; each folder is listed once."""
    folders = {path.parent for path in paths}
    present = {folder: set(os.listdir(folder)) for folder in folders if folder.is_dir()}  # noqa: PTH208 - as in stems
    return [path for path in paths if path.name not in present.get(path.parent, ())]


def require_all(ids: Collection[str], folder: Path, suffix: str, advice: str) -> None:
    """Raise :class:`MissingDataError` where ``folder`` lacks ``ID + suffix`` for some of the ids: how many, and one."""
    present = stems(folder, suffix)
    if lacking := sorted(name for name in ids if name not in present):
        raise MissingDataError(
            f"{folder} lacks {len(lacking):,} of {len(ids):,} files, the first is {lacking[0]}{suffix}; {advice}",
            path=folder / f"{lacking[0]}{suffix}",
        )


COLOUR = "rgb8; alpha over white; grey16/257; cmyk by pillow; icc ignored; exif applied"
"""Recipe field: how :func:`decode_picture` makes RGB from files."""

COLOUR_AS_STORED = COLOUR.replace("exif applied", "exif ignored")
"""Recipe field: the same for ``decode_picture(path, apply_exif=False)``."""

_TRANSPOSE_BY_ORIENTATION = {
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
    """The pixels of :func:`decode_picture` as (h, w, 3) uint8 RGB; raises as it does."""
    return np.array(decode_picture(path, apply_exif=apply_exif), dtype=np.uint8)


def decode_picture(path: Path, *, apply_exif: bool = True) -> Image.Image:
    """The picture in a file in RGB, decoded, the first one where the file holds several.

    Greyscale is repeated, palettes are looked up, transparency is composited over white, CMYK is converted without
    colour profile, 16-bit greyscale is divided by 257 (65535 becomes 255). The EXIF orientation is applied unless
    ``apply_exif`` is False, for data whose annotations lie on the stored pixels. Raises :class:`MissingDataError`
    where there is no such file and :class:`DataError` where it cannot be decoded whole or has too many pixels.
    """
    with open_picture(path, "image") as (image, exif):
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise DataError(
                f"cannot decode {path}: {image.width} x {image.height} pixels are more than the limit of {limit}; "
                "scale the file down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
                path=path,
            )
        image.load()
        rgb = _to_rgb(image)
        turn = _TRANSPOSE_BY_ORIENTATION.get(orientation(exif)) if apply_exif else None
        return rgb if turn is None else rgb.transpose(turn)


def image_size(path: Path, *, apply_exif: bool = True) -> tuple[int, int]:
    """(height, width) of what :func:`decode_image` gives, without its pixels; raises as it does."""
    size, turn = picture_geometry(path, with_exif=apply_exif)
    return size[::-1] if turn >= 5 else size


def picture_geometry(path: Path, *, with_exif: bool = True) -> tuple[tuple[int, int], int]:
    """(height, width) of a picture as it is stored, and its EXIF orientation, 1 to 8; 1 where that is not asked for."""
    with open_picture(path, "image", header_only=True) as (image, exif):
        size, is_png = (image.height, image.width), image.format == "PNG"
    if with_exif and is_png and not exif:
        with open_picture(path, "image") as (_, exif):  # it may come after the pixels
            pass
    return size, orientation(exif) if with_exif else 1


def turn_map(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A map (h, w) of a picture as it is stored, turned as EXIF's ``orientation`` makes the picture upright."""
    turned = values.T if orientation >= 5 else values
    rows, columns = _FLIPS[orientation]
    return turned[:: -1 if rows else 1, :: -1 if columns else 1]


def turn_box(box: Sequence[float], size: tuple[int, int], orientation: int) -> list[float]:
    """x, y, width, height in a stored picture of ``size`` (height, width) as they are where it is upright."""
    x, y, width, height = box
    total = (size[1], size[0])
    if orientation >= 5:
        x, y, width, height, total = y, x, height, width, size
    rows, columns = _FLIPS[orientation]
    return [total[0] - x - width if columns else x, total[1] - y - height if rows else y, width, height]


_FLIPS = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
"""EXIF orientation → whether rows and columns are reversed, after the transposition of those from 5 on."""


@contextmanager
def open_picture(path: Path, what: str, *, header_only: bool = False) -> Iterator[tuple[Image.Image, bytes]]:
    """The picture in a file, and its EXIF block; errors as of :func:`decode_errors`, also within the block.

    Texts, profiles and all EXIF tags but the orientation play no part, sound or not.
    """
    with decode_errors(path, what), path.open("rb") as file:
        stream, exif = without_metadata(file, header_only=header_only)
        with Image.open(stream) as image:
            yield image, exif or image.info.get("exif", b"")


@contextmanager
def decode_errors(path: Path, what: str) -> Iterator[None]:
    """Errors of reading and decoding a file turned into :class:`DeapcacheError` that name it.

    :class:`MissingDataError` where it is not there, :class:`DataError` where it may not be read, or whatever a decoder
    raises; :class:`LocationError` where it could not be looked at, which says nothing about the file.
    """
    try:
        yield
    except (DeapcacheError, MemoryError):
        raise
    except FileNotFoundError:
        raise MissingDataError(
            f"{what} {path} is missing; put the file back, or take it out of the listing", path=path
        ) from None
    except UnidentifiedImageError:
        size = path.stat().st_size
        found = f"none of the known image formats ({size} bytes)" if size else "the file is empty (0 bytes)"
        raise DataError(f"cannot decode {path}: {found}; replace the file", path=path) from None
    except Image.DecompressionBombError as error:
        raise DataError(f"cannot decode {path}: {error}", path=path) from None
    except Exception as error:  # decoders document none, and raise all kinds on files that are not what they say
        if isinstance(error, OSError) and error.errno:
            raise dataset_error(error, path) from None
        reason = str(error) or type(error).__name__
        raise DataError(f"cannot decode {path}: {reason}; replace the file", path=path) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)  # "I" holds 16-bit files of some formats in 32 bits
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"greyscale values {values.min()}..{values.max()} are beyond 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
"""Modes that Pillow gives a greyscale PNG of 16 bits; older versions widen it to ``I``."""

_INDEX_MODES = ("P", "L", "1", *_SIXTEEN_BITS)
"""Pillow's modes with one number a pixel."""

_STEPS = {"L;2": 85, "L;4": 17}
"""By how much Pillow multiplies grey of fewer than 8 bits, so that it can be looked at."""


def read_index_map(path: Path) -> NDArray[np.int32]:
    """(h, w) int32: the numbers stored in a palette or greyscale PNG of 1 to 16 bits, as they are.

    A palette is ignored: what counts is the index. Raises :class:`MissingDataError` where there is no such file and
    :class:`DataError` where it cannot be decoded, is no PNG or holds colours.
    """
    with open_picture(path, "label map") as (picture, _):
        image = require_png(picture, "label map", path)
        if image.mode not in _INDEX_MODES:
            raise DataError(
                f"label map {path} holds colours (mode {image.mode}); expected one number a pixel: a palette PNG or a "
                "greyscale PNG of at most 16 bits. Colours were probably written by a viewer: take the original file",
                path=path,
            )
        step = _STEPS.get(str(image.tile[0][3]), 1)
        return np.array(image, dtype=np.int32) // step


def bits_of(path: Path) -> int:
    """8 or 16: bits of a pixel of a greyscale or palette picture (8 for fewer); raises as :func:`read_index_map`."""
    with open_picture(path, "label map", header_only=True) as (image, _):
        return 16 if image.mode.startswith("I") else 8


def require_png(image: Image.Image, what: str, path: Path) -> PngImageFile:
    """The image itself; raises :class:`DataError` for pictures of other kinds, which change or scale numbers."""
    if not isinstance(image, PngImageFile):
        raise DataError(
            f"{what} {path} is a {image.format} picture whatever its name; expected a PNG, which keeps numbers as they "
            "are: take the original file",
            path=path,
        )
    return image


def require_values(labels: NDArray[np.int32], allowed: NDArray[np.bool_], path: Path, what: str) -> None:
    """Raise :class:`DataError` where a map has a value v that is not ``allowed[v]``; ``what`` says what is."""
    present = np.unique(labels)
    wrong = [int(v) for v in present if v < 0 or v >= len(allowed) or not allowed[v]]
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        raise DataError(f"label map {path} has the value(s) {shown}; expected {what}", path=path)


_FAR_END = 2**16 - 1
"""The highest value of 16 bits: where there is no depth (sky), or it is beyond the range."""

_FARTHEST = 65_504.0
"""Metres; the largest half-precision number, which renderers write for infinity. Nothing that is measured is so far."""


def read_depth_png(path: Path, *, steps_per_metre: int) -> NDArray[np.float32]:
    """(h, w) float32 metres: a greyscale PNG of 16 bits, whose value over ``steps_per_metre`` is the depth.

    0 stays 0, unknown. Raises :class:`MissingDataError` where there is no such file and :class:`DataError` where it
    cannot be decoded or has another pixel format: 8 bits or colours are pictures of depth, made for looking at. The
    highest value, 65535, is refused: it stands where no depth is known, and nobody has measured it.
    """
    with open_picture(path, "depth map") as (image, _):
        require_png(image, "depth map", path)
        if image.mode not in _SIXTEEN_BITS:
            raise DataError(
                f"depth map {path} has pixels of mode {image.mode}; expected a greyscale PNG of 16 bits. It is "
                "probably a picture of the depth, scaled for looking at: take the original file",
                path=path,
            )
        steps = np.array(image)
    if far := int((steps == _FAR_END).sum()):
        raise DataError(
            f"depth map {path} has {far:,} pixel(s) of {_FAR_END}, the highest value of 16 bits, which cameras and "
            "renderers write where there is no depth; write 0 there, which is unknown",
            path=path,
        )
    # Whole numbers up to 65535 are exact in float32, so that the quotient is rounded once.
    return steps.astype(np.float32) / np.float32(steps_per_metre)


def read_depth_npy(path: Path) -> NDArray[np.float32]:
    """(h, w) float32 metres from a NumPy file of that shape and any floating-point type; NaN and 0 become 0, unknown.

    Raises :class:`MissingDataError` where there is no such file and :class:`DataError` where it cannot be read, holds
    something else, or depth that is infinite, negative or too far to be any.
    """
    with decode_errors(path, "depth map"):
        # mapped, so that a header that promises more than the file holds is an error and not a huge array
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind != "f":
        found = f"{stored.dtype} of shape {stored.shape}" if isinstance(stored, np.ndarray) else "an archive"
        raise DataError(
            f"depth map {path} holds {found}; expected floating-point metres of shape (height, width)", path=path
        )
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused
        metres = np.array(stored, np.float32)
    return require_metres(np.where(np.isnan(metres), np.float32(0), metres), f"depth map {path}")


def require_metres(depth: NDArray[Any], where: str) -> NDArray[np.float32]:
    """``depth`` as float32, if it is finite and not negative everywhere; ``where`` names it in the error.

    Unknown pixels must be 0 already: only the dataset's own rule says which they are. NaN, infinite and negative values
    that it does not speak of are damage, those of 65,504 m and more a renderer's way to say that there is no depth:
    both raise :class:`DataError`.
    """
    wrong = ~((depth >= 0) & (depth < _FARTHEST))  # True for NaN, too
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{where} has {int(wrong.sum())} pixel(s) that are NaN, infinite, negative or {_FARTHEST:,.0f} m and more, "
            f"the first is {depth[row, column]} at row {row}, column {column}; expected metres, 0 where unknown: take "
            "the original file, or write 0 where there is no depth"
        )
    return depth.astype(np.float32, copy=False)


INTERPOLATION = "pillow-bicubic-antialias"
"""Recipe field: how :func:`resize_image` scales."""


def resize_image(image: NDArray[np.uint8] | Image.Image, size: tuple[int, int], fit: str = SQUASH) -> NDArray[np.uint8]:
    """Scale each axis of the part of an image that is seen on its own, bicubic, with antialiasing where it shrinks.

    image: (h, w, 3) uint8, or an RGB picture of Pillow's, which saves two copies; size: (height, width) in pixels; fit:
    one of ``FITS``. Pixels outside of the part that is seen have no influence. Returns (height, width, 3) uint8, always
    a new array.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    seen = seen_region((picture.height, picture.width), size, fit)
    if not seen.covers((picture.height, picture.width)):  # the filter would reach beyond a ``box`` of resize
        picture = picture.crop((seen.left, seen.top, seen.left + seen.width, seen.top + seen.height))
    return np.array(picture.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.uint8)
