"""Stage 2: train readouts from a cache alone, and score them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import torch

from deapcache.errors import TrainingError, UsageError
from deapcache.locations import Location
from deapcache.probing.batches import BatchStream
from deapcache.probing.evaluate import Gathered, Scored, score_teams
from deapcache.probing.facts import backbone_counts, caches_read, costs_of, shared_facts
from deapcache.probing.learner import Learner
from deapcache.probing.options import ProbeOptions, default_iterations
from deapcache.probing.planned import PlannedRun
from deapcache.probing.posed import PosedTask
from deapcache.probing.progress import Progress, silent
from deapcache.probing.protocols import protocol_of
from deapcache.probing.residency import residency_of
from deapcache.probing.run import ProbeRun
from deapcache.probing.sources import Request, Sources, resolve_sources
from deapcache.probing.team import form_teams
from deapcache.probing.train import image_independent_prior, prepare_task, train
from deapcache.probing.workers import lanes_of
from deapcache.readouts import canonical_readout, check_readout, needs_guidance, needs_upsampler
from deapcache.regions import SQUASH
from deapcache.tasks import Task, get_task

Skip = Callable[[PlannedRun], bool]


def probe_backbone(
    home: Location,
    *,
    dataset: str,
    backbone: str,
    tasks: Sequence[str],
    readouts: Sequence[str],
    seeds: Sequence[int] = (0,),
    options: ProbeOptions | None = None,
    fields: Mapping[str, Any] | None = None,
    images_name: str | None = None,
    splits: tuple[str, str] = ("train", "val"),
    skip: Skip = lambda _: False,
    progress: Progress = silent,
) -> Iterator[ProbeRun]:
    """Train and score every (task, readout, seed, learning rate) on one backbone's cached features, in one pass.

    Neither a backbone nor an image file is touched: features and targets are read from ``home``. A readout's weights
    and scores are those it would get alone, up to rounding. Each run is given as soon as it is scored; where some come
    to nothing, the error is raised after all others were given.

    Parameters
    ----------
    fields
        Recipe fields that the features must have, where the home has several caches of the backbone.
    images_name
        Dataset that the features were extracted from, where ``dataset`` shares its images.
    splits
        Names of the splits to train and to score on.
    skip
        Runs for which it is true are left out; where it leaves none, nothing is read.

    Raises :class:`deapcache.errors.UnknownNameError`, ``CacheMissError``, ``AmbiguousCacheError``,
    ``IncompleteCacheError``, ``CorruptCacheError``, ``UsageError``; after the last run ``TrainingError`` that names
    those that diverged, or what a task's own code raised.
    """
    probe = _open(home, dataset, backbone, tasks, readouts, options, fields, images_name, splits)
    chosen = [planned for planned in probe.plan(seeds) if not skip(planned)]
    return probe.run(chosen, progress) if chosen else iter(())


def planned_runs(
    home: Location,
    *,
    dataset: str,
    backbone: str,
    tasks: Sequence[str],
    readouts: Sequence[str],
    seeds: Sequence[int] = (0,),
    options: ProbeOptions | None = None,
    fields: Mapping[str, Any] | None = None,
    images_name: str | None = None,
    splits: tuple[str, str] = ("train", "val"),
) -> list[PlannedRun]:
    """What :func:`probe_backbone` would train and score, and raises as well."""
    return _open(home, dataset, backbone, tasks, readouts, options, fields, images_name, splits).plan(seeds)


def _open(
    home: Location,
    dataset: str,
    backbone: str,
    tasks: Sequence[str],
    readouts: Sequence[str],
    options: ProbeOptions | None,
    fields: Mapping[str, Any] | None,
    images_name: str | None,
    splits: tuple[str, str],
) -> _Probe:
    options = options or ProbeOptions()
    chosen = [get_task(name, options.task_options.get(name)) for name in dict.fromkeys(tasks)]
    for name in readouts:
        check_readout(name)
    names = list(dict.fromkeys(canonical_readout(name) for name in readouts))
    if options.upsampler is not None and not any(needs_upsampler(name) for name in names):
        raise UsageError(
            f"an upsampler is given ({options.upsampler}), but none of the readouts {', '.join(names)} is built around "
            "one: leave --upsampler out, or add --readout featup"
        )
    request = Request(
        home=home,
        dataset=dataset,
        backbone=backbone,
        annotations=tuple(dict.fromkeys(annotation for task in chosen for annotation in task.annotations)),
        fields=fields or {},
        images_name=images_name or dataset,
        splits=splits,
        with_images=any(needs_guidance(name) for name in names),
    )
    return _Probe(request, resolve_sources(request, options), options, chosen, names)


class _Probe:
    """One backbone's probe: its caches, and what is derived from them."""

    def __init__(
        self, request: Request, sources: Sources, options: ProbeOptions, tasks: Sequence[Task], readouts: Sequence[str]
    ) -> None:
        self._request = request
        self._sources = sources
        self._options = options
        self._readouts = readouts
        self._posed = {task.name: self._pose(task) for task in tasks}

    def _pose(self, task: Task) -> PosedTask:
        features = self._sources.train.arrays.features
        classes = [tuple(self._sources.target_recipe(name)["classes"]) for name in task.annotations]
        posed = PosedTask(
            task=task,
            backbone=self._request.backbone,
            classes=next((names for names in classes if names), ()),
            output_size=self._sources.output_size(task.annotations[0]),
            grid=features.grid,
            feature_dim=features.dim,
            iterations=self._options.iterations or default_iterations(task.name),
            upsampler=self._options.upsampler,
        )
        task.heads(posed.classes)  # tells a dataset that does not suit the task
        self._require_whole_image(task)
        return posed

    def _require_whole_image(self, task: Task) -> None:
        fit = self._sources.target_recipe(task.annotations[0])["fit"]
        if task.needs_whole_image and fit != SQUASH:
            raise UsageError(
                f"task {task.name}: {task.chosen} is about places in the whole image, and these features and targets "
                f"are of a part of it (fit {fit}): leave the choice out, or extract with --fit {SQUASH}"
            )

    def plan(self, seeds: Sequence[int]) -> list[PlannedRun]:
        """Every run, task by task, readout by readout."""
        runs = []
        for posed, readout in product(self._posed.values(), self._readouts):
            readout_options = posed.build(readout, 0)[0].options
            for lr, seed in product(dict.fromkeys(self._options.lrs), dict.fromkeys(seeds)):
                protocol = protocol_of(
                    posed,
                    readout,
                    readout_options,
                    lr,
                    dataset=self._request.dataset,
                    sources=self._sources,
                    options=self._options,
                )
                caches = caches_read(self._sources, posed.task.annotations)
                backbone = self._request.backbone
                runs.append(
                    PlannedRun(protocol=protocol, readout=readout, seed=seed, lr=lr, backbone=backbone, caches=caches)
                )
        return runs

    def run(self, planned: Sequence[PlannedRun], progress: Progress) -> Iterator[ProbeRun]:
        """Train and score them, in one pass over the features; raises at the end what some of them failed by."""
        before = backbone_counts()
        options, device = self._options, torch.device(self._options.device)
        arrays = self._sources.train.arrays
        residency = residency_of(arrays, options.residency, device)
        stream = BatchStream(arrays, residency, device)
        posed = {run.task: self._posed[run.task] for run in planned}
        biases = {name: prepare_task(one, stream, arrays.rows, options.batch_size) for name, one in posed.items()}
        learners = [
            Learner(posed[run.task], run.readout, seed=run.seed, lr=run.lr, device=device, output_bias=biases[run.task])
            for run in planned
        ]
        teams = form_teams(learners, options.weight_decay, lanes=lanes_of(device))
        trained = train(teams, stream, arrays.draws, options, progress)
        if all(learner.failure for learner in learners):
            raise _together(learners)
        priors = {
            name: image_independent_prior(one, stream, arrays.rows, options.batch_size) for name, one in posed.items()
        }
        gathered, by_task, scored = score_teams(
            teams,
            priors,
            list(posed.values()),
            # the validation images are read once, so there is nothing to gain from holding them
            BatchStream(self._sources.val.arrays, "stream", device),
            self._sources.val.arrays.rows,
            batch_size=options.batch_size,
            progress=progress,
        )
        shared = shared_facts(learners, options, residency, trained, scored, before)
        costs = costs_of(teams, stream, arrays.rows[: options.batch_size])
        for run, learner in zip(planned, learners, strict=True):
            if outcome := _outcome(learner, gathered):
                yield self._result(run, learner, outcome, by_task[run.task], {**shared, "cost": costs[id(learner)]})
        if any(learner.failure for learner in learners):
            raise _together(learners)

    def _result(
        self, planned: PlannedRun, learner: Learner, outcome: Scored, prior: Scored, shared: Mapping[str, Any]
    ) -> ProbeRun:
        task = learner.posed.task
        assert outcome.examples is not None  # set by score_teams
        return ProbeRun(
            protocol=planned.protocol,
            seed=planned.seed,
            backbone=planned.backbone,
            caches=planned.caches,
            classes=learner.posed.classes,
            readout=learner.facts(),
            scores=outcome.scores,
            prior_scores=prior.scores,
            metrics={name: asdict(metric) for name, metric in task.metrics.items()},
            main_metric=task.main_metric,
            statistics=outcome.statistics,
            prior_statistics=prior.statistics,
            image_ids=self._sources.val.image_ids,
            train_images=len(self._sources.train.arrays.rows),
            loss_curve=tuple(learner.loss_curve()),
            sigma=learner.sigma(),
            parameters=learner.parameters(),
            weights=learner.weights(),
            examples=outcome.examples,
            **shared,
        )


def _outcome(learner: Learner, gathered: Mapping[int, Gathered]) -> Scored | None:
    """What a learner came to; None where that cannot be told, which is its failure."""
    if learner.failure is None:
        try:
            return gathered[id(learner)].outcome()
        except Exception as error:  # as in score_teams
            learner.failure = error
    return None


def _together(learners: Sequence[Learner]) -> Exception:
    """The error of all learners that failed; one of a task's own code comes first, as it is."""
    failures = [learner.failure for learner in learners if learner.failure]
    unforeseen = [failure for failure in failures if not isinstance(failure, TrainingError)]
    return unforeseen[0] if unforeseen else TrainingError("\n".join(map(str, failures)))
