"""Batch-norm statistics of untrained backbones, from the first images of a dataset."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from deapcache.backbones import Backbone
from deapcache.extraction.prepare import limited_rows
from deapcache.extraction.sources import ImageSource

CALIBRATION_IMAGES = 64
"""Training images on which the batch-norm statistics of an untrained backbone are estimated."""


def calibrate(backbone: Backbone, source: ImageSource, images: int, images_digest: str) -> str:
    """Estimate the batch-norm statistics of an untrained backbone on the first of so many images of an image set.

    Returns what the recipe of its features says of it.
    """
    rows = limited_rows(images, CALIBRATION_IMAGES)
    backbone.calibrate(_batches(source, rows))
    return f"batch norm from the first {len(rows)} images of {images_digest}"


def _batches(source: ImageSource, rows: range) -> Iterable[torch.Tensor]:
    for start in range(0, len(rows), 16):
        yield torch.from_numpy(source.request(rows[start : start + 16]).result())
