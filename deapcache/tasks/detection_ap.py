"""COCO's average precision in two steps: matching, image by image, and scores of any choice of images.

pycocotools (``COCOeval``, boxes, ``useCats=0``) matches. What it found is kept in a few bits a detection, so that its
``accumulate`` can be done over images that are chosen, and repeated, later (bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval  # draws in matplotlib, which other tasks do without

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which a detection is a hit."""

AREAS = {"all": (0.0, 1e10), "large": (96.0**2, 1e10)}
"""Objects counted, by their area in pixels, both ends included; pycocotools' ranges of these names."""

DETECTIONS = 100
"""Of an image, at most (pycocotools' ``maxDets``)."""

_RECALLS = np.linspace(0, 1, 101)
_CELLS = len(AREAS) * len(THRESHOLDS)
"""Each pair of a range of areas and a threshold has a bit in the codes."""

Statistics = dict[str, NDArray[np.generic]]


def match(detections: NDArray[np.float64], objects: NDArray[np.float64]) -> Statistics:
    """What the scores need to know of one image.

    Parameters
    ----------
    detections
        (n, 5), n up to 100: x, y, width, height in pixels of the original image, score above 0; the best first.
    objects
        (m, 6): box alike, area in pixels, whether it is a crowd (1, or 0). A crowd is never missed, and a detection in
        it is no false alarm.

    Returns
    -------
    score
        (100,) float32, 0 after the last detection.
    hits, alarms
        (100,) int32: bit 10 a + t says that with the a-th range of areas and the t-th threshold it finds an object, or
        is a false alarm; neither where it is ignored.
    objects
        (2,) int64: how many objects there are to be found in each range of areas.
    """
    hits, ignored = _matched(detections, objects)
    outside = np.array([~_inside(detections[:, 2] * detections[:, 3], area) for area in AREAS.values()])
    alarms = ~hits & ~ignored & ~outside[:, None]
    single = objects[objects[:, 5] == 0]
    return {
        "score": _padded(detections[:, 4].astype(np.float32)),
        "hits": _padded(_codes(hits)),
        "alarms": _padded(_codes(alarms)),
        "objects": np.array([_inside(single[:, 4], area).sum() for area in AREAS.values()]),
    }


def _matched(detections: NDArray[np.float64], objects: NDArray[np.float64]) -> tuple[NDArray[np.bool_], ...]:
    """(2, 10, n) each: detections that have an object that counts, and that have one that is ignored."""
    found = np.zeros((2, len(AREAS), len(THRESHOLDS), len(detections)), bool)
    if not len(objects) or not len(detections):
        return found[0], found[1]
    from pycocotools import mask as coco_mask

    overlaps = coco_mask.iou(detections[:, :4], objects[:, :4], objects[:, 5].astype(np.uint8))
    # pycocotools tries every detection on every object in Python. Most have no object that they could ever be
    # matched with: those that have one are all that it needs to see.
    near = (overlaps >= THRESHOLDS[0]).any(1)
    if near.any():
        evaluation = _evaluation(detections[near], objects, overlaps[near])
        for place, area in enumerate(AREAS.values()):
            matches = evaluation.evaluateImg(0, -1, area, DETECTIONS)
            has_match, is_ignored = matches["dtMatches"] > 0, matches["dtIgnore"].astype(bool)
            found[0, place][:, near] = has_match & ~is_ignored
            found[1, place][:, near] = has_match & is_ignored
    return found[0], found[1]


def _evaluation(
    detections: NDArray[np.float64], objects: NDArray[np.float64], overlaps: NDArray[np.float64]
) -> COCOeval:
    """pycocotools ready to match one image (id 0, all of one category)."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="bbox")
    evaluation.params.useCats, evaluation.params.catIds = 0, [1]
    evaluation._gts[0, 1] = [
        # Ids start at 1: pycocotools takes the id 0 for no match.
        {"id": number, "area": row[4], "iscrowd": int(row[5]), "ignore": int(row[5])}
        for number, row in enumerate(objects, start=1)
    ]
    evaluation._dts[0, 1] = [
        {"id": number, "area": row[2] * row[3], "score": row[4]} for number, row in enumerate(detections, start=1)
    ]
    evaluation.ious = {(0, -1): overlaps}
    return evaluation


def average_precisions(statistics: Mapping[str, np.ndarray]) -> dict[str, NDArray[np.float64]]:
    """Range of areas → (10,) average precision at each threshold, over the images that the statistics are of.

    Equal to the mean over recalls of what pycocotools' ``accumulate`` gives for them; NaN without any object.
    """
    order = _descending(statistics["score"].ravel())
    hits, alarms = (statistics[name].ravel()[order] for name in ("hits", "alarms"))
    objects = statistics["objects"].sum(0)
    # Precision is looked up only where recall rises, which is at hits: all else needs no more than counting.
    places = np.flatnonzero(hits)
    hits = hits[places]
    found = np.empty((len(AREAS), len(THRESHOLDS)))
    for cell in range(_CELLS):
        false = np.cumsum((alarms >> cell) & 1, dtype=np.int32)[places]
        area, threshold = divmod(cell, len(THRESHOLDS))
        found[area, threshold] = _average_precision(false[(hits >> cell) & 1 == 1], int(objects[area]))
    return dict(zip(AREAS, found, strict=True))


def _average_precision(alarms_before: NDArray[np.int32], objects: int) -> float:
    """Mean over 101 recalls of the best precision from there on, given the false alarms before each hit."""
    if objects == 0:
        return float("nan")
    hits = np.arange(1, len(alarms_before) + 1)
    precision = hits / (hits + alarms_before + np.spacing(1))
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / objects, _RECALLS)
    return float(np.append(best_from_here, 0.0)[np.minimum(reached, len(hits))].mean())


def _descending(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The stable order from high to low of scores that are not negative.

    Of such floats the bits, taken as whole numbers, are in the same order; numpy sorts 16-bit numbers by radix, so two
    passes over the halves take half of the time of a sort by comparison.
    """
    keys = ~scores.view(np.uint32)
    by_low = np.argsort(keys.astype(np.uint16), kind="stable")
    return by_low[np.argsort((keys >> 16).astype(np.uint16)[by_low], kind="stable")]


def _inside(areas: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    return (areas >= limits[0]) & (areas <= limits[1])


def _codes(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(n,): the bits of (2, 10, n)."""
    weights = np.int32(1) << np.arange(_CELLS, dtype=np.int32)
    return (flags.reshape(_CELLS, -1) * weights[:, None]).sum(0, dtype=np.int32)


def _padded(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.pad(values, (0, DETECTIONS - len(values)))
