"""Stage 1: images in, committed shards out."""

from deapcache.cache import Progress, ProgressEvent, no_progress
from deapcache.extraction.create import provenance_facts
from deapcache.extraction.dask_cluster import Cluster, default_workers, forget_models, open_cluster, worker_device
from deapcache.extraction.dataset_card import write_dataset_card
from deapcache.extraction.dataset_summary import DatasetSummary, summarize_dataset, summarize_without_files
from deapcache.extraction.extract import Executor, ExtractionReport, extract, feature_recipe, require_free_label
from deapcache.extraction.images_targets import (
    PreparedSplit,
    image_array,
    image_recipe,
    limited_rows,
    omitted_from,
    prepare_split,
    target_recipe,
    target_size,
)
from deapcache.extraction.pipeline import CachedImages, calibrate
from deapcache.extraction.plan import ExtractionPlan, PlannedCache, plan_extraction, untrained_rate
from deapcache.extraction.readable import without_unreadable
from deapcache.extraction.recompute import (
    RecomputedImage,
    RecomputeReport,
    build_from_recipe,
    calibration_images,
    identity_mismatch,
    recompute_check,
)
from deapcache.extraction.repair import RepairReport, RepairSettings, extract_command, repair_cache
from deapcache.extraction.settings import (
    ON_ERROR,
    BaseSize,
    ExtractionSettings,
    ShardPartition,
    base_size_name,
    choose_device,
    default_batch_size,
    parse_base_size,
    parse_partition,
)

__all__ = [
    "ON_ERROR",
    "BaseSize",
    "CachedImages",
    "Cluster",
    "DatasetSummary",
    "Executor",
    "ExtractionPlan",
    "ExtractionReport",
    "ExtractionSettings",
    "PlannedCache",
    "PreparedSplit",
    "Progress",
    "ProgressEvent",
    "RecomputeReport",
    "RecomputedImage",
    "RepairReport",
    "RepairSettings",
    "ShardPartition",
    "base_size_name",
    "build_from_recipe",
    "calibrate",
    "calibration_images",
    "choose_device",
    "default_batch_size",
    "default_workers",
    "extract",
    "extract_command",
    "feature_recipe",
    "forget_models",
    "identity_mismatch",
    "image_array",
    "image_recipe",
    "limited_rows",
    "no_progress",
    "omitted_from",
    "open_cluster",
    "parse_base_size",
    "parse_partition",
    "plan_extraction",
    "prepare_split",
    "provenance_facts",
    "recompute_check",
    "repair_cache",
    "require_free_label",
    "summarize_dataset",
    "summarize_without_files",
    "target_recipe",
    "target_size",
    "untrained_rate",
    "without_unreadable",
    "worker_device",
    "write_dataset_card",
]
