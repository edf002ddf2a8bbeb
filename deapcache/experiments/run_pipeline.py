"""The plan of a pipeline, and its run: extract what is missing, probe what is missing, gather what belongs to it.

:func:`plan_pipeline` looks once at what is there. :func:`run_pipeline` works that plan off: a backbone's caches by
:class:`DatasetPlan`, then one pass over the cached features for each :class:`ProbeJob`, here or one a worker.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from deapcache.backbones import DEFAULT_LAYERS, LAST, NO_TOKENS, build, describe
from deapcache.cache import find_caches, one_listing
from deapcache.datasets import Dataset, images_owner, open_dataset
from deapcache.errors import (
    AmbiguousCacheError,
    CacheMissError,
    DeapcacheError,
    FeatureError,
    IncompleteCacheError,
    LocationError,
    MissingDataError,
    PipelineError,
    WeightsError,
    first_line,
)
from deapcache.experiments.pipeline import ModelSpec, Pipeline, ProbeSpec
from deapcache.experiments.probe import Report, SavedRun, agreed_values, probe_pass
from deapcache.extraction import (
    Cluster,
    DatasetSummary,
    ExtractionPlan,
    ExtractionReport,
    ExtractionSettings,
    PlannedCache,
    Progress,
    agreed_settings,
    base_size_name,
    choose_device,
    extract,
    forget_models,
    no_progress,
    plan_extraction,
    prepare_split,
    require_free_label,
    summarize_dataset,
    summarize_without_files,
    without_unreadable,
    worker_device,
)
from deapcache.locations import Location, home_defaults
from deapcache.probing import ProbeConfig, ProbeProgress, RunSpec, plan_runs
from deapcache.processes import refuse_unguarded
from deapcache.readouts import canonical_readout
from deapcache.results import Result, load_results
from deapcache.results.record import largest_key, result_key, run_id, run_name
from deapcache.tasks import get_task

_COLLECTED = (DeapcacheError, torch.OutOfMemoryError)
"""Errors that end one part of a pipeline and not the others."""

_OF_ONE_BACKBONE = (WeightsError, FeatureError, torch.OutOfMemoryError)
"""Errors of extraction that say nothing about the next backbone."""

_TOPIC = "deapcache-probes"
_EVENTS_EVERY = 0.5
"""Seconds between two messages of one worker's progress."""


