"""BSDS500: photographs with the boundaries that several people drew (Arbeláez et al. 2011, TPAMI 33)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import decode_errors, missing_paths, require_all, stems
from deapcache.errors import DataError

LAYOUT = """\
images/{train,val,test}/*.jpg              200, 100 and 200 images
groundTruth/{train,val,test}/*.mat         of each, what its annotators drew
in data/ of the unpacked archive, BSR/BSDS500/data or BSDS500/data, there or in a folder bsds500/; our train is the
official train and val, our val the official test, as the field trains and scores"""

FOLDERS = {"train": ("train", "val"), "val": ("test",)}
"""Official folders that a split of ours consists of."""

MOST_ANNOTATORS = 15
"""Bits of a non-negative int16; the images have between four and nine annotators."""


class Bsds500(FileDataset):
    """500 photographs of 321 × 481 pixels, upright or not: 300 for ``train``, the official test's 200 as ``val``.

    ``groundTruth`` is a cell for each annotator, with a struct whose ``Boundaries`` is a map of 0 and 1.
    """

    name = images_name = "bsds500"
    annotations = ("edges",)
    # a square, since a third of the images is upright; close to their height, so that few lines touch each other
    base_size = (320, 320)
    summary = "BSDS500: photographs with the boundaries that several annotators drew"
    layout = LAYOUT
    licence = "none stated by its authors; for non-commercial research and education"
    official: ClassVar = {"train": 300, "val": 200}
    options: ClassVar = {"edges": {"edges": "Boundaries, a bit for each annotator in the file's order"}}
    places = (
        "BSR/BSDS500/data", "BSDS500/data", "bsds500/BSR/BSDS500/data", "bsds500/BSDS500/data", "bsds500/data",
        "bsds500", "",
    )  # fmt: skip
    expected = "images/ and groundTruth/ in BSR/BSDS500/data or BSDS500/data, there or in a folder bsds500/"

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return tuple(root / part / name for name in FOLDERS[split] for part in ("images", "groundTruth"))

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        parts = cls.split_parts(root, split)
        return SplitStatus(images=sum(len(stems(part, ".jpg")) for part in parts[::2]), missing=missing_paths(parts))

    def list_samples(self, split: str) -> Sequence[Sample]:
        self.require_parts(split)
        folders: dict[str, str] = {}
        for name in FOLDERS[split]:
            ids = stems(self.root / "images" / name, ".jpg")
            if twice := sorted(ids.intersection(folders)):
                raise DataError(f"image {twice[0]} is in images/{name} and images/{folders[twice[0]]} of {self.root}")
            require_all(ids, self.root / "groundTruth" / name, ".mat", "unpack the archive again, or remove the images")
            folders |= dict.fromkeys(ids, name)
        return [
            Sample(id=id_, image=f"images/{name}/{id_}.jpg", labels={"edges": (f"groundTruth/{name}/{id_}.mat",)})
            for id_, name in sorted(folders.items())
        ]

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.int16]:
        path = self.label_path(sample, kind)
        drawn = read_boundaries(path)
        self.require_image_size(sample, drawn[0], path)
        bits = np.left_shift(1, np.arange(len(drawn), dtype=np.int16))
        return np.einsum("nhw,n->hw", drawn, bits, dtype=np.int16)


def read_boundaries(path: Path) -> NDArray[np.uint8]:
    """(annotators, h, w) uint8 of 0 and 1 from a ``groundTruth`` file.

    Raises :class:`MissingDataError` where there is no such file and :class:`DataError` where it is something else.
    """
    from scipy.io import loadmat  # takes a third of a second, which listing datasets does without

    with decode_errors(path, "ground truth"), path.open("rb") as file:
        cells = loadmat(file, variable_names=["groundTruth"]).get("groundTruth", np.empty(0, object))
        fields = [cell for cell in cells.ravel() if getattr(cell, "dtype", None) is not None and cell.size == 1]
        maps = [cell.ravel()[0]["Boundaries"] for cell in fields if "Boundaries" in (cell.dtype.names or ())]
    alike = maps and len(maps) == cells.size and all(one.ndim == 2 and one.shape == maps[0].shape for one in maps)
    if not alike or not all(one.dtype.kind in "ub" and np.isin(one, (0, 1)).all() for one in maps):
        raise DataError(
            f"ground truth {path} is not as BSDS500 has it: expected groundTruth, a cell of structs whose Boundaries "
            "are maps of 0 and 1 of one size; download it again",
            path=path,
        )
    if len(maps) > MOST_ANNOTATORS:
        raise DataError(f"{path} has {len(maps)} annotators; there is room for {MOST_ANNOTATORS}", path=path)
    return np.array(maps, np.uint8)


DATASETS["bsds500"] = Bsds500
