"""Stage 1: images in, committed shards out."""

from deapcache.extraction.extract import extract
from deapcache.extraction.plan import ExtractionPlan, PlannedCache
from deapcache.extraction.planning import plan_extraction
from deapcache.extraction.prepare import PreparedSplit, prepare_split
from deapcache.extraction.progress import Progress, ProgressEvent
from deapcache.extraction.recipes import parse_base_size
from deapcache.extraction.report import ExtractionReport
from deapcache.extraction.settings import ExtractionSettings, choose_device

__all__ = [
    "ExtractionPlan",
    "ExtractionReport",
    "ExtractionSettings",
    "PlannedCache",
    "PreparedSplit",
    "Progress",
    "ProgressEvent",
    "choose_device",
    "extract",
    "parse_base_size",
    "plan_extraction",
    "prepare_split",
]
