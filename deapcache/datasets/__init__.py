"""Files on disk to samples: images, their annotations, and what identifies them."""

from deapcache.datasets.base import (
    DATASETS,
    VOID,
    Dataset,
    DatasetEntry,
    SplitStatus,
    dataset_entry,
    images_owner,
    look_for,
    open_dataset,
)
from deapcache.datasets.boxes import BOXES, COLUMNS, crop_table, pad_table
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.io import COLOUR, INTERPOLATION, decode_image, resize_image, resize_map
from deapcache.datasets.workers import in_order, workers

__all__ = [
    "BOXES",
    "COLOUR",
    "COLUMNS",
    "DATASETS",
    "INTERPOLATION",
    "VOID",
    "Dataset",
    "DatasetEntry",
    "DigestIndex",
    "SplitStatus",
    "crop_table",
    "dataset_entry",
    "decode_image",
    "images_owner",
    "in_order",
    "look_for",
    "open_dataset",
    "pad_table",
    "resize_image",
    "resize_map",
    "workers",
]
