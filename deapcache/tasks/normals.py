"""Surface normals: which way does the surface that this pixel shows face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deapcache.errors import DataError
from deapcache.tasks.task import Maps, Metric, Task, per_image_sum

if TYPE_CHECKING:
    from torch import Tensor, nn

BINS = 1800
"""Of the angles from 0 to 180 degrees: a tenth of a degree each."""

LIMITS = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
"""Degrees, by the name of the score."""


class Normals(Task):
    """A unit vector a pixel, the output brought to length 1; targets of 0 0 0 are unknown and left out.

    Scores are over the known pixels of all images together, as the field takes them (Fouhey et al. 2013; GeoNet's
    ``eval_pred_sn.m``): mean, median and root mean square of the angle between prediction and target in degrees, and
    the shares below 11.25, 22.5 and 30 degrees. The median is interpolated within a tenth of a degree, so that any
    choice of images has one.

    The ``loss`` is ``cosine``, 1 - cos of the angle, or ``angular``, the angle in radians; each a mean over the known
    pixels of the batch.
    """

    name = "normals"
    annotations = ("normals",)
    meaning = "surface normal, a unit vector with the axes and signs of the training targets"
    picture = "normals"
    scores_from_sums = True
    scores_at_native_size = True
    default_dataset = "nyuv2-normals"
    metrics: ClassVar = {
        "angle": Metric(label="mean angle", unit="degrees", higher_is_better=False),
        "median_angle": Metric(label="median angle", unit="degrees", higher_is_better=False),
        "rms_angle": Metric(label="RMS angle", unit="degrees", higher_is_better=False),
        **{name: Metric(label=f"< {limit:g}°", higher_is_better=True) for name, limit in LIMITS.items()},
    }
    main_metric = "angle"
    choices: ClassVar = {"loss": ("cosine", "angular")}

    @property
    def options(self) -> dict[str, Any]:
        return {"loss": self.chosen["loss"], "output": "to length 1"}

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        return (3,)

    def target(self, maps: Maps) -> Tensor:
        """(B, 3, h, w) float32: unit vectors, 0 where unknown."""
        return maps["normals"].float().permute(0, 3, 1, 2)

    def loss(self, output: Tensor, target: Tensor, criterion: nn.Module | None = None) -> Tensor:
        known = _known(target)
        unit = _to_unit(output)
        errors = 1 - (unit * target).sum(1) if self.chosen["loss"] == "cosine" else angles(unit, target)
        return (errors * known).sum() / known.sum().clamp(min=1)

    def output_bias(self, target: Tensor) -> Tensor:
        """(3,): the mean normal; raises :class:`DataError` where none is known."""
        return _mean_normal(target.double().sum((0, 2, 3))).float()

    def statistics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Of the known pixels of each image: sums (B,) float64, and counts of angles by tenths of a degree."""
        import torch

        known = _known(target)
        degrees = torch.rad2deg(angles(_to_unit(output), target))
        image = torch.arange(len(degrees), device=degrees.device)[:, None, None]
        places = image * BINS + (degrees * (BINS / 180)).long().clamp(max=BINS - 1)
        counts = torch.bincount(places[known], minlength=len(degrees) * BINS).view(-1, BINS)
        return {
            "known": per_image_sum(known),
            "angles": per_image_sum(degrees.masked_fill(~known, 0.0)),
            "squares": per_image_sum(degrees.masked_fill(~known, 0.0).double().square()),
            "histograms": counts.int(),
            **{name: per_image_sum((degrees < limit) & known) for name, limit in LIMITS.items()},
        }

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        total = {name: values.sum(0, dtype=np.float64) for name, values in statistics.items()}
        known = total["known"]
        if not known:
            return dict.fromkeys(self.metrics, float("nan"))
        below = np.concatenate([[0.0], total["histograms"].cumsum()])
        last = int(np.searchsorted(below, known / 2))  # the median lies in the bin that ends there
        within = (known / 2 - below[last - 1]) / (below[last] - below[last - 1])
        found = {
            "angle": total["angles"] / known,
            "median_angle": (last - 1 + within) * 180 / BINS,
            "rms_angle": np.sqrt(total["squares"] / known),
            **{name: total[name] / known for name in LIMITS},
        }
        return {name: float(found[name]) for name in self.metrics}

    def constant_baseline(self, targets: Iterable[Tensor], classes: tuple[str, ...]) -> Tensor:
        """Each pixel's geometric median over the training images, the overall mean direction where none is known.

        The median's mean distance to all vectors is the smallest, so that its mean angle is close to that. One pass
        finds it: steps of falling length towards each vector, and the mean of the places on the way (Cardot, Cénac and
        Zitt 2013, "Efficient and fast estimation of the geometric median", with c = 1/2 and an exponent of 3/4).
        """
        import torch
        import torch.nn.functional as F

        total, seen, place, median = (torch.zeros((), dtype=torch.float64) for _ in range(4))
        for vectors in (one for target in targets for one in target.double().cpu()):
            known = (vectors != 0).any(0)
            total, seen = total + vectors, seen + known
            towards = vectors - place
            length = 0.5 * seen.clamp(min=1) ** -0.75 * known
            place = place + length * towards / towards.norm(dim=0).clamp(min=1e-3)
            median = median + (place - median) * known / seen.clamp(min=1)
        overall = _mean_normal(total.sum((1, 2)))
        return F.normalize(torch.where(seen > 0, median, overall[:, None, None]), dim=0).float()

    def dense_values(self, target: Tensor, classes: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
        """What may be averaged: the vectors (B, 3, h, w) float32, and which are known (B, h, w)."""
        return target, _known(target)

    def output_of_mean(self, mean: Tensor) -> Tensor:
        """The output (B, 3, h, w) for a mean of vectors: itself, since outputs are brought to length 1."""
        return mean.float()

    def prediction(self, output: Tensor) -> Tensor:
        """Unit vectors (B, h, w, 3) float32."""
        return _to_unit(output).permute(0, 2, 3, 1)

    def picture_values(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return target.permute(0, 2, 3, 1), self.prediction(output)


def angles(first: Tensor, second: Tensor) -> Tensor:
    """(B, h, w) float32 in radians between vectors (B, 3, h, w) of any length.

    By the tangent, which is exact for small angles too, where the arc cosine of a rounded product is not (it is off by
    up to 0.03 degrees, and has an infinite slope at 0).
    """
    across = first.cross(second, dim=1).square().sum(1)
    return (across + 1e-12).sqrt().atan2((first * second).sum(1))


def _to_unit(output: Tensor) -> Tensor:
    import torch.nn.functional as F

    return F.normalize(output.float(), dim=1, eps=1e-6)


def _known(target: Tensor) -> Tensor:
    return (target != 0).any(1)


def _mean_normal(total: Tensor) -> Tensor:
    """(3,) float64: the direction of a sum of normals (3,)."""
    import torch.nn.functional as F

    if not bool(total.abs().sum() > 0):
        raise DataError(
            "no training target has a pixel with a known normal: expected unit vectors, found only 0 0 0 (unknown); "
            "check the dataset's normals, or take more training images"
        )
    return F.normalize(total, dim=0)
