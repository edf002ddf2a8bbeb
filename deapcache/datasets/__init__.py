"""Files on disk to samples: images, their annotations, and what identifies them."""

from deapcache.annotations import (
    ANNOTATIONS,
    BOXES,
    COLUMNS,
    VOID,
    Annotation,
    crop_table,
    flip_width,
    pad_table,
    resize_map,
)
from deapcache.datasets.base import (
    DATASETS,
    Dataset,
    DatasetEntry,
    SplitStatus,
    dataset_entry,
    dataset_status,
    images_owner,
    in_order,
    open_dataset,
    workers,
)
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.io import COLOUR, INTERPOLATION, decode_image, resize_image

__all__ = [
    "ANNOTATIONS",
    "BOXES",
    "COLOUR",
    "COLUMNS",
    "DATASETS",
    "INTERPOLATION",
    "VOID",
    "Annotation",
    "Dataset",
    "DatasetEntry",
    "DigestIndex",
    "SplitStatus",
    "crop_table",
    "dataset_entry",
    "dataset_status",
    "decode_image",
    "flip_width",
    "images_owner",
    "in_order",
    "open_dataset",
    "pad_table",
    "resize_image",
    "resize_map",
    "workers",
]
