"""What trained readouts say about images that no cache holds, at any resolution."""

from deapcache.experiments.prediction.files import Predicted, PredictRequest, predict_files
from deapcache.experiments.prediction.predictor import Predictor, load_predictor, parse_sizes
from deapcache.experiments.prediction.runs import TrainedRun, find_run

__all__ = [
    "PredictRequest",
    "Predicted",
    "Predictor",
    "TrainedRun",
    "find_run",
    "load_predictor",
    "parse_sizes",
    "predict_files",
]