def cache_key(cache: PlannedCache) -> tuple[str, ...]:
    """What two planned caches must share to mean the same one."""
    return cache.owner, cache.kind, cache.split, cache.name, json.dumps(cache.fields, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """What one dataset of the pipeline needs: which caches are there, and which are to be made."""

    name: str
    settings: ExtractionSettings
    """Without what each model says for itself."""
    models: Mapping[str, tuple[ModelSpec, ExtractionSettings]]
    """What its features are called → a model of its probes, and how they are extracted."""
    dataset: Dataset | None
    """None: it cannot be extracted from here."""
    summary: DatasetSummary | None
    """The dataset as the plan knows it, also where its files are not there; None: nothing is known of it."""
    extraction: ExtractionPlan | None
    """None: nothing is known of the dataset. Of one that cannot be extracted from here: what it would take."""
    problem: str
    """Why it cannot be extracted; empty where it can."""

    @property
    def caches(self) -> tuple[PlannedCache, ...]:
        """The caches that its probes need; none where nothing is known of the dataset."""
        return self.extraction.caches if self.extraction else ()

    def fields_of(self, label: str) -> dict[str, Any]:
        """Recipe fields of the features of that name, as far as the pipeline decides them."""
        _, settings = self.models[label]
        fields = {"base_fit": settings.fit, "storage": settings.storage, "precision": settings.precision}
        if self.dataset is None:
            return fields
        return fields | {"base_size": base_size_name(settings.base_size or self.dataset.base_size)}


@dataclass(frozen=True, kw_only=True)
class ProbeJob:
    """Readouts of one backbone and dataset that train from one stream of cached features, and which are there."""

    options: ProbeConfig
    """All choices of training, with dataset, backbone, and the recipe fields of its features."""
    wanted: tuple[tuple[str, str, int], ...]
    """Task, readout, seed; without repetition. Each is trained once for each learning rate."""
    runs: Mapping[str, RunSpec] = field(default_factory=dict)
    """By name; empty while the caches are not there, for they are part of a run's name."""
    there: frozenset[str] = frozenset()
    """Names of the runs that have a result."""
    lacking: str = ""
    """What the caches lack; empty where the runs are known."""
    problem: str = ""
    """What no extraction can put right; empty as a rule."""

    @property
    def backbone(self) -> str:
        """The only one."""
        return self.options.backbone

    @property
    def dataset(self) -> str:
        """The only one."""
        return str(self.options.dataset)

    @property
    def name(self) -> str:
        """For people: ``dinov2 · coco``."""
        return f"{self.backbone} · {self.dataset}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, in order."""
        return tuple(dict.fromkeys(task for task, _, _ in self.wanted))

    @property
    def config(self) -> ProbeConfig:
        """The probe that trains all of it."""
        readouts = tuple(dict.fromkeys(readout for _, readout, _ in self.wanted))
        seeds = tuple(dict.fromkeys(seed for _, _, seed in self.wanted))
        return replace(self.options, tasks=self.tasks, readouts=readouts, seeds=seeds)

    @property
    def count(self) -> int:
        """Runs of this job."""
        return sum(len(self.options.rates_of(readout)) for _, readout, _ in self.wanted)

    @property
    def is_known(self) -> bool:
        """Whether the caches are there, and with them the names of the runs."""
        return not (self.lacking or self.problem)

    @property
    def missing(self) -> int:
        """Runs without a result."""
        return self.count - len(self.there)

    def iterations(self, task: str) -> int:
        """Training steps of each readout of ``task``."""
        return self.options.iterations or get_task(task).iterations


@dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """Everything that one ``deapcache run`` would do."""

    pipeline: Pipeline
    home: Location
    device: str
    free_bytes: int | None
    datasets: Mapping[str, DatasetPlan]
    passes: tuple[ProbeJob, ...]
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    """What its features are called → which file loads into the backbone, and what of it is not used."""

    @property
    def forwards(self) -> int:
        """Images that backbones would be run on; datasets may share images and features."""
        to_do: dict[tuple[str, ...], int] = {}
        for cache in (cache for plan in self.datasets.values() for cache in plan.caches if cache.kind == "features"):
            key = cache_key(cache)
            to_do[key] = max(cache.to_do, to_do.get(key, 0))
        return sum(to_do.values())

    @property
    def runs(self) -> int:
        """All runs of the pipeline."""
        return sum(job.count for job in self.passes) + sum(self.left_out.values())

    @property
    def missing(self) -> int:
        """Runs to be trained."""
        return sum(job.missing for job in self.passes)

    @property
    def left_out(self) -> dict[str, int]:
        """What cannot be trained though the rest can → how many runs that is."""
        return {
            f"probes.{place}: {' and '.join(probe.left_out)} is left out: it needs its published upsampler's file: "
            f"--set probes.{place}.upsampler=FILE, or --set upsampler=FILE for all": (
                len(probe.left_out)
                * len(probe.tasks)
                * sum(1 if probe.layers else len(model.layers or (LAST,)) for model in probe.backbones)
                * len(probe.seeds)
                * len(probe.options.rates)
                * len(probe.sizes)
            )
            for place, probe in enumerate(self.pipeline.probes)
            if probe.left_out
        }

    @property
    def terms(self) -> dict[str, str]:
        """Backbone → licence of its weights, whether they are gated and where they are; what of a checkpoint loads."""
        published = [plan.extraction.terms for plan in self.datasets.values() if plan.extraction]
        return {name: text for terms in (*published, self.checkpoints) for name, text in terms.items()}

    @property
    def problems(self) -> tuple[str, ...]:
        """What must be put right before the pipeline can run; one line each."""
        found: dict[str, None] = {}
        for name, plan in self.datasets.items():
            known = {job.backbone: job.is_known for job in self.passes if job.dataset == name}
            lacking = [backbone for backbone, is_known in known.items() if not is_known]
            if plan.problem and lacking:
                needed_for = ", ".join(lacking) if len(lacking) <= 3 else f"{len(lacking)} backbones"
                found[f"{plan.problem} (needed for {needed_for})"] = None
        return (*found, *dict.fromkeys(job.problem for job in self.passes if job.problem))

    def require_runnable(self) -> None:
        """Raise :class:`PipelineError` where something stands in the way, before anything is made."""
        if self.problems:
            raise PipelineError(
                f"pipeline {self.pipeline.name} cannot run: {'; '.join(self.problems)}. "
                "Nothing was made; --dry-run shows the rest of the plan"
            )


def plan_pipeline(pipeline: Pipeline, home: Location, data_root: Path, *, device: str = "auto") -> PipelinePlan:
    """Look what is there and what is missing; writes nothing and downloads nothing.

    What the pipeline says nothing of, ``deapcache.toml`` of the home decides. A dataset that cannot be opened is a
    problem of the plan, not an error, and none where ``home`` holds all that its
    probes read.
    """
    chosen = str(choose_device(device))
    agreed = home_defaults(home)
    pipeline = pipeline.model_copy(update=pipeline.left_to(agreed))
    compress = agreed_settings(agreed).get("compress", True)
    with one_listing():
        datasets = {
            name: _plan_dataset(pipeline, name, home, data_root, chosen, compress) for name in pipeline.datasets
        }
        weights, checkpoints, refused = _read_checkpoints(pipeline, datasets, home)
        jobs = _jobs_of(pipeline, datasets, weights, chosen, data_root)
        return PipelinePlan(
            pipeline=pipeline,
            home=home,
            device=chosen,
            free_bytes=home.free_bytes(),
            datasets=datasets,
            checkpoints=checkpoints,
            passes=tuple(
                replace(job, problem=refused[job.backbone]) if job.backbone in refused else _find_runs(job, home)
                for job in jobs
            ),
        )


def _plan_dataset(
    pipeline: Pipeline, name: str, home: Location, data_root: Path, device: str, compress: bool
) -> DatasetPlan:
    """What the dataset ``name`` of a pipeline needs; one that cannot be opened is a problem of the plan, no error."""
    probes = [probe for probe in pipeline.probes if probe.dataset == name]
    limits = [probe.limit for probe in probes]
    settings = ExtractionSettings(
        base_size=pipeline.base_size,
        fit=pipeline.fit,
        storage=pipeline.stored_as,
        precision=pipeline.precision,
        compress=compress,
        views=tuple(dict.fromkeys(view for probe in probes for view in probe.views)),
        device=device,
        limit=None if None in limits else max(limit for limit in limits if limit is not None),
    )
    layers: dict[ModelSpec, dict[str, None]] = {}  # all that the probes join or read of a model, in order
    for probe in probes:
        for model in probe.backbones:
            layers.setdefault(model, {}).update(dict.fromkeys(probe.layers or model.layers or (LAST,)))
    models = {model.label: (model, model.settings_on(settings, names)) for model, names in layers.items()}
    dataset, summary, extraction, problem = None, None, None, ""
    try:
        opened = open_dataset(name, data_root)
        if pipeline.on_error == "skip":
            opened = without_unreadable(opened, opened.splits, home)
        summary = summarize_dataset(opened, opened.splits)
        _require_annotations(pipeline, summary)
        extraction = _plan_models(models, opened, home)
        dataset = opened
    except LocationError:
        raise
    except MissingDataError as error:
        problem = f"dataset {name}: {error}"
        summary = _without_files(pipeline, name, home)
        if summary is not None:
            extraction = _plan_models(models, summary, home)
    except DeapcacheError as error:
        problem, summary = f"dataset {name}: {error}", None
    return DatasetPlan(
        name=name,
        settings=settings,
        models=models,
        dataset=dataset,
        summary=summary,
        extraction=extraction,
        problem=problem,
    )


def _by_settings(
    models: Mapping[str, tuple[ModelSpec, ExtractionSettings]],
) -> Mapping[ExtractionSettings, Mapping[str, str]]:
    """Settings → the backbones that are extracted with them at once, each with what its features are called."""
    groups: dict[ExtractionSettings, dict[str, str]] = {}
    for label, (model, settings) in models.items():
        groups.setdefault(settings, {})[model.backbone] = label
    return groups


def _plan_models(
    models: Mapping[str, tuple[ModelSpec, ExtractionSettings]], dataset: Dataset | DatasetSummary, home: Location
) -> ExtractionPlan:
    plans = [
        plan_extraction(list(names), dataset, home, settings=settings, measure=False)
        for settings, names in _by_settings(models).items()
    ]
    caches = {cache_key(cache): cache for plan in plans for cache in plan.caches}  # base images and targets once
    terms = {name: text for plan in plans for name, text in plan.terms.items()}
    return replace(plans[0], caches=tuple(caches.values()), terms=terms)


def _read_checkpoints(
    pipeline: Pipeline, datasets: Mapping[str, DatasetPlan], home: Location
) -> tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]:
    """By label, of models with a checkpoint: the digest of its weights, what of it loads, and why it cannot be used.

    Each is loaded once. A label tells which features are meant only where no other weights have it.
    """
    weights: dict[str, str] = {}
    loaded: dict[str, str] = {}
    refused: dict[str, str] = {}
    for model in dict.fromkeys(model for probe in pipeline.probes for model in probe.backbones if model.weights):
        try:
            built = build(model.backbone, weights=model.weights, weights_key=model.weights_key)
            require_free_label(home, model.label, built.identity)
            _require_own_label(model.label, built.identity.weights, built.image_size, datasets, home)
            weights[model.label] = built.identity.weights
            loaded[model.label] = f"{model.weights} loads; not used: {built.unused or 'nothing'}"
        except LocationError:
            raise
        except DeapcacheError as error:
            refused[model.label] = f"backbone {model.label}: {error}"
    return weights, loaded, refused


