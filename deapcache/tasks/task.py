"""What every task is: annotations to targets, outputs to losses, statistics and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from deapcache.registry import Registry

VOID = 255
"""Value of target pixels that neither loss nor score looks at."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a score is shown and ranked."""

    label: str
    """For table heads: ``RMSE``."""
    unit: str
    """``m``, ``nats``; empty for a share between 0 and 1."""
    higher_is_better: bool


class Task(ABC):
    """A dense prediction task. Knows tensors only.

    Scores come in two steps, so that any set of images can be scored without predicting again: :meth:`statistics` makes
    a few numbers of each image, :meth:`scores` turns those of many images into dataset-level scores. Rows may be chosen
    and repeated in between (bootstrap).
    """

    name: ClassVar[str]
    annotation: ClassVar[str]
    """Which target cache it reads: ``instances``, ``classes`` or ``depth``."""
    default_dataset: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    main_metric: ClassVar[str]
    options: ClassVar[Mapping[str, Any]]
    """Choices that change targets, losses or scores, as JSON values: part of the protocol."""

    @abstractmethod
    def out_channels(self, classes: tuple[str, ...]) -> int:
        """D_out, given the dataset's class names (empty for data without a class map)."""

    def cnn_width(self, classes: tuple[str, ...]) -> int | None:
        """Width of the readout's CNN where this task sets it; ``None``: the readout's own rule."""
        return None

    @abstractmethod
    def target(self, maps: Tensor) -> Tensor:
        """(B, h, w) targets from (B, h, w) maps as the target cache stores them."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar float32 over the valid pixels of a batch, 0 where there are none.

        ``output`` is (B, C, h, w), ``target`` what :meth:`target` gave.
        """

    def output_bias(self, target: Tensor) -> Tensor | None:
        """Where the output's channels should start, (C,), from (n, h, w) training targets; ``None``: at zero."""
        return None

    @abstractmethod
    def statistics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What the scores need to know of each image: name → (B, ...), counts as integers, sums as float64."""

    @abstractmethod
    def scores(self, statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Dataset-level scores from the statistics of N images, name → (N, ...).

        Holds every metric; a score that is no metric is a fact about the targets. NaN where the images leave a score
        undefined.
        """

    @abstractmethod
    def prior(self, targets: Iterable[Tensor], classes: tuple[str, ...]) -> Tensor:
        """The best output that does not look at the image, (C, h, w) float32, from all training targets.

        It is an output like a readout's, so that the same code scores it: what a readout must beat.
        """

    @abstractmethod
    def prediction(self, output: Tensor) -> Tensor:
        """(B, h, w) for pictures, from (B, C, h, w): a probability, a class or metres."""


TASKS: Registry[Callable[[], Task]] = Registry(
    "task",
    modules=(
        "deapcache.tasks.boundaries",
        "deapcache.tasks.foreground",
        "deapcache.tasks.segmentation",
        "deapcache.tasks.depth",
    ),
    entry_point_group="deapcache.tasks",
)


def get_task(name: str) -> Task:
    """The task of that name; raises :class:`UnknownNameError` that offers the nearest names."""
    return TASKS.get(name)()


def per_image_sum(values: Tensor) -> Tensor:
    """(B,) float64, or int64 for counts, from (B, h, w): sums that are good for a whole dataset."""
    return values.flatten(1).double().sum(1) if values.is_floating_point() else values.flatten(1).sum(1)
