"""Foreground: is there any object at this pixel."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from deapcache.tasks.binary import AVERAGE_PRECISION, CROSS_ENTROPY, BinaryTask
from deapcache.tasks.task import TASKS, Maps, Metric


class Foreground(BinaryTask):
    """Pixels of any instance, crowds included, against background. Not in the paper; few images are enough for it."""

    name = "foreground"
    annotations = ("instances",)
    default_dataset = "coco"
    metrics: ClassVar = {
        "cross_entropy": CROSS_ENTROPY,
        "mean_iou": Metric(label="mIoU", unit="", higher_is_better=True),
        "average_precision": AVERAGE_PRECISION,
    }
    main_metric = "mean_iou"

    @property
    def options(self) -> dict[str, Any]:
        return {"crowd": "foreground"}

    def target(self, maps: Maps) -> Tensor:
        """{0, 1} uint8 from instance maps: 1 where there is an instance or a crowd region."""
        return (maps["instances"] != 0).to(torch.uint8)


TASKS.add("foreground", Foreground)