def _require_own_label(
    label: str, weights: str, image_size: tuple[int, int], datasets: Mapping[str, DatasetPlan], home: Location
) -> None:
    """Raise :class:`PipelineError` where features that are to be made are there under another name."""
    for cache in (cache for plan in datasets.values() for cache in plan.caches if cache.name == label and cache.to_do):
        fields = {**cache.fields, "weights": weights}
        for entry in find_caches(home, "features", dataset=cache.owner, split=cache.split, fields=fields):
            if entry.name != label and tuple(entry.recipe["image_size"]) == image_size:
                raise PipelineError(f"its features are there under the name {entry.name} ({entry.path}): call it so")


def _without_files(pipeline: Pipeline, name: str, home: Location) -> DatasetSummary | None:
    """What is known of a dataset whose files are not there; None: nothing that could be planned with."""
    try:
        summary = summarize_without_files(name, home)
        _require_annotations(pipeline, summary)
    except LocationError:
        raise
    except DeapcacheError:  # the files' absence is told already
        return None
    return summary


def _require_annotations(pipeline: Pipeline, dataset: DatasetSummary) -> None:
    """Raise :class:`PipelineError` where a dataset lacks what its tasks need."""
    for place, probe in enumerate(pipeline.probes):
        for name in probe.tasks if probe.dataset == dataset.name else ():
            task = get_task(name, probe.choices).choose_annotations(dataset.annotations)
            if lacking := [kind for kind in task.annotations if kind not in dataset.annotations]:
                raise PipelineError(
                    f"task {name} of probes.{place} needs {' and '.join(lacking)}, which it does not have: it has "
                    f"{', '.join(dataset.annotations)}"
                )
            task.heads(dataset.classes)  # raises where the classes do not suit the task


