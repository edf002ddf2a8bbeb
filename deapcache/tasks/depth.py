"""Monocular depth: how far away is this pixel (section 4.1, spatial understanding)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.errors import DataError
from deapcache.tasks.task import Maps, Metric, Task, per_image_sum

_LAMBDA = 0.85
_NEAREST = 1e-3
"""Metres: predictions nearer than this count as this far where a logarithm or a ratio is taken."""

_RATIO = 1.25

_EIGEN = ((45, 471, 480), (41, 601, 640))
"""Rows and columns of NYUv2's 480 × 640 pixels that Eigen's crop keeps: from, to (exclusive), of how many."""


class Depth(Task):
    """Metres, as the softplus of the output; targets of 0 are unknown and left out.

    Scores are each image's own over its known pixels, averaged over the images that have any: ``rmse``, ``abs_rel``
    (|error| / depth), ``log10`` (|error| in decades), ``delta1`` to ``delta3`` (share of pixels within a factor of
    1.25, 1.25², 1.25³) and ``silog`` (standard deviation of ln prediction - ln target, × 100). Definitions follow Eigen
    et al. (2014) and Lee et al. (2019). ``rmse_pooled`` is over the pixels of all images together.

    The ``loss`` is ``silog`` or ``l1``. With the ``crop`` ``eigen`` only the pixels inside of the border that the field
    leaves out of NYUv2 are scored; all are trained on.
    """

    name = "depth"
    annotations = ("depth",)
    meaning = "depth"
    unit = "m"
    picture = "depth"
    default_dataset = "nyuv2"
    metrics: ClassVar = {
        "rmse": Metric(label="RMSE", unit="m", higher_is_better=False),
        "rmse_pooled": Metric(label="RMSE, pooled", unit="m", higher_is_better=False),
        "delta1": Metric(label="δ1", higher_is_better=True),
        "delta2": Metric(label="δ2", higher_is_better=True),
        "delta3": Metric(label="δ3", higher_is_better=True),
        "abs_rel": Metric(label="AbsRel", higher_is_better=False),
        "log10": Metric(label="log10", higher_is_better=False),
        "silog": Metric(label="SILog", unit="×100", higher_is_better=False),
    }
    main_metric = "rmse"
    choices: ClassVar = {"loss": ("silog", "l1"), "crop": ("none", "eigen")}

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.needs_whole_image = self.chosen["crop"] == "eigen"  # which is given in shares of it

    @property
    def options(self) -> dict[str, Any]:
        loss = {"loss": "silog", "lambda": _LAMBDA} if self.chosen["loss"] == "silog" else {"loss": "l1"}
        return {**loss, "nearest": _NEAREST, "output": "softplus", "crop": self.chosen["crop"]}

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        return (1,)

    def target(self, maps: Maps) -> Tensor:
        """Depth maps as they are: (B, h, w) float32, metres, 0 = unknown."""
        return maps["depth"]

    def loss(self, output: Tensor, target: Tensor, criterion: nn.Module | None = None) -> Tensor:
        """Over the known pixels of the batch: √(mean d² - 0.85 (mean d)²) of d = ln prediction - ln target (``silog``).

        The scale-invariant logarithmic error of Eigen et al. (2014), under the root and with the weight 0.85 that Lee
        et al. (2019, "From Big to Small") gave it, without their factor 10. Both depths count as at least 1 mm.
        With ``l1`` the mean of |prediction - target|, metres.
        """
        metres, known = self.prediction(output), target > 0
        count = known.sum().clamp(min=1)
        if self.chosen["loss"] == "l1":
            return ((metres - target).abs() * known).sum() / count
        errors = (_log(metres) - _log(target)) * known
        inside = errors.square().sum() / count - _LAMBDA * (errors.sum() / count).square()
        # The root has no slope at 0: a perfect prediction, or a batch without depth, must not give NaN.
        return inside.clamp(min=1e-12).sqrt()

    def output_bias(self, target: Tensor) -> Tensor:
        """(1,): the softplus of it is the mean of the known depths; raises :class:`DataError` without any."""
        return inverse_softplus(_mean_depth(target.double().sum(), (target > 0).sum())).float()[None]

    def statistics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums over the known pixels of each image, within the crop, (B,): float64, counts int64."""
        metres, known = self.prediction(output), target > 0
        if self.chosen["crop"] == "eigen":
            known &= eigen_crop(*target.shape[-2:]).to(known.device)
        errors = _log(metres) - _log(target)
        sums = {
            "squares": (metres - target).square(),
            "relative": (metres - target).abs() / target.clamp(min=_NEAREST),
            "decades": errors.abs() / math.log(10),
            "logs": errors,
            "log_squares": errors.square(),
        }
        counts = {f"delta{n}": errors.abs() < n * math.log(_RATIO) for n in (1, 2, 3)}
        return {
            "known": per_image_sum(known),
            **{name: per_image_sum(values.masked_fill(~known, 0.0)) for name, values in sums.items()},
            **{name: per_image_sum(values & known) for name, values in counts.items()},
        }

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        seen = statistics["known"] > 0
        if not seen.any():
            return dict.fromkeys(self.metrics, float("nan"))
        known = statistics["known"][seen].astype(np.float64)
        mean = {name: values[seen] / known for name, values in statistics.items()}
        variance = np.maximum(mean["log_squares"] - mean["logs"] ** 2, 0.0)
        per_image = {
            "rmse": np.sqrt(mean["squares"]),
            **{name: mean[name] for name in ("delta1", "delta2", "delta3")},
            "abs_rel": mean["relative"],
            "log10": mean["decades"],
            "silog": 100 * np.sqrt(variance),
        }
        pooled = math.sqrt(statistics["squares"].sum() / known.sum())
        averaged = {name: float(values.mean()) for name, values in per_image.items()}
        return {name: pooled if name == "rmse_pooled" else averaged[name] for name in self.metrics}

    def constant_baseline(self, targets: Iterable[Tensor], classes: tuple[str, ...]) -> Tensor:
        """Each pixel's mean depth over the training images, the overall mean where it was never known."""
        total, known = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        for target in targets:
            total = total + target.double().sum(0).cpu()
            known = known + (target > 0).sum(0).cpu()
        overall = _mean_depth(total.sum(), known.sum())
        return inverse_softplus(torch.where(known > 0, total / known.clamp(min=1), overall)).float()[None]

    def prediction(self, output: Tensor) -> Tensor:
        """Metres, (B, h, w) float32, above 0."""
        return F.softplus(output[:, 0].float())


