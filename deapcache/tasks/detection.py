"""Class-agnostic object detection by centres and sizes (section 4.1, instance awareness; CenterNet)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import CROWD, CROWD_PIXEL, KIND, OBJECT
from deapcache.errors import DataError
from deapcache.tasks.task import FEWEST, Maps, Metric, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

MIN_OVERLAP = 0.7
"""IoU that two boxes keep whose corners are moved by the bump's radius."""

FLOOR = 1e-4
"""Probabilities are kept this far from 0 and 1 in the loss."""

_CENTRE_BIAS = -2.19
"""CenterNet's: a tenth of the pixels are taken for centres at first."""

_NMS_OVERLAP = 0.5
_SIZE_WEIGHT = 1.0

_SPREAD = 0.02
"""Of the prior's centres, as a fraction of the image: σ of the Gaussian that they are smoothed with."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which a detection is a hit."""

AREAS = {"all": (0.0, 1e10), "large": (96.0**2, 1e10)}
"""Objects counted, by their area in pixels, both ends included; pycocotools' ranges of these names."""

DETECTIONS = 100
"""Of an image, at most (pycocotools' ``maxDets``)."""

_RECALLS = np.linspace(0, 1, 101)
_CELLS = len(AREAS) * len(THRESHOLDS)
"""Each pair of a range of areas and a threshold has a bit in the codes."""


