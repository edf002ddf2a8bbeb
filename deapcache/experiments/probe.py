"""A probe from request to files: choose the caches, train, score, save results, readouts and pictures."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from deapcache.backbones import describe
from deapcache.cache import list_caches
from deapcache.datasets import images_owner
from deapcache.errors import LocationError, TrainingError, UnknownNameError
from deapcache.experiments.choosing import choose_backbones, choose_datasets
from deapcache.locations import Location
from deapcache.probing import PlannedRun, ProbeOptions, ProbeProgress, ProbeRun, probe_backbone, require_original
from deapcache.processes import refuse_unguarded
from deapcache.readouts import canonical_readout, check_readout
from deapcache.results import Result, picture_key, save_picture, save_run
from deapcache.results.record import largest_key, run_name

Report = Callable[[str, ProbeProgress], None]
"""Called with the name of the pass (``dinov2 · coco``) and how far it has come."""


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What to probe, by name."""

    tasks: Sequence[str]
    dataset: str | None = None
    """None: each task's default dataset, or the only one cached that suits it."""
    backbones: Sequence[str] = ()
    """Empty: every one cached for the dataset."""
    readouts: Sequence[str] = ("deap",)
    seeds: Sequence[int] = (0,)
    options: ProbeOptions = field(default_factory=ProbeOptions)
    where: Mapping[str, Any] = field(default_factory=dict)
    """Recipe fields that the features must have, where several caches of a backbone are there."""
    images_name: str | None = None
    """Dataset whose images the features are of; None: as it is registered."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """One finished run and its files."""

    result: Result
    picture: str | None
    """Where the picture of the run is, for the first seed of each readout."""
    picture_problem: str = ""
    """Why it could not be drawn; empty as a rule. The run is whole without it."""


def probe(
    home: Location,
    request: ProbeRequest,
    *,
    results_home: Location | None = None,
    report: Report = lambda *_: None,
    command: Sequence[str] = (),
    skip: Callable[[PlannedRun], bool] = lambda _: False,
) -> Iterator[Probed]:
    """Probe everything that is asked for, and yield each run once its files are written.

    Caches are read from ``home``; results, readouts and pictures go to ``results_home``, by default ``home`` as well.
    All tasks, readouts, seeds and learning rates of one backbone and dataset share one pass over its features; runs for
    which ``skip`` is true are left out. A run is saved as soon as it is scored, and pictures are drawn when all of its
    pass are: whatever fails later, nothing that was trained is lost.

    Raises what :func:`deapcache.probing.probe_backbone` raises, and ``CacheMissError`` with the command to run where
    nothing is cached. Where some runs cannot be saved, the error is raised after the others of the pass; that some
    diverged is told at the end of all passes.
    """
    refuse_unguarded()
    for readout in request.readouts:
        check_readout(readout)  # a wrong name is told before any cache is looked for
    require_original(request.where)
    plan = [
        (dataset, backbone, tasks)
        for dataset, tasks in choose_datasets(home, request.tasks, request.dataset, request.backbones).items()
        for backbone in choose_backbones(home, dataset, request.backbones, request.where)
    ]
    results_home = results_home or home
    results_home.require_writable()  # told before hours of training, not after
    names = (canonical_readout(readout) for readout in request.readouts)
    results_home.require_names(
        largest_key(run_name(task, dataset, backbone, name, seed))
        for name, seed, (dataset, backbone, tasks) in product(names, request.seeds, plan)
        for task in tasks
    )
    diverged: list[TrainingError] = []
    for dataset, backbone, tasks in plan:
        name = f"{backbone} · {dataset}"
        runs = probe_backbone(
            home,
            dataset=dataset,
            backbone=backbone,
            tasks=tasks,
            readouts=request.readouts,
            seeds=request.seeds,
            options=request.options,
            fields=request.where,
            images_name=request.images_name or images_owner(dataset),
            skip=skip,
            progress=functools.partial(report, name),
        )
        saved, failure = _save_all(results_home, runs, command)
        for run, result in saved:
            is_first = run.seed == request.seeds[0]
            yield _pictured(results_home, run, result, home) if is_first else Probed(result=result, picture=None)
        if isinstance(failure, TrainingError):
            diverged.append(failure)  # says nothing about the next backbone
        elif failure:
            raise failure
    if diverged:
        raise TrainingError("\n".join(map(str, diverged)))


def _save_all(
    home: Location, runs: Iterator[ProbeRun], command: Sequence[str]
) -> tuple[list[tuple[ProbeRun, Result]], Exception | None]:
    """The runs of a pass with their results, each saved as soon as it is there, and what others failed by."""
    saved: list[tuple[ProbeRun, Result]] = []
    failure: Exception | None = None
    try:
        for run in runs:
            try:
                saved.append((run, _save(home, run, command)))
            except LocationError as error:
                failure = failure or error
    except Exception as error:  # raised once the pictures of those saved are drawn
        failure = failure or error
    return saved, failure


def _save(home: Location, run: ProbeRun, command: Sequence[str]) -> Result:
    return save_run(
        home,
        {**run.facts(), "about": _about(run.backbone)},
        statistics=run.statistics,
        prior_statistics=run.prior_statistics,
        image_ids=run.image_ids,
        weights=run.weights,
        command=command,
    )


def _pictured(home: Location, run: ProbeRun, result: Result, caches: Location) -> Probed:
    shown = run.examples
    try:
        picture = save_picture(
            home,
            result,
            images=_base_images(caches, run),
            targets=shown.targets,
            predictions=shown.predictions,
            image_ids=run.image_ids[: len(shown.rows)],
        )
    except Exception as error:  # whatever drawing meets: the result is there, and is worth more
        with contextlib.suppress(OSError):
            home.delete(picture_key(result.run))  # of an earlier run of this name, and not of this one
        return Probed(result=result, picture=None, picture_problem=str(error) or type(error).__name__)
    return Probed(result=result, picture=f"{home}/{picture}")


@functools.cache
def _about(backbone: str) -> dict[str, Any]:
    """What the registry says of a backbone, in a result's words; {} for one that has caches here, but no entry."""
    try:
        entry = describe(backbone)
    except UnknownNameError:
        return {}
    category = "untrained" if entry.untrained else entry.category
    return {"category": category, "parameters": entry.parameters, "training_data": entry.training_data}


def _base_images(home: Location, run: ProbeRun) -> np.ndarray | None:
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
