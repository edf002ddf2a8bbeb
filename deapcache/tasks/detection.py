"""Class-agnostic object detection by centres and sizes (section 4.1, instance awareness; CenterNet)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from deapcache.errors import DataError
from deapcache.tasks import centernet
from deapcache.tasks.detection_ap import DETECTIONS, average_precisions, match
from deapcache.tasks.task import TASKS, Maps, Metric, Task

_CENTRE_BIAS = -2.19
"""CenterNet's: a tenth of the pixels are taken for centres at first."""

_NMS_OVERLAP = 0.5
_SIZE_WEIGHT = 1.0

_SPREAD = 0.02
"""Of the prior's centres, as a fraction of the image: σ of the Gaussian that they are smoothed with."""

_OBJECT, _CROWD = 1, 2
"""Kinds of row in the ``boxes`` annotation."""

_CROWD_PIXEL = -1
"""In instance maps."""


class Detection(Task):
    """Boxes of all objects, whatever they are, by two readouts: where centres are, and how large the box there is.

    Outputs are the logit of a centre, and width and height as fractions of the image. Scores are COCO's, in pixels of
    the original image, of boxes alone (``useCats=0``): ``ap_large``, average precision over the IoU thresholds 0.5 to
    0.95 for objects of at least 96² pixels; ``ap`` for all objects; ``ap50_large`` at the threshold 0.5.

    The table's first row is the region that is seen, the whole image as a rule: fractions are of that region.

    Crowds (many objects under one outline) are no objects to be found. Their pixels, but for centres of objects among
    them, are left out of the centres' loss; in scoring what lies in one is neither hit nor false alarm.
    """

    name = "detection"
    annotations = ("boxes", "instances")
    picture = "boxes"
    default_dataset = "coco"
    metrics: ClassVar = {
        "ap_large": Metric(label="AP lg", unit="", higher_is_better=True),
        "ap": Metric(label="AP", unit="", higher_is_better=True),
        "ap50_large": Metric(label="AP50 lg", unit="", higher_is_better=True),
    }
    main_metric = "ap_large"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "centres": {
                "loss": "focal, alpha 2, beta 4",
                "radius": "corrected roots",
                "overlap": centernet.MIN_OVERLAP,
                "floor": centernet.FLOOR,
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
        """What loss and scores look at; the instance maps (B, h, w) say the output's size, and where crowds are.

        ``table``: (B, n + 1, 7) float64, the boxes as annotated. Of its n last rows, cut at the image's border:
        ``objects``: (B, n) bool, which of them are objects with something left; ``sizes``: (B, n, 2) float32, width and
        height as fractions of the image; ``cells``: (B, n) int64, the pixel of each centre, counted along the rows.
        ``heat``: (B, h, w) float32, CenterNet's heat map; ``counted``: (B, h, w) bool, pixels that its loss looks at.
        """
        table, instances = maps["boxes"], maps["instances"]
        height, width = instances.shape[-2:]
        boxes = _inside(_fractions(table))
        objects = (table[:, 1:, 5] == _OBJECT) & (boxes[..., 2:] > 0).all(-1)
        heat = centernet.heat_maps(boxes, objects, (height, width))
        cells = centernet.centre_cells(boxes, (height, width))
        return {
            "table": table,
            "objects": objects,
            "sizes": boxes[..., 2:].float(),
            "cells": cells[..., 1] * width + cells[..., 0],
            "heat": heat,
            "counted": (instances != _CROWD_PIXEL) | (heat == 1),
        }

    def loss(self, output: Tensor, target: Mapping[str, Tensor], criterion: nn.Module | None = None) -> Tensor:
        """Focal loss of the centres, plus the mean distance of width and height from the truth, at true centres.

        The two belong to separate readouts and AdamW does not mind a factor: the weight of the second (1) decides no
        more than its part in the clipped gradient norm and in the reported sum.
        """
        centres = centernet.focal_loss(output[:, 0], target["heat"], target["counted"])
        found = centernet.values_at(output[:, 1:3].float(), target["cells"])
        objects = target["objects"]
        distance = ((found - target["sizes"]).abs().mean(-1) * objects).sum() / objects.sum().clamp(min=1)
        return centres + _SIZE_WEIGHT * distance

    def output_bias(self, target: Mapping[str, Tensor]) -> Tensor:
        """(3,): -2.19, and the objects' mean width and height; raises :class:`DataError` without any object."""
        sizes = target["sizes"][target["objects"]]
        return torch.cat([sizes.new_tensor([_CENTRE_BIAS]), _require_objects(sizes).mean(0)])

    def statistics(self, output: Tensor, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which detections of each image hit or are false alarms, as ``detection_ap.match`` keeps it, on the CPU."""
        detections, tables = self.prediction(output).double().cpu().numpy(), target["table"].cpu().numpy()
        found = [_matched(*pair) for pair in zip(detections, tables, strict=True)]
        return {name: torch.from_numpy(np.stack([one[name] for one in found])) for name in found[0]}

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        precisions = average_precisions(statistics)
        large = precisions["large"]
        return {"ap_large": float(large.mean()), "ap": float(precisions["all"].mean()), "ap50_large": float(large[0])}

    def prior(self, targets: Iterable[Mapping[str, Tensor]], classes: tuple[str, ...]) -> Tensor:
        """How much has its centre near a pixel, and how large it is, over the training images.

        An object counts by its area: unweighted, the many small ones would decide, and no guess would overlap a large
        object. The weight near a pixel is taken for the probability of a centre, the weighted mean for the size.
        """
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
        return centernet.decode(output, DETECTIONS, _NMS_OVERLAP)

    def shown(self, output: Tensor, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The target's boxes and those found, as :meth:`prediction` gives them.

        The former are (B, n, 5) float32, fractions alike, then 1 for an object, 2 for a crowd and 0 for no box.
        """
        table = target["table"]
        return torch.cat([_fractions(table), table[:, 1:, 5:6]], dim=-1).float(), self.prediction(output)


def _fractions(table: Tensor) -> Tensor:
    """(B, n, 4): the boxes after the first row, which is the region that is seen, as fractions of it."""
    corner, sides = table[:, :1, :2], table[:, :1, 2:4]
    return torch.cat([table[:, 1:, :2] - corner, table[:, 1:, 2:4]], dim=-1) / torch.cat([sides, sides], dim=-1)


def _inside(boxes: Tensor) -> Tensor:
    """(..., 4) boxes in fractions, cut at the image's border; what is outside gets no size."""
    corner, opposite = boxes[..., :2].clamp(0, 1), (boxes[..., :2] + boxes[..., 2:]).clamp(0, 1)
    return torch.cat([corner, opposite - corner], dim=-1)


def _matched(detections: np.ndarray, table: np.ndarray) -> dict[str, np.ndarray]:
    left, top, width, height = table[0, :4]
    pixels = detections[detections[:, 4] > 0] * (width, height, width, height, 1) + (left, top, 0, 0, 0)
    rows = table[(table[:, 5] == _OBJECT) | (table[:, 5] == _CROWD)]
    return dict(match(pixels, np.column_stack([rows[:, :5], rows[:, 5] == _CROWD])))


def _centre_sums(target: Mapping[str, Tensor]) -> Tensor:
    """(3, h, w) float64, on the CPU: sums of area, area × width and area × height of objects centred in each pixel."""
    shape = target["heat"].shape[1:]
    # On a GPU the sums would differ in the last digits from run to run.
    objects, cells, sizes = (target[name].cpu() for name in ("objects", "cells", "sizes"))
    chosen = sizes[objects].double()
    area = chosen.prod(-1)
    values = torch.stack([area, *(area[:, None] * chosen).T])
    return values.new_zeros(3, shape.numel()).index_add_(1, cells[objects], values).view(3, *shape)


def _smoothed(maps: Tensor) -> Tensor:
    """(C, h, w) maps smoothed with a Gaussian; far from all values the map's mean, else all but weightless, decides."""
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


TASKS.add("detection", Detection)
