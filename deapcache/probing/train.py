"""Stage 2's loop: one stream of cached batches trains every readout of a backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from deapcache.probing.batches import Batch, BatchStream, image_order, sequential
from deapcache.probing.learner import Learner
from deapcache.probing.options import ProbeOptions
from deapcache.probing.posed import PosedTask
from deapcache.probing.progress import Clock, Progress
from deapcache.probing.team import Team
from deapcache.probing.workers import side_by_side
from deapcache.tasks import Target, Task

_BIAS_SAMPLE = 256
"""Training images whose targets decide where a readout's output bias starts."""

_REPORT_EVERY = 10


def train(
    teams: Sequence[Team], stream: BatchStream, draws: np.ndarray, options: ProbeOptions, progress: Progress
) -> float:
    """Train all ``teams`` to the end on the same batches of ``draws``; returns the seconds it took.

    Each batch is read once and each task's target made once, whatever the number of readouts; on a CPU teams step side
    by side. A learner that diverges has a ``failure``; the others go on.
    """
    learners = [learner for team in teams for learner in team.learners]
    iterations = max(learner.posed.iterations for learner in learners)
    tasks = {learner.posed.task.name: learner.posed.task for learner in learners}
    order = image_order(options.order_seed, draws, iterations=iterations, batch_size=options.batch_size)
    clock = Clock("train", iterations, progress)
    with side_by_side(len(teams), options.device) as run:
        for iteration, batch in enumerate(stream.batches(order), start=1):
            features, at_work = batch.features.float(), [team for team in teams if not team.done]
            if not at_work:
                break
            wanted = {learner.posed.task.name for team in at_work for learner in team.learners}
            targets = _training_targets({name: tasks[name] for name in wanted}, batch, options.order_seed, iteration)
            run([partial(team.step, features, batch.guidance, targets) for team in at_work])
            if iteration % _REPORT_EVERY == 0 or iteration == iterations:
                clock.report(iteration, _mean_loss(learners))
    return clock.seconds


def _training_targets(tasks: Mapping[str, Task], batch: Batch, order_seed: int, iteration: int) -> dict[str, Target]:
    targets = {}
    for name, task in tasks.items():
        # a task draws the same whatever other tasks are trained beside it
        seed = int(np.random.SeedSequence([order_seed, iteration]).generate_state(1)[0])
        targets[name] = task.training_target(batch.maps, batch.rows, torch.Generator().manual_seed(seed))
    return targets


def _mean_loss(learners: Sequence[Learner]) -> float | None:
    losses = [loss for one in learners if one.failure is None and math.isfinite(loss := one.recent_loss())]
    return sum(losses) / len(losses) if losses else None


def prepare_task(posed: PosedTask, stream: BatchStream, rows: np.ndarray, batch_size: int) -> torch.Tensor | None:
    """Let the task look at all training targets; where its outputs start, from the first 256 of them."""
    task = posed.task
    task.scan_targets(stream.maps(task.annotations, sequential(rows, batch_size)))
    _, sample = next(stream.maps(task.annotations, [rows[:_BIAS_SAMPLE]]))
    return task.output_bias(task.target(sample))


def image_independent_prior(posed: PosedTask, stream: BatchStream, rows: np.ndarray, batch_size: int) -> torch.Tensor:
    """The best output (C, h, w) or (C,) that does not look at the image, from one pass over the training targets."""
    maps = stream.maps(posed.task.annotations, sequential(rows, batch_size))
    return posed.task.constant_baseline((posed.task.target(some) for _, some in maps), posed.classes)
