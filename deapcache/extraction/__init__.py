"""Stage 1: images in, committed shards out."""

from deapcache.extraction.extract import (
    ExtractionSettings,
    choose_device,
    extract,
)
from deapcache.extraction.outline import Outline, outline_of, outline_without_files
from deapcache.extraction.plan import ExtractionPlan, PlannedCache
from deapcache.extraction.planning import plan_extraction, untrained_rate
from deapcache.extraction.prepare import PreparedSplit, prepare_split
from deapcache.extraction.progress import Progress, ProgressEvent
from deapcache.extraction.recipes import parse_base_size
from deapcache.extraction.report import ExtractionReport

__all__ = [
    "ExtractionPlan",
    "ExtractionReport",
    "ExtractionSettings",
    "Outline",
    "PlannedCache",
    "PreparedSplit",
    "Progress",
    "ProgressEvent",
    "choose_device",
    "extract",
    "outline_of",
    "outline_without_files",
    "parse_base_size",
    "plan_extraction",
    "prepare_split",
    "untrained_rate",
]