def _jobs_of(
    pipeline: Pipeline, datasets: Mapping[str, DatasetPlan], weights: Mapping[str, str], device: str, data_root: Path
) -> Iterator[ProbeJob]:
    """The jobs of a pipeline, in the order of its probes and their backbones: one for each set of equal options.

    ``weights`` has the digests of checkpoints by what their features are called.
    """
    jobs: dict[tuple[str, str], list[tuple[ProbeConfig, list[tuple[str, str, int]]]]] = {}
    for spec in pipeline.probes:
        plan = datasets[spec.dataset]
        readouts = [readout for readout in spec.readouts if readout not in spec.left_out]
        for model in spec.backbones:
            reads = _reads_of(model, plan.models[model.label][1], spec)
            for read, of_size in product(reads, spec.sizes):
                checked = {"weights": weights[model.label]} if model.label in weights else {}
                options = replace(
                    of_size,
                    dataset=spec.dataset,
                    backbones=(model.label,),
                    where={**plan.fields_of(model.label), **checked, **read, **pipeline.where},
                    images_name=images_owner(spec.dataset) if plan.dataset is None else plan.dataset.images_name,
                    device=device,
                    data_root=data_root,
                )
                of_both = jobs.setdefault((spec.dataset, model.label), [])
                wanted = next((runs for other, runs in of_both if other == options), None)
                if wanted is None:
                    of_both.append((options, wanted := []))
                wanted += product(spec.tasks, readouts, spec.seeds)
    for options, wanted in (job for of_both in jobs.values() for job in of_both):
        if wanted:
            yield ProbeJob(options=options, wanted=tuple(dict.fromkeys(wanted)))


