"""What combines the two stages."""

from deapcache.experiments.figures import FigureRequest, make_figure
from deapcache.experiments.pipelines import (
    Outcome,
    Pipeline,
    PipelinePlan,
    load_pipeline,
    plan_pipeline,
    run_pipeline,
    shipped_pipelines,
)
from deapcache.experiments.prediction import (
    Predicted,
    Predictor,
    PredictRequest,
    TrainedRun,
    find_run,
    load_predictor,
    parse_sizes,
    predict_files,
)
from deapcache.experiments.probe import Report, SavedRun, probe
from deapcache.extraction import choose_device

__all__ = [
    "FigureRequest",
    "Outcome",
    "Pipeline",
    "PipelinePlan",
    "PredictRequest",
    "Predicted",
    "Predictor",
    "Report",
    "SavedRun",
    "TrainedRun",
    "choose_device",
    "find_run",
    "load_pipeline",
    "load_predictor",
    "make_figure",
    "parse_sizes",
    "plan_pipeline",
    "predict_files",
    "probe",
    "run_pipeline",
    "shipped_pipelines",
]
