"""NYU Depth V2's ``splits.mat``: which of the labelled images are for training, which for testing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.folders import access_error
from deapcache.errors import DataError, MissingDataError
from deapcache.locations import require_reached

_NAMES = {"train": "trainNdxs", "val": "testNdxs"}
"""The official test images are our ``val``: their labels are public."""


def read_splits(path: Path, images: int) -> dict[str, tuple[int, ...]]:
    """Ascending image numbers, from 1, by split, of a dataset of so many images.

    Raises :class:`MissingDataError`, and :class:`DataError` that names the file where it is no MATLAB file of version 5
    with ``trainNdxs`` and ``testNdxs``, or where their numbers repeat, overlap or are beyond the images.
    """
    content = _load(path)
    splits = {split: _numbers(content, name, images, path) for split, name in _NAMES.items()}
    if shared := set(splits["train"]) & set(splits["val"]):
        raise DataError(f"{path}: image {min(shared)} is both in trainNdxs and in testNdxs; download the file again")
    return splits


def _load(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat  # takes a third of a second, which listing datasets does without

    try:
        with path.open("rb") as file:
            return dict(loadmat(file, variable_names=list(_NAMES.values())))
    except FileNotFoundError:
        raise MissingDataError(
            f"{path} is missing: it says which images are for training; put it beside the labelled images, from "
            "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat"
        ) from None
    except OSError as error:
        if error.errno:
            raise access_error(error, path) from None
        raise DataError(f"{path} is no MATLAB file of version 5 ({error}); download it again") from error
    except Exception as error:  # scipy documents none; damaged files raise ValueError, TypeError, zlib.error and others
        require_reached(error, path)
        raise DataError(f"{path} is no MATLAB file of version 5 ({error}); download it again") from error


def _numbers(content: dict[str, Any], name: str, images: int, path: Path) -> tuple[int, ...]:
    if name not in content:
        raise DataError(f"{path} has no {name}; expected trainNdxs and testNdxs, image numbers from 1")
    values: NDArray[Any] = np.asarray(content[name]).ravel()
    wrong = values.dtype.kind not in "uif" or not np.all((values >= 1) & (values <= images) & (values % 1 == 0))
    if wrong or len(np.unique(values)) < len(values):
        raise DataError(
            f"{path}: {name} must be different whole numbers from 1 to {images}, the number of labelled images; "
            "use the two files of one download"
        )
    return tuple(sorted(int(value) for value in values))
