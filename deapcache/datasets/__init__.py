"""Files on disk to samples: images, their annotations, and what identifies them."""

from deapcache.datasets.base import (
    DATASETS,
    Dataset,
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
    "COLOUR",
    "DATASETS",
    "INTERPOLATION",
    "Dataset",
    "DigestIndex",
    "SplitStatus",
    "dataset_entry",
    "dataset_status",
    "decode_image",
    "images_owner",
    "in_order",
    "open_dataset",
    "resize_image",
    "workers",
]
