"""What a dataset needs before and beside features: its digest, base images, targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deapcache.cache import Cache, create_cache, images_path, targets_path
from deapcache.datasets import Dataset, DigestIndex
from deapcache.errors import UsageError
from deapcache.extraction.filling import IMAGES, Part, fill
from deapcache.extraction.plan import item_bytes, require_space
from deapcache.extraction.progress import Progress
from deapcache.extraction.recipes import (
    BaseSize,
    image_array,
    image_recipe,
    omitted_from,
    target_array,
    target_recipe,
)
from deapcache.locations import Location
from deapcache.recipe import image_set_digest


@dataclass(frozen=True, kw_only=True)
class PreparedSplit:
    """One split of a dataset, with its images named, and decoded where that was asked."""

    dataset: Dataset
    split: str
    image_ids: tuple[str, ...]
    images_digest: str
    images: Cache | None
    """Base images; None with native base size."""


def check_splits(dataset: Dataset, splits: Sequence[str] | None) -> tuple[str, ...]:
    """The splits to work on, all by default; raises :class:`UsageError` for one the dataset lacks."""
    for split in splits or ():
        if split not in dataset.splits:
            raise UsageError(f"dataset {dataset.name} has no split {split!r}: it has {', '.join(dataset.splits)}")
    return tuple(splits or dataset.splits)


def limited_rows(images: int, limit: int | None) -> range:
    """The rows of the first ``limit`` of so many images; None: of all."""
    return range(images if limit is None else min(limit, images))


def target_size(dataset: Dataset, base_size: BaseSize) -> tuple[int, int]:
    """Height and width of targets: the base size, or the dataset's own with native base images."""
    return dataset.base_size if base_size == "native" else base_size


def prepare_split(
    dataset: Dataset,
    split: str,
    home: Location,
    *,
    base_size: BaseSize,
    limit: int | None,
    annotations: Sequence[str],
    progress: Progress,
) -> PreparedSplit:
    """Make the base images and the targets of the first ``limit`` images (all: None) where they are missing.

    Whole shards are made, so a few images more than ``limit`` may be there afterwards. Targets have the base size, or
    the dataset's own with native base images.
    """
    ids = dataset.image_ids(split)
    digests = dataset.image_digests(split, index=DigestIndex(home))
    named = image_set_digest(zip(ids, digests, strict=True))
    size = target_size(dataset, base_size)
    images = None if base_size == "native" else _image_cache(dataset, split, home, size, ids, named)
    caches = {} if images is None else {IMAGES: images}
    for annotation in annotations:
        caches[annotation] = _target_cache(dataset, split, home, annotation, size, ids, named)
    rows = limited_rows(len(ids), limit)
    parts = [Part(name=n, cache=c, shards=c.missing_shards(rows)) for n, c in caches.items()]
    if any(part.shards for part in parts):
        require_space(home, sum(len(part.rows) * item_bytes(part.cache) for part in parts))
        fill(dataset, split, parts, progress=progress, stage=f"{dataset.name}/{split}: decode")
    return PreparedSplit(dataset=dataset, split=split, image_ids=ids, images_digest=named, images=images)


def _image_cache(
    dataset: Dataset, split: str, home: Location, size: tuple[int, int], ids: Sequence[str], named: str
) -> Cache:
    recipe = image_recipe(dataset, size, named, omitted=omitted_from(dataset, split))
    path = images_path(dataset.images_name, split, recipe.digest)
    return create_cache(home, path, recipe=recipe, arrays=[image_array(size)], image_ids=ids)


def _target_cache(
    dataset: Dataset, split: str, home: Location, annotation: str, size: tuple[int, int], ids: Sequence[str], named: str
) -> Cache:
    recipe = target_recipe(dataset, split, annotation, size, named, index=DigestIndex(home))
    path = targets_path(dataset.name, split, annotation, recipe.digest)
    arrays = [target_array(dataset, split, annotation, size)]
    return create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids)
