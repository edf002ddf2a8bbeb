"""Base images and targets: one pass over a dataset's files fills the caches of all of them, shard by shard.

The caches of a split have shards of different lengths, and one read of a file serves them all. So the unit of work is
a block of rows, and to a block belong all shards that begin in it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deapcache.annotations import ANNOTATIONS, BOXES, OUTSIDE, get_annotation, pad_table
from deapcache.cache import ORIGINAL, ArraySpec, Cache, images_path, refresh_manifest, targets_path
from deapcache.cache.progress import Progress, ProgressEvent, message, no_progress
from deapcache.datasets import INTERPOLATION, Dataset, DigestIndex, in_order, resize_image, workers
from deapcache.errors import PluginError, UsageError
from deapcache.extraction.claims import WorkQueue
from deapcache.extraction.create import make_cache, require_space
from deapcache.extraction.dataset_summary import DatasetSummary
from deapcache.extraction.readable import without_unreadable
from deapcache.extraction.settings import BaseSize, ExtractionSettings, ShardPartition, base_size_name, suggest_skipping
from deapcache.locations import Location
from deapcache.recipe import ImageRecipe, TargetRecipe, image_set_digest
from deapcache.regions import CROP, have_one_shape

IMAGES = "images"
"""The name of base images among the caches of a split; the others have the names of annotation kinds."""

_NAMED = 100
"""Omitted images that a recipe names; ``--on-error skip`` lists them all."""

_BLOCK_SHARDS = 8
"""Longest shards in a block where lengths differ: the next block reads rows at its end again."""


@dataclass(frozen=True, kw_only=True)
class PreparedSplit:
    """One split of a dataset in one view, with its images named, and with base images and targets where requested."""

    dataset: Dataset
    split: str
    image_ids: tuple[str, ...]
    images_digest: str
    images: Cache | None
    """Base images, the original ones whatever the view; None with native base size."""
    fit: str
    """How to bring images to the base size, or to the backbone's."""
    view: str = ORIGINAL


def readable_dataset(
    dataset: Dataset, splits: Sequence[str], home: Location, settings: ExtractionSettings, progress: Progress
) -> Dataset:
    """``dataset``, with ``--on-error skip`` without the images of ``splits`` that cannot be read."""
    if settings.on_error != "skip":
        return dataset
    return without_unreadable(dataset, splits, home, recheck=settings.rehash, progress=progress)