def _reads_of(model: ModelSpec, settings: ExtractionSettings, spec: ProbeSpec) -> list[dict[str, str]]:
    """Recipe fields of what a probe reads of a model, where that is not all that is extracted of it."""
    if settings.selection == DEFAULT_LAYERS:
        return [{}]
    tokens = {} if model.tokens == NO_TOKENS else {"tokens": model.tokens}
    if spec.layers:
        return [tokens]
    # a home with several layers of a backbone says which one is read
    return [{"layer": layer, **tokens} for layer in model.layers or (describe(model.backbone).layer,)]


def _find_runs(job: ProbeJob, home: Location) -> ProbeJob:
    """The job with the names of its runs, by the caches that ``home`` holds now, and those that have a result."""
    runs: Mapping[str, RunSpec] = job.runs
    lacking = problem = ""
    try:
        if not runs:
            planned = plan_runs(home, job.config)
            runs = {run_id(run.to_json()): run for run in planned if (run.task, run.readout, run.seed) in job.wanted}
    except (CacheMissError, IncompleteCacheError) as error:
        lacking = str(error)
    except LocationError:
        raise
    except AmbiguousCacheError as error:
        problem = f"{job.name}: {error} (of a pipeline: --set where.FIELD=VALUE)"
    except DeapcacheError as error:
        problem = f"{job.name}: {error}"
    there = frozenset(name for name in runs if home.exists(result_key(name)))
    return replace(job, runs=runs, there=there, lacking=lacking, problem=problem)


