"""Depth maps of files, brought to the one form that datasets give: float32 metres, 0 where unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.decoding import explained, opened
from deapcache.datasets.labels import require_png
from deapcache.errors import DataError

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
"""Modes that Pillow gives a greyscale PNG of 16 bits; older versions widen it to ``I``."""

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
    with opened(path, "depth map") as (image, _):
        require_png(image, "depth map", path)
        if image.mode not in _SIXTEEN_BITS:
            raise DataError(
                f"depth map {path} has pixels of mode {image.mode}; expected a greyscale PNG of 16 bits. It is "
                "probably a picture of the depth, scaled for looking at: take the original file"
            )
        steps = np.array(image)
    if far := int((steps == _FAR_END).sum()):
        raise DataError(
            f"depth map {path} has {far:,} pixel(s) of {_FAR_END}, the highest value of 16 bits, which cameras and "
            "renderers write where there is no depth; write 0 there, which is unknown"
        )
    # Whole numbers up to 65535 are exact in float32, so that the quotient is rounded once.
    return steps.astype(np.float32) / np.float32(steps_per_metre)


def read_depth_npy(path: Path) -> NDArray[np.float32]:
    """(h, w) float32 metres from a NumPy file of that shape and any floating-point type; NaN and 0 become 0, unknown.

    Raises :class:`MissingDataError` where there is no such file and :class:`DataError` where it cannot be read, holds
    something else, or depth that is infinite, negative or too far to be any.
    """
    with explained(path, "depth map"):
        # mapped, so that a header that promises more than the file holds is an error and not a huge array
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind != "f":
        found = f"{stored.dtype} of shape {stored.shape}" if isinstance(stored, np.ndarray) else "an archive"
        raise DataError(f"depth map {path} holds {found}; expected floating-point metres of shape (height, width)")
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
