"""The plan of one or several pipelines: how much there is to do, how long it takes, what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from deapcache.backbones import describe
from deapcache.cache import STORAGE_FORMATS, feature_arrays
from deapcache.errors import UsageError
from deapcache.experiments.planning.priced import FeatureWork, PricedPass
from deapcache.experiments.planning.speeds import UNKNOWN, Speed, Speeds
from deapcache.experiments.planning.stages import BASE_IMAGES, FEATURES, PROBING, TARGETS, Stage
from deapcache.experiments.planning.work import PassWork, StepGroup, passes_to_do
from deapcache.experiments.run_pipeline import PipelinePlan
from deapcache.extraction import PlannedCache
from deapcache.locations import Location


@dataclass(frozen=True)
class GridPlan:
    """Several pipelines in their order, sharing what they share."""

    plans: tuple[PipelinePlan, ...]
    passes: tuple[PassWork, ...]
    """One for each of the pipelines' passes, without runs that an earlier pipeline trains."""
    gpus: int
    """That wall time is stated for: each takes its share of an extraction's shards, and whole passes of probing."""
    speeds: Speeds

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
                    before = found.get(cache.key)
                    if before is None or before.wanted < cache.wanted:
                        found[cache.key] = cache
        return tuple(found.values())

    def of(self, kind: str) -> tuple[PlannedCache, ...]:
        """The caches of one kind."""
        return tuple(cache for cache in self.caches if cache.kind == kind)

    @cached_property
    def features(self) -> tuple[FeatureWork, ...]:
        """The features, backbone by backbone."""
        groups: dict[tuple[str, str], list[PlannedCache]] = {}
        for cache in self.of("features"):
            groups.setdefault((cache.name, str(cache.fields["precision"])), []).append(cache)
        return tuple(self._features(*key, tuple(caches)) for key, caches in groups.items())

    def _features(self, name: str, precision: str, caches: tuple[PlannedCache, ...]) -> FeatureWork:
        to_do = any(cache.to_do for cache in caches)
        speed = self.speeds.forward(name, precision) if to_do else Speed(seconds=None, known=UNKNOWN)
        return FeatureWork(backbone=name, precision=precision, caches=caches, speed=speed)

    @cached_property
    def probing(self) -> tuple[PricedPass, ...]:
        """The passes with their times."""
        return tuple(
            PricedPass(work=work, speeds=tuple(self.speeds.step(group) for group in work.groups))
            for work in self.passes
        )

    def storage(self) -> dict[str, int]:
        """Storage format → bytes that all features would take in it, those that are there included; uncompressed."""
        return {name: sum(_stored_bytes(cache, name) for cache in self.of("features")) for name in STORAGE_FORMATS}

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What is done one after the other: base images, targets, features, probing."""
        return (
            self._decoding(BASE_IMAGES, "images"),
            self._decoding(TARGETS, "targets"),
            self._extraction(),
            self._probing(),
        )

    @property
    def wall_seconds(self) -> float | None:
        """All stages, one after the other; None where one is not known."""
        return _sum_known(stage.wall_seconds for stage in self.stages)

    @property
    def gpu_seconds(self) -> float | None:
        """Of all stages together; None where one is not known."""
        return _sum_known(stage.gpu_seconds for stage in self.stages)

    def _decoding(self, name: str, kind: str) -> Stage:
        caches = self.of(kind)
        return Stage(
            name=name,
            unit="images",
            wanted=sum(cache.wanted for cache in caches),
            to_do=sum(cache.to_do for cache in caches),
            files=sum(cache.files for cache in caches),
            written=sum(cache.bytes for cache in caches),
            read=0,
            gpu_seconds=0.0,
            wall_seconds=0.0,
        )

    def _extraction(self) -> Stage:
        gpu = _sum_known(work.gpu_seconds for work in self.features)
        return Stage(
            name=FEATURES,
            unit="images",
            wanted=sum(work.wanted for work in self.features),
            to_do=sum(work.to_do for work in self.features),
            files=sum(work.files for work in self.features),
            written=sum(work.bytes for work in self.features),
            read=sum(work.read for work in self.features),
            gpu_seconds=gpu,
            wall_seconds=None if gpu is None else gpu / self.gpus,
        )

    def _probing(self) -> Stage:
        times = [one.gpu_seconds for one in self.probing]
        gpu = _sum_known(times)
        return Stage(
            name=PROBING,
            unit="runs",
            wanted=sum(work.runs - work.elsewhere for work in self.passes),
            to_do=sum(work.runs - work.there - work.elsewhere for work in self.passes),
            files=0,
            written=0,
            read=sum(work.bytes_read for work in self.passes),
            gpu_seconds=gpu,
            # passes are whole, and the GPUs share them out
            wall_seconds=None if gpu is None else makespan([one for one in times if one is not None], self.gpus),
        )


def plan_grid(
    plans: Sequence[PipelinePlan],
    *,
    gpus: int = 1,
    speeds: Callable[[Sequence[tuple[str, str]], Sequence[StepGroup]], Speeds] = lambda *_: Speeds(),
) -> GridPlan:
    """The plan of several pipelines' plans, all of one home.

    ``speeds`` is called with the (backbone, precision) that would be forwarded and the groups that would be trained.
    Raises :class:`UsageError` for less than one GPU.
    """
    if gpus < 1:
        raise UsageError(f"--gpus is {gpus}: expected a number above 0")
    passes = tuple(passes_to_do(plans))
    amounts = GridPlan(tuple(plans), passes, gpus, Speeds())
    forwards = [(work.backbone, work.precision) for work in amounts.features if work.to_do]
    known = speeds(forwards, [group for work in passes for group in work.groups])
    return GridPlan(amounts.plans, passes, gpus, known)


def _stored_bytes(cache: PlannedCache, storage: str) -> int:
    entry = describe(cache.name)
    return cache.wanted * sum(spec.item_bytes for spec in feature_arrays(storage, entry.grid, entry.dim))


def _sum_known(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until ``workers`` have done all jobs, each taking the longest that is left: at most 4/3 of the least."""
    busy = [0.0] * workers
    for job in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += job
    return max(busy)
