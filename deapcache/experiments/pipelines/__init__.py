"""Experiments as data: a YAML file in, the plan of what it needs, and the run that does what is missing."""

from deapcache.experiments.pipelines.datasets import DatasetPlan
from deapcache.experiments.pipelines.execution import Failure, Outcome, run_pipeline
from deapcache.experiments.pipelines.files import load_pipeline, shipped_pipelines
from deapcache.experiments.pipelines.pipeline import Pipeline, ProbeSpec
from deapcache.experiments.pipelines.plan import PipelinePlan, plan_pipeline

__all__ = [
    "DatasetPlan",
    "Failure",
    "Outcome",
    "Pipeline",
    "PipelinePlan",
    "ProbeSpec",
    "load_pipeline",
    "plan_pipeline",
    "run_pipeline",
    "shipped_pipelines",
]
