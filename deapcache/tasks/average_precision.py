"""Average precision from histograms, so that it can be pooled over any choice of images.

Pooling all pixels of COCO's 5,000 validation images exactly would mean sorting 250 million scores, again for each
bootstrap resample. A histogram of each image's scores by class is enough, if its bins are fine. Scores that share a
bin are tied, which costs less than 0.002 with logits like a trained readout's (rare positives, spread of 0.5 to 5), and
up to 0.02 in the extremes (all logits within a tenth, or in the hundreds).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BINS = 512
"""An even number, so that no bin holds logits of both signs."""

_HALF_RANGE = 2.0
"""Logit at which half of the positive bins are used up: 1/128 wide near 0, 1/5 near 8, and no logit is out of range."""


def logit_bins(logit: Tensor) -> Tensor:
    """Bin of each logit, int64 in [0, 512), not falling with the logit; the first half holds the negative ones."""
    share = logit / (logit.abs() + _HALF_RANGE)  # in (-1, 1)
    return ((share + 1) * (BINS // 2)).long().clamp_(0, BINS - 1)


def score_histograms(logit: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """(B, 2, 512) int32: how many valid negatives (first) and positives of each image fall in each bin.

    ``logit`` is (B, h, w) float32, ``positive`` and ``valid`` are (B, h, w) bool.
    """
    images = len(logit)
    image = torch.arange(images, device=logit.device)[:, None, None]
    places = (image * 2 + positive) * BINS + logit_bins(logit)
    counts = torch.bincount(places[valid], minlength=images * 2 * BINS)
    return counts.view(images, 2, BINS).int()


def average_precision(histograms: np.ndarray) -> float:
    """Σ (recallₙ - recallₙ₋₁) precisionₙ over the bins from the highest down; NaN without positives.

    The definition of ``sklearn.metrics.average_precision_score`` for scores that are bin numbers. ``histograms`` is
    (2, 512): negatives, positives.
    """
    negatives, positives = histograms[:, ::-1].astype(np.float64)
    hits, alarms = positives.cumsum(), negatives.cumsum()
    if not hits[-1]:
        return float("nan")
    precision = hits / np.maximum(hits + alarms, 1)
    return float((positives * precision).sum() / hits[-1])
