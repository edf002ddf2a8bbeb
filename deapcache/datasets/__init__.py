"""Files on disk to samples: images, their annotations, and what identifies them."""

from deapcache.datasets.base import (
    DATASETS,
    VOID,
    Dataset,
    DatasetEntry,
    SplitStatus,
    dataset_entry,
    images_owner,
    open_dataset,
)
from deapcache.datasets.boxes import BOXES, COLUMNS, crop_table, pad_table
from deapcache.datasets.decoding import COLOUR, decode_image
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.regions import CROP, FITS, SQUASH, Region, have_one_shape, seen_region
from deapcache.datasets.resizing import INTERPOLATION, resize_image, resize_map

__all__ = [
    "BOXES",
    "COLOUR",
    "COLUMNS",
    "CROP",
    "DATASETS",
    "FITS",
    "INTERPOLATION",
    "SQUASH",
    "VOID",
    "Dataset",
    "DatasetEntry",
    "DigestIndex",
    "Region",
    "SplitStatus",
    "crop_table",
    "dataset_entry",
    "decode_image",
    "have_one_shape",
    "images_owner",
    "open_dataset",
    "pad_table",
    "resize_image",
    "resize_map",
    "seen_region",
]
