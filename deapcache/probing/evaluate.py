"""Scores: one pass over the validation images for all readouts, and for what guesses without looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from deapcache.probing.batches import Batch, BatchStream, sequential
from deapcache.probing.learner import Learner
from deapcache.probing.posed import PosedTask
from deapcache.probing.progress import Clock, Progress
from deapcache.probing.team import Team, is_finite
from deapcache.tasks import Target, Task

EXAMPLES = 6
"""Validation images, the first ones, whose predictions are kept for pictures."""


@dataclass(frozen=True)
class Examples:
    """What a readout said about the first validation images."""

    rows: np.ndarray
    """(n,) rows of the validation caches."""
    targets: np.ndarray
    """(n, ...) targets of the task, as ``Task.picture_values`` gives them."""
    predictions: np.ndarray
    """(n, ...): probability, class, metres, boxes or clusters."""


@dataclass
class Scored:
    """One predictor's outcome."""

    task: Task
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    """Name → (n images, ...): what the scores, and bootstrap intervals, are computed from."""
    scores: dict[str, float] = field(default_factory=dict)
    examples: Examples | None = None


def score_teams(
    teams: Sequence[Team],
    priors: Mapping[str, torch.Tensor],
    posed: Sequence[PosedTask],
    stream: BatchStream,
    rows: np.ndarray,
    *,
    batch_size: int,
    progress: Progress,
) -> tuple[dict[int, Gathered], dict[str, Scored], float]:
    """Look at every learner's and every task's prior output in one pass.

    Returns learner (its id) → what its scores are made of, the priors' outcomes by task name, and the seconds it took.
    A learner whose output cannot be scored has a ``failure``; the others are scored on.
    """
    for team in teams:
        for learner in [one for one in team.learners if one.failure]:
            team.drop(learner)
        team.eval()
    gathered = {id(one): Gathered(one.posed.task, len(rows)) for team in teams for one in team.learners}
    by_task = {one.task.name: Gathered(one.task, len(rows)) for one in posed}
    clock = Clock("score", len(rows), progress)
    done = 0
    for batch in stream.batches(sequential(rows, batch_size)):
        _add_batch(batch, teams, gathered, priors, posed, by_task)
        done += len(batch.rows)
        clock.report(done)
    return gathered, {name: one.outcome() for name, one in by_task.items()}, clock.seconds


@torch.no_grad()
def _add_batch(
    batch: Batch,
    teams: Sequence[Team],
    gathered: Mapping[int, Gathered],
    priors: Mapping[str, torch.Tensor],
    posed: Sequence[PosedTask],
    by_task: Mapping[str, Gathered],
) -> None:
    features = batch.features.float()
    targets = {one.task.name: one.task.target(batch.maps) for one in posed}
    for team in teams:
        outputs = team.outputs(features, batch.guidance) if team.learners else []
        for learner, output in zip(tuple(team.learners), outputs, strict=True):
            _add_output(learner, gathered[id(learner)], output, targets[learner.posed.task.name], batch.rows)
            if learner.failure:
                team.drop(learner)
    for task in posed:
        name = task.task.name
        by_task[name].add(_constant(priors[name], task.output_size, features), targets[name], batch.rows)


def _add_output(learner: Learner, gathered: Gathered, output: torch.Tensor, target: Target, rows: np.ndarray) -> None:
    if not is_finite(output):  # weights may be
        learner.diverge("the output for the validation images is not finite after the last iteration")
        return
    try:
        gathered.add(output, target, rows)
    except Exception as error:  # a task's own code: it ends this run, and not those that were trained beside it
        learner.failure = error


def _constant(output: torch.Tensor, size: tuple[int, int], features: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) from (C, h, w) or (C,): the same for every image."""
    whole = output if output.ndim == 3 else output[:, None, None]
    return whole.to(features.device).expand(len(features), -1, *size)


class Gathered:
    """One predictor's outcome, filled batch by batch: of each image its statistics are kept, and nothing else."""

    def __init__(self, task: Task, images: int) -> None:
        self.task = task
        self._images = images
        self._done = 0
        self._statistics: dict[str, np.ndarray] = {}
        self._examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._kept = 0

    def add(self, output: torch.Tensor, target: Target, rows: np.ndarray) -> None:
        """Take the output (B, C, h, w) for the next images, which have these ``rows`` of the validation caches."""
        for name, values in self.task.statistics(output, target).items():
            self._keep(name, values.cpu().numpy())
        self._done += len(rows)
        wanted = min(EXAMPLES - self._kept, len(rows))
        if wanted > 0:
            shown, prediction = self.task.picture_values(output[:wanted], _first(target, wanted))
            self._examples.append((rows[:wanted], shown.cpu().numpy(), prediction.cpu().numpy()))
            self._kept += wanted

    def _keep(self, name: str, values: np.ndarray) -> None:
        # where they belong at once: pieces that are put together at the end are there twice then
        if name not in self._statistics:
            self._statistics[name] = np.empty((self._images, *values.shape[1:]), values.dtype)
        self._statistics[name][self._done : self._done + len(values)] = values

    def outcome(self) -> Scored:
        """The scores of all images that were added."""
        scores = {name: float(value) for name, value in self.task.scores(self._statistics).items()}
        rows, targets, predictions = (np.concatenate(parts) for parts in zip(*self._examples, strict=True))
        return Scored(self.task, self._statistics, scores, Examples(rows, targets, predictions))


def _first(target: Target, count: int) -> Target:
    return {name: values[:count] for name, values in target.items()} if isinstance(target, Mapping) else target[:count]
