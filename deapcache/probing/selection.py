"""A learning rate chosen on a seeded part of the training images, all candidates stacked in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from deapcache.errors import TrainingError, UsageError
from deapcache.probing.batches import BatchStream
from deapcache.probing.config import ProbeConfig, Progress, Selection
from deapcache.probing.evaluate import Scorer, score
from deapcache.probing.train import ReadoutTrainer, TaskSpec, stack_trainers, thread_count, train
from deapcache.tasks import Task


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
    """For each (task, readout) the rate that scores best, and what was tried: ``ProbeResult.selection``.

    Only training images are read: ``rows`` of ``stream``, and what an epoch ``draws`` of them. The choice for one task
    and readout does not depend on what else is chosen beside it, nor on the seeds that are trained afterwards.

    Raises :class:`UsageError` for too few images, and :class:`TrainingError` where training diverged at every rate.
    """
    selection, wanted = config.selection, list(dict.fromkeys(wanted))
    assert selection is not None  # else no rate is wanted
    held_rows = held_out(rows, selection)
    device = torch.device(config.device)
    short = {name: spec.shortened(selection.fraction) for name, spec in specs.items()}
    candidates = {
        (task, readout, lr): ReadoutTrainer(
            short[task], readout, seed=selection.seed, lr=lr, device=device, output_bias=biases[task]
        )
        for task, readout in wanted
        for lr in selection.lrs
    }
    trainers = list(candidates.values())
    groups = stack_trainers(trainers, config.weight_decay, threads=thread_count(device))
    train(groups, stream, draws[~np.isin(draws % stream.images, held_rows)], config, progress, stage="select")
    scorers, _, _ = score(
        groups, {}, short, stream, held_rows, training={}, batch_size=config.batch_size, progress=progress
    )
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, readout in wanted:
        values = {lr: _score(scorers.get(candidates[name, readout, lr]), short[name].task) for lr in selection.lrs}
        if all(map(math.isnan, values.values())):
            failures = [candidates[name, readout, lr].failure for lr in selection.lrs]
            raise next(filter(None, failures), None) or TrainingError(
                f"{name} with readout {readout}: no learning rate of {', '.join(f'{lr:g}' for lr in values)} gets a "
                f"score on the {len(held_rows)} training images held out: give the rate with --lr, or train on more "
                "images"
            )
        found[name, readout] = _choice(values, short[name].task.main_metric, len(held_rows))
    return found


def _score(scorer: Scorer | None, task: Task) -> float:
    """What a candidate is chosen by; NaN where its training diverged, or the images leave it undefined."""
    score = math.nan if scorer is None else task.selection_score(scorer.scores(), scorer.statistics)
    return score if math.isfinite(score) else math.nan


def _choice(scores: Mapping[float, float], metric: str, images: int) -> dict[str, Any]:
    """The rate with the highest score, the lower of equal ones, as JSON values."""
    known = {lr: score for lr, score in scores.items() if not math.isnan(score)}
    return {
        "lr": max(known, key=lambda lr: (known[lr], -lr), default=None),
        "metric": metric,
        "images": images,
        "candidates": [{"lr": lr, "score": known.get(lr)} for lr in scores],
        "range": max(known.values()) - min(known.values()) if known else None,
    }
