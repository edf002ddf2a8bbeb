"""What the datasets of a pipeline need: which caches are there, and which are to be made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deapcache.datasets import Dataset, images_owner, open_dataset
from deapcache.errors import DeapcacheError, LocationError, MissingDataError, PipelineError
from deapcache.experiments.pipelines.pipeline import Pipeline
from deapcache.extraction import (
    DatasetSummary,
    ExtractionPlan,
    ExtractionSettings,
    base_size_name,
    plan_extraction,
    summarize_dataset,
    summarize_without_files,
    without_unreadable,
)
from deapcache.locations import Location
from deapcache.tasks import get_task


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """What one dataset of the pipeline needs."""

    name: str
    settings: ExtractionSettings
    dataset: Dataset | None
    """None: it cannot be extracted from here."""
    outline: DatasetSummary | None
    """The dataset as the plan knows it, also where its files are not there; None: nothing is known of it."""
    extraction: ExtractionPlan | None
    """None: nothing is known of the dataset. Of one that cannot be extracted from here: what it would take."""
    problem: str
    """Why it cannot be extracted; empty where it can."""

    @property
    def fields(self) -> dict[str, Any]:
        """Recipe fields of its features, as far as the pipeline decides them."""
        settings = self.settings
        fields = {"base_fit": settings.fit, "storage": settings.storage, "precision": settings.precision}
        if self.dataset is None:
            return fields
        return fields | {"base_size": base_size_name(self.settings.base_size or self.dataset.base_size)}

    @property
    def images_name(self) -> str:
        """Dataset under whose name the features are cached."""
        return images_owner(self.name) if self.dataset is None else self.dataset.images_name

    def to_extract(self) -> tuple[str, ...]:
        """Backbones that have features to be made."""
        caches = self.extraction.caches if self.extraction else ()
        return tuple(dict.fromkeys(cache.name for cache in caches if cache.kind == "features" and cache.to_do))

    def to_prepare(self) -> tuple[str, ...]:
        """Splits that have base images or targets to be made."""
        caches = self.extraction.caches if self.extraction else ()
        return tuple(dict.fromkeys(cache.split for cache in caches if cache.kind != "features" and cache.to_do))


def plan_dataset(
    pipeline: Pipeline, name: str, home: Location, data_root: Path, device: str, measure: bool
) -> DatasetPlan:
    """What the dataset ``name`` of a pipeline needs; one that cannot be opened is a problem of the plan, no error."""
    settings = ExtractionSettings(
        fit=pipeline.fit,
        storage=pipeline.storage,
        precision=pipeline.precision,
        views=pipeline.views_of(name),
        device=device,
        limit=pipeline.limit_of(name),
    )
    backbones = pipeline.backbones_of(name)
    dataset, outline, extraction, problem = None, None, None, ""
    try:
        opened = _open(name, data_root, home, pipeline.on_error)
        outline = _outlined(pipeline, summarize_dataset(opened, opened.splits))
        extraction = plan_extraction(backbones, opened, home, settings=settings, measure=measure)
        dataset = opened
    except LocationError:
        raise
    except MissingDataError as error:
        problem = f"dataset {name}: {error}"
        outline = _without_files(pipeline, name, home)
        if outline is not None:
            extraction = plan_extraction(backbones, outline, home, settings=settings, measure=False)
    except DeapcacheError as error:
        problem = f"dataset {name}: {error}"
    return DatasetPlan(
        name=name, settings=settings, dataset=dataset, outline=outline, extraction=extraction, problem=problem
    )


def _without_files(pipeline: Pipeline, name: str, home: Location) -> DatasetSummary | None:
    """What is known of a dataset whose files are not there; None: nothing that could be planned with."""
    try:
        return _outlined(pipeline, summarize_without_files(name, home))
    except LocationError:
        raise
    except DeapcacheError:  # the files' absence is told already
        return None


def _open(name: str, data_root: Path, home: Location, on_error: str) -> Dataset:
    dataset = open_dataset(name, data_root)
    return without_unreadable(dataset, dataset.splits, home) if on_error == "skip" else dataset


def _outlined(pipeline: Pipeline, dataset: DatasetSummary) -> DatasetSummary:
    """``dataset``, which has what the tasks need; raises :class:`PipelineError` where it does not."""
    for place, probe in enumerate(pipeline.probes):
        if probe.dataset != dataset.name:
            continue
        for task in probe.tasks:
            posed = get_task(task, probe.options.task_options.get(task))
            if lacking := [kind for kind in posed.annotations if kind not in dataset.annotations]:
                raise PipelineError(
                    f"task {task} of probes.{place} needs {' and '.join(lacking)}, which it does not have: it has "
                    f"{', '.join(dataset.annotations)}"
                )
            posed.heads(dataset.classes)  # raises where the classes do not suit the task
    return dataset


def look_again(plan: DatasetPlan, pipeline: Pipeline, home: Location) -> DatasetPlan:
    """The plan of a dataset after another that may share its images has been extracted."""
    if plan.dataset is None:
        return plan
    backbones = pipeline.backbones_of(plan.name)
    extraction = plan_extraction(backbones, plan.dataset, home, settings=plan.settings, measure=False)
    return replace(plan, extraction=extraction)
