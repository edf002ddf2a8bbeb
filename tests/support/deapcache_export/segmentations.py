"""Masks as COCO segmentations, exact to the pixel in each of the three ways that its files use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def rectangles(mask: Mask) -> list[list[float]]:
    """Polygons of four corners that together cover a mask (h, w), also one with holes, and no other pixel.

    An outline could not say where a torus is open. Each rectangle is a run of pixels in a row, and as tall as the same
    run goes on in the rows below.
    """
    found: list[list[float]] = []
    tops: dict[tuple[int, int], int] = {}
    for y, row in enumerate([*mask, np.zeros(mask.shape[1], bool)]):
        runs = _runs(row)
        for left, right in [run for run in tops if run not in runs]:
            top = tops.pop((left, right))
            found.append([float(v) for v in (left, top, right, top, right, y, left, y)])
        for run in runs:
            tops.setdefault(run, y)
    return found


def _runs(row: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last-plus-one column of each run of a row."""
    edges = np.flatnonzero(np.diff(row, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def run_lengths(mask: Mask) -> dict[str, Any]:
    """Plain run lengths down the columns, outside first, as COCO writes crowds."""
    inside = mask.T.ravel()
    edges = np.flatnonzero(np.diff(inside, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0, append=inside.size).tolist()}


def compressed_run_lengths(mask: Mask) -> dict[str, Any]:
    """Run lengths in COCO's compressed string, by pycocotools."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


ENCODINGS: tuple[Callable[[Mask], Any], ...] = (rectangles, compressed_run_lengths, run_lengths)
"""All of them."""
