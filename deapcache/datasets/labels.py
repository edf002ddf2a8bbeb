"""Label maps kept as pictures whose pixel values are numbers, not colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from deapcache.datasets.decoding import opened
from deapcache.errors import DataError

_NUMBERS = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes with one number a pixel."""

_STEPS = {"L;2": 85, "L;4": 17}
"""By how much Pillow multiplies grey of fewer than 8 bits, so that it can be looked at."""


def read_index_map(path: Path) -> NDArray[np.int32]:
    """(h, w) int32: the numbers stored in a palette or greyscale PNG of 1 to 16 bits, as they are.

    A palette is ignored: what counts is the index. Raises :class:`MissingDataError` where there is no such file and
    :class:`DataError` where it cannot be decoded, is no PNG or holds colours.
    """
    with opened(path, "label map") as (picture, _):
        image = require_png(picture, "label map", path)
        if image.mode not in _NUMBERS:
            raise DataError(
                f"label map {path} holds colours (mode {image.mode}); expected one number a pixel: a palette PNG or a "
                "greyscale PNG of at most 16 bits. Colours were probably written by a viewer: take the original file"
            )
        step = _STEPS.get(str(image.tile[0][3]), 1)
        return np.array(image, dtype=np.int32) // step


def bits_of(path: Path) -> int:
    """8 or 16: bits of a pixel of a greyscale or palette picture (8 for fewer); raises as :func:`read_index_map`."""
    with opened(path, "label map", header_only=True) as (image, _):
        return 16 if image.mode.startswith("I") else 8


def require_png(image: Image.Image, what: str, path: Path) -> PngImageFile:
    """The image itself; raises :class:`DataError` for pictures of other kinds, which change or scale numbers."""
    if not isinstance(image, PngImageFile):
        raise DataError(
            f"{what} {path} is a {image.format} picture whatever its name; expected a PNG, which keeps numbers as they "
            "are: take the original file"
        )
    return image


def require_values(labels: NDArray[np.int32], allowed: NDArray[np.bool_], path: Path, what: str) -> None:
    """Raise :class:`DataError` where a map has a value v that is not ``allowed[v]``; ``what`` says what is."""
    present = np.unique(labels)
    wrong = [int(v) for v in present if v < 0 or v >= len(allowed) or not allowed[v]]
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        raise DataError(f"label map {path} has the value(s) {shown}; expected {what}")
