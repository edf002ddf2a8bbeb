"""What running a pipeline would do: caches to make, readouts to train, and what stands in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deapcache.errors import PipelineError
from deapcache.experiments.pipelines.datasets import DatasetPlan, plan_dataset
from deapcache.experiments.pipelines.passes import Pass, passes_of
from deapcache.experiments.pipelines.pipeline import Pipeline
from deapcache.experiments.pipelines.runs import PassRuns, find_runs
from deapcache.extraction import PlannedCache, choose_device
from deapcache.locations import Location


@dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """Everything that one ``deapcache run`` would do."""

    pipeline: Pipeline
    home: Location
    device: str
    free_bytes: int | None
    datasets: Mapping[str, DatasetPlan]
    passes: tuple[PassRuns, ...]

    @property
    def bytes(self) -> int:
        """Bytes that all extractions would write at most."""
        return sum(cache.bytes for _, cache in self._caches())

    @property
    def forwards(self) -> int:
        """Images that backbones would be run on."""
        return sum(cache.to_do for _, cache in self._caches() if cache.kind == "features")

    def seconds(self) -> float:
        """Forward time at the rates that were measured."""
        return sum(
            cache.to_do / rates[cache.name]
            for rates, cache in self._caches()
            if cache.kind == "features" and cache.name in rates
        )

    def _caches(self) -> Iterable[tuple[Mapping[str, float], PlannedCache]]:
        """Every cache once, with the measured rates of its dataset: datasets may share images and features."""
        caches: dict[tuple[str, ...], tuple[Mapping[str, float], PlannedCache]] = {}
        for plan in self.datasets.values():
            rates = plan.extraction.images_per_second if plan.extraction else {}
            for cache in plan.extraction.caches if plan.extraction else ():
                if cache.key not in caches or caches[cache.key][1].to_do < cache.to_do:
                    caches[cache.key] = (rates, cache)
        return caches.values()

    @property
    def steps(self) -> int:
        """Training steps of all readouts that are not there."""
        return sum(runs.steps for runs in self.passes)

    @property
    def runs(self) -> int:
        """All runs of the pipeline."""
        return sum(runs.unit.count for runs in self.passes) + sum(self.left_out.values())

    @property
    def missing(self) -> int:
        """Runs to be trained."""
        return sum(runs.missing for runs in self.passes)

    @property
    def left_out(self) -> dict[str, int]:
        """What cannot be trained though the rest can → how many runs that is."""
        return {
            f"probes.{place}: {' and '.join(probe.left_out)} is left out: it needs its published upsampler's file: "
            f"--set probes.{place}.upsampler=FILE, or --set upsampler=FILE for all": probe.count_left_out
            for place, probe in enumerate(self.pipeline.probes)
            if probe.left_out
        }

    @property
    def problems(self) -> tuple[str, ...]:
        """What must be put right before the pipeline can run; one line each."""
        unusable = dict.fromkeys(runs.problem for runs in self.passes if runs.problem)
        return (*self._dataset_problems(), *unusable)

    def _dataset_problems(self) -> Iterator[str]:
        for name, plan in self.datasets.items():
            known = {runs.unit.backbone: runs.is_known for runs in self.passes if runs.unit.dataset == name}
            lacking = [backbone for backbone, is_known in known.items() if not is_known]
            if plan.problem and lacking:
                needed_for = ", ".join(lacking) if len(lacking) <= 3 else f"{len(lacking)} backbones"
                yield f"{plan.problem} (needed for {needed_for})"

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "pipeline": self.pipeline.name,
            "home": str(self.home),
            "device": self.device,
            "free_bytes": self.free_bytes,
            "datasets": {
                name: None if plan.extraction is None else plan.extraction.to_json()
                for name, plan in self.datasets.items()
            },
            "passes": [runs.to_json() for runs in self.passes],
            "bytes": self.bytes,
            "forwards": self.forwards,
            "seconds": self.seconds(),
            "runs": self.runs,
            "missing": self.missing,
            "steps": self.steps,
            "problems": list(self.problems),
            "left_out": list(self.left_out),
        }

    def require_runnable(self) -> None:
        """Raise :class:`PipelineError` where something stands in the way, before anything is made."""
        if self.problems:
            raise PipelineError(
                f"pipeline {self.pipeline.name} cannot run: {'; '.join(self.problems)}. "
                "Nothing was made; --dry-run shows the rest of the plan"
            )


def plan_pipeline(
    pipeline: Pipeline, home: Location, data_root: Path, *, device: str = "auto", measure: bool = False
) -> PipelinePlan:
    """Look what is there and what is missing; writes nothing and downloads nothing.

    ``measure`` times a forward pass of each backbone that would be run. A dataset that cannot be opened is a problem of
    the plan, not an error, and none where ``home`` holds all that its probes read.
    """
    chosen = str(choose_device(device))
    datasets = {name: plan_dataset(pipeline, name, home, data_root, chosen, measure) for name in pipeline.datasets}
    passes = tuple(find_pass_runs(unit, pipeline, datasets[unit.dataset], home) for unit in passes_of(pipeline, chosen))
    return PipelinePlan(
        pipeline=pipeline, home=home, device=chosen, free_bytes=home.free_bytes(), datasets=datasets, passes=passes
    )


def find_pass_runs(unit: Pass, pipeline: Pipeline, plan: DatasetPlan, home: Location) -> PassRuns:
    """Which runs of a pass are there, by the caches that ``home`` holds now."""
    return find_runs(unit, home, fields={**plan.fields, **pipeline.where}, images_name=plan.images_name)
