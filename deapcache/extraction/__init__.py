"""Stage 1: images in, committed shards out."""

from deapcache.extraction.cluster import Cluster, default_workers, open_cluster
from deapcache.extraction.extract import extract
from deapcache.extraction.live import LiveImage, LiveReport, verify_live
from deapcache.extraction.makers import RepairSettings
from deapcache.extraction.outline import Outline, outline_of, outline_without_files
from deapcache.extraction.plan import ExtractionPlan, PlannedCache
from deapcache.extraction.planning import plan_extraction, untrained_rate
from deapcache.extraction.prepare import PreparedSplit, prepare_split
from deapcache.extraction.progress import Progress, ProgressEvent
from deapcache.extraction.recipes import parse_base_size
from deapcache.extraction.repairing import RepairReport, extract_command, repair_cache
from deapcache.extraction.report import ExtractionReport
from deapcache.extraction.settings import ExtractionSettings, choose_device
from deapcache.extraction.sharing import Portion, Sharing, parse_portion

__all__ = [
    "Cluster",
    "ExtractionPlan",
    "ExtractionReport",
    "ExtractionSettings",
    "LiveImage",
    "LiveReport",
    "Outline",
    "PlannedCache",
    "Portion",
    "PreparedSplit",
    "Progress",
    "ProgressEvent",
    "RepairReport",
    "RepairSettings",
    "Sharing",
    "choose_device",
    "default_workers",
    "extract",
    "extract_command",
    "open_cluster",
    "outline_of",
    "outline_without_files",
    "parse_base_size",
    "parse_portion",
    "plan_extraction",
    "prepare_split",
    "repair_cache",
    "untrained_rate",
    "verify_live",
]
