"""Base images and targets: one pass over the files fills several caches, shard by shard."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np

from deapcache.cache import Cache, refresh_manifest
from deapcache.datasets import BOXES, Dataset, crop_table, in_order, pad_table, resize_image, resize_map, workers
from deapcache.errors import LEAVE_OUT, DataError, MissingDataError
from deapcache.extraction.progress import Progress, ProgressEvent
from deapcache.extraction.sharing import Share
from deapcache.extraction.windows import Form, Part, Windows

IMAGES = "images"
"""The part that is a base image; every other part is an annotation kind."""

Job = tuple[int, int, Sequence[Form]]
"""A window, one of its rows, and what is to be made of it."""


def fill(dataset: Dataset, split: str, windows: Windows, mine: Share, *, progress: Progress, stage: str) -> int:
    """Read every row that a missing shard of ``mine``'s windows needs, once a window, and publish each whole shard.

    Returns the number of rows read. Raises the dataset's own errors (they name the file); shards published until then
    stay.
    """
    read = functools.partial(_read_row, dataset, split)
    done = published = 0
    with refresh_manifest(*windows.written), workers(dataset) as pool, ThreadPoolExecutor(1) as writer:
        for units in mine.rounds():
            desk = _Desk(windows, mine, writer)
            for (window, row, _), values in in_order(pool, read, desk.jobs(units)):
                done += 1
                published += desk.accept(window, row, values)
                progress(ProgressEvent(stage=stage, done=done, total=max(done, mine.total), bytes=published))
            published += desk.finish()
    return done


class _Desk:
    """Rows on their way from the files to the shards of one round."""

    def __init__(self, windows: Windows, mine: Share, writer: Executor) -> None:
        self._windows = windows
        self._mine = mine
        self._writer = writer
        self._owners: dict[int, dict[int, list[Part]]] = {}
        self._shards_left: dict[int, int] = {}
        self._pending: deque[Future[int]] = deque()

    def jobs(self, units: Iterable[int]) -> Iterator[Job]:
        """What is to be read, window by window."""
        for window in units:
            missing = self._windows.lacking(window)
            owners: dict[int, list[Part]] = {}
            for part, shards in missing:
                for row in (row for shard in shards for row in part.cache.shard_rows(shard)):
                    owners.setdefault(row, []).append(part)
            self._owners[window] = owners
            self._shards_left[window] = sum(len(shards) for _, shards in missing)
            for row in sorted(owners):
                yield window, row, [part.form for part in owners[row]]

    def accept(self, window: int, row: int, values: Sequence[np.ndarray]) -> int:
        """Keep what was read of a row, publish what is whole now; the bytes that have been published meanwhile."""
        for part, value in zip(self._owners[window].pop(row), values, strict=True):
            if whole := part.accept(row, value):
                self._pending.append(self._writer.submit(self._publish, window, part.cache, *whole))
        published = 0
        while len(self._pending) > len(self._windows.parts) or (self._pending and self._pending[0].done()):
            published += self._pending.popleft().result()
        return published

    def finish(self) -> int:
        """Wait until all is published; the bytes of it."""
        return sum(future.result() for future in self._pending)

    def _publish(self, window: int, cache: Cache, shard: int, values: np.ndarray) -> int:
        cache.write_shard(shard, {next(iter(cache.arrays)): values})
        self._shards_left[window] -= 1  # there is one thread that publishes
        if not self._shards_left[window]:
            self._mine.finish(window)
        return values.nbytes


def _read_row(dataset: Dataset, split: str, job: Job) -> list[np.ndarray]:
    _, row, forms = job
    with offering_to_skip():
        return [_read(dataset, split, row, form) for form in forms]


@contextlib.contextmanager
def offering_to_skip() -> Iterator[None]:
    """What is wrong with the files of one image, told with the way to go on without it."""
    try:
        yield
    except (DataError, MissingDataError) as error:
        raise type(error)(f"{error}; {LEAVE_OUT}") from error


def _read(dataset: Dataset, split: str, row: int, form: Form) -> np.ndarray:
    """One image, map or table, brought to the form that it has in its cache."""
    if form.name == IMAGES:
        return resize_image(dataset.read_image(split, row), form.size, form.fit)
    values = dataset.read_annotation(split, row, form.name)
    if form.name == BOXES:
        return pad_table(crop_table(values, form.size, form.fit), form.shape[0])
    return resize_map(values, form.size, form.fit)
