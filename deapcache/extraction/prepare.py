"""What a dataset needs before and beside features: its digest, base images, targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deapcache.cache import ORIGINAL, Cache, images_path, targets_path
from deapcache.datasets import Dataset, DigestIndex
from deapcache.errors import UsageError
from deapcache.extraction.creating import make_cache
from deapcache.extraction.filling import IMAGES, fill
from deapcache.extraction.outline import Outline
from deapcache.extraction.plan import require_space
from deapcache.extraction.progress import Progress, said
from deapcache.extraction.recipes import (
    BaseSize,
    base_size_name,
    image_array,
    image_recipe,
    omitted_from,
    target_array,
    target_recipe,
)
from deapcache.extraction.sharing import Portion, Sharing, Work, share
from deapcache.extraction.windows import Part, Windows
from deapcache.locations import Location
from deapcache.recipe import image_set_digest
from deapcache.regions import CROP, SQUASH, have_one_shape


@dataclass(frozen=True, kw_only=True)
class PreparedSplit:
    """One split of a dataset in one view, with its images named, and decoded where that was asked."""

    dataset: Dataset
    split: str
    image_ids: tuple[str, ...]
    images_digest: str
    images: Cache | None
    """Base images, the original ones whatever the view; None with native base size."""
    fit: str
    """How images are brought to the base size, or to the backbone's."""
    view: str = ORIGINAL


def check_splits(dataset: Dataset | Outline, splits: Sequence[str] | None) -> tuple[str, ...]:
    """The splits to work on, all by default; raises :class:`UsageError` for one the dataset lacks."""
    for split in splits or ():
        if split not in dataset.splits:
            raise UsageError(f"dataset {dataset.name} has no split {split!r}: it has {', '.join(dataset.splits)}")
    return tuple(splits or dataset.splits)


def limited_rows(images: int, limit: int | None) -> range:
    """The rows of the first ``limit`` of so many images; None: of all."""
    return range(images if limit is None else min(limit, images))


def target_size(dataset: Dataset | Outline, base_size: BaseSize) -> tuple[int, int]:
    """Height and width of targets: the base size, or the dataset's own with native base images."""
    return dataset.base_size if base_size == "native" else base_size


def require_one_region(
    dataset: Dataset | Outline, base_size: BaseSize, fit: str, backbone: str, seen: tuple[int, int]
) -> None:
    """Raise :class:`UsageError` where features would be of another region of the image than targets.

    Only native images, cropped to the shape ``seen`` (height, width) of the backbone's own images, can be.
    """
    size = target_size(dataset, base_size)
    if base_size == "native" and fit == CROP and not have_one_shape(seen, size):
        raise UsageError(
            f"backbone {backbone} would see native images cropped to the shape of {base_size_name(seen)}, and the "
            f"targets of {dataset.name} show them cropped to that of {base_size_name(size)}: give --base-size "
            f"{base_size_name(size)} with --fit crop, or --fit squash"
        )


def prepare_split(
    dataset: Dataset,
    split: str,
    home: Location,
    *,
    base_size: BaseSize,
    limit: int | None,
    annotations: Sequence[str],
    progress: Progress,
    fit: str = SQUASH,
    sharing: Sharing = Sharing(),  # noqa: B008 - it has no state
    rehash: bool = False,
) -> PreparedSplit:
    """Make the base images and the targets of the first ``limit`` images (all: None) where they are missing.

    Whole shards are made, so a few images more than ``limit`` may be there afterwards. Targets have the base size, or
    the dataset's own with native base images. ``fit`` is one of ``FITS``. Several processes share what is missing; of a
    portion, only that is made. ``rehash``: files are read again for their digests, whatever is remembered of them.
    """
    ids = dataset.image_ids(split)
    index = DigestIndex(home, rehash=rehash)
    digests = dataset.image_digests(split, index=index)
    named = image_set_digest(zip(ids, digests, strict=True))
    size, rows = target_size(dataset, base_size), limited_rows(len(ids), limit)
    images = None
    if base_size != "native":
        images = _image_cache(dataset, split, home, size, fit, ids, named, rows, progress)
    caches = {} if images is None else {IMAGES: images}
    for annotation in annotations:
        caches[annotation] = _target_cache(
            dataset, split, home, annotation, size, fit, ids, named, rows, index, progress
        )
    if caches:
        _fill(dataset, split, caches, rows, sharing, progress)
    return PreparedSplit(dataset=dataset, split=split, image_ids=ids, images_digest=named, images=images, fit=fit)


def complete_images(prepared: PreparedSplit, rows: Sequence[int], sharing: Sharing, progress: Progress) -> None:
    """Make the base images of ``rows`` that are still missing, whoever's portion they are."""
    if prepared.images is not None:
        everything = replace(sharing, portion=Portion())
        _fill(prepared.dataset, prepared.split, {IMAGES: prepared.images}, rows, everything, progress)


def _fill(
    dataset: Dataset, split: str, caches: Mapping[str, Cache], rows: Sequence[int], sharing: Sharing, progress: Progress
) -> None:
    stage = f"{dataset.name}/{split}: decode"
    windows = Windows([Part(name=name, cache=cache) for name, cache in caches.items()])
    missing = sharing.portion.of(windows.missing(windows.of_rows(rows)))
    if not missing:
        return
    to_do = windows.to_do(missing)
    require_space(windows.location, sum(each.bytes for each in to_do.values()))
    work = Work(
        location=windows.location,
        units=missing,
        present=lambda: set(missing) - windows.missing(missing),
        images=lambda window: to_do[window].rows,
        caches=windows.written,
    )
    with share(work, sharing, lambda text: progress(said(stage, text))) as mine:
        fill(dataset, split, windows, mine, progress=progress, stage=stage)


def _image_cache(
    dataset: Dataset,
    split: str,
    home: Location,
    size: tuple[int, int],
    fit: str,
    ids: Sequence[str],
    named: str,
    rows: range,
    progress: Progress,
) -> Cache:
    recipe = image_recipe(dataset, size, named, fit=fit, omitted=omitted_from(dataset, split))
    path = images_path(dataset.images_name, split, recipe.digest)
    arrays = [image_array(size)]
    return make_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids, rows=rows, progress=progress)


def _target_cache(
    dataset: Dataset,
    split: str,
    home: Location,
    annotation: str,
    size: tuple[int, int],
    fit: str,
    ids: Sequence[str],
    named: str,
    rows: range,
    index: DigestIndex,
    progress: Progress,
) -> Cache:
    recipe = target_recipe(dataset, split, annotation, size, named, fit=fit, index=index)
    path = targets_path(dataset.name, split, annotation, recipe.digest)
    arrays = [target_array(dataset, split, annotation, size)]
    return make_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids, rows=rows, progress=progress)
