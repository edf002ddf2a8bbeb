"""Running a pipeline: extract what is missing, probe what is missing, gather what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deapcache.errors import FeatureError, LocationError, WeightsError
from deapcache.experiments.pipelines.datasets import DatasetPlan, look_again
from deapcache.experiments.pipelines.plan import PipelinePlan, find_pass_runs
from deapcache.experiments.pipelines.runs import PassRuns
from deapcache.experiments.pipelines.training import COLLECTED, Trained, line, train_pass, train_passes
from deapcache.experiments.probe import Report, SavedRun
from deapcache.extraction import Cluster, ExtractionReport, Progress, extract, no_progress, prepare_split
from deapcache.results import Result, load_results

_OF_ONE_BACKBONE = (WeightsError, FeatureError, torch.OutOfMemoryError)
"""Errors of extraction that say nothing about the next backbone."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that a pipeline asks for and that could not be made."""

    what: str
    """``extraction of dinov2 over coco``."""
    error: str

    def __str__(self) -> str:
        return f"{self.what}: {self.error}"


@dataclass(kw_only=True)
class Outcome:
    """What running a pipeline came to."""

    extracted: list[ExtractionReport] = field(default_factory=list)
    """What this run extracted."""
    probed: list[SavedRun] = field(default_factory=list)
    """What this run trained."""
    failures: list[Failure] = field(default_factory=list)
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
            "failures": [str(failure) for failure in self.failures],
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

    A backbone that cannot be extracted, and a pass that cannot be trained, are failures of the outcome, and the others
    go on: what a long run could make is there in the morning, and the same command tries the rest again. What would
    fail for all of them as well is raised: a home that is full or cannot be written.

    The workers of ``cluster``, where one is given, extract shard by shard and then train the passes side by side, one a
    worker; what comes of it is the same.

    Raises :class:`PipelineError` where the plan has problems, before anything is made, and :class:`LocationError`:
    names of runs that are too long for the home before anything is made as well.
    """
    plan.require_runnable()
    plan.home.require_names(name for runs in plan.passes for name in runs.unit.largest_keys())
    running = _Running(plan, progress, report, command, cluster)
    running.outcome.failures += [Failure(what=plan.pipeline.name, error=what) for what in plan.left_out]
    for name in plan.datasets:
        running.extract(name)
    names = running.probe_all() if cluster is None else running.probe_side_by_side(cluster)
    running.outcome.results = load_results(plan.home, names)
    running.outcome.missing = plan.runs - len(names)
    return running.outcome


class _Running:
    """One run of a pipeline, stage by stage."""

    def __init__(
        self, plan: PipelinePlan, progress: Progress, report: Report, command: Sequence[str], cluster: Cluster | None
    ) -> None:
        self.outcome = Outcome()
        self._plan = plan
        self._progress = progress
        self._report = report
        self._command = command
        self._cluster = cluster
        self._without_caches: set[tuple[str, str]] = set()

    def extract(self, name: str) -> None:
        """Make the missing caches of a dataset."""
        home = self._plan.home
        plan = look_again(self._plan.datasets[name], self._plan.pipeline, home)
        if plan.dataset is None:
            return  # the home holds all that its probes read
        try:
            self._prepare(plan)
            if missing := plan.to_extract():
                reports = extract(
                    missing,
                    plan.dataset,
                    home,
                    settings=plan.settings,
                    progress=self._progress,
                    executor=self._cluster,
                    on_failure=lambda backbone, error: self._note_backbone(plan, backbone, error),
                )
                self.outcome.extracted.extend(reports)
        except LocationError:
            raise
        except COLLECTED as error:
            self._note(f"dataset {plan.name}", error, plan, self._plan.pipeline.backbones_of(plan.name))

    def probe_all(self) -> list[str]:
        """Train the missing runs, pass by pass; the names of all runs that have a result now."""
        names = []
        for before in self._plan.passes:
            runs = self._look_at(before)
            made: list[str] = []
            if runs.is_known and runs.missing:
                made = self._note_trained(
                    runs, train_pass(runs, self._plan.home, report=self._report, command=self._command)
                )
            names += [name for name in runs.runs if name in runs.there or name in made]
        return names

    def probe_side_by_side(self, cluster: Cluster) -> list[str]:
        """As :meth:`probe_all`, by the workers of ``cluster``, a pass each."""
        passes = [self._look_at(before) for before in self._plan.passes]
        wanted = [runs for runs in passes if runs.is_known and runs.missing]
        ended = dict(train_passes(wanted, self._plan.home, cluster, report=self._report, command=self._command))
        made = {name for place, runs in enumerate(wanted) for name in self._note_trained(runs, ended[place])}
        return [name for runs in passes for name in runs.runs if name in runs.there or name in made]

    def _look_at(self, before: PassRuns) -> PassRuns:
        """Which runs of a pass are there, now that all is extracted."""
        unit = before.unit
        runs = find_pass_runs(unit, self._plan.pipeline, self._plan.datasets[unit.dataset], self._plan.home)
        if not runs.is_known and (unit.dataset, unit.backbone) not in self._without_caches:
            self._fail(f"probes of {unit.name}", runs.lacking or runs.problem)
        return runs

    def _note_trained(self, runs: PassRuns, trained: Trained) -> list[str]:
        if trained.error:
            self._fail(f"probes of {runs.unit.name}", trained.error)
        self.outcome.probed += trained.probed
        return [one.result.run for one in trained.probed]

    def _prepare(self, plan: DatasetPlan) -> None:
        """Base images and targets, which also a home with all features may lack."""
        assert plan.dataset is not None
        for split in plan.to_prepare():
            prepare_split(
                plan.dataset,
                split,
                self._plan.home,
                plan.settings,
                annotations=plan.dataset.annotations,
                progress=self._progress,
            )

    def _note_backbone(self, plan: DatasetPlan, backbone: str, error: Exception) -> None:
        if not isinstance(error, _OF_ONE_BACKBONE):
            raise error
        self._note(f"extraction of {backbone} over {plan.name}", error, plan, [backbone])

    def _note(self, what: str, error: Exception, plan: DatasetPlan, backbones: Sequence[str]) -> None:
        self._without_caches |= {(plan.name, backbone) for backbone in backbones}
        self._fail(what, line(error))

    def _fail(self, what: str, error: str) -> None:
        self.outcome.failures.append(Failure(what=what, error=error))
