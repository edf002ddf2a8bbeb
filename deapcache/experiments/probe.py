"""A probe from config to files: choose the caches, train, score, save results, readouts and pictures."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from deapcache.backbones import describe
from deapcache.cache import list_caches
from deapcache.datasets import images_owner
from deapcache.errors import LocationError, TrainingError, UnknownNameError
from deapcache.experiments.choosing import choose_backbones, choose_datasets
from deapcache.locations import Location
from deapcache.probing import ProbeConfig, ProbeProgress, ProbeResult, RunSpec, probe_backbone
from deapcache.processes import refuse_unguarded
from deapcache.readouts import canonical_readout, check_readout
from deapcache.results import Result, picture_key, save_run
from deapcache.results.record import largest_key, run_name

Report = Callable[[str, ProbeProgress], None]
"""Called with the name of the pass (``dinov2 · coco``) and how far it has come."""


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """One finished run and its files."""

    result: Result
    picture: str | None
    """Where the picture of the run is, for the first seed of each readout."""
    picture_problem: str = ""
    """Why it could not be drawn; empty as a rule. The run is whole without it."""


def probe(
    home: Location,
    config: ProbeConfig,
    *,
    results_home: Location | None = None,
    report: Report = lambda *_: None,
    command: Sequence[str] = (),
    skip: Callable[[RunSpec], bool] = lambda _: False,
) -> Iterator[SavedRun]:
    """Probe everything that is asked for, and yield each run once its files are written.

    Caches are read from ``home``; results, readouts and pictures go to ``results_home``, by default ``home`` as well.
    All tasks, readouts, seeds and learning rates of one backbone and dataset share one pass over its features; runs for
    which ``skip`` is true are left out. A run is saved as soon as it is scored, and pictures are drawn when all of its
    pass are: whatever fails later, nothing that was trained is lost.

    Raises what :func:`deapcache.probing.probe_backbone` raises, and ``CacheMissError`` with the command to run where
    nothing is cached. Where some runs cannot be saved, the error is raised after the others of the pass; where some
    diverged, at the end of all passes.
    """
    refuse_unguarded()
    for readout in config.readouts:
        check_readout(readout)  # a wrong name is refused before any cache is looked for
    passes = [
        replace(
            config,
            dataset=dataset,
            tasks=tasks,
            backbones=(backbone,),
            images_name=config.images_name or images_owner(dataset),
        )
        for dataset, tasks in choose_datasets(home, config.tasks, config.dataset, config.backbones).items()
        for backbone in choose_backbones(home, dataset, config.backbones, config.where)
    ]
    results_home = results_home or home
    results_home.require_writable()  # refused before hours of training, not after
    names = (canonical_readout(readout) for readout in config.readouts)
    results_home.require_names(
        largest_key(run_name(task, str(one.dataset), one.backbone, name, seed))
        for name, seed, one in product(names, config.seeds, passes)
        for task in one.tasks
    )
    diverged: list[TrainingError] = []
    for one in passes:
        runs = probe_backbone(
            home, one, skip=skip, progress=functools.partial(report, f"{one.backbone} · {one.dataset}")
        )
        saved, failure = _save_all(results_home, runs, command)
        for run, result in saved:
            is_first = run.seed == config.seeds[0]
            yield _draw(results_home, run, result, home) if is_first else SavedRun(result=result, picture=None)
        if isinstance(failure, TrainingError):
            diverged.append(failure)  # says nothing about the next backbone
        elif failure:
            raise failure
    if diverged:
        raise TrainingError("\n".join(map(str, diverged)))


def _save_all(
    home: Location, runs: Iterator[ProbeResult], command: Sequence[str]
) -> tuple[list[tuple[ProbeResult, Result]], Exception | None]:
    """The runs of a pass with their results, each saved as soon as it is there, and the first error of the others."""
    saved: list[tuple[ProbeResult, Result]] = []
    failure: Exception | None = None
    try:
        for run in runs:
            try:
                result = save_run(
                    home,
                    {**run.to_json(), "about": _about(run.backbone)},
                    statistics=run.statistics,
                    prior_statistics=run.baseline_statistics,
                    image_ids=run.image_ids,
                    weights=run.weights,
                    command=command,
                )
                saved.append((run, result))
            except LocationError as error:
                failure = failure or error
    except Exception as error:  # raised once the pictures of those saved are drawn
        failure = failure or error
    return saved, failure


@functools.cache
def _about(backbone: str) -> dict[str, Any]:
    """What the registry says of a backbone, in a result's words; {} for one that has caches here, but no entry."""
    try:
        entry = describe(backbone)
    except UnknownNameError:
        return {}
    category = "untrained" if entry.untrained else entry.category
    return {"category": category, "parameters": entry.parameters, "training_data": entry.training_data}


def _draw(home: Location, run: ProbeResult, result: Result, caches: Location) -> SavedRun:
    """The saved run with its picture, or with why there is none."""
    from deapcache.results.draw import save_picture

    examples = run.examples
    try:
        picture = save_picture(
            home,
            result,
            images=_base_images(caches, run),
            targets=examples.targets,
            predictions=examples.predictions,
            image_ids=run.image_ids[: len(examples.rows)],
        )
    except Exception as error:  # whatever drawing meets: the result is there, and is worth more
        with contextlib.suppress(OSError):
            home.delete(picture_key(result.run))  # of an earlier run of this name, and not of this one
        return SavedRun(result=result, picture=None, picture_problem=str(error) or type(error).__name__)
    return SavedRun(result=result, picture=f"{home}/{picture}")


def _base_images(home: Location, run: ProbeResult) -> np.ndarray | None:
    """(n, h, w, 3) uint8 of the run's examples; None where the home does not have these base images in that size."""
    features = run.caches["val"]["recipe"]
    wanted = (features["images"], features["base_fit"], list(run.protocol.output_size))
    for entry in list_caches(home, "images"):
        if (entry.recipe["images"], entry.recipe["fit"], entry.recipe["size"]) != wanted:
            continue
        cache = entry.open()
        if cache.is_complete(run.examples.rows):
            return cache.read(run.examples.rows)
    return None
