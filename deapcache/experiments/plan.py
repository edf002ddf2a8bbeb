"""The plan of one or several pipelines: how much there is to do, and how long that takes at measured rates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from deapcache.backbones import arithmetic_key, describe
from deapcache.cache import STORAGE_FORMATS, feature_arrays
from deapcache.errors import DeapcacheError, MissingDataError, UsageError, first_line
from deapcache.experiments.run_pipeline import DatasetPlan, PipelinePlan, ProbeJob, cache_key
from deapcache.experiments.speed import (
    Failed,
    Progress,
    device_label,
    measure_speeds,
    measure_steps,
    package_versions,
)
from deapcache.extraction import (
    PlannedCache,
    choose_device,
    default_batch_size,
    limited_rows,
    parse_base_size,
    target_size,
    untrained_rate,
)
from deapcache.locations import Location
from deapcache.machine import cpu_count, device_name, now
from deapcache.probing import MAX_STACK, TaskSpec
from deapcache.readouts import readout_entry
from deapcache.results.speeds import (
    Rates,
    Speed,
    StepKey,
    StepSpeeds,
    add_to_rates_file,
    read_rates,
    read_rates_file,
    write_speed,
)
from deapcache.tasks import Task, get_task

_OF_FEATURES = ("backbone", "precision", "wanted", "to_do", "bytes", "files", "read", "gpu_seconds")
"""Of a :class:`FeatureWork`, for ``--json``."""

Run = tuple[str, str, int, float | str]
"""Task, readout, seed, learning rate, or what stands in its place in a protocol."""

_SCANS = 2
"""Times that a task's training targets are read as a whole: before training, and for its image-independent prior."""
_BASE_SIZE = (224, 224)
"""Of the images that are forwarded in a dry run."""


@dataclass(frozen=True, kw_only=True)
class FeatureWork:
    """All features of one backbone in one precision."""

    backbone: str
    precision: str
    caches: tuple[PlannedCache, ...]
    image_seconds: float | None
    """Of one image on one GPU; None where it was not measured, or nothing is to do."""
    wanted: int
    """Images whose features the pipelines need."""
    to_do: int
    """Images to be forwarded, the others' features being there."""
    bytes: int
    """To be written, uncompressed."""
    files: int
    """To be written."""

    @property
    def read(self) -> int:
        """Bytes of base images that are read for it, uncompressed; none where images are taken at native size."""
        sizes = [(cache.to_do, parse_base_size(cache.fields["base_size"])) for cache in self.caches]
        return sum(to_do * 3 * size[0] * size[1] for to_do, size in sizes if size != "native")

    @property
    def gpu_seconds(self) -> float | None:
        """On one GPU; None where no rate is known."""
        if not self.to_do:
            return 0.0
        return None if self.image_seconds is None else self.image_seconds * self.to_do

    def wall_seconds(self, gpus: int) -> float | None:
        """On so many equal GPUs: they share the shards of a cache, and wait for its last; None as above."""
        images = 0
        for cache in self.caches:
            whole, rest = divmod(cache.to_do, cache.shard_images)
            rounds, left = divmod(whole, gpus)
            images += rounds * cache.shard_images + (cache.shard_images if left else rest)
        return _times(self.image_seconds, images) if images else 0.0


@dataclass(frozen=True, kw_only=True)
class StepGroup:
    """Readouts of a pass that step together: one task, one readout, several seeds or learning rates."""

    key: StepKey
    spec: TaskSpec
    stage: str = "train"
    """``select`` and ``longer``: trials by which rate and steps are chosen, before ``train``, the readouts scored."""


