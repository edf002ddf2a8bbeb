"""Files on disk to samples: images, their annotations, and what identifies them."""

from deapcache.datasets.base import DATASETS, VOID, Dataset, DatasetEntry, SplitStatus, open_dataset
from deapcache.datasets.decoding import COLOUR, decode_image
from deapcache.datasets.digests import DigestIndex
from deapcache.datasets.resizing import INTERPOLATION, resize_image, resize_map

__all__ = [
    "COLOUR",
    "DATASETS",
    "INTERPOLATION",
    "VOID",
    "Dataset",
    "DatasetEntry",
    "DigestIndex",
    "SplitStatus",
    "decode_image",
    "open_dataset",
    "resize_image",
    "resize_map",
]
