"""Tasks that tell two kinds of pixel apart: loss, statistics and scores that they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.tasks.average_precision import average_precision, score_histograms
from deapcache.tasks.task import VOID, Metric, Task, per_image_sum

CROSS_ENTROPY = Metric(label="CE", unit="nats", higher_is_better=False)
AVERAGE_PRECISION = Metric(label="AP", unit="", higher_is_better=True)


class BinaryTask(Task):
    """One logit a pixel against targets that are 0, 1 or 255 (void), uint8.

    A pixel is predicted positive where its probability is above one half.

    Scores: ``cross_entropy`` in nats per pixel, ``iou`` of the positive class, ``mean_iou`` of both classes and
    ``average_precision``, each over the valid pixels of all images together, and ``positive_rate``, the share of
    positives among them. A subclass names in ``metrics`` those that it is judged by.
    """

    picture = "probability"
    scores_from_sums = True

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        return (1,)

    def loss(self, output: Tensor, target: Tensor, criterion: nn.Module | None = None) -> Tensor:
        """Binary cross-entropy, mean over the valid pixels of the batch."""
        valid = target != VOID
        return _cross_entropies(output[:, 0], target, valid).sum() / valid.sum().clamp(min=1)

    def statistics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums and counts over valid pixels (B,), and histograms of the logits by class (B, 2, 512) int32."""
        logit, valid, positive = output[:, 0].float(), target != VOID, target == 1
        predicted = (logit > 0) & valid
        return {
            "valid": per_image_sum(valid),
            "positive": per_image_sum(positive),
            "predicted": per_image_sum(predicted),
            "intersection": per_image_sum(predicted & positive),
            "cross_entropy": per_image_sum(_cross_entropies(logit, target, valid)),
            "histograms": score_histograms(logit, positive, valid),
        }

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        total = {name: values.sum(0, dtype=np.float64) for name, values in statistics.items()}
        valid, positive, predicted, both = (total[n] for n in ("valid", "positive", "predicted", "intersection"))
        neither = valid - positive - predicted + both
        with np.errstate(invalid="ignore"):
            iou = both / (positive + predicted - both)
            ious = {
                "iou": iou,
                "mean_iou": np.nanmean([iou, neither / (valid - both)]) if valid else np.nan,
            }
            rates = {"cross_entropy": total["cross_entropy"] / valid, "positive_rate": positive / valid}
        found = rates | ious | {"average_precision": average_precision(total["histograms"])}
        return {name: float(found[name]) for name in (*self.metrics, "positive_rate")}

    def prior(self, targets: Iterable[Tensor], classes: tuple[str, ...]) -> Tensor:
        """Each pixel's log odds over the training images, with one more image at the overall rate."""
        positive, valid = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for target in targets:
            positive = positive + (target == 1).sum(0).double().cpu()
            valid = valid + (target != VOID).sum(0).double().cpu()
        # Half a pixel of each kind keeps the overall rate off 0 and 1.
        rate = (positive.sum() + 0.5) / (valid.sum() + 1)
        return torch.logit((positive + rate) / (valid + 1)).float()[None]

    def prediction(self, output: Tensor) -> Tensor:
        """Probability of the positive class, (B, h, w) float32 in [0, 1]."""
        return output[:, 0].float().sigmoid()


def _cross_entropies(logit: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(B, h, w) float32, 0 on void pixels."""
    wanted = (target == 1).float()
    return F.binary_cross_entropy_with_logits(logit.float(), wanted, weight=valid.float(), reduction="none")
