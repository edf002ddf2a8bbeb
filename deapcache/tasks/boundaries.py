"""Instance boundaries: where does one object end (section 4.1)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deapcache.tasks.binary import AVERAGE_PRECISION, CROSS_ENTROPY, BinaryTask
from deapcache.tasks.task import TASKS, VOID, Maps, Metric

_CROWD = -1


class Boundaries(BinaryTask):
    """Border pixels of instances against all others.

    The paper reports cross-entropy and the IoU of border pixels; the latter is the main metric here. It looks at one
    threshold, which few pixels pass after a short training; average precision, beside it, looks at all.

    Crowd regions (many objects under one outline, COCO's ``iscrowd``) have borders inside that nobody drew: their
    pixels are void. From outside they are background: an instance's border against a crowd counts, a crowd's own
    outline does not.
    """

    name = "boundaries"
    annotations = ("instances",)
    default_dataset = "coco"
    metrics: ClassVar = {
        "cross_entropy": CROSS_ENTROPY,
        "iou": Metric(label="IoU", unit="", higher_is_better=True),
        "average_precision": AVERAGE_PRECISION,
    }
    main_metric = "iou"

    @property
    def options(self) -> dict[str, Any]:
        return {"borders": "thick, 4-neighbours", "dilation": 3, "crowd": "void; background to its neighbours"}

    def target(self, maps: Maps) -> Tensor:
        """{0, 1, 255} uint8 from instance maps: borders on both of their sides, dilated once by 3 × 3 pixels.

        Borders are those of ``skimage.segmentation.find_boundaries(mode="thick")``.
        """
        ids = maps["instances"]
        crowd = ids == _CROWD
        dilated = F.max_pool2d(thick_boundaries(ids.masked_fill(crowd, 0)).float(), 3, stride=1, padding=1)
        return dilated.to(torch.uint8).masked_fill(crowd, VOID)


def thick_boundaries(maps: Tensor) -> Tensor:
    """(B, h, w) bool: pixels with a 4-neighbour of another value."""
    found = torch.zeros_like(maps, dtype=torch.bool)
    for axis in (1, 2):
        length = maps.shape[axis] - 1
        differ = maps.narrow(axis, 0, length) != maps.narrow(axis, 1, length)
        found.narrow(axis, 0, length).logical_or_(differ)
        found.narrow(axis, 1, length).logical_or_(differ)
    return found


TASKS.add("boundaries", Boundaries)
