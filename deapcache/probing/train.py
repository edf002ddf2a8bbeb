"""Stage 2's loop: one stream of cached batches trains every readout of a backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deapcache.probing.batches import Batch, BatchStream, image_order, sequential
from deapcache.probing.learner import Learner
from deapcache.probing.options import ProbeOptions
from deapcache.probing.progress import Clock, Progress
from deapcache.tasks import Task

_BIAS_SAMPLE = 256
"""Training images whose targets decide where a readout's output bias starts."""

_REPORT_EVERY = 10


def train(
    learners: Sequence[Learner], stream: BatchStream, rows: np.ndarray, options: ProbeOptions, progress: Progress
) -> float:
    """Train all ``learners`` to the end on the same batches; returns the seconds it took.

    Each batch is read once and each task's target made once, whatever the number of readouts. A readout's weights are
    those it would have alone. Raises :class:`TrainingError` where a loss is not finite.
    """
    iterations = max(learner.probed.iterations for learner in learners)
    order = image_order(options.order_seed, rows, iterations=iterations, batch_size=options.batch_size)
    clock = Clock("train", iterations, progress)
    for iteration, batch in enumerate(stream.batches(order), start=1):
        _step([learner for learner in learners if not learner.done], batch)
        if iteration % _REPORT_EVERY == 0 or iteration == iterations:
            clock.report(iteration, _mean_loss(learners))
    return clock.seconds


def _step(learners: Sequence[Learner], batch: Batch) -> None:
    features = batch.features.float()
    targets = targets_of({learner.probed.task.name: learner.probed.task for learner in learners}, batch)
    for learner in learners:
        learner.step(features, targets[learner.probed.task.name])


def targets_of(tasks: Mapping[str, Task], batch: Batch) -> dict[str, torch.Tensor]:
    """Each task's target for the batch."""
    return {name: task.target(batch.maps[task.annotation]) for name, task in tasks.items()}


def _mean_loss(learners: Sequence[Learner]) -> float | None:
    losses = [loss for learner in learners if not math.isnan(loss := learner.recent_loss())]
    return sum(losses) / len(losses) if losses else None


def training_bias(task: Task, stream: BatchStream, rows: np.ndarray) -> torch.Tensor | None:
    """Where the output bias of ``task`` starts: from the targets of the first 256 training images."""
    sample = next(stream.maps(task.annotation, [rows[:_BIAS_SAMPLE]]))
    return task.output_bias(task.target(sample))


def image_independent_prior(
    task: Task, stream: BatchStream, rows: np.ndarray, classes: tuple[str, ...], batch_size: int
) -> torch.Tensor:
    """The best output (C, h, w) or (C,) that does not look at the image, from one pass over the training targets."""
    maps = stream.maps(task.annotation, sequential(rows, batch_size))
    return task.prior((task.target(some) for some in maps), classes)