def eigen_crop(height: int, width: int) -> Tensor:
    """(height, width) bool: the pixels whose centres lie in Eigen's crop, [45:471, 41:601] of 480 × 640 pixels.

    The crop of Eigen et al. (2014) as BTS, AdaBins and others apply it, in shares of the image where it has another
    size. A map that was brought to this size by nearest neighbour shows cropped pixels exactly there.
    """
    inside = []
    for (first, end, of), size in zip(_EIGEN, (height, width), strict=True):
        # Twice the places of the centres, which are whole numbers of 1 / size: nothing is rounded.
        centres = (2 * torch.arange(size) + 1) * of
        inside.append((centres >= 2 * size * first) & (centres < 2 * size * end))
    rows, columns = inside
    return rows[:, None] & columns


def inverse_softplus(metres: Tensor) -> Tensor:
    """The x whose softplus is ``metres``, any shape, float64 for accuracy."""
    wanted = metres.double()
    return wanted + torch.log(-torch.expm1(-wanted))


def _log(metres: Tensor) -> Tensor:
    return metres.clamp(min=_NEAREST).log()


def _mean_depth(total: Tensor, known: Tensor) -> Tensor:
    if not bool(known > 0):
        raise DataError(
            "no training target has a pixel of known depth: expected metres above 0, found only 0 (unknown); "
            "check the dataset's depth maps, or take more training images"
        )
    return total / known