@dataclass(frozen=True, kw_only=True)
class PassWork:
    """What is to be done of one pass over a backbone's features."""

    pipeline: str
    backbone: str
    dataset: str
    tasks: tuple[str, ...]
    runs: int
    """Runs that the pipeline asks for."""
    there: int
    """Those that have a result."""
    elsewhere: int
    """Those that a pipeline before this one trains."""
    groups: tuple[StepGroup, ...]
    batch_size: int
    train_images: int
    val_images: int
    image_bytes: int
    """Of one image as a batch has it: its features, its targets, and its base image where a readout needs that."""
    scanned_bytes: int
    """Of one image's targets, those of each task."""
    statistics_bytes: int
    """Of one image's features, where statistics of their channels are taken; else 0."""

    @property
    def steps(self) -> int:
        """Batches that are drawn: the readout that trains longest decides, in choosing rates and in training."""
        return sum(
            max((group.spec.iterations for group in self.groups if group.stage == stage), default=0)
            for stage in ("select", "longer", "train")
        )

    @property
    def readout_steps(self) -> int:
        """Training steps of all readouts together."""
        return sum(group.spec.iterations * group.key.members for group in self.groups)

    @property
    def bytes_read(self) -> int:
        """Read of the cache in all, each batch when it is trained on or scored; uncompressed."""
        if not self.groups:
            return 0
        drawn = self.steps * self.batch_size * self.image_bytes
        scanned = self.train_images * (_SCANS * self.scanned_bytes + self.statistics_bytes)
        return drawn + scanned + self.val_images * self.image_bytes

    def gpu_seconds(self, rates: Rates) -> float | None:
        """On one GPU, reading aside; a batch that is scored is taken for a step. None where a rate is not known."""
        scored = -(-self.val_images // self.batch_size)
        return _sum_known(
            _times(rates.step(group.key), group.spec.iterations + (scored if group.stage == "train" else 0))
            for group in self.groups
        )


def _times(seconds: float | None, count: int) -> float | None:
    return None if seconds is None else seconds * count


def _sum_known(values: Iterable[float | None]) -> float | None:
    """The sum; None where one of them is not known."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage comes to; a plan's are done one after the other."""

    name: str
    unit: str
    """What is counted: ``images`` or ``runs``."""
    wanted: int
    to_do: int
    """Of those wanted; the others are there."""
    files: int = 0
    """Shards to be written."""
    written: int = 0
    """Bytes, uncompressed."""
    read: int = 0
    """Bytes from the cache, uncompressed."""
    gpu_seconds: float | None = 0.0
    """On one GPU; None where a rate is not known."""
    wall_seconds: float | None = 0.0
    """On the stated number of GPUs; None as above. Decoding, reading and writing are in no stage."""


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """Several pipelines in their order, sharing what they share."""

    plans: tuple[PipelinePlan, ...]
    passes: tuple[PassWork, ...]
    """One for each of the pipelines' passes, without runs that an earlier pipeline trains."""
    gpus: int
    """That wall time is stated for: each takes the next shard of an extraction, or pass of probing, when it is free."""
    rates: Rates

    @property
    def home(self) -> Location:
        """Where the caches are, or will be."""
        return self.plans[0].home

    @property
    def problems(self) -> tuple[str, ...]:
        """What must be put right before the pipelines can run; one line each, told once where several have it."""
        found: dict[str, str] = {}
        for problem in (problem for plan in self.plans for problem in plan.problems):
            found.setdefault(problem.partition(" (needed for ")[0], problem)
        return tuple(found.values())

    @property
    def left_out(self) -> tuple[str, ...]:
        """What cannot be trained though the rest can; one line each."""
        return tuple(f"{plan.pipeline.name}: {what}" for plan in self.plans for what in plan.left_out)

    @property
    def unplanned(self) -> tuple[str, ...]:
        """Datasets of which nothing is known, not even a number of images: they are in no total."""
        found = [name for plan in self.plans for name, of in plan.datasets.items() if of.extraction is None]
        return tuple(dict.fromkeys(found))

    @cached_property
    def caches(self) -> tuple[PlannedCache, ...]:
        """Every cache once, with the most that one of the pipelines needs of it."""
        found: dict[tuple[str, ...], PlannedCache] = {}
        for plan in self.plans:
            for dataset in plan.datasets.values():
                for cache in dataset.extraction.caches if dataset.extraction else ():
                    before = found.get(key := cache_key(cache))
                    if before is None or before.wanted < cache.wanted:
                        found[key] = cache
        return tuple(found.values())

    def of(self, kind: str) -> tuple[PlannedCache, ...]:
        """The caches of one kind."""
        return tuple(cache for cache in self.caches if cache.kind == kind)

    @cached_property
    def backbones(self) -> Mapping[str, str]:
        """What features are called → the backbone that they are made with."""
        models = (pair for plan in self.plans for of in plan.datasets.values() for pair in of.models.items())
        return {label: model.backbone for label, (model, _) in models}

    @cached_property
    def features(self) -> tuple[FeatureWork, ...]:
        """The features, backbone by backbone."""
        groups: dict[tuple[str, str], list[PlannedCache]] = {}
        for cache in self.of("features"):
            groups.setdefault((cache.name, str(cache.fields["precision"])), []).append(cache)
        return tuple(
            FeatureWork(
                backbone=name,
                precision=precision,
                caches=tuple(caches),
                image_seconds=self.rates.forward(self.backbones[name], precision)
                if any(cache.to_do for cache in caches)
                else None,
                **_amounts(caches),
            )
            for (name, precision), caches in groups.items()
        )

    def unmeasured_forwards(self) -> dict[tuple[str, str], str]:
        """(:func:`arithmetic_key`, precision) of what is to be forwarded at no known rate → a backbone that has it."""
        found: dict[tuple[str, str], str] = {}
        for work in self.features:
            if work.to_do and work.image_seconds is None:
                backbone = self.backbones[work.backbone]
                key = (arithmetic_key(backbone), work.precision)
                if key not in found or describe(found[key]).untrained:  # a control is shown the speed of its model
                    found[key] = backbone
        return found

    def unmeasured_steps(self) -> dict[StepKey, TaskSpec]:
        """The training steps whose own rate is not known, though that of one member may be."""
        groups = (group for work in self.passes for group in work.groups)
        return {group.key: group.spec for group in groups if group.key not in self.rates.steps}

    def storage(self) -> dict[str, int]:
        """Storage format → bytes that all features would take in it, those that are there included; uncompressed."""
        found = dict.fromkeys(STORAGE_FORMATS, 0)
        for cache in self.of("features"):
            entry = describe(self.backbones[cache.name])
            for name in found:
                arrays = feature_arrays(name, entry.grid, entry.dim)
                found[name] += cache.wanted * sum(array.item_bytes for array in arrays)
        return found

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What is done one after the other: base images, targets, features, probing."""
        features, passes = self.features, self.passes
        extraction = replace(
            _making("features", self.of("features")),
            read=sum(work.read for work in features),
            gpu_seconds=_sum_known(work.gpu_seconds for work in features),
            wall_seconds=_sum_known(work.wall_seconds(self.gpus) for work in features),
        )
        times = [work.gpu_seconds(self.rates) for work in passes]
        training = _sum_known(times)
        probing = Stage(
            name="probing",
            unit="runs",
            wanted=sum(work.runs - work.elsewhere for work in passes),
            to_do=sum(work.runs - work.there - work.elsewhere for work in passes),
            read=sum(work.bytes_read for work in passes),
            gpu_seconds=training,
            # passes are whole; a GPU that is free takes the next one
            wall_seconds=None if training is None else makespan([one for one in times if one is not None], self.gpus),
        )
        return _making("base images", self.of("images")), _making("targets", self.of("targets")), extraction, probing

    @property
    def wall_seconds(self) -> float | None:
        """All stages, one after the other; None where one is not known."""
        return _sum_known(stage.wall_seconds for stage in self.stages)

    @property
    def gpu_seconds(self) -> float | None:
        """Of all stages together; None where one is not known."""
        return _sum_known(stage.gpu_seconds for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        rates = self.rates
        return {
            "pipelines": [one.pipeline.name for one in self.plans],
            "home": str(self.home),
            "free_bytes": self.plans[0].free_bytes,
            "gpus": self.gpus,
            "rates": {"device": rates.device, "measured": rates.measured} if rates.measured else None,
            "caches": [{**asdict(cache), "bytes": cache.bytes} for cache in self.caches],
            "features": [
                {name: getattr(work, name) for name in _OF_FEATURES} | {"speed": _speed_json(work.image_seconds)}
                for work in self.features
            ],
            "passes": [_pass_json(work, rates) for work in self.passes],
            "storage": self.storage(),
            "stages": [asdict(stage) for stage in self.stages],
            "forwards": sum(work.to_do for work in self.features),
            "bytes": sum(cache.bytes for cache in self.caches),
            "runs": sum(work.runs - work.elsewhere for work in self.passes),
            "missing": sum(work.runs - work.there - work.elsewhere for work in self.passes),
            "steps": sum(work.readout_steps for work in self.passes),
            "gpu_seconds": self.gpu_seconds,
            "wall_seconds": self.wall_seconds,
            "unplanned": list(self.unplanned),
            "problems": list(self.problems),
            "left_out": list(self.left_out),
        }


def _making(name: str, caches: Sequence[PlannedCache]) -> Stage:
    """The stage that makes these caches, without its time."""
    amounts = _amounts(caches)
    return Stage(name=name, unit="images", written=amounts.pop("bytes"), **amounts)


def _amounts(caches: Sequence[PlannedCache]) -> dict[str, int]:
    """The sums of several caches: images wanted and to do, bytes and files to be written."""
    return {name: sum(getattr(cache, name) for cache in caches) for name in ("wanted", "to_do", "bytes", "files")}


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until ``workers`` have done all jobs, the first that is free taking the next: below twice the least."""
    busy = [0.0] * workers
    for job in seconds:
        busy[busy.index(min(busy))] += job
    return max(busy)


def _pass_json(work: PassWork, rates: Rates) -> dict[str, Any]:
    names = ("pipeline", "backbone", "dataset", "tasks", "runs", "there", "elsewhere", "steps", "readout_steps")
    groups = [
        {
            "task": group.key.task,
            "readout": group.key.readout,
            "members": group.key.members,
            "speed": _speed_json(rates.step(group.key)),
        }
        for group in work.groups
    ]
    totals = {"bytes_read": work.bytes_read, "gpu_seconds": work.gpu_seconds(rates)}
    return {name: getattr(work, name) for name in names} | {"groups": groups} | totals


def _speed_json(seconds: float | None) -> dict[str, Any]:
    return {"seconds": seconds, "known": "unknown" if seconds is None else "measured"}


# Amounts


def plan_grid(plans: Sequence[PipelinePlan], *, gpus: int = 1, rates: Rates | None = None) -> GridPlan:
    """The plan of several pipelines' plans, all of one home, at these rates.

    A run that two of them ask for is the first one's. Raises :class:`UsageError` for less than one GPU, and where two
    pipelines call different checkpoints or sizes the same.
    """
    if gpus < 1:
        raise UsageError(f"--gpus is {gpus}: expected a number above 0")
    known: dict[str, tuple[str, Path | None]] = {}
    for plan in plans:
        for label, (model, _) in (pair for of in plan.datasets.values() for pair in of.models.items()):
            if known.setdefault(label, (model.backbone, model.weights)) != (model.backbone, model.weights):
                raise UsageError(f"{plan.pipeline.name}: another pipeline calls another model {label}: plan them apart")
    seen: set[str] = set()
    passes = [
        _pass_work(plan, job, plan.datasets[job.dataset], seen)
        for plan in plans
        for job in plan.passes
        if plan.datasets[job.dataset].extraction is not None
    ]
    return GridPlan(plans=tuple(plans), passes=tuple(passes), gpus=gpus, rates=rates or Rates(device=""))


def _pass_work(plan: PipelinePlan, job: ProbeJob, dataset: DatasetPlan, seen: set[str]) -> PassWork:
    """The work of a pass without the runs in ``seen``, which gets its own."""
    summary = dataset.summary
    assert summary is not None  # a plan with an extraction has one
    assert dataset.extraction is not None
    train, val = summary.splits[0], summary.splits[1]
    train_images = len(limited_rows(summary.of[train].images, job.options.train_limit))
    missing = {run: _run_name(plan, job, run) for run in _missing_runs(job)}
    left = [run for run, name in missing.items() if name not in seen]
    seen.update(missing.values())

    kinds_of_targets = {cache.name for cache in dataset.extraction.caches if cache.kind == "targets"}
    tasks = {
        name: get_task(name, job.options.options_of(name)).choose_annotations(kinds_of_targets)
        for name in dict.fromkeys(r[0] for r in left)
    }
    groups = []
    for (name, readout), count in Counter((task, readout) for task, readout, _, _ in left).items():
        for start in range(0, count, MAX_STACK):  # at most so many step together
            members = min(MAX_STACK, count - start)
            groups.append(_step_group(job, dataset, train_images, name, tasks[name], readout, members))
    if selection := job.options.selection:
        for name, readout in dict.fromkeys((task, readout) for task, readout, _, _ in left):
            trials = (("select", len(selection.lrs), selection.fraction), ("longer", 1, selection.longer))
            for stage, members, fraction in trials:
                group = _step_group(job, dataset, train_images, name, tasks[name], readout, members)
                groups.append(replace(group, spec=group.spec.shortened(fraction), stage=stage))

    item_bytes = {
        (cache.kind, cache.name): cache.item_bytes or 0 for cache in dataset.extraction.caches if cache.split == train
    }
    kinds = [kind for task in tasks.values() for kind in task.annotations]
    guided = any(readout_entry(readout).needs_guidance for _, readout, _, _ in left)
    return PassWork(
        pipeline=plan.pipeline.name,
        backbone=job.backbone,
        dataset=job.dataset,
        tasks=job.tasks,
        runs=job.count,
        there=len(job.there),
        elsewhere=len(missing) - len(left),
        groups=tuple(groups),
        batch_size=job.options.batch_size,
        train_images=train_images,
        val_images=len(limited_rows(summary.of[val].images, job.options.val_limit)),
        image_bytes=item_bytes["features", job.backbone]
        + sum(item_bytes.get(("targets", kind), 0) for kind in dict.fromkeys(kinds))
        + (item_bytes.get(("images", ""), 0) if guided else 0),
        statistics_bytes=item_bytes["features", job.backbone] if job.options.standardisation == "channel" else 0,
        scanned_bytes=sum(item_bytes.get(("targets", kind), 0) for kind in kinds),
    )


def _missing_runs(job: ProbeJob) -> Iterator[Run]:
    if job.is_known:
        for name, run in job.runs.items():
            if name not in job.there:
                yield run.task, run.readout, run.seed, run.protocol.optimiser["lr"]
        return
    for task, readout, seed in job.wanted:
        for lr in job.options.rates_of(readout):
            yield task, readout, seed, lr


def _run_name(plan: PipelinePlan, job: ProbeJob, run: Run) -> str:
    """What makes two pipelines' runs the same one, as far as that is known before there are caches."""
    task = run[0]
    rates = (run[3],) if isinstance(run[3], float) else ()
    options = asdict(replace(job.options, iterations=job.iterations(task), lrs=rates))
    options["task_options"] = job.options.options_of(task)
    facts = [run, job.backbone, job.dataset, dict(job.options.where), plan.pipeline.stored_as, options]
    return json.dumps(facts, sort_keys=True, default=str)


def _step_group(
    job: ProbeJob, dataset: DatasetPlan, train_images: int, name: str, task: Task, readout: str, members: int
) -> StepGroup:
    """The readouts of a task as the pass's backbone and dataset size them."""
    model, settings = dataset.models[job.backbone]
    summary, entry = dataset.summary, describe(model.backbone)
    assert summary is not None
    size = target_size(summary, settings.base_size or summary.base_size)
    spec = TaskSpec(
        task=task,
        backbone=job.backbone,
        classes=summary.classes if "classes" in task.annotations else (),
        output_size=size,
        grid=entry.grid,
        feature_dim=entry.dim,
        iterations=job.iterations(name),
        upsampler=job.options.upsampler,
        standardise=job.options.standardisation,
    )
    key = StepKey(
        task=name,
        readout=readout,
        dataset=job.dataset,
        grid=entry.grid,
        dim=entry.dim,
        output_size=size,
        batch_size=job.options.batch_size,
        members=members,
        surveyed=train_images if type(task).scan_targets is not Task.scan_targets else 0,
    )
    return StepGroup(key=key, spec=spec)


# Rates


def rates_for(home: Location, device: str, file: Path | None = None, *, measure: bool = False) -> Rates:
    """What was measured on ``device`` as ``home`` has it; of a ``file`` that is given, whatever device it is of.

    ``measure`` says that more will be measured. Raises :class:`ResultsError` for a file that holds something else;
    :class:`MissingDataError` where there is none, unless measuring makes it; :class:`UsageError` where it cannot hold
    what would be measured.
    """
    chosen = choose_device(device)
    here = device_label(chosen)
    if file is None:
        # earlier versions named a CPU by its architecture
        earlier = here if chosen.type == "cuda" else f"{device_name(chosen)} {cpu_count()} cores"
        return read_rates(home, here, earlier)
    found = read_rates_file(file, measuring_on=here if measure else None)
    if found is None and not measure:
        raise MissingDataError(f"--rates {file}: no such file; --measure makes it")
    return found or Rates(device=here)


def measure_missing(
    plan: GridPlan,
    *,
    file: Path | None = None,
    keep: bool = True,
    progress: Progress = lambda *_: None,
    failed: Failed = lambda *_: None,
) -> GridPlan:
    """The plan at rates that are measured on its device where they are not known yet.

    Needs no weights, no dataset and no cache. Backbones that differ in their weights alone are measured once, and so
    are groups whose steps are the same. Each is kept as soon as it is measured: in ``file``, else in the plan's home.
    Without ``keep`` nothing is written, and a backbone's rate is that of two batches, as in ``extract --dry-run``.

    What cannot be built here, or does not fit on the device, is handed to ``failed``, and the others follow.
    """
    rates, device = plan.rates, choose_device(plan.plans[0].device)
    here = device_label(device)
    forwards, steps = plan.unmeasured_forwards(), plan.unmeasured_steps()

    def write(speed: Speed | StepSpeeds) -> None:
        if file is not None:
            add_to_rates_file(file, speed)
        else:
            write_speed(plan.home, speed)

    if not keep:
        rates = estimate_forwards(forwards, rates, device, progress, failed)
    else:
        if file is None and (forwards or steps):
            plan.home.require_writable()
        for precision in dict.fromkeys(precision for _, precision in forwards):
            for speed in measure_speeds(
                [name for key, name in forwards.items() if key[1] == precision],
                device=str(device),
                precision=precision,
                progress=lambda name, *counts: progress(name and f"forward {name}", *counts),
                failed=lambda name, why: failed(f"forward {name}", why),
            ):
                write(speed)
                rates = rates.updated(speed)
    for key, seconds in measure_steps(steps, device, progress=progress, failed=failed):
        measured = StepSpeeds(
            seconds={**rates.steps, key: seconds},
            device=here,
            threads=torch.get_num_threads(),
            date=now(),
            versions=package_versions(),
        )
        rates = rates.updated(measured)
        if keep:
            write(measured)
    return replace(plan, rates=rates)


def estimate_forwards(
    forwards: Mapping[tuple[str, str], str], rates: Rates, device: torch.device, progress: Progress, failed: Failed
) -> Rates:
    """The rates with those of these (arithmetic, precision) → backbone, in two batches each."""
    for done, (key, name) in enumerate(forwards.items()):
        progress(f"forward {name}", done, len(forwards))
        try:
            rate = untrained_rate(name, _BASE_SIZE, key[1], default_batch_size(device), device)
        except (DeapcacheError, torch.OutOfMemoryError) as error:
            failed(f"forward {name}", first_line(error))
            continue
        rates = replace(rates, measured=now(), forwards={**rates.forwards, key: rate})
    return rates
