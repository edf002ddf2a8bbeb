"""A learning rate and a number of steps chosen on a seeded part of the training images, all rates in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from deapcache.errors import TrainingError, UsageError
from deapcache.probing.batches import BatchStream
from deapcache.probing.config import ProbeConfig, Progress
from deapcache.probing.evaluate import Scorer, score
from deapcache.probing.train import ReadoutTrainer, TaskSpec, stack_trainers, thread_count, train
from deapcache.protocols import Selection
from deapcache.tasks import Task

_GROUPS = 10
"""Of images held out, each left out in turn by the jackknife of a difference."""


def held_out(rows: np.ndarray, selection: Selection) -> np.ndarray:
    """The training rows that candidates are scored on, in order; the same for the same rows.

    Raises :class:`UsageError` for too few rows.
    """
    if len(rows) < 2:
        raise UsageError(
            "the learning rate is chosen on a part of the training images, and there is one image: train on more, or "
            "give the rate with --lr"
        )
    held = max(1, round(selection.held_out * len(rows)))
    places = np.random.default_rng(selection.seed).permutation(len(rows))
    return rows[np.sort(places[:held])]


def select_rates(
    wanted: Iterable[tuple[str, str]],
    specs: Mapping[str, TaskSpec],
    stream: BatchStream,
    rows: np.ndarray,
    draws: np.ndarray,
    config: ProbeConfig,
    biases: Mapping[str, torch.Tensor | None],
    progress: Progress,
) -> dict[tuple[str, str], dict[str, Any]]:
    """For each (task, readout) the rate and the share of the steps to train with: ``ProbeResult.selection``.

    Only training images are read: ``rows`` of ``stream``, and what an epoch ``draws`` of them. The choice for one task
    and readout does not depend on what else is chosen beside it, nor on the seeds that are trained afterwards.

    Raises :class:`UsageError` for too few images, and :class:`TrainingError` where training diverged at every rate.
    """
    selection, wanted = config.selection, list(dict.fromkeys(wanted))
    assert selection is not None  # else no rate is wanted
    held_rows = held_out(rows, selection)
    others, device = draws[~np.isin(draws % stream.images, held_rows)], torch.device(config.device)

    def try_out(
        rates: Mapping[tuple[str, str], Iterable[float]], fraction: float
    ) -> tuple[dict[tuple[str, str, float], ReadoutTrainer], Mapping[ReadoutTrainer, Scorer]]:
        """Trainers by task, readout and rate, trained for a ``fraction`` of the steps in one pass; their scorers."""
        short = {name: spec.shortened(fraction) for name, spec in specs.items()}
        trainers = {
            (name, readout, lr): ReadoutTrainer(
                short[name], readout, seed=selection.seed, lr=lr, device=device, output_bias=biases[name]
            )
            for (name, readout), lrs in rates.items()
            for lr in lrs
        }
        groups = stack_trainers(list(trainers.values()), config.weight_decay, threads=thread_count(device))
        train(groups, stream, others, config, progress, stage="select")
        size = config.batch_size
        scorers, _, _ = score(groups, {}, short, stream, held_rows, training={}, batch_size=size, progress=progress)
        return trainers, scorers

    trainers, scorers = try_out(dict.fromkeys(wanted, selection.lrs), selection.fraction)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, readout in wanted:
        of_each = {lr: trainers[name, readout, lr] for lr in selection.lrs}
        values = {lr: _score(scorers.get(one), specs[name].task) for lr, one in of_each.items()}
        if all(map(math.isnan, values.values())):
            failures = [one.failure for one in of_each.values()]
            raise next(filter(None, failures), None) or TrainingError(
                f"{name} with readout {readout}: no learning rate of {', '.join(f'{lr:g}' for lr in values)} gets a "
                f"score on the {len(held_rows)} training images held out: give the rate with --lr, or train on more "
                "images"
            )
        task = specs[name].task
        chosen = max(values, key=lambda lr: (-math.inf if math.isnan(values[lr]) else values[lr], -lr))
        known = {lr: None if math.isnan(value) else value for lr, value in values.items()}
        span = [value for value in known.values() if value is not None]
        found[name, readout] = {
            "lr": chosen,
            "metric": task.main_metric,
            "images": len(held_rows),
            "candidates": [{"lr": lr, "score": value} for lr, value in known.items()],
            "range": max(span) - min(span),
        }
    longer, longer_scorers = try_out({key: (choice["lr"],) for key, choice in found.items()}, selection.longer)
    for (name, readout), choice in found.items():
        key = name, readout, choice["lr"]
        choice |= _steps(scorers[trainers[key]], longer_scorers.get(longer[key]), specs[name].task, selection)
    return found


def _score(
    scorer: Scorer | None, task: Task, images: slice | np.ndarray = slice(None), metric: str | None = None
) -> float:
    """What a candidate is chosen by, or a ``metric``; higher is better, NaN where it diverged or is undefined."""
    if scorer is None:
        return math.nan
    statistics = {name: values[images] for name, values in scorer.statistics.items()}
    scores = task.scores(statistics)
    if metric is None:
        score = task.selection_score(scores, statistics)
    else:
        score = scores[metric] if task.metrics[metric].higher_is_better else -scores[metric]
    return float(score) if math.isfinite(score) else math.nan


def _difference(one: Scorer | None, other: Scorer | None, task: Task, metric: str | None = None) -> tuple[float, float]:
    """How much better ``one`` is than the ``other``, and the standard error of that; NaN where it is not known.

    A jackknife over ten groups of the images, both scored on the same ones.
    """

    def difference(images: slice | np.ndarray) -> float:
        return _score(one, task, images, metric) - _score(other, task, images, metric)

    images = 0 if one is None else len(next(iter(one.statistics.values())))
    count = min(images, _GROUPS)
    group = np.arange(images) % max(1, count)
    parts = np.array([difference(group != each) for each in range(count)] if count > 1 else [math.nan])
    return difference(slice(None)), math.sqrt((count - 1) * parts.var()) if count > 1 else math.nan


def _steps(short: Scorer, long: Scorer | None, task: Task, selection: Selection) -> dict[str, Any]:
    """``fraction`` of the steps to train for, and ``longer``, the trial that decided it, as JSON values.

    All steps, unless the longer trial diverged or is clearly worse: by the score, and where that does not tell the two
    apart by ``selection.tie_break``.
    """
    more, error = _difference(long, short, task)
    trial = {"fraction": selection.longer, "score": _score(long, task), "error": error}
    is_worse = math.isnan(more) or more < -selection.margin * error
    if not is_worse and not more > selection.margin * error and (metric := selection.tie_break) in task.metrics:
        gain, error = _difference(long, short, task, metric)
        is_worse = gain < -selection.margin * error
        trial |= {f"{metric}_gain": gain, f"{metric}_error": error}
    return {
        "fraction": selection.fraction if is_worse else 1.0,
        "longer": {name: None if math.isnan(value) else value for name, value in trial.items()},
    }
