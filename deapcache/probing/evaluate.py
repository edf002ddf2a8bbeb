"""Scores: one pass over the validation images for all readouts, and for what guesses without looking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from deapcache.probing.batches import Batch, BatchStream, sequential
from deapcache.probing.learner import Learner
from deapcache.probing.progress import Clock, Progress
from deapcache.probing.train import targets_of
from deapcache.tasks import Task

EXAMPLES = 6
"""Validation images, the first ones, whose predictions are kept for pictures."""

Predict = Callable[[torch.Tensor], torch.Tensor]
"""(B, H, W, D) float32 features → (B, C, h, w) output."""


@dataclass(frozen=True)
class Examples:
    """What a readout said about the first validation images."""

    rows: np.ndarray
    """(n,) rows of the validation caches."""
    targets: np.ndarray
    """(n, h, w) targets of the task."""
    predictions: np.ndarray
    """(n, h, w): what ``Task.prediction`` makes of the output (probability, class or metres)."""


@dataclass
class Scored:
    """One predictor's outcome."""

    task: Task
    predict: Predict
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    """Name → (n images, ...): what the scores, and bootstrap intervals, are computed from."""
    scores: dict[str, float] = field(default_factory=dict)
    examples: Examples | None = None


def score_learners(
    learners: Sequence[Learner],
    priors: Mapping[str, torch.Tensor],
    stream: BatchStream,
    rows: np.ndarray,
    *,
    batch_size: int,
    progress: Progress,
) -> tuple[list[Scored], dict[str, Scored], float]:
    """Score every learner and every task's prior in one pass.

    Returns the learners' outcomes in their order, the priors' by task name, and the seconds it took.
    """
    tasks = {learner.probed.task.name: learner.probed.task for learner in learners}
    by_learner = [Scored(learner.probed.task, _readout(learner)) for learner in learners]
    by_task = {name: Scored(tasks[name], _constant(learners, name, output)) for name, output in priors.items()}
    clock = Clock("score", len(rows), progress)
    _pass([*by_learner, *by_task.values()], tasks, stream, rows, batch_size, clock)
    return by_learner, by_task, clock.seconds


@torch.no_grad()
def _pass(
    scored: Sequence[Scored],
    tasks: Mapping[str, Task],
    stream: BatchStream,
    rows: np.ndarray,
    batch_size: int,
    clock: Clock,
) -> None:
    gathered = [_Gathered() for _ in scored]
    done = 0
    for batch in stream.batches(sequential(rows, batch_size)):
        features = batch.features.float()
        targets = targets_of(tasks, batch)
        for outcome, gathering in zip(scored, gathered, strict=True):
            gathering.add(outcome, features, targets[outcome.task.name], batch)
        done += len(batch.rows)
        clock.report(done)
    for outcome, gathering in zip(scored, gathered, strict=True):
        outcome.statistics = gathering.statistics()
        outcome.scores = {name: float(value) for name, value in outcome.task.scores(outcome.statistics).items()}
        outcome.examples = gathering.examples()


def _readout(learner: Learner) -> Predict:
    learner.model.eval()
    return lambda features: learner.model(features, learner.probed.output_size)


def _constant(learners: Sequence[Learner], task: str, output: torch.Tensor) -> Predict:
    height, width = next(learner.probed.output_size for learner in learners if learner.probed.task.name == task)
    whole = output if output.ndim == 3 else output[:, None, None]
    return lambda features: whole.to(features.device).expand(len(features), -1, height, width)


class _Gathered:
    """The pieces of one predictor's outcome, batch by batch."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[np.ndarray]] = defaultdict(list)
        self._examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._kept = 0

    def add(self, outcome: Scored, features: torch.Tensor, target: torch.Tensor, batch: Batch) -> None:
        output = outcome.predict(features)
        for name, values in outcome.task.statistics(output, target).items():
            self._pieces[name].append(values.cpu().numpy())
        wanted = min(EXAMPLES - self._kept, len(batch.rows))
        if wanted > 0:
            prediction = outcome.task.prediction(output[:wanted])
            self._examples.append((batch.rows[:wanted], target[:wanted].cpu().numpy(), prediction.cpu().numpy()))
            self._kept += wanted

    def statistics(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(pieces) for name, pieces in self._pieces.items()}

    def examples(self) -> Examples:
        rows, targets, predictions = zip(*self._examples, strict=True)
        return Examples(np.concatenate(rows), np.concatenate(targets), np.concatenate(predictions))
