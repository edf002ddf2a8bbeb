"""An export from start to end: scenes are rendered and written in processes, the folder appears when it is whole."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deapcache.datasets.digests import Progress
from deapcache.datasets.scenes.dataset import Scenes
from deapcache.datasets.scenes.export import coco, coco_stuff, folder, nyuv2, voc
from deapcache.datasets.scenes.export.rows import ExportFormat, Row, list_rows, render
from deapcache.datasets.scenes.export.staging import whole_folder
from deapcache.errors import UnknownNameError
from deapcache.machine import cpu_count
from deapcache.processes import process_pool, refuse_unguarded

FORMATS: dict[str, ExportFormat] = {
    made.name: made for made in (coco.FORMAT, coco_stuff.FORMAT, voc.FORMAT, nyuv2.FORMAT, folder.FORMAT)
}
"""All layouts by name."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote."""

    format: str
    path: Path
    images: dict[str, int]
    """By split."""

    @property
    def dataset(self) -> str:
        """The name of the dataset that reads them, with ``path`` as data root: a folder's has its own name in it."""
        return f"{self.format}:{self.path.absolute().name}" if self.format == folder.FORMAT.name else self.format

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"format": self.format, "dataset": self.dataset, "path": str(self.path), "images": self.images}


def export_scenes(
    name: str,
    out: Path,
    *,
    splits: Sequence[str] = Scenes.splits,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the first ``limit`` images (None: all) of each split to the folder ``out`` in the layout ``name``.

    ``out`` must be empty or absent; it is filled at the end, in one go. ``progress`` is called with (images done,
    images in all). Raises :class:`UnknownNameError` for a layout and :class:`UsageError` for a split that is not known,
    for a limit below 1 and a folder that holds something, and :class:`LocationError` where it cannot be written.
    """
    refuse_unguarded()
    if name not in FORMATS:
        raise UnknownNameError(f"unknown layout {name!r}: choose {', '.join(FORMATS)}")
    rows = list_rows(splits, limit)
    chosen = FORMATS[name]
    processes = min(cpu_count(), len(rows))
    with whole_folder(out) as stage, process_pool(processes, "rendering scenes") as pool:
        chosen.finish(stage, rows, _write_rows(pool, chosen, stage, rows, progress))
    return ExportReport(format=name, path=out, images=dict(Counter(row.split for row in rows)))


def _write_row(chosen: ExportFormat, stage: Path, row: Row) -> Any:
    return chosen.write_row(stage, row, render(row))


def _write_rows(
    pool: ProcessPoolExecutor, chosen: ExportFormat, stage: Path, rows: Sequence[Row], progress: Progress | None
) -> Iterator[Any]:
    """What ``write_row`` made of each row, in order, with a bounded number of rows under way."""
    ahead: deque[Future[Any]] = deque()
    waiting, most = iter(rows), 4 * cpu_count()
    for done in range(1, len(rows) + 1):
        while len(ahead) < most and (row := next(waiting, None)):
            ahead.append(pool.submit(_write_row, chosen, stage, row))
        yield ahead.popleft().result()
        if progress:
            progress(done, len(rows))
