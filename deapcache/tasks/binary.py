"""Tasks that tell two kinds of pixel apart: instance boundaries and foreground, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deapcache.annotations import CROWD_PIXEL, VOID
from deapcache.tasks.task import MEAN_FLOOR, Maps, Metric, Task, of_all_images, per_image_sum

if TYPE_CHECKING:
    from torch import Tensor, nn

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

    From these, average precision can be pooled over any choice of images. Pooling all pixels of COCO's 5,000 validation
    images exactly would mean sorting 250 million scores, again for each bootstrap resample. Scores that share a bin are
    tied, which costs less than 0.002 with logits like a trained readout's (rare positives, spread of 0.5 to 5), and up
    to 0.02 in the extremes (all logits within a tenth, or in the hundreds).

    ``logit`` is (B, h, w) float32, ``positive`` and ``valid`` are (B, h, w) bool.
    """
    import torch

    images = len(logit)
    image = torch.arange(images, device=logit.device)[:, None, None]
    places = (image * 2 + positive) * BINS + logit_bins(logit)
    counts = torch.bincount(places[valid], minlength=images * 2 * BINS)
    return counts.view(images, 2, BINS).int()


def average_precision(histograms: np.ndarray) -> np.ndarray:
    """Σ (recallₙ - recallₙ₋₁) precisionₙ over the bins from the highest down, (R,); NaN without positives.

    The definition of ``sklearn.metrics.average_precision_score`` for scores that are bin numbers. ``histograms`` is
    (R, 2, 512): negatives, positives.
    """
    negatives, positives = np.moveaxis(histograms[..., ::-1].astype(np.float64), -2, 0)
    hits, alarms = positives.cumsum(-1), negatives.cumsum(-1)
    precision = hits / np.maximum(hits + alarms, 1)
    with np.errstate(invalid="ignore"):
        return np.asarray((positives * precision).sum(-1) / hits[..., -1])


Counts = float | np.ndarray
"""Of pixels, of one choice of positives or of many, (n,) float64."""


