"""An export from start to end: scenes are rendered and written in processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from deapcache.datasets.scenes import Scenes
from deapcache_export import coco, coco_stuff, folder, nyuv2, voc
from deapcache_export.rows import ExportFormat, Row, list_rows, render

FORMATS: dict[str, ExportFormat] = {
    made.name: made for made in (coco.FORMAT, coco_stuff.FORMAT, voc.FORMAT, nyuv2.FORMAT, folder.FORMAT)
}
"""All layouts by name."""


def export_scenes(name: str, out: Path, *, splits: Sequence[str] = Scenes.splits, limit: int | None = None) -> None:
    """Write the first ``limit`` images (None: all) of each split to the new folder ``out`` in the layout ``name``."""
    rows = list_rows(splits, limit)
    chosen = FORMATS[name]
    out.mkdir(parents=True)
    # "spawn": a forked child of a process that runs torch's threads may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(rows)), mp_context=context) as pool:
        chosen.finish(out, rows, pool.map(functools.partial(_write_row, chosen, out), rows))


def _write_row(chosen: ExportFormat, out: Path, row: Row) -> Any:
    return chosen.write_row(out, row, render(row))
