"""Monocular depth: how far away is this pixel (section 4.1, spatial understanding)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deapcache.errors import DataError
from deapcache.tasks.task import Maps, Metric, Task, of_all_images, per_image_sum

if TYPE_CHECKING:
    from torch import Tensor, nn

_LAMBDA = 0.85
_NEAREST = 1e-3
"""Metres: predictions nearer than this count as this far where a logarithm or a ratio is taken."""

_RATIO = 1.25

_EIGEN = ((45, 471, 480), (41, 601, 640))
"""Rows and columns of NYUv2's 480 × 640 pixels that Eigen's crop keeps: from, to (exclusive), of how many."""


BINS, _FIRST_BIN, _LAST_BIN, _BIN_FLOOR = 256, 1e-3, 10.0, 0.1
"""Depths that ``output=bins`` mixes: how many, from and, without a cap, to how many metres; each one's least weight."""

_GRADIENT_WEIGHT = 0.5
_STRIDES = (1, 2, 4, 6)
"""Of the loss's gradients: pixels between those that are looked at."""


class Depth(Task):
    """Metres, made of the output; targets of 0 are unknown and left out.

    Scores are each image's own over its known pixels, averaged over the images that have any: ``rmse``, ``abs_rel``
    (|error| / depth), ``log10`` (|error| in decades), ``delta1`` to ``delta3`` (share of pixels within a factor of
    1.25, 1.25², 1.25³) and ``silog`` (standard deviation of ln prediction - ln target, × 100). Definitions follow Eigen
    et al. (2014) and Lee et al. (2019). ``rmse_pooled`` is over the pixels of all images together.

    Choices: the ``loss``, ``silog``, ``l1`` or ``dinov2`` (:meth:`loss`). With the ``crop`` ``eigen`` only the pixels
    inside of the border that the field leaves out of NYUv2 are scored; all are trained on. With a ``cap``, in metres,
    what is farther counts as unknown, and predictions are cut to 1 mm and the cap. The ``output`` is the ``softplus``
    of one channel, or ``bins``: 256 channels are the weights of depths from 1 mm to the cap, 10 m without one, in even
    steps, as in the linear depth head of DINOv2 (Oquab et al., 2023; after AdaBins, Bhat et al., 2021).
    """

    name = "depth"
    annotations = ("depth",)
    scores_from_sums = True
    meaning = "depth"
    unit = "m"
    picture = "depth"
    scores_at_native_size = True
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
    choices: ClassVar = {
        "loss": ("silog", "l1", "dinov2"),
        "crop": ("none", "eigen"),
        "cap": ("none", "10", "80"),
        "output": ("softplus", "bins"),
    }
    own_statistics: ClassVar = {
        **{f"delta{n}": (f"delta{n}",) for n in (1, 2, 3)},
        "abs_rel": ("relative",),
        "log10": ("decades",),
        "silog": ("logs", "log_squares"),
    }

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self._cap = None if self.chosen["cap"] == "none" else float(self.chosen["cap"])
        self._has_bins = self.chosen["output"] == "bins"
        self.needs_whole_image = self.chosen["crop"] == "eigen"  # which is given in shares of it

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {**self.chosen, "nearest": _NEAREST}
        if self.chosen["loss"] != "l1":
            options["lambda"] = _LAMBDA
        if self.chosen["loss"] == "dinov2":
            options["gradients"] = {"weight": _GRADIENT_WEIGHT, "strides": list(_STRIDES)}
        if self._has_bins:
            options["bins"] = {"count": BINS, "from": _FIRST_BIN, "to": self._cap or _LAST_BIN, "floor": _BIN_FLOOR}
        return options

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """One channel, or one for each of 256 depths."""
        return (BINS,) if self._has_bins else (1,)

    def target(self, maps: Maps) -> Tensor:
        """Depth maps (B, h, w) float32, metres, 0 = unknown, as they are but for what is beyond the cap: unknown."""
        depth = maps["depth"]
        return depth if self._cap is None else depth.masked_fill(depth > self._cap, 0)

    def loss(self, output: Tensor, target: Tensor, criterion: nn.Module | None = None) -> Tensor:
        """Over the known pixels of the batch: √(mean d² - 0.85 (mean d)²) of d = ln prediction - ln target (``silog``).

        The scale-invariant logarithmic error of Eigen et al. (2014), under the root and with the weight 0.85 that Lee
        et al. (2019, "From Big to Small") gave it, without their factor 10. Both depths count as at least 1 mm.
        With ``l1`` the mean of |prediction - target|, metres. ``dinov2`` is ``silog`` plus half of the differences of
        d (:func:`gradient_error`), the sum that DINOv2's depth heads are trained with, without their warm-up.
        """
        metres, known = self._metres(output), target > 0
        count = known.sum().clamp(min=1)
        if self.chosen["loss"] == "l1":
            return ((metres - target).abs() * known).sum() / count
        errors = (_log(metres) - _log(target)) * known
        inside = errors.square().sum() / count - _LAMBDA * (errors.sum() / count).square()
        # The root has no slope at 0: a perfect prediction, or a batch without depth, must not give NaN.
        loss = inside.clamp(min=1e-12).sqrt()
        return loss + _GRADIENT_WEIGHT * gradient_error(errors, known) if self.chosen["loss"] == "dinov2" else loss

    def output_bias(self, target: Tensor) -> Tensor | None:
        """(1,): its softplus is the mean known depth; bins start alike; raises :class:`DataError` without any."""
        mean = _mean_depth(target.double().sum(), (target > 0).sum())
        return None if self._has_bins else inverse_softplus(mean).float()[None]

    def statistics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums over the known pixels of each image, within the crop, (B,): float64, counts int64."""
        metres, known = self.prediction(output), self._scored(target)
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
        return of_all_images(self.scores_of_sums, self.summands(statistics))

    def summands(self, statistics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The metrics of each image, 0 where no pixel is known, and what is pooled."""
        known = statistics["known"].astype(np.float64)
        mean = {name: values / np.maximum(known, 1) for name, values in statistics.items()}
        variance = np.maximum(mean["log_squares"] - mean["logs"] ** 2, 0.0)
        return {
            "rmse": np.sqrt(mean["squares"]),
            **{name: mean[name] for name in ("delta1", "delta2", "delta3")},
            "abs_rel": mean["relative"],
            "log10": mean["decades"],
            "silog": 100 * np.sqrt(variance),
            "images": known > 0,
            "known": known,
            "squares": statistics["squares"],
        }

    def scores_of_sums(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):  # NaN where no pixel is known
            pooled = np.sqrt(sums["squares"] / sums["known"])
            return {name: pooled if name == "rmse_pooled" else sums[name] / sums["images"] for name in self.metrics}

    def _scored(self, target: Tensor) -> Tensor:
        """(B, h, w) bool: known pixels within the crop."""
        known = target > 0
        return known & eigen_crop(*target.shape[-2:]).to(known.device) if self.chosen["crop"] == "eigen" else known

    def constant_baseline(self, targets: Iterable[Tensor], classes: tuple[str, ...]) -> dict[str, Tensor]:
        """Each pixel's mean depth over the training images, the overall mean where it was never known.

        That is for RMSE. The other metrics have what is best for them at a pixel, by a histogram of its depths with one
        more image at the overall ones: the median for ``log10``; that with weights 1 / depth for ``abs_rel``; the
        middle of the window with most depths for ``delta1`` to ``delta3``; and for ``silog``, which knows no scale, the
        mean logarithm, less that of each image.
        """
        import torch

        total, known = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        centred, scored = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        histogram = None
        for target in (target.cpu() for target in targets):
            total = total + target.double().sum(0)
            known = known + (target > 0).sum(0)
            inside = self._scored(target)
            logs = _log(target).double() * inside
            means = logs.sum((1, 2), keepdim=True) / inside.sum((1, 2), keepdim=True).clamp(min=1)
            centred, scored = centred + ((logs - means) * inside).sum(0), scored + inside.sum(0)
            histogram = LogHistogram(target.shape[1:]) if histogram is None else histogram
            histogram.add(target)
        overall = _mean_depth(total.sum(), known.sum())
        assert histogram is not None  # _mean_depth raises without any target
        mean = torch.where(known > 0, total / known.clamp(min=1), overall)
        shape = (centred / scored.clamp(min=1)).exp() * overall
        best = {"rmse": mean, "rmse_pooled": mean, **histogram.best_depths(), "silog": shape}
        return {name: self._output_of(metres) for name, metres in best.items()}

    def dense_values(self, target: Tensor, classes: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
        """Metres, (B, 1, h, w); known pixels are valid."""
        return target[:, None], target > 0

    def output_of_mean(self, mean: Tensor) -> Tensor:
        """The output that says these metres (B, 1, h, w), at least 1 mm; with bins they are cut to their range."""
        return self._output_of(mean[:, 0])

    def _output_of(self, metres: Tensor) -> Tensor:
        """(..., C, h, w) float32 of (..., h, w)."""
        import torch

        if not self._has_bins:
            return inverse_softplus(metres.clamp(min=_NEAREST)).float().unsqueeze(-3)
        first, second, *_ = self._bin_depths()
        step = second - first
        place = ((metres - _FIRST_BIN) / step).clamp(0, BINS - 1).unsqueeze(-3)
        shares = (1 - (place - torch.arange(BINS, device=metres.device)[:, None, None]).abs()).clamp(min=0)
        return (shares * _CERTAIN).float()

    def prediction(self, output: Tensor) -> Tensor:
        """Metres, (B, h, w) float32, above 0, up to the cap."""
        metres = self._metres(output)
        return metres if self._cap is None else metres.clamp(_NEAREST, self._cap)

    def _metres(self, output: Tensor) -> Tensor:
        """(B, h, w) float32: the softplus, or Σ w·depth / Σ w over the bins, w = max(output, 0) + 0.1."""
        import torch
        import torch.nn.functional as F

        if not self._has_bins:
            return F.softplus(output[:, 0].float())
        weights = output.float().relu() + _BIN_FLOOR
        return torch.einsum("bkhw,k->bhw", weights, self._bin_depths().to(weights.device)) / weights.sum(1)

    def _bin_depths(self) -> Tensor:
        """(256,) float32, metres: what the bins stand for."""
        import torch

        return torch.linspace(_FIRST_BIN, self._cap or _LAST_BIN, BINS)


_CERTAIN = 1e7
"""A bin's output that leaves the floors of the 255 others without weight."""


def gradient_error(errors: Tensor, known: Tensor) -> Tensor:
    """How much errors (B, h, w) differ between pixels two steps apart along rows and columns, over four scales.

    At each scale every 1st, 2nd, 4th and 6th pixel is looked at; the sum of |difference| over pairs of ``known`` pixels
    (B, h, w) bool is divided by the number of known pixels. The multi-scale gradient matching of Li and Snavely (2018,
    "MegaDepth") as DINOv2's depth heads have it, but for their slicing, which thins out images and not pixels.
    """
    total = errors.new_zeros(())
    for stride in _STRIDES:
        some, there = errors[:, ::stride, ::stride], known[:, ::stride, ::stride]
        for axis in (1, 2):
            length = some.shape[axis] - 2
            if length > 0:
                pairs = there.narrow(axis, 0, length) & there.narrow(axis, 2, length)
                differences = some.narrow(axis, 0, length) - some.narrow(axis, 2, length)
                total = total + (differences.abs() * pairs).sum() / there.sum().clamp(min=1)
    return total


class LogHistogram:
    """How often each pixel has which depth, in 128 bins from 0.1 to 400 m of equal ratio; beyond, the first or last."""

    _BINS, _LOW, _HIGH = 128, math.log(0.1), math.log(400.0)
    _STEP = (_HIGH - _LOW) / _BINS

    def __init__(self, size: Sequence[int]) -> None:
        import torch

        self._size = tuple(size)
        self._counts = torch.zeros(self._BINS * math.prod(size), dtype=torch.int32)

    def add(self, depths: Tensor) -> None:
        """Count the known pixels of (n, h, w) metres."""
        import torch

        pixels = math.prod(self._size)
        bins = ((_log(depths) - self._LOW) / self._STEP).long().clamp_(0, self._BINS - 1)
        places = (bins.flatten(1) * pixels + torch.arange(pixels))[depths.flatten(1) > 0]
        self._counts.index_add_(0, places, torch.ones_like(places, dtype=torch.int32))

    def best_depths(self) -> dict[str, Tensor]:
        """Metric → (h, w) metres that are the best at each pixel by the counts, with one more image at all of them."""
        import torch

        counts = self._counts.view(self._BINS, *self._size).float()
        overall = counts.sum((1, 2))
        counts += (overall / overall.sum())[:, None, None]
        middles = (self._LOW + (torch.arange(self._BINS) + 0.5) * self._STEP)[:, None, None]
        found = {f"delta{n}": self._fullest_window(counts, n * math.log(_RATIO)) for n in (1, 2, 3)}
        return {**found, "log10": self._median(counts), "abs_rel": self._median(counts / middles.exp())}

    def _median(self, weights: Tensor) -> Tensor:
        up_to = weights.cumsum(0)
        half = up_to[-1:] / 2
        place = (up_to < half).sum(0, keepdim=True).clamp(max=self._BINS - 1)
        weight = weights.gather(0, place)
        inside = 1 - (up_to.gather(0, place) - half) / weight.clamp(min=1e-12)
        return (self._LOW + (place + inside.clamp(0, 1)) * self._STEP).exp()[0]

    def _fullest_window(self, counts: Tensor, half_width: float) -> Tensor:
        """The middle of the bins around which most depths lie within ``half_width``, in logarithms."""
        import torch
        import torch.nn.functional as F

        aside = max(0, math.floor(half_width / self._STEP - 0.5))
        up_to = F.pad(counts.cumsum(0), (0, 0, 0, 0, 1, 0))
        bins = torch.arange(self._BINS)
        inside = up_to[(bins + aside + 1).clamp(max=self._BINS)] - up_to[(bins - aside).clamp(min=0)]
        return (self._LOW + (inside.argmax(0) + 0.5) * self._STEP).exp()


def eigen_crop(height: int, width: int) -> Tensor:
    """(height, width) bool: the pixels whose centres lie in Eigen's crop, [45:471, 41:601] of 480 × 640 pixels.

    The crop of Eigen et al. (2014) as BTS, AdaBins and others apply it, in shares of the image where it has another
    size. A map that was brought to this size by nearest neighbour shows cropped pixels exactly there.
    """
    import torch

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
    return wanted + (-(-wanted).expm1()).log()


def _log(metres: Tensor) -> Tensor:
    return metres.clamp(min=_NEAREST).log()


def _mean_depth(total: Tensor, known: Tensor) -> Tensor:
    if not bool(known > 0):
        raise DataError(
            "no training target has a pixel of known depth: expected metres above 0, found only 0 (unknown); "
            "check the dataset's depth maps, or take more training images"
        )
    return total / known
