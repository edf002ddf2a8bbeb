"""COCO segmentations (polygons, run lengths) to masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FARTHEST = 100_000.0
"""Polygon coordinates beyond this are no slip over the image border but rubbish."""


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of one COCO ``segmentation`` in an image of ``size`` (height, width).

    A list of polygons (x, y, x, y, ... in pixels; drawn by pycocotools, their union counts), or run lengths down the
    columns: plain (``counts`` is a list) or compressed (a string). Returns (height, width) bool. Raises
    ``ValueError`` that says what is wrong with it.
    """
    if isinstance(segmentation, list):
        return _fill_polygons(segmentation, size)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError("segmentation is neither a list of polygons nor run lengths with size and counts")
    if segmentation["size"] != list(size):
        raise ValueError(f"its run lengths are for size {segmentation['size']}, the image has {list(size)}")
    counts = segmentation["counts"]
    return _fill_runs(uncompress_counts(counts) if isinstance(counts, str) else counts, size)


def uncompress_counts(text: str) -> list[int]:
    """Run lengths from COCO's compressed string.

    Each number is a string of characters that carry 5 bits, lowest first, bit 6 says that more follow, and the number
    is signed; from the fourth on it is the difference to the number two before (pycocotools, ``rleFrString``).
    """
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("latin-1", errors="replace"):
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


def _fill_runs(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    # Not by pycocotools, which leaves the rest of the mask uninitialised where the runs end early.
    runs = np.asarray(counts)
    height, width = size
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its run lengths do not add up to {height} x {width} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _fill_polygons(polygons: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    from pycocotools import mask as coco_mask

    if not polygons:
        raise ValueError("it has no polygon")
    # One at a time: pycocotools takes a list whose first member has four numbers for boxes.
    drawn = [coco_mask.frPyObjects([_checked(polygon)], *size)[0] for polygon in polygons]
    return _fill_runs(uncompress_counts(coco_mask.merge(drawn)["counts"].decode()), size)


def _checked(polygon: Any) -> list[float]:
    try:
        points = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("a polygon is not a list of numbers") from None
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise ValueError("a polygon needs three or more points, given as x, y, x, y, ...")
    if not (np.abs(points) <= _FARTHEST).all():  # False for NaN, too
        raise ValueError("a polygon has coordinates that are not finite or far outside any image")
    return [float(value) for value in points]
