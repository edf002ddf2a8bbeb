"""Depth maps of files, brought to the one form that datasets give: float32 metres, 0 where unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deapcache.datasets.decoding import explained
from deapcache.errors import DataError, MissingDataError
from deapcache.locations import require_reached

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
"""Modes that Pillow gives a greyscale PNG of 16 bits; older versions widen it to ``I``."""

_BROKEN = (OSError, ValueError, EOFError, SyntaxError, KeyError, TypeError, OverflowError)
"""What NumPy raises on files that are not what they say."""


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


def read_depth_npy(path: Path) -> NDArray[np.float32]:
    """(h, w) float32 metres from a NumPy file of that shape and any floating-point type; NaN and 0 become 0, unknown.

    Raises :class:`MissingDataError` where there is no such file and :class:`DataError` where it cannot be read, holds
    something else, or infinite or negative depth.
    """
    try:
        # mapped, so that a header that promises more than the file holds is an error and not a huge array
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise MissingDataError(f"depth map {path} is missing; put the file back, or take its image away") from None
    except _BROKEN as error:
        require_reached(error, path)
        raise DataError(f"cannot read depth map {path}: {error or 'it ends too early'}; replace the file") from None
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind != "f":
        found = f"{stored.dtype} of shape {stored.shape}" if isinstance(stored, np.ndarray) else "an archive"
        raise DataError(f"depth map {path} holds {found}; expected floating-point metres of shape (height, width)")
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused
        metres = np.array(stored, np.float32)
    return require_metres(np.where(np.isnan(metres), np.float32(0), metres), f"depth map {path}")


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
