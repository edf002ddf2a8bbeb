"""What combines the two stages."""

from deapcache.experiments.figures import FigureRequest, make_figure
from deapcache.experiments.parameters import PAPER_TASKS, count_parameters
from deapcache.experiments.pipeline import Pipeline, load_pipeline, shipped_pipelines
from deapcache.experiments.predict import (
    Predicted,
    Predictor,
    PredictRequest,
    find_run,
    load_predictor,
    predict_files,
)
from deapcache.experiments.probe import Report, SavedRun, probe
from deapcache.experiments.run_pipeline import Outcome, PipelinePlan, plan_pipeline, run_pipeline

__all__ = [
    "PAPER_TASKS",
    "FigureRequest",
    "Outcome",
    "Pipeline",
    "PipelinePlan",
    "PredictRequest",
    "Predicted",
    "Predictor",
    "Report",
    "SavedRun",
    "count_parameters",
    "find_run",
    "load_pipeline",
    "load_predictor",
    "make_figure",
    "plan_pipeline",
    "predict_files",
    "probe",
    "run_pipeline",
    "shipped_pipelines",
]
