"""Semantic segmentation: which class does this pixel show (section 4.1, local semantics)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deapcache.annotations import VOID
from deapcache.errors import DataError, UsageError
from deapcache.tasks.task import MEAN_FLOOR, Maps, Metric, Task, of_all_images, per_image_sum

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADVICE = "compare the dataset's class names with its class maps, then prepare the targets anew"


class Segmentation(Task):
    """One of the dataset's classes a pixel; 255 is void.

    Scores, over the valid pixels of all images together: ``cross_entropy`` in nats per pixel, ``mean_iou`` from the one
    dataset-wide confusion, as a mean over the classes that are in the targets or predicted anywhere, and
    ``pixel_accuracy``.
    """

    name = "segmentation"
    annotations = ("classes",)
    meaning = "class, by its place in classes"
    picture = "classes"
    scores_from_sums = True
    scores_at_native_size = True
    default_dataset = "scenes"
    metrics: ClassVar = {
        "cross_entropy": Metric(label="CE", unit="nats", higher_is_better=False),
        "mean_iou": Metric(label="mIoU", higher_is_better=True),
        "pixel_accuracy": Metric(label="accuracy", higher_is_better=True),
    }
    main_metric = "mean_iou"
    own_statistics: ClassVar = {"cross_entropy": ("cross_entropy",), "pixel_accuracy": ("correct",)}

    @property
    def options(self) -> dict[str, Any]:
        return {"void": VOID, "mean_iou": "classes in targets or predictions"}

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """One logit a class; raises :class:`UsageError` for a dataset without classes."""
        if not classes:
            raise UsageError(
                f"task {self.name} needs a dataset with a class map, and this one names no classes: "
                "choose another dataset (`deapcache list datasets`) or the task foreground"
            )
        return (len(classes),)

    def target(self, maps: Maps) -> Tensor:
        """Class maps as int64, the type that cross-entropy takes; 255 stays void."""
        return maps["classes"].long()

    def loss(self, output: Tensor, target: Tensor, criterion: nn.Module | None = None) -> Tensor:
        """Cross-entropy, mean over the valid pixels of the batch; raises :class:`DataError` as :meth:`statistics`."""
        _require_known(target, output.shape[1])
        return _cross_entropies(output, target).sum() / (target != VOID).sum().clamp(min=1)

    def statistics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Counts of each class (B, C), and sums (B,), over valid pixels.

        Raises :class:`DataError` where a target is neither a class nor void.
        """
        classes = output.shape[1]
        _require_known(target, classes)
        predicted, valid = output.argmax(1), target != VOID
        return {
            "valid": per_image_sum(valid),
            "cross_entropy": per_image_sum(_cross_entropies(output, target)),
            "correct": per_image_sum(valid & (predicted == target)),
            "intersection": _class_counts(predicted, valid & (predicted == target), classes),
            "predicted": _class_counts(predicted, valid, classes),
            "actual": _class_counts(target, valid, classes),
            "confusions": _largest_confusions(predicted, target, valid & (predicted != target), classes),
        }

    def class_scores(self, statistics: Mapping[str, np.ndarray]) -> np.ndarray:
        """IoU of each class over all images together."""
        intersection, predicted, actual = (
            statistics[name].sum(0, dtype=np.float64) for name in ("intersection", "predicted", "actual")
        )
        union = predicted + actual - intersection
        return np.divide(intersection, union, out=np.full_like(union, np.nan), where=union > 0)

    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        return of_all_images(self.scores_of_sums, statistics)

    def scores_of_sums(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        intersection, union = sums["intersection"], sums["predicted"] + sums["actual"] - sums["intersection"]
        correct = sums.get("correct", intersection.sum(1))  # results of before lack it
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN where no pixel is known
            return {
                "cross_entropy": sums["cross_entropy"] / sums["valid"],
                "mean_iou": np.nansum(intersection / union, 1) / (union > 0).sum(1),
                "pixel_accuracy": correct / sums["valid"],
            }

    def constant_baseline(self, targets: Iterable[Tensor], classes: tuple[str, ...]) -> dict[str, Tensor]:
        """Each pixel's log class frequencies over the training images, with one more image at the overall ones.

        For ``mean_iou``, which wants rare classes as well, the class map with the best one that was found on the
        training images (:func:`best_class_map`).
        """
        import torch
        import torch.nn.functional as F

        (known,) = self.heads(classes)
        counts = torch.zeros((), dtype=torch.float64)
        for target in targets:
            _require_known(target, known)
            counts = counts + _counts_at_each_pixel(target.cpu(), known)
        # Half a pixel of every class keeps one that never occurs from an infinite loss.
        overall = counts.sum((1, 2)) + 0.5
        smoothed = counts + (overall / overall.sum())[:, None, None]
        frequencies = (smoothed / smoothed.sum(0)).log().float()
        likeliest = F.one_hot(best_class_map(counts), known).movedim(-1, 0).float()
        return {"mean_iou": likeliest, "cross_entropy": frequencies, "pixel_accuracy": frequencies}

    def dense_values(self, target: Tensor, classes: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
        """1 in the channel of the pixel's class, (B, C, h, w); all but void pixels are valid; raises as the loss."""
        import torch.nn.functional as F

        (known,), valid = self.heads(classes), target != VOID
        _require_known(target, known)
        return F.one_hot(target.masked_fill(~valid, 0), known).movedim(-1, 1).float(), valid

    def output_of_mean(self, mean: Tensor) -> Tensor:
        """Log probabilities from shares of classes (B, C, h, w), none of which counts as less than 1e-3."""
        return mean.float().clamp(min=MEAN_FLOOR).log()

    def prediction(self, output: Tensor) -> Tensor:
        """The likeliest class, (B, h, w) int64."""
        return output.argmax(1)


_CONFUSIONS = 8
"""Pairs of classes of an image that its statistics keep: those of most pixels, whatever the number of classes."""


def _largest_confusions(predicted: Tensor, target: Tensor, wrong: Tensor, classes: int) -> Tensor:
    """(B, 8, 3) int32: class, the class predicted in its place, and pixels; zeros where an image has fewer mistakes."""
    import torch
    import torch.nn.functional as F

    pairs, kept = classes * classes, min(_CONFUSIONS, classes * classes)
    image = torch.arange(len(target), device=target.device)[:, None, None]
    places = (image * pairs + target * classes + predicted)[wrong]
    pixels, pair = torch.bincount(places, minlength=len(target) * pairs).view(len(target), pairs).topk(kept, dim=1)
    found = torch.stack([pair // classes, pair % classes, pixels], -1) * (pixels > 0)[..., None]
    return F.pad(found, (0, 0, 0, _CONFUSIONS - kept)).int()


_STEPS = 20


def best_class_map(counts: Tensor) -> Tensor:
    """(h, w) int64: a class for each pixel, all images alike, with the best mean IoU over them that was found.

    ``counts`` is (C, h, w) float64: in how many images a pixel shows a class. Classes that are in none are never taken.
    Tried are maps of one class, and each pixel's most frequent class with rare classes weighted up by ten degrees. The
    best of these is improved by up to 20 steps: a pixel changes to the class by which the mean IoU rises most, were the
    others left as they are; all pixels at once, else the quarter that gains most, and so on.
    """
    import torch

    (classes,) = counts.sum((1, 2)).nonzero(as_tuple=True)
    if not len(classes):
        return counts.new_zeros(counts.shape[1:]).long()
    counts = counts[classes]
    weighted = [(counts * counts.sum((1, 2), keepdim=True) ** -share).argmax(0) for share in torch.linspace(0, 1, 11)]
    single = [torch.full_like(weighted[0], place) for place in range(len(counts))]
    best = max((*weighted, *single), key=lambda chosen: _map_iou(counts, chosen)[0])
    for _ in range(_STEPS):
        before, intersection, union = _map_iou(counts, best)
        others = counts.sum(0) - counts
        gains = counts / union[:, None, None] - others * (intersection / union**2)[:, None, None]
        highest, wanted = gains.max(0)
        gain = (highest - gains.gather(0, best[None])[0]).flatten()
        most = gain.argsort(descending=True)[: int((gain > 0).sum())]
        for share in (4**n for n in range(10) if 4**n <= len(most)):
            changed = best.flatten().scatter(
                0, most[: len(most) // share], wanted.flatten()[most[: len(most) // share]]
            )
            if _map_iou(counts, changed.view_as(best))[0] > before:
                best = changed.view_as(best)
                break
        else:
            break
    return classes[best]


def _map_iou(counts: Tensor, chosen: Tensor) -> tuple[float, Tensor, Tensor]:
    """Mean IoU of one class map (h, w) for all images, and intersection and union of each class, (C,)."""
    none = counts.new_zeros(len(counts))
    intersection = none.index_add(0, chosen.flatten(), counts.gather(0, chosen[None]).flatten())
    predicted = none.index_add(0, chosen.flatten(), counts.sum(0).flatten())
    union = predicted + counts.sum((1, 2)) - intersection
    return float((intersection / union).mean()), intersection, union


def _cross_entropies(output: Tensor, target: Tensor) -> Tensor:
    """(B, h, w) float32, 0 on void pixels."""
    import torch.nn.functional as F

    return F.cross_entropy(output.float(), target, ignore_index=VOID, reduction="none")


def _class_counts(values: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """(B, C) int64: how many of the chosen pixels of each image have each value."""
    import torch

    image = torch.arange(len(values), device=values.device)[:, None, None]
    places = (image * classes + values)[chosen]
    return torch.bincount(places, minlength=len(values) * classes).view(len(values), classes)


def _counts_at_each_pixel(target: Tensor, classes: int) -> Tensor:
    """(C, h, w) int64: in how many of the (n, h, w) targets each pixel has each class."""
    import torch

    _, height, width = target.shape
    pixel = torch.arange(height * width).view(height, width)
    places = (target * (height * width) + pixel)[target != VOID]
    return torch.bincount(places, minlength=classes * height * width).view(classes, height, width)


def _require_known(target: Tensor, classes: int) -> None:
    unknown = ((target >= classes) | (target < 0)) & (target != VOID)
    if bool(unknown.any()):
        value = int(target[unknown][0])
        raise DataError(
            f"a class map holds the value {value}, but the dataset has {classes} classes: expected 0 to {classes - 1}, "
            f"or {VOID} for void; {_ADVICE}"
        )


class _NamedSegmentation(Segmentation):
    """Segmentation of one dataset's classes, whose number is known without the dataset."""

    class_count: ClassVar[int]

    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """One logit a class; raises :class:`UsageError` for a dataset that names another number of classes."""
        if classes and len(classes) != self.class_count:
            raise UsageError(
                f"task {self.name} has {self.class_count} classes, and this dataset's class map has {len(classes)}: "
                f"choose the dataset {self.default_dataset}, or the task segmentation, which takes any"
            )
        return (self.class_count,)


class Voc(_NamedSegmentation):
    """PASCAL VOC 2012: 20 kinds of object and the background, which counts as a class."""

    name = "voc"
    default_dataset = "voc"
    class_count = 21


class CocoStuff(_NamedSegmentation):
    """COCO-Stuff 164k: 80 kinds of thing and 91 of stuff."""

    name = "coco-stuff"
    default_dataset = "coco-stuff"
    iterations = 30_000
    class_count = 171

    def cnn_width(self, classes: tuple[str, ...]) -> int:
        """32: the width that gives the paper's number of parameters; the readout's own rule would say 85."""
        return 32
