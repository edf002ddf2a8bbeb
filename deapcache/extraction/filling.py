"""Base images and targets: one pass over the files fills several caches, shard by shard."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from deapcache.cache import ArraySpec, Cache, kept_true
from deapcache.datasets import BOXES, Dataset, crop_table, in_order, pad_table, resize_image, resize_map, workers
from deapcache.errors import LEAVE_OUT, DataError, MissingDataError
from deapcache.extraction.progress import Progress, ProgressEvent

IMAGES = "images"
"""The part that is a base image; every other part is an annotation kind."""


class Form(NamedTuple):
    """What one entry of a cache is to be."""

    name: str
    """``images``, or an annotation kind."""
    shape: tuple[int, ...]
    """Of the entry, as it is stored."""
    size: tuple[int, int]
    """Height and width that the image is brought to."""
    fit: str
    """How it is brought there."""


@dataclass(kw_only=True)
class Part:
    """One cache to fill, and the rows of its shards that are still under way."""

    name: str
    """``images``, or an annotation kind."""
    cache: Cache
    shards: list[int]
    waiting: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    rows: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = frozenset(row for k in self.shards for row in self.cache.shard_rows(k))

    @property
    def array(self) -> ArraySpec:
        """The cache's one array."""
        return next(iter(self.cache.arrays.values()))

    @property
    def form(self) -> Form:
        """What its entries are to be."""
        height, width = self.cache.recipe["size"]
        return Form(self.name, self.array.item_shape, (height, width), self.cache.recipe["fit"])

    def accept(self, row: int, value: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Keep one row; the shard and its whole content once its last row has come."""
        shard = self.cache.shard_of(row)
        rows = self.waiting.setdefault(shard, {})
        rows[row] = value
        if len(rows) < len(self.cache.shard_rows(shard)):
            return None
        whole = self.waiting.pop(shard)
        return shard, np.stack([whole[r] for r in sorted(whole)]).astype(self.array.dtype, copy=False)


def fill(dataset: Dataset, split: str, parts: Sequence[Part], *, progress: Progress, stage: str) -> int:
    """Read every row that a missing shard of any part needs, once, and publish each shard when it is whole.

    Returns the number of rows read. Raises the dataset's own errors (they name the file); shards published until then
    stay.
    """
    wanted = {row: [p for p in parts if row in p.rows] for row in sorted(set().union(*(p.rows for p in parts)))}
    jobs = ((row, [part.form for part in owners]) for row, owners in wanted.items())
    published = 0
    read = functools.partial(_read_row, dataset, split)
    with kept_true(*(p.cache for p in parts)), workers(dataset) as pool, ThreadPoolExecutor(1) as writer:
        pending: deque[Future[int]] = deque()
        for done, ((row, _), values) in enumerate(in_order(pool, read, jobs), start=1):
            for part, value in zip(wanted[row], values, strict=True):
                if whole := part.accept(row, value):
                    pending.append(writer.submit(_publish, part.cache, *whole))
            while len(pending) > len(parts) or (pending and pending[0].done()):
                published += pending.popleft().result()
            progress(ProgressEvent(stage=stage, done=done, total=len(wanted), bytes=published))
        for last in pending:
            published += last.result()
    return len(wanted)


def _publish(cache: Cache, shard: int, values: np.ndarray) -> int:
    cache.write_shard(shard, {next(iter(cache.arrays)): values})
    return values.nbytes


def _read_row(dataset: Dataset, split: str, job: tuple[int, Iterable[Form]]) -> list[np.ndarray]:
    row, forms = job
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
