"""A small BSDS500 in the official layout, whose ground truth SciPy writes as MATLAB's cells of structs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (12, 18)
IDS = {"train": ("100075", "8049"), "val": ("3096",), "test": ("5096", "6046")}


def write_ground_truth(
    path: Path, maps: list[np.ndarray], name: str = "groundTruth", field: str = "Boundaries"
) -> None:
    cells = np.empty((1, len(maps)), object)
    for place, drawn in enumerate(maps):
        cells[0, place] = {"Segmentation": 1 + drawn.astype(np.uint16), field: drawn}
    savemat(path, {name: cells}, do_compression=True)


def drawn_by(seed: int, annotators: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return list((np.random.default_rng(seed).random((annotators, *size)) < 0.2).astype(np.uint8))


def write_bsds(data: Path) -> None:
    """Its images, the second of train upright, each with four to nine annotators."""
    for part, ids in IDS.items():
        for folder in ("images", "groundTruth"):
            (data / folder / part).mkdir(parents=True)
        for id_ in ids:
            size = SIZE[::-1] if id_ == "8049" else SIZE
            pixels = np.random.default_rng(int(id_)).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / f"images/{part}/{id_}.jpg")
            write_ground_truth(data / f"groundTruth/{part}/{id_}.mat", drawn_by(int(id_), 4 + int(id_) % 6, size))
        (data / "images" / part / "Thumbs.db").touch()  # as in the archive
