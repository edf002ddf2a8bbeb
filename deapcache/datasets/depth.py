"""Depth maps of files, brought to the one form that datasets give: float32 metres, 0 where unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.datasets.decoding import explained
from deapcache.errors import DataError

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
"""Modes that Pillow gives a greyscale PNG of 16 bits; older versions widen it to ``I``."""


def read_depth_png(path: Path, *, steps_per_metre: int) -> NDArray[np.float32]:
    """(h, w) float32 metres: a greyscale PNG of 16 bits, whose value over ``steps_per_metre`` is the depth.

    0 stays 0, unknown. Raises :class:`MissingDataError` where there is no such file and :class:`DataError` where it
    cannot be decoded or has another pixel format: 8 bits or colours are pictures of depth, made for looking at.
    """
    with explained(path, "depth map"), Image.open(path) as image:
        if image.mode not in _SIXTEEN_BITS:
            raise DataError(
                f"depth map {path} has pixels of mode {image.mode}; expected a greyscale PNG of 16 bits. It is "
                "probably a picture of the depth, scaled for looking at: take the original file"
            )
        # Whole numbers up to 65535 are exact in float32, so that the quotient is rounded once.
        return np.array(image).astype(np.float32) / np.float32(steps_per_metre)


def require_metres(depth: NDArray[Any], where: str) -> NDArray[np.float32]:
    """``depth`` as float32, if it is finite and not negative everywhere; ``where`` names it in the error.

    Unknown pixels must be 0 already: only the dataset's own rule says which they are. NaN, infinite and negative values
    that it does not speak of are damage, and raise :class:`DataError`.
    """
    wrong = ~(np.isfinite(depth) & (depth >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{where} has {int(wrong.sum())} pixel(s) that are NaN, infinite or negative, the first is "
            f"{depth[row, column]} at row {row}, column {column}; expected metres, 0 where unknown. The file is "
            "damaged or was changed: take the original one"
        )
    return depth.astype(np.float32, copy=False)