@dataclass(kw_only=True)
class Outcome:
    """What running a pipeline came to."""

    extracted: list[ExtractionReport] = field(default_factory=list)
    """What this run extracted."""
    probed: list[SavedRun] = field(default_factory=list)
    """What this run trained."""
    failures: list[str] = field(default_factory=list)
    """What could not be made, and why: ``extraction of dinov2 over coco: …``."""
    results: list[Result] = field(default_factory=list)
    """All results of the pipeline, old and new."""
    missing: int = 0
    """Runs of the pipeline that have no result, because of the failures."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "extracted": [report.to_json() for report in self.extracted],
            "trained": [one.result.run for one in self.probed],
            "results": [result.to_json() for result in self.results],
            "failures": self.failures,
            "missing": self.missing,
        }


def run_pipeline(
    plan: PipelinePlan,
    *,
    progress: Progress = no_progress,
    report: Report = lambda *_: None,
    command: Sequence[str] = (),
    cluster: Cluster | None = None,
) -> Outcome:
    """Do what ``plan`` says is missing.

    A backbone that cannot be extracted, and a job that cannot be trained, are failures of the outcome, and the others
    go on: what a long run could make is there in the morning, and the same command tries the rest again. What would
    fail for all of them as well is raised: a home that is full or cannot be written.

    The workers of ``cluster``, where one is given, extract shard by shard and then train the jobs side by side, one a
    worker; what comes of it is the same.

    Raises :class:`PipelineError` where the plan has problems, before anything is made, and :class:`LocationError`:
    names of runs that are too long for the home before anything is made as well.
    """
    refuse_unguarded()
    plan.require_runnable()
    home = plan.home
    home.require_names(
        largest_key(run_name(task, job.dataset, job.backbone, canonical_readout(readout), seed))
        for job in plan.passes
        for task, readout, seed in job.wanted
    )
    outcome = Outcome(failures=[f"{plan.pipeline.name}: {what}" for what in plan.left_out])
    without_caches = extract_missing(plan, outcome, progress, cluster)
    jobs = (_find_runs(job, home) for job in plan.passes)  # each as late as possible: others may have made it
    kept = {"command": tuple(command), "agreed": agreed_values(home)}
    done: list[tuple[ProbeJob, list[SavedRun], str]] = (
        [(job, *_train(job, home, report, kept)) for job in jobs]
        if cluster is None
        else _train_on_workers(list(jobs), home, cluster, report, kept)
    )
    for job, saved, error in done:
        if not job.is_known and (job.dataset, job.backbone) not in without_caches:
            outcome.failures.append(f"probes of {job.name}: {job.lacking or job.problem}")
        if error:
            outcome.failures.append(f"probes of {job.name}: {error}")
        outcome.probed += saved
    made = {one.result.run: one.result for one in outcome.probed}
    there = {name for job, _, _ in done for name in job.there} - made.keys()
    outcome.results = sorted([*load_results(home, there), *made.values()], key=lambda result: result.run)
    outcome.missing = plan.runs - sum(len(job.there) + len(saved) for job, saved, _ in done)
    return outcome


def extract_missing(
    plan: PipelinePlan, outcome: Outcome, progress: Progress, cluster: Cluster | None
) -> set[tuple[str, str]]:
    """Make the missing caches of all datasets; the (dataset, backbone) that failed, whose probes are no news then."""
    made: dict[tuple[str, ...], int] = {}
    """Cache → its images that are there now: datasets may share images and features."""
    failed: set[tuple[str, str]] = set()

    def extract_dataset(needs: DatasetPlan, dataset: Dataset) -> None:
        def note(labels: Mapping[str, str], backbone: str, error: Exception) -> None:
            if not isinstance(error, _OF_ONE_BACKBONE):
                raise error
            label = labels[backbone]
            failed.add((needs.name, label))
            outcome.failures.append(f"extraction of {label} over {needs.name}: {_line(error)}")

        to_do = [cache for cache in needs.caches if cache.to_do and made.get(cache_key(cache), 0) < cache.wanted]
        # base images and targets first, which also a home with all features may lack
        sizes = dict.fromkeys(settings.base_size for _, settings in needs.models.values())
        for split, base_size in product(dict.fromkeys(c.split for c in to_do if c.kind != "features"), sizes):
            at_size = replace(needs.settings, base_size=base_size)
            prepare_split(dataset, split, plan.home, at_size, annotations=dataset.annotations, progress=progress)
        missing = {cache.name: needs.models[cache.name] for cache in to_do if cache.kind == "features"}
        for settings, labels in _by_settings(missing).items():
            outcome.extracted += extract(
                list(labels),
                dataset,
                plan.home,
                settings=settings,
                progress=progress,
                executor=cluster,
                on_failure=functools.partial(note, labels),
            )
        made.update({cache_key(cache): cache.wanted for cache in to_do if (needs.name, cache.name) not in failed})

    for needs in plan.datasets.values():
        if needs.dataset is None:
            continue  # the home holds all that its probes read
        try:
            extract_dataset(needs, needs.dataset)
        except LocationError:
            raise
        except _COLLECTED as error:
            failed |= {(needs.name, job.backbone) for job in plan.passes if job.dataset == needs.name}
            outcome.failures.append(f"dataset {needs.name}: {_line(error)}")
    return failed


def _train(job: ProbeJob, home: Location, report: Report, kept: Mapping[str, Any]) -> tuple[list[SavedRun], str]:
    """Train the missing runs of a job and save them; with what ended it before its last run, as a rule nothing.

    ``kept`` are the arguments of :func:`probe_pass` for what each result keeps of this run of the pipeline.
    Raises :class:`LocationError`, which concerns all jobs.
    """
    saved: list[SavedRun] = []
    if not (job.is_known and job.missing):
        return saved, ""

    def is_settled(run: RunSpec) -> bool:
        name = run_id(run.to_json())
        return name not in job.runs or name in job.there

    try:
        home.require_writable()
        for one in probe_pass(home, job.config, results_home=home, report=report, skip=is_settled, **kept):
            saved.append(one)  # one by one, so that an error leaves those before it
    except LocationError:
        raise
    except _COLLECTED as error:
        return saved, _line(error)
    return saved, ""


def _line(error: Exception) -> str:
    """An error of deapcache's own as it is, others in one line."""
    return str(error) if isinstance(error, DeapcacheError) else first_line(error)


