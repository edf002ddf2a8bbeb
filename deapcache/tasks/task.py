"""What every task is: annotations to targets, outputs to losses, statistics and scores."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from deapcache.errors import UsageError
from deapcache.plugins import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a score is shown and ranked."""

    label: str
    """For table heads: ``RMSE``."""
    unit: str = ""
    """``m``, ``nats``; empty for a share between 0 and 1."""
    higher_is_better: bool


MEAN_FLOOR = 1e-3
"""Least probability that :meth:`Task.output_of_mean` gives a class: an average of a few pixels shows 0 too often."""

FEWEST = 50
"""Images, or objects, on which a score must rest to choose a learning rate by it, or to be shown without a warning."""

Maps = Mapping[str, "Tensor"]
"""Annotation → (B, ...) as its target cache stores them."""

Target = Any
"""What a task makes of :data:`Maps`: a tensor (B, h, w), or a mapping of tensors whose first axis is B."""


def each_row(
    scores: Callable[[dict[str, np.ndarray]], Mapping[str, float]],
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """From scores of the statistics of images, to those of each row of sums by itself: name → (R, ...) to (R,)."""

    def of_rows(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(next(iter(sums.values())))
        every = [scores({name: values[row][None] for name, values in sums.items()}) for row in range(rows)]
        return {metric: np.array([one[metric] for one in every]) for metric in every[0]}

    return of_rows


def of_all_images(
    scores_of_sums: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]], statistics: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Scores of the statistics of images, (N, ...), by what scores the sums of sets of them."""
    sums = {name: values.sum(0, dtype=np.float64)[None] for name, values in statistics.items()}
    return {metric: float(values[0]) for metric, values in scores_of_sums(sums).items()}


class Task(ABC):
    """A dense prediction task. Knows tensors only; an object belongs to one probe.

    Scores come in two steps, so that any set of images can be scored without predicting again: :meth:`statistics` makes
    a few numbers of each image, :meth:`scores` turns those of many images into dataset-level scores. Rows may be chosen
    and repeated in between (bootstrap).
    """

    name: ClassVar[str]
    annotations: tuple[str, ...]
    """Target caches it reads, by label type (``deapcache.annotations``). The first is what it is about."""
    alternatives: ClassVar[Mapping[str, str]] = {}
    """Label type → the one that is read in its place where a dataset has that one alone."""
    default_dataset: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    main_metric: ClassVar[str]
    former_main_metrics: ClassVar[tuple[str, ...]] = ()
    """Main metrics of results of earlier versions."""
    iterations: ClassVar[int] = 10_000
    """Training steps of each readout where the user gives no number."""
    meaning: ClassVar[str] = ""
    """What the numbers of :meth:`prediction` are, for the description beside a saved array."""
    unit: ClassVar[str] = ""
    """Unit of :meth:`prediction`, such as ``m``; empty without one."""
    picture: ClassVar[str]
    """How :meth:`picture_values` is drawn: ``probability``, ``classes``, ``depth``, ``boxes``, ``segments``, or as a
    label type of that name paints."""
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What a user may choose: name → values, the default first."""
    scores_from_sums: ClassVar[bool] = False
    """Whether :meth:`scores` sees nothing but the sums over images of :meth:`summands`: a faster bootstrap, by
    :meth:`scores_of_sums`."""
    own_statistics: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Metric → the statistics that no metric with another :meth:`constant_baseline` is computed from."""
    fit_images: ClassVar[int] = 0
    """Training images, at most, that :meth:`fitted_statistics` wants the statistics of; 0: it adds nothing."""

    scores_at_native_size: ClassVar[bool] = False
    """Whether statistics mean the same at the size of an image's own label map: targets are (B, h, w) tensors, and
    nothing of them is counted in pixels of the output."""

    needs_whole_image: bool = False
    """Whether what was chosen has a meaning only where targets show the whole image, not a crop of it."""

    def __init__(self, **chosen: str) -> None:
        """Raises :class:`UsageError` for a choice or a value that there is not."""
        for name, value in chosen.items():
            if name not in self.choices:
                known = ", ".join(self.choices) or "none"
                raise UsageError(f"task {self.name} has no option {name!r}: it has {known}")
            if value not in self.choices[name]:
                raise UsageError(
                    f"task {self.name}: {name} is {value!r}, expected one of {', '.join(self.choices[name])}"
                )
        self.chosen: Mapping[str, str] = {name: values[0] for name, values in self.choices.items()} | chosen

    def choose_annotations(self, known: Collection[str]) -> Self:
        """This task, which reads :attr:`alternatives` of those label types that a dataset with the ``known`` lacks."""
        others = {kind: other for kind, other in self.alternatives.items() if kind not in known and other in known}
        chosen = copy.copy(self)
        chosen.annotations = tuple(others.get(kind, kind) for kind in type(self).annotations)
        return chosen

    def suits(self, annotations: Collection[str], classes: tuple[str, ...]) -> bool:
        """Whether the label types and class names of a dataset suffice; not where it has no label types."""
        if not annotations or not set(self.choose_annotations(annotations).annotations) <= set(annotations):
            return False
        try:
            if classes:
                self.heads(classes)  # raises where they do not suit the task
        except UsageError:
            return False
        return True

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Choices that change targets, losses or scores, as JSON values: part of the protocol."""

    @abstractmethod
    def heads(self, classes: tuple[str, ...]) -> tuple[int, ...]:
        """Output channels of each of its readouts, given the dataset's class names (empty without a class map).

        One readout for most tasks. The task sees their outputs side by side: (B, sum of heads, h, w).
        """

    def cnn_width(self, classes: tuple[str, ...]) -> int | None:
        """Width of the readout's CNN where this task sets it; ``None``: the readout's own rule."""
        return None

    def scan_targets(self, training: Iterable[tuple[np.ndarray, Maps]]) -> None:
        """Look at all training targets, given as (rows, maps), once before anything else; most tasks need not."""
        return

    @abstractmethod
    def target(self, maps: Maps) -> Target:
        """The target of a batch, to be scored against."""

    def training_target(self, maps: Maps, rows: np.ndarray, generator: Generator) -> Target:
        """The target of a training batch, where it differs: ``rows`` are its images, (B,).

        What is drawn comes from ``generator``, a CPU one that is the same for all readouts and backbones.
        """
        return self.target(maps)

    def criterion(self) -> nn.Module | None:
        """A part of the loss that is trained with the readout, and neither counted nor kept; ``None``: there is none.

        Fresh at each call, drawn from PyTorch's global CPU generator.
        """
        return None

    @abstractmethod
    def loss(self, output: Tensor, target: Target, criterion: nn.Module | None = None) -> Tensor:
        """Scalar float32 over the valid pixels of a batch, 0 where there are none.

        ``output`` is (B, sum of heads, h, w), ``target`` what :meth:`training_target` gave, ``criterion`` what
        :meth:`criterion` gave.
        """

    def output_bias(self, target: Target) -> Tensor | None:
        """Where the output's channels should start, (sum of heads,), from training targets; ``None``: at zero."""
        return None

    @abstractmethod
    def statistics(self, output: Tensor, target: Target) -> dict[str, Tensor]:
        """What the scores need to know of each image: name → (B, ...), counts as integers, sums as float64."""

    @abstractmethod
    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Dataset-level scores from the statistics of N images, name → (N, ...).

        Holds every metric whose statistics there are: results of earlier versions lack those of metrics that came
        later. A score that is no metric is a fact about the targets. NaN where the images leave a score undefined.
        """

    def scores_of_sums(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Scores of R sets of images at once, (R,) float64, from the sums over each set: name → (R, ...) float64.

        For tasks with :attr:`scores_from_sums`, and of their :meth:`summands`; the same as :meth:`scores` of each.
        """
        return each_row(self.scores)(sums)

    def summands(self, statistics: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What of each image is summed up for :meth:`scores_of_sums`, name → (N, ...): its statistics as they are."""
        return statistics

    def class_scores(self, statistics: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """What the main score is over each class of the dataset, (C,), NaN where a class is nowhere.

        ``None`` for tasks that do not tell classes apart. The statistics of those that do have ``actual``, the pixels
        of each class (N, C), and ``confusions`` (N, n, 3): class, the one predicted in its place, and pixels.
        """
        return None

    def fitted_statistics(
        self, statistics: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
        """Statistics of metrics that have something fitted on training images, such as a threshold: name → (N, ...).

        ``statistics`` are those of the images to be scored, ``training`` those of the same readout's outputs for
        :attr:`fit_images` training images; ``None`` for a constant baseline, which was made from these.
        """
        return {}

    def selection_score(self, scores: Mapping[str, float], statistics: Mapping[str, np.ndarray]) -> float:
        """What a learning rate is chosen by, on held-out training images: higher is better, -inf where undefined."""
        score = scores[self.main_metric]
        if math.isnan(score):
            return -math.inf
        return score if self.metrics[self.main_metric].higher_is_better else -score

    @abstractmethod
    def constant_baseline(self, targets: Iterable[Target], classes: tuple[str, ...]) -> Tensor | Mapping[str, Tensor]:
        """The best output that does not look at the image, (C, h, w) float32, from all training targets.

        It is an output like a readout's, so that the same code scores it: what a readout must beat. Where no output is
        the best for all metrics: metric → output. The main metric's then gives all statistics but those that another
        metric has to itself (:attr:`own_statistics`).
        """

    def dense_values(self, target: Target, classes: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
        """Targets as numbers that may be averaged over pixels: values (B, C, h, w) float32, valid (B, h, w) bool.

        For readouts without training, which average what similar pixels show. Raises :class:`UsageError` where an
        average means nothing.
        """
        raise self._not_averaged()

    def output_of_mean(self, mean: Tensor) -> Tensor:
        """The output (B, sum of heads, h, w) float32 that says an average (B, C, h, w) of :meth:`dense_values`."""
        raise self._not_averaged()

    def _not_averaged(self) -> UsageError:
        return UsageError(
            f"task {self.name} needs a readout that is trained: one without training gives each pixel the average of "
            "what similar pixels show, which means nothing here; choose another readout, such as deap or linear"
        )

    @abstractmethod
    def prediction(self, output: Tensor) -> Tensor:
        """What an output says, target unseen: a probability, class or metres (B, h, w), boxes, or an embedding."""

    def picture_values(self, output: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Target and prediction as pictures show them, each (B, ...)."""
        return target, self.prediction(output)


TASKS: Registry[Callable[..., Task]] = Registry(
    "task",
    modules=("deapcache.tasks",),
)


def get_task(name: str, chosen: Mapping[str, str] | None = None) -> Task:
    """A fresh task of that name with some of its ``choices`` made.

    Raises :class:`UnknownNameError` that offers the nearest names, and :class:`UsageError` for a choice it lacks.
    """
    return TASKS.get(name)(**(chosen or {}))


def per_image_sum(values: Tensor) -> Tensor:
    """(B,) float64, or int64 for counts, from (B, h, w): sums that are good for a whole dataset."""
    return values.flatten(1).double().sum(1) if values.is_floating_point() else values.flatten(1).sum(1)
