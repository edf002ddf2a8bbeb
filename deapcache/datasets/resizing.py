"""Images and maps brought to another size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.regions import SQUASH, seen_region

INTERPOLATION = "pillow-bicubic-antialias"
"""Recipe field: how :func:`resize_image` scales."""


def resize_image(image: NDArray[np.uint8], size: tuple[int, int], fit: str = SQUASH) -> NDArray[np.uint8]:
    """Scale each axis of the part of an image that is seen on its own, bicubic, with antialiasing where it shrinks.

    image: (h, w, 3) uint8; size: (height, width) in pixels; fit: one of ``FITS``. Pixels outside of the part that is
    seen have no influence. Returns (height, width, 3) uint8, always a new array.
    """
    height, width = size
    seen = seen_region(image.shape[:2], size, fit).cut(image)
    resized = Image.fromarray(seen).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def resize_map(values: NDArray[Any], size: tuple[int, int], fit: str = SQUASH) -> NDArray[Any]:
    """Scale the part of a map of ids, classes or metres that is seen, by nearest neighbour at pixel centres.

    values: (..., h, w) of any dtype; size: (height, width); fit: one of ``FITS``. Output row i shows row
    floor((i + 0.5) · h / height) of the h rows that are seen, columns alike, so no value is ever mixed. Returns
    (..., height, width), same dtype, always a new array.
    """
    seen = seen_region((values.shape[-2], values.shape[-1]), size, fit)
    rows = seen.top + _sources(seen.height, size[0])
    columns = seen.left + _sources(seen.width, size[1])
    return np.ascontiguousarray(values[..., rows[:, None], columns])


def _sources(before: int, after: int) -> NDArray[np.int64]:
    # In whole numbers: (i + 0.5) · before / after in floating point can fall on the wrong side of an integer.
    return (2 * np.arange(after) + 1) * before // (2 * after)
