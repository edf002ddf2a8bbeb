"""Images and maps brought to another size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

INTERPOLATION = "pillow-bicubic-antialias"
"""Recipe field: how :func:`resize_image` scales."""


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale each axis of an image on its own (squash), bicubic, with antialiasing where it shrinks.

    image: (h, w, 3) uint8; size: (height, width) in pixels. Returns (height, width, 3) uint8, always a new array.
    """
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def resize_map(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Scale a map of ids, classes or metres by nearest neighbour at pixel centres.

    values: (..., h, w) of any dtype; size: (height, width). Output row i shows input row floor((i + 0.5) · h / height),
    columns alike, so no value is ever mixed. Returns (..., height, width), same dtype, always a new array.
    """
    rows = _sources(values.shape[-2], size[0])
    columns = _sources(values.shape[-1], size[1])
    return np.ascontiguousarray(values[..., rows[:, None], columns])


def _sources(before: int, after: int) -> NDArray[np.int64]:
    # In whole numbers: (i + 0.5) · before / after in floating point can fall on the wrong side of an integer.
    return (2 * np.arange(after) + 1) * before // (2 * after)
