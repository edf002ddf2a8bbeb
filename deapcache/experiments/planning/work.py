"""How much probing there is to do: the passes of all pipelines, each run once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from deapcache.backbones import describe
from deapcache.experiments.planning.rates import StepKey
from deapcache.experiments.run_pipeline import DatasetPlan, PipelinePlan, ProbeJob
from deapcache.extraction import DatasetSummary, PlannedCache, limited_rows, target_size
from deapcache.probing import MAX_STACK, TaskSpec
from deapcache.readouts import needs_guidance
from deapcache.tasks import Task, get_task

Run = tuple[str, str, int, float]
"""Task, readout, seed, learning rate."""

_SURVEYS = 2
"""Times that a task's training targets are read as a whole: before training, and for its image-independent prior."""


@dataclass(frozen=True, kw_only=True)
class StepGroup:
    """Readouts of a pass that step together: one task, one readout, several seeds or learning rates."""

    key: StepKey
    iterations: int
    posed: TaskSpec

    @property
    def alone(self) -> StepKey:
        """The same of one member."""
        return replace(self.key, members=1)


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
    feature_bytes: int
    """Of one image, as stored."""
    map_bytes: Mapping[str, int]
    """Annotation → bytes of one image's target."""
    annotations: Mapping[str, tuple[str, ...]]
    """Task → what it reads."""
    guidance_bytes: int
    """Of one base image, where a readout needs it."""

    @property
    def steps(self) -> int:
        """Batches that are drawn: the readout that trains longest decides."""
        return max((group.iterations for group in self.groups), default=0)

    @property
    def readout_steps(self) -> int:
        """Training steps of all readouts together."""
        return sum(group.iterations * group.key.members for group in self.groups)

    @property
    def bytes_read(self) -> int:
        """Read of the cache in all, each batch when it is trained on or scored; uncompressed."""
        if not self.groups:
            return 0
        image = self.feature_bytes + sum(self.map_bytes.values()) + self.guidance_bytes
        surveyed = sum(self.map_bytes[kind] for kinds in self.annotations.values() for kind in kinds)
        drawn = self.steps * self.batch_size * image
        return drawn + _SURVEYS * self.train_images * surveyed + self.val_images * image

    @property
    def batches_scored(self) -> int:
        """Batches of validation images."""
        return -(-self.val_images // self.batch_size)


def passes_to_do(plans: Sequence[PipelinePlan]) -> list[PassWork]:
    """The passes of all pipelines, in their order; a run that two of them ask for is the first one's."""
    seen: set[str] = set()
    return [
        _work(plan, runs, plan.datasets[runs.dataset], seen)
        for plan in plans
        for runs in plan.passes
        if plan.datasets[runs.dataset].extraction is not None
    ]


def _work(plan: PipelinePlan, runs: ProbeJob, dataset: DatasetPlan, seen: set[str]) -> PassWork:
    unit, outline = runs, _known(dataset.summary)
    missing = list(_missing(runs))
    names = {run: _name(plan, runs, run) for run in missing}
    left = [run for run in missing if names[run] not in seen]
    seen.update(names.values())
    caches = {(c.kind, c.name, c.split): c for c in dataset.extraction.caches} if dataset.extraction else {}
    features = caches["features", unit.backbone, outline.splits[0]]
    tasks = {name: get_task(name, unit.options.task_options.get(name)) for name in dict.fromkeys(r[0] for r in left)}
    kinds = dict.fromkeys(kind for task in tasks.values() for kind in task.annotations)
    guided = any(needs_guidance(readout) for _, readout, _, _ in left)
    posing = _Posing(runs, dataset, outline, tasks)
    return PassWork(
        pipeline=plan.pipeline.name,
        backbone=unit.backbone,
        dataset=unit.dataset,
        tasks=unit.tasks,
        runs=unit.count,
        there=len(runs.there),
        elsewhere=len(missing) - len(left),
        groups=tuple(posing.groups(left)),
        batch_size=unit.options.batch_size,
        train_images=posing.train_images,
        val_images=len(limited_rows(outline.of[outline.splits[1]].images, unit.options.val_limit)),
        feature_bytes=features.item_bytes or 0,
        map_bytes={kind: _item_bytes(caches, "targets", kind, outline) for kind in kinds},
        annotations={name: task.annotations for name, task in tasks.items()},
        guidance_bytes=_item_bytes(caches, "images", "", outline) if guided else 0,
    )


def _known(outline: DatasetSummary | None) -> DatasetSummary:
    assert outline is not None  # a plan with an extraction has one
    return outline


def _item_bytes(caches: Mapping[Any, PlannedCache], kind: str, name: str, outline: DatasetSummary) -> int:
    found = caches.get((kind, name, outline.splits[0]))
    return (found.item_bytes or 0) if found else 0


def _missing(runs: ProbeJob) -> Iterator[Run]:
    if runs.is_known:
        for name, run in runs.runs.items():
            if name not in runs.there:
                yield run.task, run.readout, run.seed, run.lr
        return
    for task, readout, seed in runs.wanted:
        for lr in runs.options.lrs:
            yield task, readout, seed, lr


def _name(plan: PipelinePlan, runs: ProbeJob, run: Run) -> str:
    """What makes two pipelines' runs the same one, as far as that is known before there are caches."""
    unit, task = runs, run[0]
    options = asdict(replace(unit.options, iterations=unit.iterations(task), lrs=(run[3],)))
    options["task_options"] = unit.options.task_options.get(task, {})
    facts = [run, unit.backbone, unit.dataset, dict(unit.options.where), plan.pipeline.storage, options]
    return json.dumps(facts, sort_keys=True, default=str)


@dataclass(frozen=True)
class _Posing:
    """The tasks of a pass as its backbone and dataset pose them."""

    runs: ProbeJob
    dataset: DatasetPlan
    outline: DatasetSummary
    tasks: Mapping[str, Task]

    @property
    def train_images(self) -> int:
        """Training images that are used."""
        first = self.outline.of[self.outline.splits[0]]
        return len(limited_rows(first.images, self.runs.options.train_limit))

    def groups(self, left: Iterable[Run]) -> Iterator[StepGroup]:
        """The runs by task and readout, at most sixteen together."""
        for (task, readout), members in Counter((task, readout) for task, readout, _, _ in left).items():
            for start in range(0, members, MAX_STACK):
                yield self._group(task, readout, min(MAX_STACK, members - start))

    def _group(self, name: str, readout: str, members: int) -> StepGroup:
        unit, task, entry = self.runs, self.tasks[name], describe(self.runs.backbone)
        size = target_size(self.outline, self.dataset.settings.base_size or self.outline.base_size)
        posed = TaskSpec(
            task=task,
            backbone=unit.backbone,
            classes=self.outline.classes if "classes" in task.annotations else (),
            output_size=size,
            grid=entry.grid,
            feature_dim=entry.dim,
            iterations=unit.iterations(name),
            upsampler=unit.options.upsampler,
        )
        key = StepKey(
            task=name,
            readout=readout,
            dataset=unit.dataset,
            grid=entry.grid,
            dim=entry.dim,
            output_size=size,
            batch_size=unit.options.batch_size,
            members=members,
            surveyed=self.train_images if type(task).scan_targets is not Task.scan_targets else 0,
        )
        return StepGroup(key=key, iterations=posed.iterations, posed=posed)