class Detection(Task):
    """Boxes of all objects, whatever they are, by two readouts: where centres are, and how large the box there is.

    Outputs are the logit of a centre, and width and height as fractions of the image. Scores are COCO's, in pixels of
    the original image, of boxes alone (``useCats=0``): ``ap_large``, average precision over the IoU thresholds 0.5 to
    0.95 for objects of at least 96² pixels; ``ap`` for all objects; ``ap50_large`` at the threshold 0.5.

    The table's first row is the region that is seen, the whole image as a rule: fractions are of that region.

    Crowds (many objects under one outline) are no objects to be found. Their pixels, but for centres of objects among
    them, are left out of the centres' loss; in scoring what lies in one is neither hit nor false alarm.

    The ``radius`` of the bumps that are learnt is CenterNet's ``published`` one, or the ``corrected`` one, about a
    third of it (:func:`gaussian_radius`).
    """

    name = "detection"
    annotations = ("boxes", "instances")
    alternatives: ClassVar = {"instances": "crowds"}
    iterations = 30_000
    meaning = "x, y, width and height as fractions of the image, and score; the best first, then zeros"
    picture = "boxes"
    default_dataset = "coco"
    metrics: ClassVar = {
        "ap_large": Metric(label="AP lg", higher_is_better=True),
        "ap": Metric(label="AP", higher_is_better=True),
        "ap50_large": Metric(label="AP50 lg", higher_is_better=True),
    }
    main_metric = "ap_large"
    choices: ClassVar = {"radius": ("published", "corrected")}

    @property
    def options(self) -> dict[str, Any]:
        return {
            **self.chosen,
            "centres": {
                "loss": "focal, alpha 2, beta 4",
                "overlap": MIN_OVERLAP,
                "floor": FLOOR,
                "bias": _CENTRE_BIAS,
                "crowd": "ignored",
            },
            "sizes": {"loss": "l1", "unit": "image fraction", "weight": _SIZE_WEIGHT, "bias": "mean"},
            "peaks": {"window": 3, "top": DETECTIONS, "nms": _NMS_OVERLAP},
            "scores": "pycocotools, useCats=0, original pixels",
        }

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """One readout for the centres, one for width and height."""
        return (1, 2)

    def target(self, maps: Maps) -> dict[str, Tensor]:
        """What loss and scores look at; the maps (B, h, w) of instances or crowds say the output's size.

        ``table``: (B, n + 1, 7) float64, the boxes as annotated. Of its n last rows, cut at the image's border:
        ``objects``: (B, n) bool, which of them are objects with something left; ``sizes``: (B, n, 2) float32, width and
        height as fractions of the image; ``cells``: (B, n) int64, the pixel of each centre, counted along the rows.
        ``heat``: (B, h, w) float32, CenterNet's heat map; ``counted``: (B, h, w) bool, pixels that its loss looks at.
        """
        import torch

        table, crowds = maps["boxes"], maps[self.annotations[1]]
        height, width = crowds.shape[-2:]
        whole = _fractions(table)
        corner, opposite = whole[..., :2].clamp(0, 1), (whole[..., :2] + whole[..., 2:]).clamp(0, 1)
        boxes = torch.cat([corner, opposite - corner], dim=-1)  # what is outside gets no size
        objects = (table[:, 1:, KIND] == OBJECT) & (boxes[..., 2:] > 0).all(-1)
        heat = heat_maps(boxes, objects, (height, width), published=self.chosen["radius"] == "published")
        cells = centre_cells(boxes, (height, width))
        return {
            "table": table,
            "objects": objects,
            "sizes": boxes[..., 2:].float(),
            "cells": cells[..., 1] * width + cells[..., 0],
            "heat": heat,
            "counted": (crowds != CROWD_PIXEL) | (heat == 1),
        }

    def loss(self, output: Tensor, target: Mapping[str, Tensor], criterion: nn.Module | None = None) -> Tensor:
        """Focal loss of the centres, plus the mean distance of width and height from the truth, at true centres.

        The two belong to separate readouts and AdamW does not mind a factor: the weight of the second (1) decides no
        more than its part in the clipped gradient norm and in the reported sum.
        """
        centres = focal_loss(output[:, 0], target["heat"], target["counted"])
        found = values_at(output[:, 1:3].float(), target["cells"])
        objects = target["objects"]
        distance = ((found - target["sizes"]).abs().mean(-1) * objects).sum() / objects.sum().clamp(min=1)
        return centres + _SIZE_WEIGHT * distance

    def output_bias(self, target: Mapping[str, Tensor]) -> Tensor:
        """(3,): -2.19, and the objects' mean width and height; raises :class:`DataError` without any object."""
        import torch

        sizes = target["sizes"][target["objects"]]
        return torch.cat([sizes.new_tensor([_CENTRE_BIAS]), _require_objects(sizes).mean(0)])

    def statistics(self, output: Tensor, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which detections of each image hit or are false alarms, as :func:`match` keeps it, on the CPU."""
        import torch

        found = []
        detections, tables = self.prediction(output).double().cpu().numpy(), target["table"].cpu().numpy()
        for boxes, table in zip(detections, tables, strict=True):
            left, top, width, height = table[0, :4]
            pixels = boxes[boxes[:, 4] > 0] * (width, height, width, height, 1) + (left, top, 0, 0, 0)
            rows = table[np.isin(table[:, KIND], (OBJECT, CROWD))]
            found.append(match(pixels, np.column_stack([rows[:, :5], rows[:, KIND] == CROWD])))
        return {name: torch.from_numpy(np.stack([one[name] for one in found])) for name in found[0]}

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        precisions = average_precisions(statistics)
        large = precisions["large"]
        return {"ap_large": float(large.mean()), "ap": float(precisions["all"].mean()), "ap50_large": float(large[0])}

    def selection_score(self, scores: Mapping[str, float], statistics: Mapping[str, np.ndarray]) -> float:
        """``ap_large``, or ``ap`` where there are fewer than 50 large objects."""
        large = statistics["objects"].sum(0)[list(AREAS).index("large")]
        score = scores["ap_large" if large >= FEWEST else "ap"]
        return -math.inf if math.isnan(score) else score

    def constant_baseline(self, targets: Iterable[Mapping[str, Tensor]], classes: tuple[str, ...]) -> Tensor:
        """How much has its centre near a pixel, and how large it is, over the training images.

        An object counts by its area: unweighted, the many small ones would decide, and no guess would overlap a large
        object. The weight near a pixel is taken for the probability of a centre, the weighted mean for the size.
        """
        import torch

        total = torch.zeros((), dtype=torch.float64)
        images = 0
        for target in targets:
            total = total + _centre_sums(target)
            images += len(target["heat"])
        _require_objects(total[0].flatten().nonzero())
        weight, *sizes = _smoothed(total)
        centres = torch.logit((weight / images).clamp(1e-12, 1 - 1e-12))
        return torch.stack([centres, *(size / weight for size in sizes)]).float()

    def prediction(self, output: Tensor) -> Tensor:
        """(B, 100, 5) float32: x, y, width, height as fractions of the image, and score, the best first, then zeros."""
        return decode(output, DETECTIONS, _NMS_OVERLAP)

    def picture_values(self, output: Tensor, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The target's boxes and those found, as :meth:`prediction` gives them.

        The former are (B, n, 5) float32, fractions alike, then 1 for an object, 2 for a crowd and 0 for no box.
        """
        import torch

        table = target["table"]
        return torch.cat([_fractions(table), table[:, 1:, KIND : KIND + 1]], dim=-1).float(), self.prediction(output)


def _fractions(table: Tensor) -> Tensor:
    """(B, n, 4): the boxes after the first row, which is the region that is seen, as fractions of it."""
    import torch

    corner, sides = table[:, :1, :2], table[:, :1, 2:4]
    return torch.cat([table[:, 1:, :2] - corner, table[:, 1:, 2:4]], dim=-1) / torch.cat([sides, sides], dim=-1)


def _centre_sums(target: Mapping[str, Tensor]) -> Tensor:
    """(3, h, w) float64, on the CPU: sums of area, area × width and area × height of objects centred in each pixel."""
    import torch

    shape = target["heat"].shape[1:]
    # On a GPU the sums would differ in the last digits from run to run.
    objects, cells, sizes = (target[name].cpu() for name in ("objects", "cells", "sizes"))
    chosen = sizes[objects].double()
    area = chosen.prod(-1)
    values = torch.stack([area, *(area[:, None] * chosen).T])
    return values.new_zeros(3, shape.numel()).index_add_(1, cells[objects], values).view(3, *shape)


def _smoothed(maps: Tensor) -> Tensor:
    """(C, h, w) maps smoothed with a Gaussian; far from all values the map's mean, else all but weightless, decides."""
    import torch

    for axis in (1, 2):
        length = maps.shape[axis]
        place = torch.arange(length, dtype=maps.dtype) / length
        weights = torch.exp(-(place - place[:, None]).square() / (2 * _SPREAD**2)) + 1e-9
        maps = torch.tensordot(maps, weights / weights.sum(0), dims=([axis], [0])).movedim(-1, axis)
    return maps


def _require_objects(found: Tensor) -> Tensor:
    if not len(found):
        raise DataError(
            "no training target has a box: expected objects, found none (crowds are none); check the dataset's boxes, "
            "or take more training images"
        )
    return found


# CenterNet's heat maps: an object is a bump around the centre of its box (Zhou et al., 2019, "Objects as Points").
# Boxes are (..., 4): x, y of the upper left corner, width, height, as fractions of the image. The pixel of a heat map
# in column i covers the fractions from i / w to (i + 1) / w.


def gaussian_radius(width: Tensor, height: Tensor, overlap: float = MIN_OVERLAP, *, published: bool) -> Tensor:
    """How far a box's corners may move with an IoU of at least ``overlap`` with where it was; any shape, any unit.

    The smallest of three cases, each a positive root of a r² + b r + c = 0, with m = ``overlap``:

    * both corners move alike: s / (2wh - s) = m with s = (w - r)(h - r), so a = 1, b = -(w + h), c = wh(1 - m)/(1 + m)
    * both move inwards: (w - 2r)(h - 2r) / wh = m, so a = 4, b = -2(w + h), c = wh(1 - m)
    * both move outwards: wh / ((w + 2r)(h + 2r)) = m, so a = 4m, b = 2m(w + h), c = -wh(1 - m)

    The right root is the smaller positive one. With ``published`` it is what CenterNet's code takes, as CornerNet's did
    before it was corrected: the larger root, times a, since it divides by 2 instead of 2a. The third case is then
    always the smallest, with a radius 4m times its right one: bumps three to four times as wide, which train better
    (docs/tasks.md).
    """
    import torch

    total, area = width + height, width * height
    cases = (
        (1.0, -total, area * (1 - overlap) / (1 + overlap), -1),
        (4.0, -2 * total, area * (1 - overlap), -1),
        (4.0 * overlap, 2 * overlap * total, area * (overlap - 1), 1),
    )
    roots = []
    for a, b, c, sign in cases:
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        roots.append((-b + root) / 2 if published else (-b + sign * root) / (2 * a))
    return torch.stack(roots).amin(0)


def centre_cells(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 2) int64: column and row of the pixel with each box's centre, in a map of ``size`` (height, width)."""
    sides = boxes.new_tensor((size[1], size[0]))
    cells = ((boxes[..., :2] + boxes[..., 2:4] / 2) * sides).floor().long()
    return cells.clamp(min=0).minimum(sides.long() - 1)


def heat_maps(boxes: Tensor, objects: Tensor, size: tuple[int, int], *, published: bool) -> Tensor:
    """(B, h, w) float32 in [0, 1]: a bump for each box, the highest where several meet, 1 at the centres' pixels alone.

    A bump is exp(-d² / 2σ²) within whole pixels of the radius r = ⌊``gaussian_radius``⌋ along both axes, with
    σ = (2r + 1) / 6, and 0 beyond.

    Parameters
    ----------
    boxes
        (B, n, 4), inside the image.
    objects
        (B, n) bool: which of them are to be drawn.
    size
        Height and width of the map.
    published
        As of :func:`gaussian_radius`.
    """
    import torch

    height, width = size
    image, place = objects.nonzero(as_tuple=True)
    chosen = boxes[image, place]
    radius = gaussian_radius(chosen[:, 2] * width, chosen[:, 3] * height, published=published).floor()
    # No box is larger than the image, and no window larger than the largest bump: one shape for all of them.
    largest = int(gaussian_radius(*torch.tensor((width, height), dtype=torch.float64), published=published))
    offsets = torch.arange(-largest, largest + 1, device=boxes.device)
    within = offsets.abs() <= radius[:, None]
    profile = torch.exp(-offsets.square() * 18 / (2 * radius[:, None] + 1).square()).where(within, 0)
    columns, rows = (centre_cells(chosen, size)[:, axis, None] + offsets for axis in (0, 1))
    across = profile.where((columns >= 0) & (columns < width), 0)
    down = profile.where((rows >= 0) & (rows < height), 0)
    places = (image[:, None] * height + rows.clamp(0, height - 1))[:, :, None] * width
    places = places + columns.clamp(0, width - 1)[:, None, :]
    heat = torch.zeros(len(boxes) * height * width, device=boxes.device)
    values = (down[:, :, None] * across[:, None, :]).float()
    return heat.scatter_reduce_(0, places.flatten(), values.flatten(), "amax").view(-1, height, width)


def focal_loss(logit: Tensor, heat: Tensor, counted: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss (α = 2, β = 4): summed over pixels, divided by the number of centres.

    -(1 - p)² ln p where ``heat`` is 1, else -(1 - heat)⁴ p² ln(1 - p); p is the sigmoid, kept between 1e-4 and
    1 - 1e-4. All (B, h, w): logits, :func:`heat_maps`, and which pixels count (bool). Without any centre the sum is
    divided by 1.
    """
    import torch

    p = logit.float().sigmoid().clamp(FLOOR, 1 - FLOOR)
    centre = heat == 1
    at_centre = (1 - p).square() * p.log()
    elsewhere = (1 - heat) ** 4 * p.square() * (1 - p).log()
    losses = -torch.where(centre, at_centre, elsewhere) * counted
    return losses.sum() / (centre & counted).sum().clamp(min=1)


def decode(output: Tensor, count: int, overlap: float) -> Tensor:
    """The boxes that an output stands for: (B, count, 5) float32 x, y, width, height and score, the best first.

    Centres are the ``count`` highest pixels that none of eight neighbours exceeds; a box stands around the middle of
    its pixel and has the size said there, but at least one pixel's. Then those go that have an IoU above ``overlap``
    with a better one. The score is the centre's probability; rows that are left over are 0.

    output: (B, 3, h, w): logit of a centre, width and height as fractions of the image.
    """
    import torch
    import torch.nn.functional as F

    height, width = output.shape[-2:]
    logit = output[:, 0].float()
    is_peak = logit == F.max_pool2d(logit[:, None], 3, stride=1, padding=1)[:, 0]
    peaks = logit.masked_fill(~is_peak, -math.inf).flatten(1)
    best, cells = peaks.topk(min(count, height * width))
    centres = torch.stack([(cells % width + 0.5) / width, (cells // width + 0.5) / height], dim=-1)
    smallest = output.new_tensor((1 / width, 1 / height), dtype=torch.float32)
    sizes = values_at(output[:, 1:3].float(), cells).maximum(smallest)
    found = torch.cat([centres - sizes / 2, sizes, best.sigmoid()[..., None]], dim=-1)
    return F.pad(torch.stack([_without_repeats(one, overlap) for one in found]), (0, 0, 0, count - found.shape[1]))


def values_at(maps: Tensor, cells: Tensor) -> Tensor:
    """(B, n, C): the values of (B, C, h, w) maps at (B, n) pixels, counted along the rows."""
    channels = maps.shape[1]
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, channels, -1)).mT


def _without_repeats(found: Tensor, overlap: float) -> Tensor:
    """The (n, 5) boxes of one image that non-maximum suppression leaves, in order, then zeros."""
    import torch
    import torch.nn.functional as F
    from torchvision.ops import nms  # loads an image library, which other tasks do without

    corners = torch.cat([found[:, :2], found[:, :2] + found[:, 2:4]], dim=1)
    kept = found[nms(corners, found[:, 4], overlap)]
    kept = kept[kept[:, 4] > 0]
    return F.pad(kept, (0, 0, 0, len(found) - len(kept)))


# COCO's average precision in two steps: pycocotools (``COCOeval``, boxes, ``useCats=0``) matches image by image; what
# it finds is kept in a few bits a detection, so that its ``accumulate`` can be done over images that are chosen, and
# repeated, later (bootstrap).


def match(detections: NDArray[np.float64], objects: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
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
    outside = np.array([~_in_range(detections[:, 2] * detections[:, 3], area) for area in AREAS.values()])
    alarms = ~hits & ~ignored & ~outside[:, None]
    single = objects[objects[:, 5] == 0]
    return {
        "score": _padded(detections[:, 4].astype(np.float32)),
        "hits": _padded(_codes(hits)),
        "alarms": _padded(_codes(alarms)),
        "objects": np.array([_in_range(single[:, 4], area).sum() for area in AREAS.values()]),
    }


def _matched(detections: NDArray[np.float64], objects: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(2, 2, 10, n): detections that have an object that counts, and those that have one that is ignored."""
    found = np.zeros((2, len(AREAS), len(THRESHOLDS), len(detections)), bool)
    if not len(objects) or not len(detections):
        return found
    from pycocotools import mask as coco_mask

    overlaps = coco_mask.iou(detections[:, :4], objects[:, :4], objects[:, 5].astype(np.uint8))
    # pycocotools tries every detection on every object in Python. Most have no object that they could ever be
    # matched with: those that have one are all that it needs to see.
    near = (overlaps >= THRESHOLDS[0]).any(1)
    if not near.any():
        return found
    from pycocotools.cocoeval import COCOeval  # draws in matplotlib, which other tasks do without

    evaluation = COCOeval(iouType="bbox")
    evaluation.params.useCats, evaluation.params.catIds = 0, [1]
    # One image, of id 0, with objects of one category. Their ids start at 1: pycocotools takes the id 0 for no match.
    evaluation._gts[0, 1] = [
        {"id": number, "area": row[4], "iscrowd": int(row[5]), "ignore": int(row[5])}
        for number, row in enumerate(objects, start=1)
    ]
    evaluation._dts[0, 1] = [
        {"id": number, "area": row[2] * row[3], "score": row[4]} for number, row in enumerate(detections[near], start=1)
    ]
    evaluation.ious = {(0, -1): overlaps[near]}
    for place, area in enumerate(AREAS.values()):
        matches = evaluation.evaluateImg(0, -1, area, DETECTIONS)
        has_match, is_ignored = matches["dtMatches"] > 0, matches["dtIgnore"].astype(bool)
        found[0, place][:, near] = has_match & ~is_ignored
        found[1, place][:, near] = has_match & is_ignored
    return found


def average_precisions(statistics: Mapping[str, np.ndarray]) -> dict[str, NDArray[np.float64]]:
    """Range of areas → (10,) average precision at each threshold, over the images that the statistics are of.

    Equal to the mean over recalls of what pycocotools' ``accumulate`` gives for them; NaN without any object.
    """
    order = _descending(statistics["score"].ravel())
    hits, alarms = (statistics[name].ravel()[order] for name in ("hits", "alarms"))
    objects = statistics["objects"].sum(0)
    # Precision is looked up only where recall rises, which is at hits: all else needs no more than counting.
    places = np.flatnonzero(hits)
    hits, alarms = hits[places], alarms[: places[-1] + 1 if len(places) else 0]
    numbers = np.arange(1, len(places) + 1)
    # Which hit reaches each of 101 recalls; one beyond those that there are has the precision 0.
    reached = [np.searchsorted(np.arange(1, count + 1) / max(count, 1), _RECALLS) for count in objects]
    best = np.empty((_CELLS, len(_RECALLS)))
    for cell in range(_CELLS):
        false = np.cumsum((alarms >> cell) & 1, dtype=np.int32)[places[(hits >> cell) & 1 == 1]]
        number = numbers[: len(false)]
        precision = np.append(number / (number + false + np.spacing(1)), 0.0)
        best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
        best[cell] = best_from_here[np.minimum(reached[cell // len(THRESHOLDS)], len(false))]
    found = best.mean(1).reshape(len(AREAS), -1)
    found[objects == 0] = np.nan
    return dict(zip(AREAS, found, strict=True))


def _descending(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The stable order from high to low of scores that are not negative.

    Of such floats the bits, taken as whole numbers, are in the same order; numpy sorts 16-bit numbers by radix, so two
    passes over the halves take half of the time of a sort by comparison.
    """
    keys = ~scores.view(np.uint32)
    by_low = np.argsort(keys.astype(np.uint16), kind="stable")
    return by_low[np.argsort((keys >> 16).astype(np.uint16)[by_low], kind="stable")]


def _in_range(areas: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    return (areas >= limits[0]) & (areas <= limits[1])


def _codes(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(n,): the bits of (2, 10, n)."""
    weights = np.int32(1) << np.arange(_CELLS, dtype=np.int32)
    return (flags.reshape(_CELLS, -1) * weights[:, None]).sum(0, dtype=np.int32)


def _padded(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.pad(values, (0, DETECTIONS - len(values)))
