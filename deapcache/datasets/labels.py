"""Label maps kept as pictures whose pixel values are numbers, not colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.datasets.decoding import explained
from deapcache.errors import DataError

_NUMBERS = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes with one number a pixel."""


def read_index_map(path: Path) -> NDArray[np.int32]:
    """(h, w) int32: the numbers stored in a palette or greyscale picture, as they are.

    A palette is ignored: what counts is the index. Raises :class:`MissingDataError` where there is no such file and
    :class:`DataError` where it cannot be decoded or holds colours.
    """
    with explained(path, "label map"), Image.open(path) as image:
        if image.mode not in _NUMBERS:
            raise DataError(
                f"label map {path} holds colours (mode {image.mode}); expected one number a pixel: a palette PNG or a "
                "greyscale PNG of 8 or 16 bits. Colours were probably written by a viewer: take the original file"
            )
        return np.array(image, dtype=np.int32)


def bits_of(path: Path) -> int:
    """8 or 16: bits of a pixel of a greyscale or palette picture (8 for fewer); raises as :func:`read_index_map`."""
    with explained(path, "label map"), Image.open(path) as image:
        return 16 if image.mode.startswith("I") else 8


def require_values(labels: NDArray[np.int32], allowed: NDArray[np.bool_], path: Path, what: str) -> None:
    """Raise :class:`DataError` where a map has a value v that is not ``allowed[v]``; ``what`` says what is."""
    present = np.unique(labels)
    wrong = [int(v) for v in present if v < 0 or v >= len(allowed) or not allowed[v]]
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        raise DataError(f"label map {path} has the value(s) {shown}; expected {what}")