def positive_iou(valid: Counts, positive: Counts, predicted: Counts, both: Counts) -> Any:
    """TP / (TP + FP + FN) from counts of pixels: NaN where nothing is positive and nothing predicted."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(both, positive + predicted - both)


def mean_iou(valid: Counts, positive: Counts, predicted: Counts, both: Counts) -> Any:
    """Mean of the IoUs of positives and of negatives; that of one alone where there is nothing of the other."""
    sides = (
        positive_iou(valid, positive, predicted, both),
        positive_iou(valid, valid - positive, valid - predicted, valid - positive - predicted + both),
    )
    return np.where(np.isnan(sides).any(0), np.nansum(sides, 0), np.mean(sides, 0))


def best_cut(valid: np.ndarray, positive: np.ndarray, iou: Callable[..., Any]) -> int:
    """How many of n groups of pixels, the likeliest positives first, to take for positive: the highest ``iou``.

    ``valid`` and ``positive`` are (n,): pixels in each group, and positive ones among them.
    """
    predicted, both = (np.append(0.0, counts.astype(np.float64).cumsum()) for counts in (valid, positive))
    return int(np.nan_to_num(iou(predicted[-1], both[-1], predicted, both)).argmax())


METRICS = {
    "cross_entropy": Metric(label="CE", unit="nats", higher_is_better=False),
    "iou": Metric(label="IoU", higher_is_better=True),
    "iou_fitted": Metric(label="IoU, fitted", higher_is_better=True),
    "mean_iou": Metric(label="mIoU", higher_is_better=True),
    "average_precision": Metric(label="AP", higher_is_better=True),
}
"""All that a task of two kinds of pixel can be judged by."""


class BinaryTask(Task):
    """One logit a pixel against targets that are 0, 1 or 255 (void), uint8.

    A pixel is predicted positive where its probability is above one half.

    Scores: ``cross_entropy`` in nats per pixel, ``iou`` of the positive class, ``iou_fitted``, the same at the
    threshold that is best on training images, ``mean_iou`` of both classes and ``average_precision``, each over the
    valid pixels of all images together, and ``positive_rate``, the share of positives among them. A subclass names in
    ``metrics`` those that it is judged by.
    """

    annotations = ("instances",)
    default_dataset = "coco"
    iterations = 30_000
    meaning = "probability of the positive class"
    picture = "probability"
    scores_from_sums = True
    own_statistics: ClassVar = {
        "cross_entropy": ("cross_entropy",),
        "iou": ("predicted", "intersection"),
        "mean_iou": ("predicted", "intersection"),
        "average_precision": ("histograms",),
    }

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
        return of_all_images(self.scores_of_sums, statistics)

    def scores_of_sums(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = sums["valid"], sums["positive"]
        with np.errstate(invalid="ignore"):
            found = {
                "cross_entropy": sums["cross_entropy"] / sums["valid"],
                "iou": positive_iou(*pixels, sums["predicted"], sums["intersection"]),
                "mean_iou": np.where(pixels[0], mean_iou(*pixels, sums["predicted"], sums["intersection"]), np.nan),
                "average_precision": average_precision(sums["histograms"]),
                "positive_rate": sums["positive"] / sums["valid"],
            }
        if "fitted_predicted" in sums:  # not in results of before
            found["iou_fitted"] = positive_iou(*pixels, sums["fitted_predicted"], sums["fitted_intersection"])
        return {name: found[name] for name in (*self.metrics, "positive_rate") if name in found}

    def constant_baseline(self, targets: Iterable[Tensor], classes: tuple[str, ...]) -> dict[str, Tensor]:
        """Each pixel's log odds over the training images, with one more image at the overall rate.

        For a metric that looks at one threshold they are moved, so that it is the one that is best for that metric on
        the training images: no other set of pixels has a higher IoU there, up to that one more image.
        """
        import torch

        positive, valid = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for target in targets:
            positive = positive + (target == 1).sum(0).double().cpu()
            valid = valid + (target != VOID).sum(0).double().cpu()
        # Half a pixel of each kind keeps the overall rate off 0 and 1.
        rate = (positive.sum() + 0.5) / (valid.sum() + 1)
        odds = ((positive + rate) / (valid + 1)).logit()[None]
        best = dict.fromkeys(self.metrics, odds)
        for name, iou in {"iou": positive_iou, "iou_fitted": positive_iou, "mean_iou": mean_iou}.items():
            if name in best:
                best[name] = odds - _best_threshold(odds, valid, positive, iou)
        return {name: output.float() for name, output in best.items()}

    def dense_values(self, target: Tensor, classes: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
        """1 for positive and 0 for negative pixels, (B, 1, h, w); all but void ones are valid."""
        return (target == 1).float()[:, None], target != VOID

    def output_of_mean(self, mean: Tensor) -> Tensor:
        """The log odds of a probability (B, 1, h, w), which is kept within 1e-3 of 0 and 1."""
        return mean.float().logit(eps=MEAN_FLOOR)

    def prediction(self, output: Tensor) -> Tensor:
        """Probability of the positive class, (B, h, w) float32 in [0, 1]."""
        return output[:, 0].float().sigmoid()


def _cross_entropies(logit: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """(B, h, w) float32, 0 on void pixels."""
    import torch.nn.functional as F

    wanted = (target == 1).float()
    return F.binary_cross_entropy_with_logits(logit.float(), wanted, weight=valid.float(), reduction="none")


def _best_threshold(odds: Tensor, valid: Tensor, positive: Tensor, iou: Callable[..., Any]) -> float:
    """Log odds above which to call a pixel positive, in all images alike; between two of the ``odds`` (1, h, w)."""
    values, group = np.unique(-odds.numpy().ravel(), return_inverse=True)
    counts = [np.bincount(group, pixels.numpy().ravel(), len(values)) for pixels in (valid, positive)]
    edges = -np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    return float(edges[best_cut(counts[0], counts[1], iou)])


class Boundaries(BinaryTask):
    """Border pixels of instances against all others.

    The paper reports cross-entropy and the IoU of border pixels. IoU looks at one threshold, which few pixels pass
    after a short training: average precision, which looks at all, is the main metric, and ``iou_fitted`` is the IoU
    where it is the highest on the first 256 training images.

    Crowd regions (many objects under one outline, COCO's ``iscrowd``) have borders inside that nobody drew: their
    pixels are void. From outside they are background: an instance's border against a crowd counts, a crowd's own
    outline does not.
    """

    name = "boundaries"
    metrics: ClassVar = {name: METRICS[name] for name in ("cross_entropy", "iou", "iou_fitted", "average_precision")}
    main_metric = "average_precision"
    former_main_metrics = ("iou",)
    fit_images = 256

    @property
    def options(self) -> dict[str, Any]:
        return {"borders": "thick, 4-neighbours", "dilation": 3, "crowd": "void; background to its neighbours"}

    def target(self, maps: Maps) -> Tensor:
        """{0, 1, 255} uint8 from instance maps: borders on both of their sides, dilated once by 3 × 3 pixels.

        Borders are those of ``skimage.segmentation.find_boundaries(mode="thick")``.
        """
        import torch.nn.functional as F

        ids = maps["instances"]
        crowd = ids == CROWD_PIXEL
        dilated = F.max_pool2d(thick_boundaries(ids.masked_fill(crowd, 0)).float(), 3, stride=1, padding=1)
        return dilated.byte().masked_fill(crowd, VOID)

    def fitted_statistics(
        self, statistics: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
        """What is predicted at the edge of two bins of logits where the training images' IoU is the highest.

        A constant baseline for ``iou`` is best at probability 0.5 already.
        """
        if training is None:
            return {"fitted_" + name: statistics[name] for name in ("predicted", "intersection")}
        negative, positive = training["histograms"].sum(0, dtype=np.int64)[:, ::-1]
        bins = best_cut(negative + positive, positive, positive_iou)
        above = statistics["histograms"][:, :, BINS - bins :].sum(-1, dtype=np.int64)
        return {"fitted_predicted": above.sum(-1), "fitted_intersection": above[:, 1]}


def thick_boundaries(maps: Tensor) -> Tensor:
    """(B, h, w) bool: pixels with a 4-neighbour of another value."""
    import torch

    found = torch.zeros_like(maps, dtype=torch.bool)
    for axis in (1, 2):
        length = maps.shape[axis] - 1
        differ = maps.narrow(axis, 0, length) != maps.narrow(axis, 1, length)
        found.narrow(axis, 0, length).logical_or_(differ)
        found.narrow(axis, 1, length).logical_or_(differ)
    return found


class Foreground(BinaryTask):
    """Pixels of any instance, crowds included, against background. Not in the paper; few images are enough for it."""

    name = "foreground"
    metrics: ClassVar = {name: METRICS[name] for name in ("cross_entropy", "mean_iou", "average_precision")}
    scores_at_native_size = True
    main_metric = "mean_iou"

    @property
    def options(self) -> dict[str, Any]:
        return {"crowd": "foreground"}

    def target(self, maps: Maps) -> Tensor:
        """{0, 1} uint8 from instance maps: 1 where there is an instance or a crowd region."""
        return (maps["instances"] != 0).byte()
