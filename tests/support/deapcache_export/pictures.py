"""Image files as the exported layouts hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 95
"""Of photographs in layouts whose images are JPEG; colours are kept at full resolution (4:4:4)."""


def save_jpeg(image: NDArray[np.uint8], path: Path) -> None:
    """(h, w, 3) RGB as JPEG, which changes pixels a little."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def save_png(values: NDArray[Any], path: Path, *, palette: bytes | None = None) -> None:
    """(h, w, 3) RGB or (h, w) numbers of 8 bits as PNG, exactly; with a palette the numbers are indices into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8))
    if palette is not None:
        picture.putpalette(palette)
    picture.save(path, "PNG")


def voc_palette() -> bytes:
    """VOC's 256 colours, RGB after RGB.

    Bits 0, 3 and 6 of an index are the highest bits of red, 1, 4 and 7 of green, 2 and 5 of blue
    (``VOClabelcolormap.m`` of the VOC2012 development kit).
    """
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((np.arange(256) >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours.tobytes()
