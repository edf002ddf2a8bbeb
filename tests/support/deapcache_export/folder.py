"""Scenes in the layout of the ``folder`` dataset: everything exact, in files that any tool opens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from deapcache.datasets.scenes import CLASSES
from deapcache_export.pictures import save_png
from deapcache_export.rows import ExportFormat, Pixels, Row


def write_row(root: Path, row: Row, pixels: Pixels) -> None:
    """A row's four files, all by the id that it has in ``scenes``."""
    folder = root / row.split
    save_png(pixels.image, folder / "images" / f"{row.id}.png")
    save_png(pixels.classes, folder / "labels" / f"{row.id}.png")
    save_png(pixels.instances, folder / "instances" / f"{row.id}.png")
    (folder / "depth").mkdir(parents=True, exist_ok=True)
    np.save(folder / "depth" / f"{row.id}.npy", pixels.depth)


def finish(root: Path, rows: Sequence[Row], made: Iterable[None]) -> None:
    """``classes.json``: the names by value of the label maps."""
    for _ in made:
        pass
    (root / "classes.json").write_text(json.dumps(CLASSES, indent=1) + "\n")


FORMAT = ExportFormat(name="folder", write_row=write_row, finish=finish)