def _train_on_workers(
    jobs: Sequence[ProbeJob], home: Location, cluster: Cluster, report: Report, kept: Mapping[str, Any]
) -> list[tuple[ProbeJob, list[SavedRun], str]]:
    """Train jobs side by side, one a worker; what :func:`_train` gives of each, in their order.

    Raises :class:`LocationError`, and :class:`deapcache.errors.ClusterError` where the cluster is lost.
    """

    def receive(message: tuple[float, Any]) -> None:
        report(message[1]["name"], ProbeProgress(**message[1]["event"]))

    to_train = [place for place, job in enumerate(jobs) if job.is_known and job.missing]
    cluster.client.subscribe_topic(_TOPIC, receive)
    try:
        calls = [(_train_as_task, place, jobs[place], home, kept, cluster.device) for place in to_train]
        ended = dict(cluster.run(calls, name="probes"))
    finally:
        cluster.client.unsubscribe_topic(_TOPIC)
    return [(job, *ended.get(place, ([], ""))) for place, job in enumerate(jobs)]


def _train_as_task(
    place: int, job: ProbeJob, home: Location, kept: Mapping[str, Any], device: str
) -> tuple[int, tuple[list[SavedRun], str]]:
    """On a worker's own device; progress goes as messages to whoever listens at the scheduler."""
    from distributed import get_worker

    forget_models()
    worker, last = get_worker(), 0.0

    def send(name: str, event: ProbeProgress) -> None:
        nonlocal last
        if event.done == event.total or time.monotonic() - last > _EVENTS_EVERY:
            last = time.monotonic()
            worker.log_event(_TOPIC, {"name": name, "event": asdict(event)})

    here = replace(job, options=replace(job.options, device=str(worker_device(device))))
    return place, _train(here, home, send, kept)