def split_views(
    dataset: Dataset | DatasetSummary, splits: Sequence[str] | None, views: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The splits to work on, all by default, with the views to make of each.

    Only training reads mirrored images: unless ``splits`` names others, they are made of the training split alone.
    Raises :class:`UsageError` for a split that the dataset lacks.
    """
    for split in splits or ():
        if split not in dataset.splits:
            raise UsageError(f"dataset {dataset.name} has no split {split!r}: it has {', '.join(dataset.splits)}")
    mirrored = splits or dataset.splits[:1]
    chosen = {
        split: tuple(view for view in views if view == ORIGINAL or split in mirrored)
        for split in splits or dataset.splits
    }
    return {split: of_split for split, of_split in chosen.items() if of_split}


def limited_rows(images: int, limit: int | None) -> range:
    """The rows of the first ``limit`` of so many images; None: of all."""
    return range(images if limit is None else min(limit, images))


def target_size(dataset: Dataset | DatasetSummary, base_size: BaseSize) -> tuple[int, int]:
    """Height and width of targets: the base size, or the dataset's own with native base images."""
    return dataset.base_size if base_size == "native" else base_size


def require_one_region(
    dataset: Dataset | DatasetSummary, settings: ExtractionSettings, backbone: str, image_size: tuple[int, int]
) -> None:
    """Raise :class:`UsageError` where features would show another region of the image than targets.

    Only native images, which are cropped to the shape of ``image_size`` (height, width) of the backbone, can.
    """
    base_size = settings.base_size or dataset.base_size
    size = target_size(dataset, base_size)
    if base_size == "native" and settings.fit == CROP and not have_one_shape(image_size, size):
        raise UsageError(
            f"backbone {backbone} would see native images cropped to the shape of {base_size_name(image_size)}, and "
            f"the targets of {dataset.name} show them cropped to that of {base_size_name(size)}: give --base-size "
            f"{base_size_name(size)} with --fit crop, or --fit squash"
        )


def omitted_from(dataset: Dataset, split: str) -> dict[str, Any] | None:
    """What recipes say of the images that a split omits; ``None`` where there is none."""
    omitted = dataset.omitted.get(split)
    return {"images": len(omitted), "ids": list(omitted)[:_NAMED]} if omitted else None


def image_recipe(
    dataset: Dataset, size: tuple[int, int], images: str, *, fit: str, omitted: Mapping[str, Any] | None = None
) -> ImageRecipe:
    """The recipe of base images of ``size`` of the image set with digest ``images``."""
    return ImageRecipe(
        size=size, fit=fit, interpolation=INTERPOLATION, colour=dataset.colour, images=images, omitted=omitted
    )


def target_recipe(
    dataset: Dataset,
    split: str,
    annotation: str,
    size: tuple[int, int],
    images: str,
    *,
    fit: str,
    index: DigestIndex | None = None,
) -> TargetRecipe:
    """The recipe of one annotation kind at ``size``; ``index`` remembers digests of label files.

    Boxes stay in pixels of the original image whatever the size; their recipe says which other targets they go with,
    and with ``crop`` to which region they are cut. That of a plugin's label type has the digest of the plugin's file.
    """
    options = dataset.target_options(annotation)
    if annotation == BOXES and fit == CROP:
        options = {**options, "outside": OUTSIDE}
    if source := ANNOTATIONS.source(annotation):
        options = {**options, "label_type": source}
    return TargetRecipe(
        annotation=annotation,
        size=size,
        fit=fit,
        options=options,
        classes=dataset.classes if annotation == "classes" else (),
        images=images,
        annotations=dataset.annotation_digest(split, annotation, index=index),
        omitted=omitted_from(dataset, split),
    )


def image_array(size: tuple[int, int]) -> ArraySpec:
    """Base images: (h, w, 3) uint8 RGB each."""
    return ArraySpec(name="images", dtype="uint8", item_shape=(*size, 3), dimensions=("row", "column", "channel"))


def target_array(dataset: Dataset | DatasetSummary, split: str, annotation: str, size: tuple[int, int]) -> ArraySpec:
    """The array of a label type's targets: see ``deapcache.annotations.ANNOTATIONS``.

    A table has zeros after an image's last box.
    """
    kind = get_annotation(annotation)
    shape = kind.item_shape(size, dataset.box_rows(split) if kind.columns else 0)
    return ArraySpec(name="targets", dtype=kind.dtype, item_shape=shape, dimensions=kind.dimensions)


def prepare_split(
    dataset: Dataset,
    split: str,
    home: Location,
    settings: ExtractionSettings | None = None,
    *,
    annotations: Sequence[str],
    progress: Progress = no_progress,
) -> PreparedSplit:
    """Make the base images and the targets of the first images of a split where they are missing.

    It makes whole shards, so a few images more than ``settings.limit`` may be there afterwards. Targets have the base
    size, or the dataset's own with native base images. Several processes share what is missing; of a partition, only
    that is made. Raises the dataset's own errors and what creating and writing caches raises.
    """
    settings = settings or ExtractionSettings()
    base_size = settings.base_size or dataset.base_size
    size, fit = target_size(dataset, base_size), settings.fit
    ids = dataset.image_ids(split)
    rows = limited_rows(len(ids), settings.limit)
    index = DigestIndex(home, rehash=settings.rehash)
    images_digest = image_set_digest(zip(ids, dataset.image_digests(split, index=index), strict=True))
    caches: dict[str, Cache] = {}

    def add(name: str, path: str, recipe: ImageRecipe | TargetRecipe, array: ArraySpec) -> None:
        caches[name] = make_cache(
            home, path, recipe=recipe, arrays=[array], image_ids=ids, rows=rows, progress=progress
        )

    if base_size != "native":
        of_images = image_recipe(dataset, size, images_digest, fit=fit, omitted=omitted_from(dataset, split))
        add(IMAGES, images_path(dataset.images_name, split, of_images.digest), of_images, image_array(size))
    for annotation in annotations:
        recipe = target_recipe(dataset, split, annotation, size, images_digest, fit=fit, index=index)
        path = targets_path(dataset.name, split, annotation, recipe.digest)
        add(annotation, path, recipe, target_array(dataset, split, annotation, size))
    if caches:
        fill_caches(dataset, split, caches, rows, settings=settings, progress=progress)
    return PreparedSplit(
        dataset=dataset,
        split=split,
        image_ids=ids,
        images_digest=images_digest,
        images=caches.get(IMAGES),
        fit=fit,
    )


def complete_images(
    prepared: PreparedSplit, rows: Sequence[int], settings: ExtractionSettings, progress: Progress
) -> None:
    """Make the base images of ``rows`` that are still missing, whatever partition they belong to."""
    if prepared.images is not None:
        everything = replace(settings, partition=ShardPartition())
        caches = {IMAGES: prepared.images}
        fill_caches(prepared.dataset, prepared.split, caches, rows, settings=everything, progress=progress)


def fill_caches(
    dataset: Dataset,
    split: str,
    caches: Mapping[str, Cache],
    rows: Sequence[int],
    *,
    settings: ExtractionSettings,
    progress: Progress,
    stage: str = "",
) -> None:
    """Make the shards of ``rows`` that base images and targets lack, as far as no other run does.

    ``caches`` are those of one split, by ``IMAGES`` or annotation kind. It reads every row that a missing shard of a
    block needs, once a block, and publishes each shard whole. Raises the dataset's own errors, which name the file;
    shards published until then stay.
    """
    stage = stage or f"{dataset.name}/{split}: decode"
    blocks = RowBlocks([ShardAssembler(name, cache) for name, cache in caches.items()])
    lacking = blocks.missing(blocks.of_rows(rows))
    missing = settings.partition.select(lacking)
    if not missing:
        return
    images = {block: len(_rows_lacking(lacking[block])) for block in missing}
    to_write = [(each, shard) for block in missing for each, shards in lacking[block] for shard in shards]
    require_space(
        blocks.location, sum(each.array.item_bytes * len(each.cache.shard_rows(shard)) for each, shard in to_write)
    )
    queue = WorkQueue(
        blocks.location,
        missing,
        present=lambda some: set(some) - blocks.missing(some).keys(),
        images=lambda block: images[block],
        caches=blocks.written,
        claim_seconds=settings.claim_seconds,
        say=lambda text: progress(message(stage, text)),
    )
    read = functools.partial(_read_row, dataset, split)
    done = published = 0
    with queue, refresh_manifest(*blocks.written), workers(dataset) as pool, ThreadPoolExecutor(1) as writer:
        for batch in queue.batches():
            publisher = _BlockPublisher(blocks, queue, writer)
            for (block, row, _), values in in_order(pool, read, publisher.row_jobs(batch)):
                done += 1
                published += publisher.accept(block, row, values)
                progress(ProgressEvent(stage=stage, done=done, total=max(done, queue.total), bytes=published))
            published += publisher.finish()


EntryFormat = tuple[str, tuple[int, ...], tuple[int, int], str]
"""What one entry of a cache looks like: ``IMAGES`` or an annotation kind, its shape as stored, (height, width) to bring
the image to, and how to bring it there."""


class ShardAssembler:
    """One cache to fill: it collects rows until a shard is whole."""

    def __init__(self, name: str, cache: Cache) -> None:
        self.name = name
        """``IMAGES``, or an annotation kind."""
        self.cache = cache
        (self.array,) = cache.arrays.values()
        height, width = cache.recipe["size"]
        self.format: EntryFormat = (name, self.array.item_shape, (height, width), cache.recipe["fit"])
        self._values: dict[int, np.ndarray] = {}
        self._rows_left: dict[int, int] = {}

    def accept(self, row: int, value: np.ndarray) -> tuple[int, np.ndarray] | None:
        """Keep one row; return the shard with its whole content after its last row."""
        shard = row // self.cache.shard_images
        rows = self.cache.shard_rows(shard)
        if shard not in self._values:  # one array from the start: stacking rows at the end holds them twice
            self._values[shard] = np.empty((len(rows), *self.array.item_shape), self.array.dtype)
            self._rows_left[shard] = len(rows)
        self._values[shard][row - rows.start] = value
        self._rows_left[shard] -= 1
        if self._rows_left[shard]:
            return None
        del self._rows_left[shard]
        return shard, self._values.pop(shard)


Lacking = Sequence[tuple[ShardAssembler, Sequence[int]]]
"""Caches with the shards of a block that they lack."""


class RowBlocks:
    """The blocks of rows of a split's caches, from 0."""

    def __init__(self, assemblers: Sequence[ShardAssembler]) -> None:
        lengths = {each.cache.shard_images for each in assemblers}
        self.assemblers = tuple(assemblers)
        self.written = tuple(each.cache for each in assemblers if not each.cache.location.options.read_only)
        """The caches in the own home; one in a further home already has all rows that are needed."""
        self.location: Location = (*self.written, assemblers[0].cache)[0].location
        """The cache that keeps the claims on blocks: the base images, or the first annotation."""
        self._images = len(assemblers[0].cache)
        self._length = max(lengths) * (1 if len(lengths) == 1 else _BLOCK_SHARDS)

    def of_rows(self, rows: Sequence[int]) -> set[int]:
        """The blocks that hold the whole shards of ``rows``."""
        lengths = {each.cache.shard_images for each in self.assemblers}
        return {shard * n // self._length for n in lengths for shard in {row // n for row in rows}}

    def shards(self, assembler: ShardAssembler, block: int) -> range:
        """The shards of one cache that begin in a block."""
        start, stop = block * self._length, min((block + 1) * self._length, self._images)
        length = assembler.cache.shard_images
        return range(-(-start // length), -(-stop // length))

    def missing(self, blocks: Collection[int]) -> dict[int, Lacking]:
        """What the caches lack now of each of ``blocks``; a block that is whole is left out."""
        found: dict[int, list[tuple[ShardAssembler, list[int]]]] = {block: [] for block in blocks}
        for each in self.assemblers:
            shards = {block: set(self.shards(each, block)) for block in blocks}
            present = each.cache.present_shards(set().union(*shards.values()))
            for block in blocks:
                found[block].append((each, sorted(shards[block] - present)))
        return {block: lacking for block, lacking in found.items() if any(shards for _, shards in lacking)}


def _rows_lacking(lacking: Lacking) -> dict[int, list[ShardAssembler]]:
    """The rows of a block that must be read → the caches that lack them."""
    found: dict[int, list[ShardAssembler]] = {}
    for assembler, shards in lacking:
        for row in (row for shard in shards for row in assembler.cache.shard_rows(shard)):
            found.setdefault(row, []).append(assembler)
    return found


RowJob = tuple[int, int, Sequence[EntryFormat]]
"""A block, one of its rows, and what to make of it."""


class _BlockPublisher:
    """The rows of one batch of blocks on their way from the files to published shards."""

    def __init__(self, blocks: RowBlocks, queue: WorkQueue, writer: Executor) -> None:
        self._blocks = blocks
        self._queue = queue
        self._writer = writer
        self._assemblers: dict[int, dict[int, list[ShardAssembler]]] = {}
        """Block → row → the caches that lack it."""
        self._shards_left: dict[int, int] = {}
        self._pending: deque[Future[int]] = deque()

    def row_jobs(self, batch: Iterable[int]) -> Iterator[RowJob]:
        """What to read, block by block."""
        for block in batch:
            lacking = self._blocks.missing([block]).get(block, [])  # another run may have made some meanwhile
            by_row = self._assemblers[block] = _rows_lacking(lacking)
            self._shards_left[block] = sum(len(shards) for _, shards in lacking)
            for row in sorted(by_row):
                yield block, row, [assembler.format for assembler in by_row[row]]

    def accept(self, block: int, row: int, values: Sequence[np.ndarray]) -> int:
        """Keep the values of a row and publish the shards that are whole now; the bytes published meanwhile."""
        for assembler, value in zip(self._assemblers[block].pop(row), values, strict=True):
            if whole := assembler.accept(row, value):
                self._pending.append(self._writer.submit(self._publish, block, assembler, *whole))
        published = 0
        most = len(self._blocks.assemblers)
        while len(self._pending) > most or (self._pending and self._pending[0].done()):
            published += self._pending.popleft().result()
        return published

    def finish(self) -> int:
        """Wait until all is published; the bytes of it."""
        return sum(future.result() for future in self._pending)

    def _publish(self, block: int, assembler: ShardAssembler, shard: int, values: np.ndarray) -> int:
        assembler.cache.write_shard(shard, {assembler.array.name: values})
        self._shards_left[block] -= 1  # one thread publishes
        if not self._shards_left[block]:
            self._queue.finish(block)
        return values.nbytes


def _read_row(dataset: Dataset, split: str, job: RowJob) -> list[np.ndarray]:
    _, row, formats = job
    with suggest_skipping():
        return [_read_entry(dataset, split, row, each) for each in formats]


def _read_entry(dataset: Dataset, split: str, row: int, entry: EntryFormat) -> np.ndarray:
    """One image, map or table, as its cache stores it."""
    name, shape, size, fit = entry
    if name == IMAGES:
        return resize_image(dataset.picture(split, row), size, fit)
    kind = get_annotation(name)
    values = kind.resize(dataset.read_annotation(split, row, name), size, fit)
    values = pad_table(values, shape[0]) if kind.columns else values
    if values.shape != shape:  # which NumPy might broadcast
        raise PluginError(
            f"label type {name!r}: the labels of image {dataset.image_ids(split)[row]} have shape {values.shape} "
            f"after resizing, expected {shape}; mend its channels, its resize or what the dataset reads"
        )
    return values
